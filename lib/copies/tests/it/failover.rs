//! Elections and what they owe: every acknowledged row, and one master.

use crate::world::*;
use gantry_copies::CopiesError;
use gantry_copies::elect::{Event, Mode, Outcome};
use gantry_model::role::Role;
use gantry_proto::copies::Log;
use gantry_store::{LogKind, StoreError};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_one_asks_nobody() {
    let world = World::new(1).await;
    world.cut(0);
    let leader = world.lead(0, LogKind::W).await.unwrap();
    leader.put("alone").await;
    leader.handle.confirm().await.unwrap();
    assert!(leader.handle.status().is_empty());
    leader.end().await;
    let again = world.lead(0, LogKind::W).await.unwrap();
    assert!(again.keys().contains("alone"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_the_master() {
    let world = World::new(3).await;
    let leader = world.lead(0, LogKind::W).await.unwrap();
    let queue = world.lead(0, LogKind::Q).await.unwrap();
    // Load, cut off in the middle of it.
    let (writer, mut acknowledged) = (leader.started.writer.clone(), Vec::new());
    let mut waiting = Vec::new();
    for n in 0..500 {
        let key = format!("k{n}");
        waiting.push((key.clone(), writer.append(batch(&key, 1)).unwrap()));
        if n == 300 {
            assert!(committed(&writer, waiting[300].1).await);
            world.cut(0);
        }
    }
    let done = writer.progress().borrow().committed;
    acknowledged.extend(waiting.iter().filter(|(_, idx)| *idx <= done).map(|(key, _)| key.clone()));
    assert!(acknowledged.len() > 300);
    assert!(matches!(world.elect(1).await, Ok(Outcome::Won(won)) if won.epoch == 2));
    assert_eq!((world.nodes[1].role().role, world.nodes[1].role().epoch), (Role::Master, 2));
    let next = world.lead(1, LogKind::W).await.unwrap();
    let next_queue = world.lead(1, LogKind::Q).await.unwrap();
    assert_eq!(next.started.term.epoch, 2);
    let keys = next.keys();
    for key in &acknowledged {
        assert!(keys.contains(key), "{key} was acknowledged");
    }
    next.put("after").await;
    next_queue.put("after").await;
    next.handle.confirm().await.unwrap();
    // The old master commits nothing more, and on its return hears why.
    assert_eq!(writer.progress().borrow().committed, done);
    assert!(leader.handle.confirm().await.is_err());
    world.heal();
    let why = soon("the news", leader.handle.deposed()).await;
    assert!(matches!(why, CopiesError::Deposed { .. }), "{why}");
    until("the old master's role", || world.nodes[0].role().role == Role::Candidate).await;
    assert!(writer.append(batch("late", 1)).is_err() || writer.progress().borrow().committed == done);
    drop(queue);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_stops_the_master_first() {
    let world = World::new(3).await;
    let w = world.lead(0, LogKind::W).await.unwrap();
    let q = world.lead(0, LogKind::Q).await.unwrap();
    w.put("one").await;
    // What boot does: it ends the daemons when the role says so.
    let node = world.nodes[0].clone();
    let boot = tokio::spawn(async move {
        until("the role", || node.role().role == Role::Candidate).await;
        q.end().await;
        w.end().await;
    });
    let (won, events) = world.elect_with(2, Mode::Vote).await;
    assert!(matches!(won, Ok(Outcome::Won(_))), "{won:?}");
    boot.await.unwrap();
    assert!(events.iter().any(|e| matches!(e, Event::SteppedDown { outcome: Ok(()), .. })), "{events:?}");
    let next = world.lead(2, LogKind::W).await.unwrap();
    assert!(next.keys().contains("one"));
    let again = world.elect(2).await;
    let _q = world.lead(2, LogKind::Q).await.unwrap();
    assert_eq!(again, Ok(Outcome::AlreadyMaster(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_elects_nobody_and_the_command_may_be_repeated() {
    let world = World::new(3).await;
    let leader = world.lead(0, LogKind::W).await.unwrap();
    // A log that was never led has told nobody its list.
    let queue = world.lead(0, LogKind::Q).await.unwrap();
    leader.put("one").await;
    leader.end().await;
    queue.put("one").await;
    queue.end().await;
    world.cut(2);
    world.cut(1);
    let lonely = world.elect(2).await.unwrap_err();
    assert!(lonely.contains("1 of the 2"), "{lonely}");
    assert_eq!(world.nodes[2].role().role, Role::Candidate);
    let (looked, events) = world.elect_with(2, Mode::Look).await;
    assert_eq!(looked, Ok(Outcome::Looked));
    assert!(events.iter().any(|e| matches!(e, Event::Looked(all) if all.len() == 3)));
    world.heal();
    world.cut(0);
    assert!(matches!(world.elect(2).await, Ok(Outcome::Won(_))));
    let next = world.lead(2, LogKind::W).await.unwrap();
    assert!(next.keys().contains("one"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_writes_are_refused_and_nothing_is_lost() {
    let world = World::new(3).await;
    let leader = world.lead(0, LogKind::W).await.unwrap();
    leader.put("one").await;
    world.cut(0);
    let writer = leader.started.writer.clone();
    let open = writer.append(batch("open", 1)).unwrap();
    let refused = || matches!(writer.append(batch("two", 1)), Err(StoreError::NoMajority { .. }));
    until("a refusal", refused).await;
    let unconfirmed = leader.handle.confirm().await.unwrap_err();
    assert!(matches!(unconfirmed, CopiesError::Unconfirmed { have: 1, need: 2, .. }), "{unconfirmed}");
    assert!(writer.progress().borrow().committed < open);
    world.heal();
    until("a majority", || writer.append(batch("three", 1)).is_ok()).await;
    assert!(committed(&writer, open).await, "what was appended stays");
    leader.handle.confirm().await.unwrap();
}

/// The own copy counts by its noded's word; one that does not answer is named like any other.
#[tokio::test(flavor = "multi_thread")]
async fn an_own_noded_that_is_silent_is_named() {
    let world = World::new(2).await;
    let leader = world.lead(0, LogKind::W).await.unwrap();
    leader.put("one").await;
    leader.handle.confirm().await.unwrap();
    world.cut_own(0);
    let unconfirmed = leader.handle.confirm().await.unwrap_err();
    assert!(
        matches!(&unconfirmed, CopiesError::Unconfirmed { have: 1, need: 2, silent, .. } if !silent.is_empty()),
        "{unconfirmed}"
    );
    world.heal();
    leader.handle.confirm().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_of_the_same_epoch_takes_a_higher_run() {
    let world = World::new(3).await;
    let first = world.lead(0, LogKind::W).await.unwrap();
    first.put("one").await;
    let term = first.started.term;
    first.end().await;
    let second = world.lead(0, LogKind::W).await.unwrap();
    assert_eq!((second.started.term.epoch, second.started.term.run), (term.epoch, term.run + 1));
    assert!(second.keys().contains("one"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_voting_goes_on_alone_in_a_new_history() {
    let world = World::new(2).await;
    let (w, q) = (world.lead(0, LogKind::W).await.unwrap(), world.lead(0, LogKind::Q).await.unwrap());
    w.put("kept").await;
    w.end().await;
    q.end().await;
    world.cut(0);
    let lonely = world.elect(1).await.unwrap_err();
    assert!(lonely.contains("1 of the 2"), "{lonely}");
    let (looked, events) = world.elect_with(1, Mode::AloneLook).await;
    assert_eq!(looked, Ok(Outcome::Looked));
    let risk = events.iter().find_map(|e| if let Event::AtRisk(all) = e { Some(all.clone()) } else { None });
    assert_eq!(risk.expect("told").len(), 2, "the silent one may have more of both logs");
    let before = world.facts(1, Log::W).await;
    assert!(matches!(world.elect_with(1, Mode::Alone).await.0, Ok(Outcome::Won(won)) if won.epoch > 1000));
    let after = world.facts(1, Log::W).await;
    assert_ne!(after.history, before.history);
    let alone = world.lead(1, LogKind::W).await.unwrap();
    let _queue = world.lead(1, LogKind::Q).await.unwrap();
    assert!(alone.keys().contains("kept"));
    assert_eq!(alone.started.members.len(), 1);
    alone.put("more").await;
    // The other one is of another history: it is not heard, and hears nothing.
    world.heal();
    assert!(world.elect(0).await.is_err());
}

/// Far below one time limit of a call that nobody answers, far above what everything else takes.
const SOON: Duration = Duration::from_secs(4);
/// What silent ones are waited for in these tests.
const PATIENCE_SHORT: Duration = Duration::from_millis(700);

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_master_is_waited_for_once() {
    let world = World::new(3).await;
    let (w, q) = (world.lead(0, LogKind::W).await.unwrap(), world.lead(0, LogKind::Q).await.unwrap());
    w.put("one").await;
    q.put("one").await;
    world.still(0);
    let began = Instant::now();
    let (won, events) = world.elect_within(1, Mode::Vote, PATIENCE_SHORT).await;
    assert!(matches!(won, Ok(Outcome::Won(_))), "{won:?}");
    let told = |e: &Event| matches!(e, Event::Waiting { names, .. } if names == &["n0".to_owned()]);
    assert!(events.iter().any(told), "who is waited for is told: {events:?}");
    let next = world.lead(1, LogKind::W).await.unwrap();
    let _queue = world.lead(1, LogKind::Q).await.unwrap();
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert!(next.keys().contains("one"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_needed_is_waited_for_longer() {
    let world = World::new(3).await;
    let (w, q) = (world.lead(0, LogKind::W).await.unwrap(), world.lead(0, LogKind::Q).await.unwrap());
    w.put("one").await;
    q.put("one").await;
    world.still(0);
    world.late(2, 1_000);
    let won = world.elect_within(1, Mode::Vote, PATIENCE_SHORT).await.0;
    assert!(matches!(won, Ok(Outcome::Won(_))), "{won:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_master_is_asked_to_stop() {
    let world = World::new(3).await;
    let (w, q) = (world.lead(0, LogKind::W).await.unwrap(), world.lead(0, LogKind::Q).await.unwrap());
    w.put("one").await;
    world.late(0, 600);
    let node = world.nodes[0].clone();
    let boot = tokio::spawn(async move {
        until("the role", || node.role().role == Role::Candidate).await;
        q.end().await;
        w.end().await;
    });
    let (won, events) = world.elect_within(2, Mode::Vote, Duration::from_secs(30)).await;
    assert!(matches!(won, Ok(Outcome::Won(_))), "{won:?}");
    assert!(events.iter().any(|e| matches!(e, Event::SteppedDown { outcome: Ok(()), .. })), "{events:?}");
    boot.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_whose_daemons_hang_is_not_waited_for_to_their_end() {
    let world = World::new(3).await;
    // Nobody ends them: no boot kills what hangs.
    let (w, q) = (world.lead(0, LogKind::W).await.unwrap(), world.lead(0, LogKind::Q).await.unwrap());
    w.put("one").await;
    q.put("one").await;
    let began = Instant::now();
    let (won, events) = world.elect_within(1, Mode::Vote, PATIENCE_SHORT).await;
    assert!(matches!(won, Ok(Outcome::Won(_))), "{won:?}");
    assert!(events.iter().any(|e| matches!(e, Event::SteppedDown { outcome: Err(_), .. })), "{events:?}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let next = world.lead(1, LogKind::W).await.unwrap();
    assert!(next.keys().contains("one"));
    // Its writers are fenced all the same.
    let fenced = soon("the news", w.handle.deposed()).await;
    assert!(matches!(fenced, CopiesError::Deposed { .. }), "{fenced}");
}

/// What a master wrote alone lies on its own disk when it comes back, and another is asked about it (P1.9).
#[tokio::test(flavor = "multi_thread")]
async fn rows_put_aside_are_named_by_whoever_leads_now() {
    let world = World::new(3).await;
    let (leader, q) = (world.lead(0, LogKind::W).await.unwrap(), world.lead(0, LogKind::Q).await.unwrap());
    leader.put("kept").await;
    world.cut(0);
    let lost = leader.started.writer.append(batch("lost", 1)).unwrap();
    let flushed = || async { world.facts(0, Log::W).await.last.idx >= lost.0 };
    while !flushed().await {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    leader.end().await;
    q.end().await;
    world.elect(1).await.unwrap();
    let next = world.lead(1, LogKind::W).await.unwrap();
    let nodes = || world.nodes.iter().map(|node| node.uuid).collect();
    let link = world.link(1);
    let told = gantry_copies::aside::aside(&link, nodes()).await;
    assert!(told.len() == 2 && told.iter().all(|(_, reply)| reply.count == 0), "{told:?}");
    world.heal();
    next.put("instead").await;
    until("all", || next.handle.status().iter().all(|copy| copy.lag == 0)).await;
    let told = gantry_copies::aside::aside(&link, nodes()).await;
    let of_old = told.iter().find(|(node, _)| *node == world.nodes[0].uuid).map(|(_, reply)| reply).unwrap();
    assert_eq!((told.len(), of_old.count, &*of_old.newest[0]), (3, 1, &*format!("W-1-{lost}")));
}
