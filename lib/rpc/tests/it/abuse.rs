//! Peers that break the protocol: one clear close, and the socket goes on serving others.

use crate::world::verbs::{Echo, Hang, Hold};
use crate::world::{Lab, SOON, World, hello};
use gantry_proto::codec;
use gantry_proto::envelope::{Envelope, Part};
use gantry_proto::hello::{HELLO_BYTES_MAX, Hello};
use gantry_proto::verb::Verb;
use gantry_rpc::{CALLS_MAX, CallError, Client, Code, ConnectError, Limits, unix};
use proptest::prelude::*;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// A caller that writes what it likes.
struct Raw(UnixStream);

fn framed(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("small").to_be_bytes();
    [&length[..], body].concat()
}

fn frame_of(id: u64, part: Part) -> Vec<u8> {
    framed(&codec::encode(&Envelope { id, part }).expect("encodes"))
}

fn request(id: u64, verb: u16, body: Vec<u8>) -> Vec<u8> {
    frame_of(id, Part::Request { verb, deadline_ms: 0, trace: String::new(), body })
}

impl Raw {
    async fn connect(world: &World) -> Self {
        Self(unix::connect(&world.path).await.expect("connects"))
    }

    async fn greeted(world: &World) -> Self {
        let mut raw = Self::connect(world).await;
        raw.write(&framed(&serde_json::to_vec(&hello()).expect("JSON"))).await;
        let answer = raw.hello().await;
        assert_eq!(answer.refused, None);
        raw
    }

    async fn write(&mut self, bytes: &[u8]) {
        // The server may have closed in the middle; what it said is read afterwards.
        let _ = self.0.write_all(bytes).await;
    }

    async fn frame(&mut self) -> Option<Vec<u8>> {
        let read = async {
            let length = self.0.read_u32().await.ok()?;
            let mut body = vec![0; usize::try_from(length).expect("64 bits")];
            self.0.read_exact(&mut body).await.ok()?;
            Some(body)
        };
        tokio::time::timeout(SOON, read).await.expect("answers or closes")
    }

    async fn hello(&mut self) -> Hello {
        serde_json::from_slice(&self.frame().await.expect("a hello")).expect("JSON")
    }

    async fn envelope(&mut self) -> Option<Envelope> {
        self.frame().await.map(|body| codec::decode(&body).expect("an envelope"))
    }

    /// The reason that comes on call 0, and then nothing.
    async fn closed_with(mut self, reason: &str) {
        let envelope = self.envelope().await.expect("a reason");
        let Envelope { id: 0, part: Part::Fail(fail) } = envelope else { panic!("{envelope:?}") };
        assert!(fail.text.contains(reason), "{}", fail.text);
        assert_eq!(self.frame().await, None);
    }
}

async fn refused(world: &World, first_frame: &[u8], reason: &str) {
    let mut raw = Raw::connect(world).await;
    raw.write(first_frame).await;
    let why = raw.hello().await.refused.expect("refused");
    assert!(why.contains(reason), "{why}");
    assert_eq!(raw.frame().await, None);
}

/// Others are still served.
async fn serves(world: &World) {
    assert_eq!(world.client().await.call::<Echo>(&vec![1], SOON).await, Ok(vec![1]));
}

#[tokio::test]
async fn a_first_frame_that_is_no_hello_is_refused() {
    let world = World::new();
    refused(&world, &framed(b"garbage"), "not a hello").await;
    refused(&world, &framed(b""), "not a hello").await;
    refused(&world, b"GET / HTTP/1.1\r\n\r\n", "over the limit").await;
    refused(&world, &framed(&vec![b' '; HELLO_BYTES_MAX + 1]), "over the limit").await;
    let tiny = Hello { frame_limit: 10, ..hello() };
    refused(&world, &framed(&serde_json::to_vec(&tiny).expect("JSON")), "frame limit").await;
    serves(&world).await;
}

#[tokio::test]
async fn unknown_keys_of_a_hello_are_ignored() {
    let world = World::new();
    let mut value = serde_json::to_value(hello()).expect("JSON");
    value["colour"] = serde_json::json!({"deep": [1, 2]});
    let mut raw = Raw::connect(&world).await;
    raw.write(&framed(value.to_string().as_bytes())).await;
    assert_eq!(raw.hello().await.refused, None);
}

