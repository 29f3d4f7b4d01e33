//! Copies that lag: late ones, empty ones, and those that need what the log has no more.

use crate::world::*;
use gantry_proto::copies::Log;
use gantry_store::core::list::{List, Member};
use gantry_store::core::row::Index;
use gantry_store::{Batch, Change, LogKind, Shipment, Writer};
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_catches_up_under_load_and_becomes_a_member() {
    let world = World::with_strangers(1, 1).await;
    let leader = world.lead(0, LogKind::W).await.unwrap();
    for n in 0..300 {
        leader.put(&format!("before{n}")).await;
    }
    let learner = Member { node: world.nodes[1].uuid.0, copy_id: Uuid::new_v4() };
    world.make(1, learner.copy_id).await;
    leader.handle.add_learner(learner);
    for n in 0..200 {
        leader.put(&format!("during{n}")).await;
    }
    let lag = || leader.handle.status().first().filter(|c| c.answered_ms_ago.is_some()).map(|c| c.lag);
    until("the learner", || lag().is_some_and(|lag| lag < 10)).await;
    assert!(leader.handle.status()[0].learner);
    let members = vec![world.members[0], learner];
    let list = List { n: 2, prev: 1, members };
    let at = leader.started.writer.append_list(list).unwrap();
    assert!(committed(&leader.started.writer, at).await);
    until("a member", || !leader.handle.status()[0].learner).await;
    leader.put("both").await;
    let facts = world.facts(1, Log::W).await;
    assert!(facts.last.idx > 500 && facts.list.members.len() == 2, "{facts:?}");
    // Both are needed now.
    world.cut(0);
    let idx = leader.started.writer.append(batch("stuck", 1)).unwrap();
    assert!(leader.handle.confirm().await.is_err());
    assert!(leader.started.writer.progress().borrow().committed < idx);
    world.heal();
    assert!(committed(&leader.started.writer, idx).await);
}

/// A body so long that a writer's memory does not hold as many rows as its log keeps.
fn long() -> Vec<u8> {
    format!("\"{}\"", "x".repeat(2_000)).into_bytes()
}

