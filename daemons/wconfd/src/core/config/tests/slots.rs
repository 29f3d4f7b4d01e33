//! Slots, one edge at a time.

use super::*;
use gantry_model::config::SlotState;
use gantry_model::ids::Generation;
use serde_json::json;

const ONE: u128 = 1;

fn begin(expected: u64, job: u64) -> Command {
    Command::SlotBegin { slot: instance_uuid(ONE), expected: Generation(expected), holder: owner(job) }
}

fn ready(generation: u64) -> Command {
    Command::SlotReady { slot: instance_uuid(ONE), generation: Generation(generation) }
}

fn dirty(generation: u64) -> Command {
    Command::SlotDirty {
        slot: instance_uuid(ONE),
        generation: Generation(generation),
        why: "test".to_owned(),
    }
}

fn destroy(generation: u64, job: u64) -> Command {
    let slot = instance_uuid(ONE);
    Command::SlotBeginDestroy { slot, generation: Generation(generation), holder: owner(job) }
}

fn absent(generation: u64, floor: u64) -> Command {
    let slot = instance_uuid(ONE);
    Command::SlotAbsent { slot, generation: Generation(generation), floor: Generation(floor) }
}

fn with_slot() -> Config {
    let mut c = config();
    let _ = run(&mut c, &[add_instance(ONE, 1)]).unwrap();
    c
}

fn state(c: &Config) -> (SlotState, u64) {
    let slot = &c.slot(instance_uuid(ONE)).unwrap().slot;
    (slot.state, slot.generation.0)
}

#[test]
fn a_life_from_absent_to_absent() {
    let mut c = with_slot();
    let meta = c.meta().serial_no;
    let effect = run(&mut c, &[begin(0, 1)]).unwrap();
    assert_eq!(effect.results, [json!(1)]);
    for (command, want) in [
        (ready(1), SlotState::Clean),
        (dirty(1), SlotState::Dirty),
        (destroy(1, 2), SlotState::Destroying),
        (absent(1, 1), SlotState::Absent),
    ] {
        let first = run(&mut c, std::slice::from_ref(&command)).unwrap();
        assert_eq!((state(&c), first.changes.len()), ((want, 1), 1));
        let again = run(&mut c, std::slice::from_ref(&command)).unwrap();
        assert!(again.changes.is_empty(), "{command:?} again changes nothing");
    }
    assert_eq!(c.meta().serial_no, meta, "slots are no part of config.data");
    assert_eq!(c.slot(instance_uuid(ONE)).unwrap().rev, 6);
}

#[test]
fn begin_is_a_compare_and_set() {
    let mut c = with_slot();
    assert_eq!(refusal(run(&mut c, &[begin(1, 1)])), prereq("wrong_state"));
    let _ = run(&mut c, &[begin(0, 1)]).unwrap();
    assert_eq!(run(&mut c, &[begin(0, 1)]).unwrap().results, [json!(1)], "asked again by the same job");
    assert_eq!(refusal(run(&mut c, &[begin(0, 2)])), prereq("wrong_state"), "by another");
    assert_eq!(refusal(run(&mut c, &[ready(2)])), prereq("wrong_state"));
    let stranger = run_as(&mut c, Some((owner(2), 1)), &[ready(1)]);
    assert_eq!(refusal(stranger), prereq("wrong_state"), "only the creating job says ready");
    let _ = run_as(&mut c, Some((owner(1), 1)), &[ready(1)]).unwrap();
}

#[test]
fn absent_needs_the_floor() {
    let mut c = with_slot();
    let _ = run(&mut c, &[begin(0, 1), dirty(1), destroy(1, 1)]).unwrap();
    assert_eq!(refusal(run(&mut c, &[absent(1, 0)])), prereq("wrong_state"));
    let _ = run(&mut c, &[absent(1, 4)]).unwrap();
    assert_eq!(state(&c), (SlotState::Absent, 4), "the generation goes on from the floor");
    assert_eq!(run(&mut c, &[begin(4, 1)]).unwrap().results, [json!(5)]);
}

#[test]
fn nothing_goes_away_while_something_lives() {
    let mut c = with_slot();
    let _ = run(&mut c, &[add_node(2), begin(0, 1)]).unwrap();
    let remove = Command::InstanceRemove { instance: instance_uuid(ONE) };
    assert_eq!(refusal(run(&mut c, std::slice::from_ref(&remove))), prereq("wrong_state"));
    let set = params(json!({"primary_node": node_uuid(2)}));
    let away = Command::InstanceSet { instance: instance_uuid(ONE), rev: None, set };
    assert_eq!(refusal(run(&mut c, &[away])), prereq("wrong_state"));
    let _ = run(&mut c, &[dirty(1), destroy(1, 1), absent(1, 1), remove]).unwrap();
    assert!(c.slot(instance_uuid(ONE)).is_none());
}

#[test]
fn an_offline_node_keeps_no_instance_for_ever() {
    let mut c = config();
    let _ = run(&mut c, &[add_node(2), add_instance(ONE, 2)]).unwrap();
    c.set_claimed(node_uuid(2), true);
    let _ = run(&mut c, &[begin(0, 1)]).unwrap();
    let remove = Command::InstanceRemove { instance: instance_uuid(ONE) };
    assert_eq!(refusal(run(&mut c, std::slice::from_ref(&remove))), prereq("wrong_state"));
    let offline = Command::NodeSet { node: node_uuid(2), rev: None, set: params(json!({"offline": true})) };
    let _ = run(&mut c, &[offline, remove]).unwrap();
    assert!(c.slot(instance_uuid(ONE)).is_none());
}

#[test]
fn work_needs_a_claimed_node() {
    let mut c = with_slot();
    c.set_claimed(node_uuid(1), false);
    assert_eq!(refusal(run(&mut c, &[begin(0, 1)])), prereq("environment_error"));
    c.set_claimed(node_uuid(1), true);
    let _ = run(&mut c, &[begin(0, 1), dirty(1)]).unwrap();
    c.set_claimed(node_uuid(1), false);
    assert_eq!(refusal(run(&mut c, &[destroy(1, 1)])), prereq("environment_error"));
}

#[test]
fn a_dead_holder_leaves_dirt() {
    let mut c = with_slot();
    let _ = run(&mut c, &[begin(0, 1)]).unwrap();
    assert!(c.owner_gone(owner(2), NOW).changes.is_empty(), "another job");
    let effect = c.owner_gone(owner(1), NOW);
    assert_eq!((effect.changes.len(), state(&c)), (1, (SlotState::Dirty, 1)));
    let slot = &c.slot(instance_uuid(ONE)).unwrap().slot;
    assert_eq!((slot.why.as_deref(), slot.failures), (Some("job 1 died while creating it"), 1));
    let _ = run(&mut c, &[destroy(1, 3)]).unwrap();
    let _ = c.owner_gone(owner(3), NOW);
    assert_eq!(state(&c), (SlotState::Dirty, 1));
    c.check();
}

#[test]
fn a_ready_slot_outlives_its_maker() {
    let mut c = with_slot();
    let _ = run(&mut c, &[begin(0, 1), ready(1)]).unwrap();
    assert!(c.owner_gone(owner(1), NOW).changes.is_empty());
    assert_eq!(state(&c), (SlotState::Clean, 1));
}