#[tokio::test]
async fn versions_must_meet() {
    let mut lab = Lab::new();
    lab.hello.versions = vec![2, 3];
    let world = World::of(lab, Limits::default());
    let failed = Client::unix(&world.path, &hello()).await.expect_err("no common version");
    let ConnectError::Version { ours, theirs } = failed else { panic!("{failed}") };
    assert_eq!((ours, theirs), (vec![1], vec![2, 3]));
    let old = serde_json::to_vec(&hello()).expect("JSON");
    refused(&world, &framed(&old), "this side knows [2, 3], the caller [1]").await;
    let both = Hello { versions: vec![1, 2, 3, 4], ..hello() };
    Client::unix(&world.path, &both).await.expect("3 is common");
}

#[tokio::test]
async fn refusals_name_their_reason() {
    let lab = Lab { refuse: Some("wrong cluster".to_owned()), ..Lab::new() };
    let world = World::of(lab, Limits::default());
    let failed = Client::unix(&world.path, &hello()).await.expect_err("refused");
    assert!(matches!(&failed, ConnectError::Refused(why) if why == "wrong cluster"), "{failed}");
    let other = Client::unix(&world.path, &Hello::new("noded", "gantry-test")).await.expect_err("refused");
    assert!(matches!(other, ConnectError::Hello(_)), "{other}");
}

#[tokio::test]
async fn a_silent_caller_is_closed() {
    // Enough for an honest caller on a busy machine.
    let limits = Limits { hello: Duration::from_millis(500), ..Limits::default() };
    let world = World::of(Lab::new(), limits);
    let mut raw = Raw::connect(&world).await;
    raw.write(&[0, 0]).await;
    assert_eq!(raw.frame().await, None);
    serves(&world).await;
}

#[tokio::test]
async fn half_a_frame_is_not_waited_for_for_ever() {
    let limits = Limits { stall: Duration::from_millis(50), ..Limits::default() };
    let world = World::of(Lab::new(), limits);
    let mut raw = Raw::greeted(&world).await;
    raw.write(&[0, 0, 1, 0, 1, 2, 3]).await;
    raw.closed_with("no progress").await;
    serves(&world).await;
}

#[tokio::test]
async fn garbage_is_answered_with_one_close() {
    let world = World::new();
    let bodies: [(Vec<u8>, &str); 9] = [
        (vec![0xff; 8], "over the limit"),
        (framed(&[]), "can't decode"),
        (framed(&[0xff; 40]), "can't decode"),
        (framed(&[1, 99]), "can't decode"),
        (request(0, 1, vec![]), "used twice"),
        ([request(1, Hang::ID, vec![]), request(1, Hang::ID, vec![])].concat(), "used twice"),
        (frame_of(1, Part::Reply { body: vec![] }), "a server's frame"),
        (frame_of(1, Part::Item { body: vec![] }), "a server's frame"),
        (
            [request(1, Hang::ID, vec![]), frame_of(1, Part::Credit { items: u32::MAX })].concat(),
            "over the window",
        ),
    ];
    for (bytes, reason) in bodies {
        let mut raw = Raw::greeted(&world).await;
        raw.write(&bytes).await;
        raw.closed_with(reason).await;
    }
    world.lab.hanging.reaches(0).await;
    world.lab.peers.reaches(0).await;
    serves(&world).await;
}

#[tokio::test]
async fn a_body_that_is_no_request_fails_that_call_only() {
    let world = World::new();
    let mut raw = Raw::greeted(&world).await;
    raw.write(&request(1, Echo::ID, vec![0xff; 3])).await;
    let Some(Envelope { id: 1, part: Part::Fail(fail) }) = raw.envelope().await else { panic!("a failure") };
    assert_eq!(fail.code, Code::BadRequest);
    raw.write(&request(2, Echo::ID, codec::encode(&vec![5_u8]).expect("encodes"))).await;
    let Some(Envelope { id: 2, part: Part::Reply { .. } }) = raw.envelope().await else { panic!("a reply") };
}

