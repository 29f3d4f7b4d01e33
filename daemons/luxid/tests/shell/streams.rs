//! `stream.sock` of a luxid that is killed: bodies are whole or not there.

use crate::world::{LIMIT, World};
use gantry_proto::hello::Hello;
use gantry_proto::noded::PieceReply;
use gantry_proto::stream::{BlobPut, BlobPutRequest, StreamEvent, Watch, WatchRequest};
use gantry_rpc::{Client, Event};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::os::unix::fs::PermissionsExt;

fn piece(body: &[u8], from: usize, to: usize) -> BlobPutRequest {
    let digest = Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
    BlobPutRequest { digest, total: body.len() as u64, offset: from as u64, bytes: body[from..to].to_vec() }
}

/// Sends a piece, over a connection that is kept by who called.
fn put(world: &World, request: &BlobPutRequest) -> (Client, PieceReply) {
    world.runtime.block_on(async {
        let hello = Hello::new(gantry_proto::stream::PROTOCOL, "test");
        let client = Client::unix(&world.root.socket("stream.sock"), &hello).await.unwrap();
        let reply = client.call::<BlobPut>(request, LIMIT).await.unwrap();
        (client, reply)
    })
}

#[test]
fn a_kill_leaves_whole_bodies_only() {
    let mut world = World::new();
    let mode = std::fs::metadata(world.root.socket("stream.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let (whole, half) = (vec![1_u8; 300_000], vec![2_u8; 300_000]);
    let (_first, reply) = put(&world, &piece(&whole, 0, 300_000));
    assert_eq!(reply, PieceReply { next: 300_000, done: true });
    let (_second, reply) = put(&world, &piece(&half, 0, 200_000));
    assert_eq!(reply, PieceReply { next: 200_000, done: false });
    world.kill_luxid();
    let partial = world.root.lib().join("blob/partial");
    assert_eq!(std::fs::read_dir(&partial).unwrap().count(), 1, "the kill left it");
    world.start();
    assert_eq!(std::fs::read_dir(&partial).unwrap().count(), 0, "the start removed it");
    let (_, reply) = put(&world, &piece(&whole, 0, 0));
    assert!(reply.done, "told to be durable before the kill");
    let (_, reply) = put(&world, &piece(&half, 200_000, 300_000));
    assert_eq!(reply, PieceReply { next: 0, done: false });
    let (_, reply) = put(&world, &piece(&half, 0, 300_000));
    assert!(reply.done);
    assert_eq!(std::fs::read(world.root.blob(&piece(&half, 0, 0).digest)).unwrap(), half);
}

#[test]
fn jobs_are_watched() {
    let world = World::new();
    let (client, mut stream) = world.runtime.block_on(async {
        let hello = Hello::new(gantry_proto::stream::PROTOCOL, "test");
        let client = Client::unix(&world.root.socket("stream.sock"), &hello).await.unwrap();
        let request = WatchRequest { kinds: vec!["job".to_owned()] };
        let mut stream = client.open::<Watch>(&request).await.unwrap();
        assert_eq!(stream.next().await.unwrap(), Event::Item(StreamEvent::Begun));
        (client, stream)
    });
    let id = world.submit("quick");
    world.wait_for(id, "success");
    let told = world.runtime.block_on(async {
        let mut told = Vec::new();
        while told.last().map(String::as_str) != Some("success") {
            let next = tokio::time::timeout(LIMIT, stream.next()).await.unwrap().unwrap();
            let Event::Item(StreamEvent::Changed { kind, key, state }) = next else { panic!("{next:?}") };
            assert_eq!((kind.as_str(), key), ("job", id.to_string()));
            told.push(state);
        }
        told
    });
    assert!(told.len() > 1, "{told:?}");
    drop(client);
    let kinds = ["pool", "slot", "lease", "task", "blueprint", "image"];
    for kind in kinds {
        let field = if kind == "task" { "id" } else { "uuid" };
        let field = if kind == "image" { "name" } else { field };
        assert_eq!(world.ask("Query", json!([kind, [field], null]))["data"], json!([]), "{kind}");
        assert!(!world.ask("QueryFields", json!([kind, null]))["fields"].as_array().unwrap().is_empty());
    }
}