/// More rows than a log keeps behind its slowest copy, of so many objects. The last one, committed.
async fn fill(writer: &Writer, objects: u64) -> Index {
    let mut last = Index(0);
    for n in 0..15_000 {
        let key = format!("k{}", n % objects);
        let change = Change { kind: "k".into(), key, rev: n, body: Some(long()) };
        loop {
            match writer.append(Batch { changes: vec![change.clone()], ..Batch::default() }) {
                Ok(idx) => {
                    last = idx;
                    break;
                }
                Err(gantry_store::StoreError::Full) => assert!(committed(writer, last).await),
                Err(why) => panic!("{why}"),
            }
        }
    }
    assert!(committed(writer, last).await);
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_copy_of_a_compacted_log_gets_a_snapshot_and_can_lead() {
    let world = World::new(3).await;
    let leader = world.lead(0, LogKind::W).await.unwrap();
    world.cut(2);
    let writer = leader.started.writer.clone();
    let last = fill(&writer, 2_000).await;
    until("compaction", || {
        writer.compact(last);
        matches!(writer.batch_after(Index(1_000), 1, 1), Ok(Shipment::Compacted(_)))
    })
    .await;
    world.heal();
    let lag = || leader.handle.status().iter().find(|c| c.node == world.nodes[2].uuid).map(|c| c.lag);
    until("the late copy", || lag() == Some(0)).await;
    let facts = world.facts(2, Log::W).await;
    assert!(facts.base.idx > 1_000, "it was fed a snapshot: {facts:?}");
    leader.put("last").await;
    let _q = world.lead(0, LogKind::Q).await.unwrap();
    world.cut(0);
    world.elect(2).await.unwrap();
    let next = world.lead(2, LogKind::W).await.unwrap();
    assert!(next.keys().contains("last") && next.keys().contains("k1999"));
    assert_eq!(next.started.objects.iter().filter(|o| o.key.starts_with('k')).count(), 2_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_whose_best_copy_has_compacted_recovers_by_a_snapshot() {
    let world = World::new(3).await;
    let leader = world.lead(0, LogKind::W).await.unwrap();
    let queue = world.lead(0, LogKind::Q).await.unwrap();
    queue.put("q").await;
    world.cut(2);
    let writer = leader.started.writer.clone();
    let mut last = Index(0);
    for n in 0..15_000_u64 {
        let change =
            Change { kind: "k".into(), key: format!("k{}", n % 500), rev: n + 1, body: Some(long()) };
        match writer.append(Batch { changes: vec![change], ..Batch::default() }) {
            Ok(idx) => last = idx,
            Err(_) => assert!(committed(&writer, last).await),
        }
    }
    assert!(committed(&writer, last).await);
    until("compaction", || {
        writer.compact(last);
        matches!(writer.batch_after(Index(1_000), 1, 1), Ok(Shipment::Compacted(_)))
    })
    .await;
    let compacted = || async { world.facts(1, Log::W).await.base.idx > 1_000 };
    let mut waited = 0;
    while !compacted().await && waited < 3_000 {
        leader.put("more").await;
        waited += 1;
    }
    assert!(compacted().await, "a copy that follows compacts, too");
    // The old master goes; the one that was away is elected with the help of the other.
    world.heal();
    world.cut(0);
    world.elect(2).await.unwrap();
    let next = world.lead(2, LogKind::W).await.unwrap();
    assert_eq!(next.started.objects.iter().filter(|o| o.key.starts_with('k')).count(), 500);
    next.put("after").await;
}

/// Taking the pieces of a snapshot is an answer: the rows after it are kept, or the next one would be needed when it is there
/// (P3.1).
#[tokio::test(flavor = "multi_thread")]
async fn rows_after_a_snapshot_are_kept_while_a_copy_takes_it() {
    let world = World::new(3).await;
    let leader = world.lead(0, LogKind::W).await.unwrap();
    world.cut(2);
    let writer = leader.started.writer.clone();
    let last = fill(&writer, 5_000).await;
    until("compaction", || {
        writer.compact(last);
        matches!(writer.batch_after(Index(1_000), 1, 1), Ok(Shipment::Compacted(_)))
    })
    .await;
    let committed = || writer.progress().borrow().committed;
    until("the silence of the one that is cut off", || leader.handle.slowest() == committed()).await;
    // Ten pieces or more, each of which takes a while.
    world.late(2, 300);
    world.heal();
    let mut n = 0;
    while leader.handle.slowest() == committed() {
        leader.put(&format!("more{n}")).await;
        n += 1;
    }
    assert!(leader.handle.slowest() >= last);
    assert_eq!(world.facts(2, Log::W).await.base.idx, 0, "it has not taken it over yet");
    let lag = || leader.handle.status().iter().find(|c| c.node == world.nodes[2].uuid).map(|c| c.lag);
    until("the late copy", || lag() == Some(0)).await;
    assert!(world.facts(2, Log::W).await.base.idx > 1_000);
    // One that is lost holds nothing up for long.
    world.cut(2);
    until("silence", || leader.handle.slowest() == committed()).await;
}

/// A master that wrote long alone comes back: what it has in common with the new one's log is found in few calls, which carry no
/// rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_tail_that_no_one_else_has_is_stepped_over_in_few_calls() {
    let world = World::new(3).await;
    let (leader, q) = (world.lead(0, LogKind::W).await.unwrap(), world.lead(0, LogKind::Q).await.unwrap());
    let put = |writer: &Writer, name: &str| {
        let change = Change { kind: "k".into(), key: name.into(), rev: 1, body: Some(long()) };
        writer.append(Batch { changes: vec![change], ..Batch::default() }).unwrap()
    };
    leader.put("common").await;
    until("all", || leader.handle.status().iter().all(|copy| copy.lag == 0)).await;
    world.cut(0);
    let mut last = Index(0);
    for n in 0..1_000 {
        last = put(&leader.started.writer, &format!("alone{n}"));
    }
    while world.facts(0, Log::W).await.last.idx < last.0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    leader.end().await;
    q.end().await;
    world.elect(1).await.unwrap();
    let next = world.lead(1, LogKind::W).await.unwrap();
    for n in 0..1_200 {
        last = put(&next.started.writer, &format!("instead{n}"));
    }
    assert!(committed(&next.started.writer, last).await);
    let before = world.appends(0);
    world.heal();
    let lag = || next.handle.status().iter().find(|c| c.node == world.nodes[0].uuid).map(|c| c.lag);
    until("the old master", || lag() == Some(0)).await;
    let after = world.appends(0);
    let (calls, bytes) = (after.0 - before.0, after.1 - before.1);
    // Twice the rows of 2 kB, and what a sign of life or two may add.
    assert!(calls < 40 && bytes < 6_000_000, "{calls} calls of {bytes} bytes");
    assert_eq!(world.facts(0, Log::W).await.last, world.facts(1, Log::W).await.last);
}
