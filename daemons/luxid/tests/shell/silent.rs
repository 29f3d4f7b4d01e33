//! A second member of the queue's copies counts, and nobody reaches it: nothing more is committed.

use crate::world::{World, op, until};
use gantry_model::config::{MemberCopy, Members, kind};
use gantry_model::ids::NodeUuid;
use serde_json::json;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// A second copy counts from now on, on a node that is not there.
fn lose_majority(world: &World) {
    let own = world.ask("QueryMembers", json!([]))["queue"][0].clone();
    let copy = |node: Uuid, copy_id| MemberCopy { node: NodeUuid(node), copy_id };
    let uuid = |value: &serde_json::Value| value.as_str().unwrap().parse::<Uuid>().unwrap();
    let members =
        vec![copy(uuid(&own["node"]), uuid(&own["copy_id"])), copy(Uuid::from_u128(7), Uuid::from_u128(8))];
    let members = Members { n: 2, members, settled: false, learner: None };
    world.wconfd.commit(vec![(kind::MEMBERS, kind::MEMBERS_KEY.to_owned(), Some(json!(members)))]);
    until("the second copy to count", || {
        let queue = world.ask("QueryMembers", json!([]))["queue"].clone();
        queue.as_array().is_some_and(|copies| copies.len() == 2 && copies[1]["learner"] == false)
    });
}

/// Waits until changes are refused.
fn refused(world: &World) {
    until("the loss of the majority to be seen", || {
        let said = world.client().ask("SetWatcherPause", json!([null]));
        said.is_err_and(|why| why.to_string().contains("nothing can be stored"))
    });
}

#[test]
fn what_was_taken_before_the_majority_was_lost_is_answered_as_unknown() {
    let world = World::new();
    lose_majority(&world);
    let mut client = world.client();
    client.send(format!("{}\u{3}", json!({"method": "SubmitJob", "args": [[op("quick")]]})).as_bytes());
    let answer = client.answer().expect("an answer");
    assert_eq!(answer["success"], false, "{answer}");
    let text = answer.to_string();
    assert!(text.contains("outcome unknown") && text.contains("gnt-job list"), "{text}");
}

#[test]
fn owners_are_named_and_queries_answered_while_nothing_can_be_stored() {
    let world = World::new();
    let id = world.submit("hold");
    world.wait_for(id, "running");
    lose_majority(&world);
    refused(&world);
    // Its end is a change that can't be stored now.
    std::fs::write(world.file("finish"), "").unwrap();
    until("a change to wait for the store", || {
        let log = std::fs::read_to_string(world.file("luxid.log")).unwrap();
        log.contains("waits for the store")
    });
    let before = world.wconfd.owners.lock().unwrap().len();
    world.wconfd.stop();
    {
        let _in = world.runtime.enter();
        world.wconfd.serve(&world.root);
    }
    let began = Instant::now();
    until("the owners to be named again", || world.wconfd.owners.lock().unwrap().len() > before);
    assert!(began.elapsed() < Duration::from_secs(15), "at once, not when a call gives up");
    assert_eq!(world.job(id, "status"), "running", "its end is not committed");
}
