//! Histories with lost and delayed messages, cuts, failovers. After each: what was acknowledged is there, once, in order.

use crate::world::*;
use gantry_copies::CopiesError;
use gantry_copies::elect::Outcome;
use gantry_store::LogKind;
use std::collections::BTreeSet;

/// A start that loses its connection while it takes rows over ends, and is begun anew, as boot does with the daemon.
async fn led(world: &World, nth: usize, log: LogKind) -> Leader {
    for _ in 0..50 {
        match world.lead(nth, log).await {
            Ok(leader) => return leader,
            Err(CopiesError::Broken { .. }) => {}
            Err(why) => panic!("node {nth} does not lead {log:?}: {why}"),
        }
    }
    panic!("node {nth} does not lead {log:?}");
}

/// A few failovers of a cluster in bad weather.
async fn history(count: usize, seed: u64, failovers: usize) {
    let world = World::new(count).await;
    let mut master = 0;
    let mut leader = world.lead(0, LogKind::W).await.unwrap();
    let mut queue = world.lead(0, LogKind::Q).await.unwrap();
    let mut acknowledged = BTreeSet::new();
    world.storm(30, 3, seed);
    for round in 0..failovers {
        let writer = leader.started.writer.clone();
        let mut waiting = Vec::new();
        for n in 0..200 {
            let key = format!("{seed}.{round}.{n}");
            match writer.append(batch(&key, 1)) {
                Ok(idx) => waiting.push((key, idx)),
                Err(_) => continue,
            }
        }
        let middle = waiting[waiting.len() / 2].1;
        assert!(committed(&writer, middle).await);
        world.cut(master);
        let done = writer.progress().borrow().committed;
        acknowledged.extend(waiting.into_iter().filter(|(_, idx)| *idx <= done).map(|(key, _)| key));
        let next = (master + 1) % count;
        // Promises may be lost: the command is repeated.
        let mut tries = 0;
        while !matches!(world.elect(next).await, Ok(Outcome::Won(_))) {
            tries += 1;
            assert!(tries < 50, "nobody is elected");
        }
        let fresh = led(&world, next, LogKind::W).await;
        let fresh_queue = led(&world, next, LogKind::Q).await;
        let keys = fresh.keys();
        for key in &acknowledged {
            assert!(keys.contains(key), "seed {seed}: {key} was acknowledged");
        }
        world.heal();
        let _ = soon("the old master's end", leader.handle.deposed()).await;
        leader.end().await;
        queue.end().await;
        (leader, queue, master) = (fresh, fresh_queue, next);
    }
    leader.put("end").await;
    queue.put("end").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_in_bad_weather() {
    for seed in [11, 12] {
        history(3, seed, 4).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_nodes_in_bad_weather() {
    history(5, 21, 5).await;
}
