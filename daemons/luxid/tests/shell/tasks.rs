//! Tasks, leases and keyed jobs with real processes, a real log and a wconfd that has a pool.

use crate::world::{World, op, task, until};
use gantry_model::ids::LeaseUuid;
use gantry_model::lease::LeaseState;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

const PENDING: u64 = 0;
const RUNNING: u64 = 3;
const RUN_FAILED: u64 = 4;
const SUCCESS: u64 = 5;
const RETRYING: u64 = 6;
const CANCELLED: u64 = 7;
const UNKNOWN: u64 = 8;

fn world(slots: u64) -> World {
    let world = World::new();
    world.wconfd.make_pool();
    (1..=slots).for_each(|number| world.wconfd.add_slot(number));
    until("the pool to be known", || {
        // A task that is refused for its pool's blueprint.
        let mut probe = task("quick");
        probe["limits"] = json!({"memory_mib": 9999});
        refused(&world, "SubmitTask", json!([probe])).contains("blueprint small")
    });
    world
}

fn refused(world: &World, method: &str, args: Value) -> String {
    let error = world.client().ask(method, args).unwrap_err();
    error[1][0].as_str().unwrap().to_owned()
}

#[test]
fn a_task_runs_and_its_lease_is_ended_and_forgotten() {
    let world = world(2);
    let id = world.task("quick");
    let done = world.task_is(id, SUCCESS);
    assert_eq!(done["result"]["wall_ms"], 7);
    assert_eq!(done["attempts"][0]["outcome"], "user-ok");
    assert_eq!(done["attempts"][0]["slot_name"], "py-1");
    until("the lease to be forgotten", || world.wconfd.leases().is_empty());
    let job = done["attempts"][0]["job"].as_u64().unwrap();
    assert_eq!(world.job(job, "status"), "success");
    assert_eq!(world.ask("Query", json!(["job", ["id"], null]))["data"], json!([]), "archived at once");
    until("the job's files to go", || world.leftovers().is_empty());
}

#[test]
fn the_same_key_is_the_same_task() {
    let world = world(1);
    let spec = json!({"name": "quick", "pool": "py", "execute": [{"command": "true"}], "key": "k"});
    let id = world.ask("SubmitTask", json!([spec]));
    assert_eq!(world.ask("SubmitTask", json!([spec])), id);
    world.task_is(id.as_u64().unwrap(), SUCCESS);
    assert_eq!(world.ask("SubmitTask", json!([spec])), id, "also when it is over");
    let again = world.ask("RerunTasks", json!([[id, 99]]));
    assert_eq!(again[0][0], true);
    assert_eq!(again[1][0], false);
    let again = again[0][1].as_u64().unwrap();
    assert_eq!(world.task_is(again, SUCCESS)["rerun_of"], id);
}

#[test]
fn users_failures_are_final_and_infrastructures_are_tried_again() {
    let world = world(2);
    let user = world.task("userfail");
    let infra = world.task("infra");
    let died = world.task("die");
    let missing = world.task("missing");
    let done = world.task_is(user, RUN_FAILED);
    assert_eq!(done["attempts"].as_array().unwrap().len(), 1);
    for id in [infra, died, missing] {
        let gone = world.task_is(id, UNKNOWN);
        assert_eq!(gone["attempts"].as_array().unwrap().len(), 3, "{gone}");
        assert!(gone["why"].as_str().unwrap().contains("3 attempts"), "{gone}");
        assert_eq!(gone["result"], Value::Null);
    }
    let why = world.task_is(missing, UNKNOWN)["why"].clone();
    assert!(why.as_str().unwrap().contains("not in the store"), "{why}");
    until("the leases to be forgotten", || world.wconfd.leases().is_empty());
}

#[test]
fn a_waiting_task_says_why_and_starts_when_a_vm_is_clean() {
    let world = world(0);
    let id = world.task("quick");
    let other = world.task("quick");
    let seen = world.task_is(id, PENDING);
    assert!(seen["why"].as_str().unwrap().contains("no slots yet (0 ahead)"), "{seen}");
    assert!(world.task_is(other, PENDING)["why"].as_str().unwrap().contains("1 ahead"));
    world.wconfd.add_slot(1);
    world.task_is(id, SUCCESS);
    world.task_is(other, SUCCESS);
}

