//! A large configuration: read in one go, changed one object at a time.

use crate::world::{LIMIT, World, apply, read, until};
use gantry_proto::wconfd::{self as wire, Command, ReadKey, TagTarget, WatchItem, WatchRequest};
use gantry_rpc::{Code, Event};
use gantry_store::{Change, LogKind, StartOptions, seed};

/// Instances: enough that the whole state takes many frames.
const INSTANCES: usize = 10_000;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_instances() {
    let mut world = World::init(1);
    let objects = gantry_wconfd::seed::many(INSTANCES, &[world.node]);
    let changes = objects.into_iter().map(|object| Change {
        kind: object.kind,
        key: object.key,
        rev: object.rev,
        body: Some(object.body),
    });
    seed(&world.root.lib(), StartOptions::new(LogKind::W), changes, 2_000).unwrap();
    world.boot().await;
    let client = world.client().await;
    let name = ReadKey::Name("instance".to_owned(), "inst777".to_owned());
    let found = read(&client, name).await;
    let uuid = found[0].1["uuid"].as_str().unwrap().parse().unwrap();
    let target = TagTarget::Instance(uuid);
    apply(&client, vec![Command::TagsAdd { target, tags: ["x".to_owned()].into() }]).await.unwrap();
    let too_much = vec![ReadKey::Kind("instance".to_owned())];
    let error = client.call::<wire::Read>(&too_much, LIMIT).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::BadRequest));
    let request = WatchRequest { from: 0, history: None };
    let mut stream = client.open::<wire::Watch>(&request).await.unwrap();
    let mut objects = 0;
    loop {
        match tokio::time::timeout(LIMIT, stream.next()).await.unwrap().unwrap() {
            Event::Item(WatchItem::Chunk(chunk)) => objects += chunk.len(),
            Event::Item(WatchItem::Loaded) => break,
            Event::Item(WatchItem::Reset { .. } | WatchItem::Batch { .. }) => {}
            Event::End(()) => panic!("the stream ended"),
        }
    }
    assert_eq!(objects, 2 * INSTANCES + 5);
    drop(stream);
    world.restart().await;
    let client = world.client().await;
    until("the tag", || async {
        let found = read(&client, ReadKey::Key("instance".to_owned(), uuid.to_string())).await;
        (found[0].1["tags"] == serde_json::json!(["x"])).then_some(())
    })
    .await;
}