#[tokio::test]
async fn the_server_keeps_the_deadline_by_itself() {
    let world = World::new();
    let mut raw = Raw::greeted(&world).await;
    let part = Part::Request { verb: Hang::ID, deadline_ms: 20, trace: String::new(), body: vec![] };
    raw.write(&frame_of(1, part)).await;
    let Some(Envelope { id: 1, part: Part::Fail(fail) }) = raw.envelope().await else { panic!("a failure") };
    assert_eq!(fail.code, Code::Deadline);
    world.lab.hanging.reaches(0).await;
}

#[tokio::test]
async fn too_many_calls_are_busy() {
    let world = World::new();
    let mut raw = Raw::greeted(&world).await;
    for id in 1..=CALLS_MAX as u64 + 1 {
        raw.write(&request(id, Hang::ID, vec![])).await;
    }
    let Some(Envelope { id, part: Part::Fail(fail) }) = raw.envelope().await else { panic!("a failure") };
    assert_eq!((id, fail.code), (CALLS_MAX as u64 + 1, Code::Busy));
    raw.write(&frame_of(1, Part::Cancel)).await;
    raw.write(&request(1_000, Echo::ID, codec::encode(&vec![5_u8]).expect("encodes"))).await;
    let Some(Envelope { id: 1_000, part: Part::Reply { .. } }) = raw.envelope().await else {
        panic!("a reply")
    };
}

#[tokio::test]
async fn too_many_request_bytes_are_busy() {
    let world = World::new();
    let mut raw = Raw::greeted(&world).await;
    let body = codec::encode(&"x".repeat(4_000_000)).expect("encodes");
    for id in 1..=5 {
        raw.write(&request(id, Hold::ID, body.clone())).await;
    }
    let Some(Envelope { id: 5, part: Part::Fail(fail) }) = raw.envelope().await else { panic!("a failure") };
    assert_eq!(fail.code, Code::Busy);
    // One that ends makes room.
    raw.write(&frame_of(1, Part::Cancel)).await;
    raw.write(&request(6, Hold::ID, body)).await;
    world.lab.hanging.reaches(4).await;
}

#[tokio::test]
async fn connections_over_the_limit_are_told() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let world = World::of(Lab::new(), limits);
    let held = [world.client().await, world.client().await];
    let failed = Client::unix(&world.path, &hello()).await.expect_err("one too many");
    assert!(matches!(&failed, ConnectError::Refused(why) if why.contains("2 connections")), "{failed}");
    drop(held);
    world.lab.peers.reaches(0).await;
    let again = async {
        while Client::unix(&world.path, &hello()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, again).await.expect("there is room again");
}

#[tokio::test]
async fn a_stopping_server_takes_no_new_calls() {
    let world = World::new();
    let mut raw = Raw::greeted(&world).await;
    raw.write(&request(1, Hang::ID, vec![])).await;
    world.lab.hanging.reaches(1).await;
    world.stop.cancel();
    // Frames sent before the close was seen are refused, later ones meet a closed socket.
    raw.write(&request(2, Echo::ID, vec![0])).await;
    if let Some(Envelope { part: Part::Fail(fail), .. }) = raw.envelope().await {
        assert_eq!(fail.code, Code::NotReady);
    }
    world.server.await.expect("no panic");
    assert!(Client::unix(&world.path, &hello()).await.expect_err("nobody listens").is_dead());
}

/// A server that writes what it likes.
async fn lying_server(answer: Vec<u8>) -> Client {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    tokio::spawn(async move {
        far.write_all(&framed(&serde_json::to_vec(&Hello::new("lab", "liar")).expect("JSON"))).await?;
        far.write_all(&answer).await?;
        tokio::io::copy(&mut far, &mut tokio::io::sink()).await
    });
    Client::over(near, &hello()).await.expect("a sound hello")
}