#[test]
fn a_cancelled_task_is_over_at_once_and_gives_its_vm_back() {
    let world = world(1);
    let id = world.task("hold");
    world.task_is(id, RUNNING);
    let waiting = world.task("quick");
    assert_eq!(world.ask("CancelTask", json!([id]))[0], true);
    assert_eq!(world.task_is(id, CANCELLED)["attempts"][0]["outcome"], "cancelled");
    assert_eq!(world.ask("CancelTask", json!([id]))[0], false);
    world.task_is(waiting, SUCCESS);
    until("the leases to be forgotten", || world.wconfd.leases().is_empty());
}

#[test]
fn a_running_attempt_outlives_luxid() {
    let mut world = world(1);
    let id = world.task("hold");
    world.task_is(id, RUNNING);
    world.kill_luxid();
    world.start();
    std::fs::write(world.file("finish"), "").unwrap();
    let done = world.task_is(id, SUCCESS);
    assert_eq!(done["attempts"].as_array().unwrap().len(), 1);
    until("the lease to be forgotten", || world.wconfd.leases().is_empty());
}

#[test]
fn a_lost_vm_ends_the_attempt_and_the_task_runs_again() {
    let world = world(1);
    let id = world.task("hold");
    let seen = world.task_is(id, RUNNING);
    let lease: LeaseUuid = seen["attempts"][0]["lease"].as_str().unwrap().parse().unwrap();
    world.wconfd.end_lease(lease, LeaseState::Broken, "node1 is lost");
    world.task_is(id, RETRYING);
    std::fs::write(world.file("finish"), "").unwrap();
    let done = world.task_is(id, SUCCESS);
    assert!(done["attempts"][0]["why"].as_str().unwrap().contains("node1 is lost"), "{done}");
    assert_ne!(done["attempts"][0]["lease"], done["attempts"][1]["lease"]);
}

#[test]
fn a_grab_whose_answer_was_lost_leads_to_the_same_grant() {
    let world = world(2);
    world.wconfd.lost_answers.store(3, Ordering::SeqCst);
    let id = world.task("quick");
    let done = world.task_is(id, SUCCESS);
    assert_eq!(done["attempts"].as_array().unwrap().len(), 1);
    until("the lease to be forgotten", || world.wconfd.leases().is_empty());
}

#[test]
fn a_grant_that_luxid_did_not_live_to_hear_is_used_by_the_next() {
    let mut world = world(1);
    world.wconfd.lost_answers.store(u32::MAX, Ordering::SeqCst);
    let id = world.task("quick");
    until("the lease to be granted", || world.wconfd.leases().len() == 1);
    let lease = world.wconfd.leases()[0].uuid;
    world.kill_luxid();
    world.wconfd.lost_answers.store(0, Ordering::SeqCst);
    world.start();
    let done = world.task_is(id, SUCCESS);
    assert_eq!(done["attempts"].as_array().unwrap().len(), 1, "though no VM was clean");
    assert_eq!(done["attempts"][0]["lease"], lease.to_string());
}

#[test]
fn what_can_never_run_is_refused_with_a_reason() {
    let world = world(1);
    let refused = |spec: Value| refused(&world, "SubmitTask", json!([spec]));
    let with = |key: &str, value: Value| {
        let mut spec = task("quick");
        spec[key] = value;
        spec
    };
    assert!(refused(with("pool", json!("no"))).contains("there is no pool 'no'"));
    assert!(refused(with("limits", json!({"memory_mib": 9999}))).contains("blueprint small have 256"));
    let input = json!({"digest": "a".repeat(64), "bytes": 5});
    assert!(refused(with("input", input)).contains("upload it first"));
    let stored = |digit: &str, body: &[u8]| {
        let digest = digit.repeat(64);
        let path = world.root.blob(&digest);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, body).unwrap();
        with("input", json!({"digest": digest, "bytes": body.len()}))
    };
    let mut hostile = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..4].copy_from_slice(b"../x");
    header.set_size(0);
    header.set_cksum();
    hostile.append(&header, &b""[..]).unwrap();
    let hostile = stored("b", &hostile.into_inner().unwrap());
    for _ in 0..2 {
        assert!(refused(hostile.clone()).contains("the archive can't be used: '../x' is not a plain path"));
    }
    assert!(refused(stored("c", &[7; 700])).contains("plain tar archive"));
    let mut large = tar::Builder::new(Vec::new());
    header.as_old_mut().name[..4].copy_from_slice(b"file");
    header.set_size(2 << 20);
    header.set_cksum();
    large.append(&header, &vec![0; 2 << 20][..]).unwrap();
    let mut large = stored("d", &large.into_inner().unwrap());
    large["limits"] = json!({"disk_mib": 1});
    assert!(refused(large.clone()).contains("2097152 bytes, a machine has room for 1048576"));
    large["limits"]["disk_mib"] = json!(2);
    world.ask("SubmitTask", json!([large]));
    assert!(refused(with("colour", json!("red"))).contains("colour"));
    let run = json!({"OP_ID": "OP_TASK_RUN", "task": 1});
    let answer = world.client().ask("SubmitJob", json!([[run]])).unwrap_err();
    assert!(answer.to_string().contains("luxid alone"), "{answer}");
}

