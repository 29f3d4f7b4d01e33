//! Calls, streams, deadlines, cancelling, closing.

use crate::world::verbs::{Big, Broken, Count, Echo, Endless, Hang, Mirror, Missing};
use crate::world::{SOON, World};
use gantry_proto::envelope::STREAM_WINDOW;
use gantry_rpc::{CALLS_MAX, CallError, Code, Event, FRAME_BYTES_MAX};
use std::sync::atomic::Ordering;
use std::time::Duration;

#[tokio::test]
async fn a_call_is_answered() {
    let world = World::new();
    let client = world.client().await;
    assert_eq!(client.peer().component, "gantry-lab");
    assert_eq!(client.peer_cred().map(|(pid, _)| pid.cast_unsigned()), Some(std::process::id()));
    assert_eq!(client.call::<Echo>(&vec![1, 2, 3], SOON).await, Ok(vec![1, 2, 3]));
    let traced = client.traced("job 7");
    assert_eq!(traced.call::<Mirror>(&(), SOON).await, Ok(("job 7".to_owned(), Some(10_000))));
    assert_eq!(client.call_waiting::<Mirror>(&()).await, Ok((String::new(), None)));
}

#[tokio::test]
async fn failures_keep_their_code() {
    let world = World::new();
    let client = world.client().await;
    let failed = client.call::<Broken>(&(), SOON).await.expect_err("it fails");
    assert_eq!(failed.code(), Some(Code::Stale));
    assert_eq!(failed.to_string(), "as asked");
    let failed = client.call::<Missing>(&(), SOON).await.expect_err("nobody serves it");
    assert_eq!(failed.code(), Some(Code::UnknownVerb));
    assert!(!client.is_closed());
}

#[tokio::test]
async fn many_calls_share_a_connection() {
    let world = World::new();
    let client = world.client().await;
    let calls = (0..2_000_u32).map(|n| {
        let client = client.clone();
        tokio::spawn(async move { client.call::<Echo>(&n.to_be_bytes().to_vec(), SOON).await })
    });
    for (n, call) in calls.collect::<Vec<_>>().into_iter().enumerate() {
        let reply = call.await.expect("no panic").expect("answered");
        assert_eq!(reply, u32::try_from(n).expect("small").to_be_bytes());
    }
}

#[tokio::test]
async fn a_stream_yields_its_items_and_its_end() {
    let world = World::new();
    let client = world.client().await;
    let mut stream = client.open::<Count>(&1_000).await.expect("opens");
    for number in 0..1_000 {
        assert_eq!(stream.next().await, Ok(Event::Item(number)));
    }
    assert_eq!(stream.next().await, Ok(Event::End(1_000)));
    assert!(matches!(stream.next().await, Err(CallError::Closed(_))));
    // Called without a stream, the items are passed over.
    assert_eq!(client.call::<Count>(&1_000, SOON).await, Ok(1_000));
}

#[tokio::test]
async fn a_stream_nobody_reads_stops_at_its_window() {
    let world = World::new();
    let client = world.client().await;
    let stream = client.open::<Count>(&1_000).await.expect("opens");
    // The answer to a call made later proves that the server had its turns.
    for _ in 0..10 {
        client.call::<Echo>(&vec![], SOON).await.expect("answered");
    }
    assert_eq!(world.lab.sent.load(Ordering::SeqCst), STREAM_WINDOW as usize);
    drop(stream);
}

#[tokio::test]
async fn dropping_cancels() {
    let world = World::new();
    let client = world.client().await;
    let hang = tokio::spawn({
        let client = client.clone();
        async move { client.call_waiting::<Hang>(&()).await }
    });
    world.lab.hanging.reaches(1).await;
    hang.abort();
    world.lab.hanging.reaches(0).await;
    let stream = client.open::<Endless>(&()).await.expect("opens");
    world.lab.hanging.reaches(1).await;
    drop(stream);
    world.lab.hanging.reaches(0).await;
    assert_eq!(client.call::<Echo>(&vec![1], SOON).await, Ok(vec![1]));
}

#[tokio::test]
async fn a_deadline_ends_both_sides() {
    let world = World::new();
    let client = world.client().await;
    let late = client.call::<Hang>(&(), Duration::from_millis(50)).await;
    assert_eq!(late, Err(CallError::Deadline { verb: "Hang", ms: 50 }));
    world.lab.hanging.reaches(0).await;
    assert_eq!(client.call::<Echo>(&vec![1], SOON).await, Ok(vec![1]));
}

#[tokio::test]
async fn closing_ends_calls_on_both_sides() {
    let world = World::new();
    let client = world.client().await;
    let hang = tokio::spawn({
        let client = client.clone();
        async move { client.call_waiting::<Hang>(&()).await }
    });
    world.lab.hanging.reaches(1).await;
    world.lab.peers.reaches(1).await;
    client.close();
    assert_eq!(hang.await.expect("no panic"), Err(CallError::Closed("closed by this side".to_owned())));
    world.lab.hanging.reaches(0).await;
    world.lab.peers.reaches(0).await;
    assert!(client.is_closed());
    assert!(matches!(client.call::<Echo>(&vec![], SOON).await, Err(CallError::Closed(_))));
}

#[tokio::test]
async fn the_last_handle_closes() {
    let world = World::new();
    let client = world.client().await;
    let stream = client.open::<Endless>(&()).await.expect("opens");
    world.lab.peers.reaches(1).await;
    drop(client);
    world.lab.hanging.reaches(1).await;
    drop(stream);
    world.lab.peers.reaches(0).await;
}

#[tokio::test]
async fn a_stopped_server_closes() {
    let world = World::new();
    let client = world.client().await;
    let mut stream = client.open::<Endless>(&()).await.expect("opens");
    world.stop.cancel();
    world.server.await.expect("no panic");
    client.closed().await;
    while let Ok(event) = stream.next().await {
        assert!(matches!(event, Event::Item(_)));
    }
    assert_eq!(client.close_reason().as_deref(), Some("the peer closed it"));
}

#[tokio::test]
async fn what_does_not_fit_a_frame_is_refused_before_it_is_sent() {
    let world = World::new();
    let client = world.client().await;
    let large = vec![0; FRAME_BYTES_MAX];
    assert!(matches!(client.call::<Echo>(&large, SOON).await, Err(CallError::Protocol(_))));
    let failed = client.call::<Big>(&(FRAME_BYTES_MAX as u64), SOON).await.expect_err("too large");
    assert_eq!(failed.code(), Some(Code::Internal));
    let fits = FRAME_BYTES_MAX as u64 - 64;
    assert_eq!(client.call::<Big>(&fits, SOON).await.map(|reply| reply.len() as u64), Ok(fits));
}

#[tokio::test]
async fn callers_wait_for_a_place() {
    let world = World::new();
    let client = world.client().await;
    let mut hanging = tokio::task::JoinSet::new();
    for _ in 0..CALLS_MAX {
        let client = client.clone();
        hanging.spawn(async move { client.call_waiting::<Hang>(&()).await });
    }
    world.lab.hanging.reaches(CALLS_MAX).await;
    let late = client.call::<Echo>(&vec![], Duration::from_millis(20)).await;
    assert!(matches!(late, Err(CallError::Deadline { .. })));
    hanging.abort_all();
    assert_eq!(client.call::<Echo>(&vec![1], SOON).await, Ok(vec![1]));
}
