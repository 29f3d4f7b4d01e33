//! Watchers, bodies over the socket, and bounds.

use crate::bed::{Bed, LIMIT};
use gantry_luxid::core::mirror::Touched;
use gantry_luxid::core::queue::Shown;
use gantry_luxid::io::stream::STREAMS_PER_CONNECTION_MAX;
use gantry_model::config::kind;
use gantry_model::ids::LeaseUuid;
use gantry_model::lease::LeaseState;
use gantry_model::task::{Task, TaskState};
use gantry_proto::envelope::Code;
use gantry_proto::noded::PieceReply;
use gantry_proto::stream::{
    BlobGet, BlobGetRequest, BlobPut, BlobPutRequest, StreamEvent, Watch, WatchRequest,
};
use gantry_rpc::{Client, Event, Stream};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use uuid::Uuid;

async fn watch(client: &Client, kinds: &[&str]) -> Stream<Watch> {
    let kinds = kinds.iter().map(|kind| (*kind).to_owned()).collect();
    let mut stream = client.open::<Watch>(&WatchRequest { kinds }).await.unwrap();
    assert_eq!(next(&mut stream).await, StreamEvent::Begun);
    stream
}

async fn next(stream: &mut Stream<Watch>) -> StreamEvent {
    match tokio::time::timeout(LIMIT, stream.next()).await.unwrap().unwrap() {
        Event::Item(event) => event,
        Event::End(()) => panic!("it ended"),
    }
}

fn changed(kind: &str, key: &str, state: &str) -> StreamEvent {
    StreamEvent::Changed { kind: kind.to_owned(), key: key.to_owned(), state: state.to_owned() }
}

fn task(id: u64, state: TaskState) -> Shown {
    let task: Task = serde_json::from_value(json!({
        "id": id, "state": u8::from(state), "received": [1, 0],
        "spec": { "pool": "p", "execute": [{ "command": "a" }] },
    }))
    .unwrap();
    Shown::Task { rev: 1, task: Arc::new(task) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_names_another_cluster_or_epoch_is_refused() {
    let bed = Bed::new().await;
    let socket = bed.root.socket(gantry_luxid::io::stream::SOCKET);
    let hello = || gantry_rpc::Hello::new(gantry_proto::stream::PROTOCOL, "test");
    let mut same = hello();
    same.epoch = Some(3);
    assert!(Client::unix(&socket, &same).await.is_ok());
    let mut older = hello();
    older.epoch = Some(2);
    let Err(why) = Client::unix(&socket, &older).await else { panic!("an older master's is let in") };
    assert!(why.to_string().contains("epoch is 3"), "{why}");
    let mut other = hello();
    other.cluster = Some(gantry_model::ids::ClusterUuid(Uuid::nil()));
    assert!(Client::unix(&socket, &other).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_are_told_what_they_asked_for() {
    let mut bed = Bed::new().await;
    let client = bed.client().await;
    let mut stream = watch(&client, &["task", "lease"]).await;
    bed.view.apply(vec![task(1, TaskState::Pending)]);
    assert_eq!(next(&mut stream).await, changed("task", "1", "pending"));
    let lease = LeaseUuid(Uuid::new_v4());
    bed.put::<()>(kind::IMAGE, "none", None);
    bed.lease(lease, LeaseState::Released, None);
    assert_eq!(next(&mut stream).await, changed("lease", &lease.to_string(), "released"));
    bed.feed.tell(Touched { all: true, ..Touched::default() });
    assert_eq!(next(&mut stream).await, StreamEvent::Lost);
    let bad = WatchRequest { kinds: vec!["comet".to_owned()] };
    let error = client.call::<Watch>(&bad, LIMIT).await.unwrap_err();
    assert!(error.to_string().contains("'comet'"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_watcher_is_told_that_it_lost_some() {
    let bed = Bed::new().await;
    let client = bed.client().await;
    let mut stream = watch(&client, &["task"]).await;
    // Far more than windows and feeds hold, while nobody takes anything.
    bed.view.apply((1..20_000).map(|id| task(id, TaskState::Running)).collect());
    let mut seen = 0;
    while next(&mut stream).await != StreamEvent::Lost {
        seen += 1;
    }
    assert!(seen < 19_999, "{seen}");
    bed.view.apply(vec![task(20_001, TaskState::Success)]);
    while next(&mut stream).await != changed("task", "20001", "success") {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_bounded_for_each_connection() {
    let bed = Bed::new().await;
    let client = bed.client().await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS_PER_CONNECTION_MAX {
        streams.push(watch(&client, &["task"]).await);
    }
    let one_more = WatchRequest { kinds: vec!["task".to_owned()] };
    let error = client.call::<Watch>(&one_more, LIMIT).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Busy), "{error}");
    let other = bed.client().await;
    drop(watch(&other, &["task"]).await);
    drop(streams);
    // The places are free as soon as the server heard of the ends, which came before this call.
    drop(watch(&client, &["task"]).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_come_and_go_over_the_socket() {
    let bed = Bed::new().await;
    let mode = std::fs::metadata(bed.root.socket("stream.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let client = bed.client().await;
    let body = vec![7_u8; 600_000];
    let digest: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
    let piece = |from: usize, to: usize| BlobPutRequest {
        digest: digest.clone(),
        total: body.len() as u64,
        offset: from as u64,
        bytes: body[from..to].to_vec(),
    };
    let halfway = client.call::<BlobPut>(&piece(0, 400_000), LIMIT).await.unwrap();
    assert_eq!(halfway, PieceReply { next: 400_000, done: false });
    let partial = bed.root.lib().join("blob/partial");
    let partials = || std::fs::read_dir(&partial).unwrap().count();
    assert_eq!(partials(), 1);
    client.close();
    let ended = async {
        while partials() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, ended).await.expect("the upload goes with its connection");
    let client = bed.client().await;
    // Sent without waiting for the answers: they are taken in their order.
    let (first, second) = (piece(0, 400_000), piece(400_000, 600_000));
    let both = tokio::join!(client.call::<BlobPut>(&first, LIMIT), client.call::<BlobPut>(&second, LIMIT));
    assert_eq!(both.0.unwrap(), PieceReply { next: 400_000, done: false });
    assert_eq!(both.1.unwrap(), PieceReply { next: 600_000, done: true });
    let mut stream =
        client.open::<BlobGet>(&BlobGetRequest { digest: digest.clone(), offset: 100 }).await.unwrap();
    let mut got = Vec::new();
    while let Event::Item(piece) = stream.next().await.unwrap() {
        got.extend(piece.bytes);
    }
    assert!(got == body[100..]);
    let none = BlobGetRequest { digest: "0".repeat(64), offset: 0 };
    let error = client.call::<BlobGet>(&none, LIMIT).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Ganeti), "{error}");
}