#[test]
fn a_lease_is_waited_for_granted_renewed_and_released() {
    let world = world(1);
    let wish = json!({"pool": "py", "count": 2, "user": "bob", "for_s": 60});
    let lease = world.ask("LeaseRequest", json!([wish]));
    let seen = world.ask("WaitForLease", json!([lease, null, 5]));
    assert_eq!(seen["state"], "waiting");
    assert!(seen["why"].as_str().unwrap().contains("2 clean VMs"), "{seen}");
    assert!(refused(&world, "LeaseRenew", json!([lease])).contains("not granted yet"));
    world.wconfd.add_slot(2);
    let seen = world.ask("WaitForLease", json!([lease, "waiting", 60]));
    assert_eq!((&seen["state"], &seen["names"]), (&json!("granted"), &json!(["py-1", "py-2"])));
    assert_eq!(seen["nodes"], json!(["node1", "node1"]));
    assert_eq!(world.ask("LeaseRenew", json!([lease])), true);
    assert_eq!(world.ask("LeaseRelease", json!([lease]))[0], true);
    assert_eq!(world.wconfd.leases()[0].state, LeaseState::Released);
    assert_eq!(world.ask("WaitForLease", json!([lease, "granted", 60]))["state"], "over");
    assert!(refused(&world, "LeaseRenew", json!([lease])).contains("is over"));
}

#[test]
fn a_lease_outlives_luxid_and_its_end_is_seen() {
    let mut world = world(1);
    let lease = world.ask("LeaseRequest", json!([{"pool": "py", "user": "bob"}]));
    assert_eq!(world.ask("WaitForLease", json!([lease, "waiting", 60]))["state"], "granted");
    world.kill_luxid();
    world.start();
    assert_eq!(world.ask("WaitForLease", json!([lease, null, 1]))["state"], "granted");
    let id = lease.as_str().unwrap().parse().unwrap();
    world.wconfd.end_lease(id, LeaseState::Released, "its time is up");
    let seen = world.ask("WaitForLease", json!([lease, "granted", 60]));
    assert_eq!((&seen["state"], &seen["why"]), (&json!("over"), &json!("its time is up")));
}

#[test]
fn keyed_jobs_are_one_per_key() {
    let world = world(0);
    let ask = |entries: Value| world.ask("SubmitKeyedJob", json!([entries]));
    let first = ask(json!([[["slot-create:a:1", "slot-create:b:1"], [op("hold")]]]));
    let id = first[0][1].clone();
    assert_eq!(first[0], json!([true, id, true]));
    let second = ask(json!([
        [["slot-create:b:1"], [op("quick")]],
        [["slot-create:c:1"], [op("quick")]],
        [["two words"], [op("quick")]],
    ]));
    assert_eq!(second[0], json!([true, id, false]), "one of its keys is live");
    assert_eq!(second[1][2], true);
    assert!(second[2][1].as_str().unwrap().contains("without blanks"));
    let quick = second[1][1].as_u64().unwrap();
    until("the other to be archived", || world.job(quick, "archived") == true);
    std::fs::write(world.file("finish"), "").unwrap();
    until("the first to be archived", || world.job(id.as_u64().unwrap(), "archived") == true);
    assert_eq!(ask(json!([[["slot-create:b:1"], [op("quick")]]]))[0][2], true, "its keys are free");
}