#[tokio::test]
async fn a_lying_server_ends_the_connection() {
    let flood: Vec<u8> = (0..80).flat_map(|_| frame_of(1, Part::Item { body: vec![1] })).collect();
    let lies = [
        (frame_of(9, Part::Reply { body: vec![] }), "never made"),
        (frame_of(0, Part::Cancel), "without a call"),
        (vec![0xff; 8], "over the limit"),
        (framed(&[0xff; 9]), "can't decode"),
    ];
    for (lie, reason) in lies {
        let client = lying_server(lie).await;
        client.closed().await;
        let why = client.close_reason().expect("closed");
        assert!(why.contains(reason), "{why}");
    }
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let server = tokio::spawn(async move {
        far.write_all(&framed(&serde_json::to_vec(&Hello::new("lab", "liar")).expect("JSON"))).await?;
        // The hello and the request, then too many items.
        for _ in 0..2 {
            let length = far.read_u32().await?;
            let mut body = vec![0; usize::try_from(length).expect("64 bits")];
            far.read_exact(&mut body).await?;
        }
        far.write_all(&flood).await?;
        std::io::Result::Ok(far)
    });
    let client = Client::over(near, &hello()).await.expect("a sound hello");
    let stream = client.open::<crate::world::verbs::Count>(&80).await.expect("sent");
    client.closed().await;
    assert!(client.close_reason().expect("closed").contains("more items than its window"));
    drop(stream);
    server.await.expect("no panic").expect("written");
}

#[tokio::test]
async fn a_reply_of_another_type_is_an_error_of_that_call() {
    let world = World::new();
    let client = world.client().await;
    let failed = client.call::<Echo>(&vec![0; 10], SOON).await;
    assert_eq!(failed, Ok(vec![0; 10]));
    let failed = client.call::<crate::world::verbs::EchoAsText>(&vec![0xff; 2], SOON).await;
    assert!(matches!(failed, Err(CallError::Protocol(_))), "{failed:?}");
    assert!(!client.is_closed());
}

/// A sound conversation, to be mutated.
fn conversation() -> Vec<u8> {
    let hello = framed(&serde_json::to_vec(&hello()).expect("JSON"));
    let echo = request(1, Echo::ID, codec::encode(&vec![1_u8, 2, 3]).expect("encodes"));
    let count = request(2, 3, codec::encode(&10_u64).expect("encodes"));
    let credit = frame_of(2, Part::Credit { items: 5 });
    [hello, echo, count, credit, frame_of(2, Part::Cancel), request(3, Hang::ID, vec![])].concat()
}

/// Serves `bytes` from memory until their end; it must come, and without a panic.
fn serve_bytes(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let stream = tokio::io::join(bytes, tokio::io::sink());
        let lab = std::sync::Arc::new(Lab::new());
        let served =
            gantry_rpc::serve_stream(stream, gantry_rpc::Facts::default(), std::sync::Arc::clone(&lab));
        tokio::time::timeout(SOON, served).await.expect("ends with its input");
        lab.hanging.reaches(0).await;
        lab.peers.reaches(0).await;
    });
}

/// Lets a client read `bytes` while it calls; both must end, and without a panic.
fn answer_bytes(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let hello = hello();
    let answer =
        std::io::Cursor::new([framed(&serde_json::to_vec(&hello).expect("JSON")), bytes.to_vec()].concat());
    runtime.block_on(async {
        let client =
            Client::over(tokio::io::join(answer, tokio::io::sink()), &hello).await.expect("a sound hello");
        let calls = async {
            let _ = client.call::<Echo>(&vec![1], SOON).await;
            client.closed().await;
        };
        tokio::time::timeout(SOON, calls).await.expect("ends with its input");
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        serve_bytes(&bytes);
    }

    #[test]
    fn random_frames_do_no_harm(bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8)) {
        let hello = framed(&serde_json::to_vec(&hello()).expect("JSON"));
        let frames: Vec<u8> = bodies.iter().flat_map(|body| framed(body)).collect();
        answer_bytes(&frames);
        serve_bytes(&[hello, frames].concat());
    }

    #[test]
    fn mutated_conversations_do_no_harm(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        end in any::<prop::sample::Index>(),
    ) {
        let mut bytes = conversation();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(end.index(bytes.len() + 1));
        serve_bytes(&bytes);
    }
}
