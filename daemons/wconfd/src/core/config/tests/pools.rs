//! Pools, what they are made from, and leases: one rule at a time.

use super::*;
use gantry_model::config::{Slot, SlotState};
use gantry_model::ids::{BlueprintUuid, Generation, LeaseUuid, PoolUuid, TaskId};
use gantry_model::lease::{Grab, LeaseOwner, LeaseState, LeasedVm};
use gantry_model::pool::{Blueprint, Image, Pool, PoolState, Recycle};
use gantry_proto::wconfd::ReadKey;
use serde_json::json;

pub(super) fn blueprint_uuid(n: u128) -> BlueprintUuid {
    BlueprintUuid(Uuid::from_u128(0x400 + n))
}

pub(super) fn pool_uuid(n: u128) -> PoolUuid {
    PoolUuid(Uuid::from_u128(0x500 + n))
}

pub(super) fn lease_uuid(n: u128) -> LeaseUuid {
    LeaseUuid(Uuid::from_u128(0x600 + n))
}

pub(super) fn user() -> LeaseOwner {
    LeaseOwner::User { name: "ada".to_owned() }
}

pub(super) fn blueprint(n: u128, name: &str) -> Blueprint {
    Blueprint {
        uuid: blueprint_uuid(n),
        name: name.to_owned(),
        driver: "fake".to_owned(),
        image: "host".to_owned(),
        memory_mib: 256,
        vcpus: 1,
        disk_mib: 64,
        pids: 64,
        recycle: Recycle::Destroy,
        wall_s_max: 60,
        lease_s_max: 3600,
        enabled: true,
        stamp: Stamp::new(0.0),
        extra: Params::new(),
    }
}

pub(super) fn pool(n: u128, name: &str) -> Pool {
    Pool {
        uuid: pool_uuid(n),
        name: name.to_owned(),
        blueprint: blueprint_uuid(1),
        group: None,
        min: 0,
        max: 5,
        amount: 3,
        spare: 0,
        lifetime_s: 0,
        connect_timeout_s: 60,
        state: PoolState::Active,
        stamp: Stamp::new(0.0),
        extra: Params::new(),
    }
}

fn image(name: &str, digit: char) -> Image {
    let digest = String::from(digit).repeat(64);
    Image { name: name.to_owned(), digest, bytes: 10, stamp: Stamp::new(0.0) }
}

pub(super) fn slot_instance(n: u128, on: u128) -> Instance {
    let (pool, forthcoming) = (Some("py".to_owned()), true);
    Instance { pool, forthcoming, ..instance(n, &format!("py-{n}"), on) }
}

pub(super) fn add_slot(n: u128, on: u128) -> Command {
    Command::SlotAdd { instance: Box::new(slot_instance(n, on)) }
}

fn add_blueprint(row: Blueprint) -> Command {
    Command::BlueprintAdd { blueprint: Box::new(row) }
}

fn add_pool(row: Pool) -> Command {
    Command::PoolAdd { pool: Box::new(row) }
}

fn add_image(row: Image) -> Command {
    Command::ImageAdd { image: Box::new(row) }
}

fn pool_set(set: Value) -> Command {
    Command::PoolSet { pool: pool_uuid(1), rev: None, set: params(set) }
}

fn blueprint_set(set: Value) -> Command {
    Command::BlueprintSet { blueprint: blueprint_uuid(1), rev: None, set: params(set) }
}

fn begin(n: u128, expected: u64) -> Command {
    Command::SlotBegin { slot: instance_uuid(n), expected: Generation(expected), holder: owner(1) }
}

fn ready(n: u128, generation: u64) -> Command {
    Command::SlotReady { slot: instance_uuid(n), generation: Generation(generation) }
}

fn dirty(n: u128, generation: u64) -> Command {
    let (slot, generation) = (instance_uuid(n), Generation(generation));
    Command::SlotDirty { slot, generation, why: "test".to_owned() }
}

fn gone(n: u128, generation: u64) -> [Command; 2] {
    let (slot, generation) = (instance_uuid(n), Generation(generation));
    [
        Command::SlotBeginDestroy { slot, generation, holder: owner(1) },
        Command::SlotAbsent { slot, generation, floor: generation },
    ]
}

fn drain(n: u128, drained: bool) -> Command {
    Command::SlotDrain { slot: instance_uuid(n), drained }
}

fn remove(n: u128) -> Command {
    Command::SlotRemove { slot: instance_uuid(n) }
}

fn grab(l: u128, count: u32) -> Command {
    let (lease, pool) = (lease_uuid(l), "py".to_owned());
    Command::LeaseGrab { lease, owner: user(), pool, count, for_ms: 60_000, ttl_ms: None }
}

fn open(l: u128, vm: LeasedVm) -> Command {
    Command::LeaseOpen { lease: lease_uuid(l), slot: vm.slot, generation: vm.generation }
}

fn end(l: u128) -> Command {
    Command::LeaseEnd { lease: lease_uuid(l), why: "done".to_owned() }
}

/// A blueprint, pool `py` of it, no slots; two claimed nodes.
fn with_pool() -> Config {
    let mut c = config();
    c.set_claimed(node_uuid(2), true);
    let _ = run(&mut c, &[add_node(2), add_blueprint(blueprint(1, "bp")), add_pool(pool(1, "py"))]).unwrap();
    c
}

/// The same with so many clean slots, in turn on the nodes.
fn with_clean(n: u128) -> Config {
    let mut c = with_pool();
    for n in 1..=n {
        let _ = run(&mut c, &[add_slot(n, 1 + n % 2), begin(n, 0), ready(n, 1)]).unwrap();
    }
    c
}

fn slot(c: &Config, n: u128) -> Slot {
    c.slot(instance_uuid(n)).unwrap().slot.clone()
}

fn granted(c: &mut Config, l: u128, count: u32) -> Vec<LeasedVm> {
    match answer(c, &grab(l, count)) {
        Grab::Granted { vms } => vms,
        Grab::Wait { why } => panic!("{why}"),
    }
}

fn answer(c: &mut Config, grab: &Command) -> Grab {
    let effect = run(c, std::slice::from_ref(grab)).unwrap();
    serde_json::from_value(effect.results[0].clone()).unwrap()
}

fn wait(c: &mut Config, l: u128, count: u32) -> String {
    match answer(c, &grab(l, count)) {
        Grab::Granted { vms } => panic!("{vms:?}"),
        Grab::Wait { why } => why,
    }
}

fn refused(c: &mut Config, command: Command) -> (String, String) {
    let whole = stored(c);
    let result = refusal(run(c, &[command]));
    assert_eq!(stored(c), whole, "a refusal changes nothing");
    result
}

fn stale() -> (String, String) {
    (STALE.to_owned(), String::new())
}

fn node_set(n: u128, set: Value) -> Command {
    Command::NodeSet { node: node_uuid(n), rev: None, set: params(set) }
}

#[test]
fn blueprints_and_pools_are_bounded() {
    let mut c = with_pool();
    for (field, value) in [
        ("memory_mib", 15),
        ("vcpus", 257),
        ("disk_mib", (1 << 22) + 1),
        ("pids", 32_769),
        ("wall_s_max", 86_401),
        ("lease_s_max", 86_401),
    ] {
        assert_eq!(refused(&mut c, blueprint_set(json!({ field: value }))), prereq("wrong_input"), "{field}");
        assert_eq!(refused(&mut c, blueprint_set(json!({ field: 0 }))), prereq("wrong_input"), "{field}");
    }
    for set in [json!({"pids": 3}), json!({"driver": "oci", "memory_mib": 64, "disk_mib": 64})] {
        assert_eq!(refused(&mut c, blueprint_set(set.clone())), prereq("wrong_input"), "{set}");
    }
    for set in [
        json!({"min": 4}),
        json!({"amount": 6}),
        json!({"max": 2}),
        json!({"max": 4001, "amount": 4}),
        json!({"spare": 6}),
        json!({"connect_timeout_s": 0}),
        json!({"state": "gone"}),
        json!({"name": "other"}),
        json!({"blueprint": blueprint_uuid(2)}),
        json!({"colour": "red"}),
    ] {
        assert_eq!(refused(&mut c, pool_set(set.clone())), prereq("wrong_input"), "{set}");
    }
    let error = run(&mut c, &[pool_set(json!({"colour": "red"}))]).unwrap_err();
    assert_eq!(error.to_string(), "Pool field 'colour' does not exist");
    assert_eq!(refused(&mut c, pool_set(json!({"group": group_uuid(7)}))), prereq("unknown_entity"));
    assert_eq!(refused(&mut c, blueprint_set(json!({"image": "deb"}))), prereq("unknown_entity"));
    assert_eq!(refused(&mut c, blueprint_set(json!({"driver": "oci"}))), prereq("wrong_input"));
    let _ = run(&mut c, &[pool_set(json!({"min": 1, "max": 9, "amount": 9, "spare": 2}))]).unwrap();
}

#[test]
fn names_of_blueprints_pools_and_images() {
    let mut c = with_pool();
    for bad in ["Py", "", "a_b", "1a"] {
        assert_eq!(refused(&mut c, add_blueprint(blueprint(2, bad))), prereq("wrong_input"));
        assert_eq!(refused(&mut c, add_pool(pool(2, bad))), prereq("wrong_input"));
        assert_eq!(refused(&mut c, add_image(image(bad, 'a'))), prereq("wrong_input"));
    }
    assert_eq!(refused(&mut c, add_image(image("host", 'a'))), prereq("wrong_input"));
    assert_eq!(refused(&mut c, add_image(image("deb", 'X'))), prereq("wrong_input"));
    assert_eq!(refused(&mut c, add_blueprint(blueprint(2, "bp"))), prereq("already_exists"));
    assert_eq!(refused(&mut c, add_blueprint(blueprint(1, "other"))), prereq("already_exists"));
    assert_eq!(refused(&mut c, add_pool(pool(2, "py"))), prereq("already_exists"));
    let driver = Blueprint { driver: "xen".to_owned(), ..blueprint(2, "other") };
    assert_eq!(refused(&mut c, add_blueprint(driver)), prereq("wrong_input"));
    let unknown = Pool { blueprint: blueprint_uuid(9), ..pool(2, "other") };
    assert_eq!(refused(&mut c, add_pool(unknown)), prereq("unknown_entity"));
    let _ = run(&mut c, &[blueprint_set(json!({"enabled": false}))]).unwrap();
    assert_eq!(refused(&mut c, add_pool(pool(2, "other"))), prereq("wrong_state"));
}

#[test]
fn instances_and_slots_do_not_take_each_others_names() {
    let mut c = with_pool();
    let named = |name: &str| Command::InstanceAdd { instance: Box::new(instance(9, name, 1)) };
    assert_eq!(refused(&mut c, named("py-7")), prereq("wrong_input"));
    let _ = run(&mut c, &[named("go-7"), add_instance(8, 1)]).unwrap();
    assert_eq!(refused(&mut c, add_pool(pool(2, "go"))), prereq("already_exists"));
    let set = params(json!({"name": "py-1"}));
    let rename = Command::InstanceSet { instance: instance_uuid(8), rev: None, set };
    assert_eq!(refused(&mut c, rename), prereq("wrong_input"));
    let _ = run(&mut c, &[add_pool(pool(3, "go-7"))]).unwrap();
}

#[test]
fn what_is_used_stays() {
    let mut c = with_pool();
    let _ = run(&mut c, &[add_image(image("deb", 'a'))]).unwrap();
    let again = run(&mut c, &[add_image(image("deb", 'a'))]).unwrap();
    assert!(again.changes.is_empty());
    assert_eq!(refused(&mut c, add_image(image("deb", 'b'))), prereq("already_exists"));
    let _ = run(&mut c, &[blueprint_set(json!({"image": "deb"})), add_slot(1, 1)]).unwrap();
    let image = Command::ImageRemove { name: "deb".to_owned() };
    let blueprint = Command::BlueprintRemove { blueprint: blueprint_uuid(1) };
    let pool = Command::PoolRemove { pool: pool_uuid(1) };
    for command in [&image, &blueprint, &pool] {
        assert_eq!(refused(&mut c, command.clone()), prereq("wrong_state"), "{command:?}");
    }
    let _ = run(&mut c, &[drain(1, true), remove(1), pool, blueprint, image]).unwrap();
    assert!(c.pool("py").is_none());
}

#[test]
fn a_group_of_a_pool_stays() {
    let mut c = with_pool();
    let _ = run(&mut c, &[add_group(2), pool_set(json!({"group": group_uuid(2)}))]).unwrap();
    assert_eq!(refused(&mut c, Command::GroupRemove { group: group_uuid(2) }), prereq("wrong_state"));
    assert_eq!(refused(&mut c, add_slot(1, 1)), prereq("wrong_input"), "nodes of other groups take no slots");
    let _ = run(&mut c, &[pool_set(json!({"group": null})), add_slot(1, 1)]).unwrap();
}

#[test]
fn serials_of_pools() {
    let mut c = with_pool();
    let (meta, cluster) = (c.meta().serial_no, c.cluster().stamp.serial_no);
    let effect = run(&mut c, &[pool_set(json!({"amount": 4}))]).unwrap();
    assert_eq!((c.meta().serial_no, c.cluster().stamp.serial_no), (meta + 1, cluster));
    assert_eq!((c.pool("py").unwrap().stamp.serial_no, effect.ssconf), (2, false));
    let stale = Command::PoolSet { pool: pool_uuid(1), rev: Some(1), set: params(json!({"amount": 5})) };
    assert_eq!(run(&mut c, &[stale]).unwrap_err().class, "ConfigurationError");
}

#[test]
fn a_slot_is_added_once() {
    let mut c = with_pool();
    assert_eq!(run(&mut c, &[add_slot(1, 1)]).unwrap().results, [json!(instance_uuid(1))]);
    let again = run(&mut c, &[add_slot(1, 1)]).unwrap();
    assert!(again.changes.is_empty() && again.results == [json!(instance_uuid(1))]);
    assert_eq!(refused(&mut c, add_slot(1, 2)), prereq("already_exists"));
    let add = |row: Instance| Command::SlotAdd { instance: Box::new(row) };
    let named = |name: &str| Instance { name: name.to_owned(), ..slot_instance(2, 1) };
    for name in ["py-0", "py-02", "py-x", "go-2", "py"] {
        assert_eq!(refused(&mut c, add(named(name))), prereq("wrong_input"), "{name}");
    }
    let outside = Instance { pool: None, ..slot_instance(2, 1) };
    assert_eq!(refused(&mut c, add(outside)), prereq("wrong_input"));
    let solid = Instance { forthcoming: false, ..slot_instance(2, 1) };
    assert_eq!(refused(&mut c, add(solid)), prereq("wrong_input"));
    let stray = Instance { pool: Some("go".to_owned()), ..slot_instance(2, 1) };
    assert_eq!(refused(&mut c, add(stray)), prereq("unknown_entity"));
    let by_hand = Command::InstanceAdd { instance: Box::new(slot_instance(2, 1)) };
    assert_eq!(refused(&mut c, by_hand), prereq("wrong_input"));
    c.set_claimed(node_uuid(2), false);
    assert_eq!(refused(&mut c, add_slot(2, 2)), prereq("environment_error"));
    c.set_claimed(node_uuid(2), true);
    let _ = run(&mut c, &[node_set(2, json!({"drained": true}))]).unwrap();
    assert_eq!(refused(&mut c, add_slot(2, 2)), prereq("wrong_state"));
}

#[test]
fn a_pool_has_at_most_max_slots_that_count() {
    let mut c = with_pool();
    let all: Vec<_> = (1..=5).map(|n| add_slot(n, 1 + n % 2)).collect();
    let _ = run(&mut c, &all).unwrap();
    assert_eq!(refused(&mut c, add_slot(6, 1)), prereq("wrong_state"));
    let _ = run(&mut c, &[node_set(2, json!({"drained": true}))]).unwrap();
    let _ = run(&mut c, &[add_slot(6, 1), pool_set(json!({"state": "draining"}))]).unwrap();
    assert_eq!(refused(&mut c, add_slot(7, 1)), prereq("wrong_state"), "draining");
}

#[test]
fn slots_of_pools_are_nobodys_to_change_by_hand() {
    let mut c = with_clean(1);
    let instance = instance_uuid(1);
    let source = "admin".to_owned();
    for command in [
        Command::InstanceRemove { instance },
        Command::InstanceSetState { instance, state: AdminState::Up, source },
        Command::InstanceSet { instance, rev: None, set: params(json!({"os": "x"})) },
    ] {
        let error = run(&mut c, std::slice::from_ref(&command)).unwrap_err();
        assert!(error.to_string().contains("gnt-slot recycle py-1"), "{error}");
    }
    assert_eq!(refused(&mut c, Command::NodeRemove { node: node_uuid(2) }), prereq("wrong_input"));
}

#[test]
fn a_slot_is_begun_only_where_it_may_be() {
    let mut c = with_pool();
    let _ = run(&mut c, &[add_slot(1, 2)]).unwrap();
    for (with, without) in [
        (drain(1, true), drain(1, false)),
        (pool_set(json!({"state": "draining"})), pool_set(json!({"state": "active"}))),
        (blueprint_set(json!({"enabled": false})), blueprint_set(json!({"enabled": true}))),
        (node_set(2, json!({"drained": true})), node_set(2, json!({"drained": false}))),
        (node_set(2, json!({"offline": true})), node_set(2, json!({"offline": false}))),
    ] {
        let _ = run(&mut c, std::slice::from_ref(&with)).unwrap();
        assert_eq!(refused(&mut c, begin(1, 0)), prereq("wrong_state"), "{with:?}");
        let _ = run(&mut c, &[without]).unwrap();
    }
    c.set_claimed(node_uuid(2), false);
    assert_eq!(refused(&mut c, begin(1, 0)), prereq("environment_error"));
    c.set_claimed(node_uuid(2), true);
    let _ = run(&mut c, &[begin(1, 0)]).unwrap();
    assert_eq!(slot(&c, 1).revision, c.blueprint_serial(1));
    let _ = run(&mut c, &[ready(1, 1)]).unwrap();
    assert_eq!(slot(&c, 1).ready_at, Some(NOW));
}

impl Config {
    fn blueprint_serial(&self, n: u128) -> u64 {
        self.blueprints[&blueprint_uuid(n)].stamp.serial_no
    }
}

/// A create that fails, and the destroy after it, at that time.
fn fail(c: &mut Config, n: u128, generation: u64, now: f64) -> Result<(), GanetiError> {
    let [destroy, absent] = gone(n, generation + 1);
    let commands = [begin(n, generation), dirty(n, generation + 1), destroy, absent];
    let ids = &mut Counter(1);
    let done = c.apply(&commands, &mut Context { now, clock: 0, owner: None, ids });
    c.check();
    done.map(drop).map_err(flat)
}

#[test]
fn failures_put_off_and_then_stick() {
    let (mut c, mut now) = (with_pool(), NOW);
    let _ = run(&mut c, &[add_slot(1, 1)]).unwrap();
    for n in 0..8u32 {
        fail(&mut c, 1, u64::from(n), now).unwrap();
        let row = slot(&c, 1);
        let pause = gantry_model::pool::slot_backoff_s(n + 1);
        assert_eq!((row.failures, row.backoff_until), (n + 1, Some(now + pause)));
        let error = fail(&mut c, 1, u64::from(n) + 1, now + pause - 0.1).unwrap_err();
        assert_eq!(error.ecode(), Some("temp_insufficient_resources"), "{error}");
        assert_eq!(error.to_string().contains("is stuck"), n == 7, "{error}");
        now += pause;
    }
    assert!(slot(&c, 1).stuck);
    fail(&mut c, 1, 8, now).unwrap();
    assert_eq!(
        slot(&c, 1).backoff_until,
        Some(now + gantry_model::pool::SLOT_STUCK_S),
        "seldom, but again and again"
    );
    let _ = run(&mut c, &[Command::SlotUnstick { slot: instance_uuid(1) }]).unwrap();
    let _ = run(&mut c, &[begin(1, 9), ready(1, 10)]).unwrap();
    let row = slot(&c, 1);
    assert_eq!((row.failures, row.stuck, row.backoff_until), (0, false, None));
}

#[test]
fn a_wall_clock_that_steps_back_puts_nothing_off_for_long() {
    let mut c = with_pool();
    let _ = run(&mut c, &[add_slot(1, 1)]).unwrap();
    fail(&mut c, 1, 0, NOW + 1e6).unwrap();
    fail(&mut c, 1, 1, NOW).unwrap();
}

#[test]
fn drained_slots_go() {
    let mut c = with_clean(2);
    assert_eq!(refused(&mut c, remove(1)), prereq("wrong_state"), "it lives");
    let _ = run(&mut c, &[drain(1, true)]).unwrap();
    assert_eq!((slot(&c, 1).state, slot(&c, 1).failures), (SlotState::Dirty, 0));
    let _ = run(&mut c, &gone(1, 1)).unwrap();
    assert!(slot(&c, 1).drained, "it stays drained when it is ABSENT");
    let _ = run(&mut c, &[remove(1)]).unwrap();
    let _ = run(&mut c, &[dirty(2, 1)]).unwrap();
    let _ = run(&mut c, &gone(2, 1)).unwrap();
    assert_eq!(refused(&mut c, remove(2)), prereq("wrong_state"), "it is wanted");
    c.set_claimed(slot(&c, 2).node, false);
    let _ = run(&mut c, &[remove(2)]).unwrap();
}

#[test]
fn a_slot_drained_while_it_is_made_is_never_clean() {
    let mut c = with_pool();
    let _ = run(&mut c, &[add_slot(1, 1), begin(1, 0), drain(1, true), ready(1, 1)]).unwrap();
    assert_eq!((slot(&c, 1).state, slot(&c, 1).failures), (SlotState::Dirty, 0));
}

#[test]
fn an_offline_node_keeps_no_drained_slot_for_ever() {
    let mut c = with_pool();
    let _ = run(&mut c, &[add_slot(1, 2), begin(1, 0), ready(1, 1), drain(1, true)]).unwrap();
    assert_eq!(refused(&mut c, remove(1)), prereq("wrong_state"));
    let _ = run(&mut c, &[node_set(2, json!({"offline": true})), remove(1)]).unwrap();
}

#[test]
fn a_lease_has_all_its_vms_or_none() {
    let mut c = with_clean(3);
    assert_eq!(wait(&mut c, 1, 4), "only 3 clean slots in pool py, 4 needed, it has no others");
    let vms = granted(&mut c, 1, 2);
    let meta = c.meta().serial_no;
    assert_ne!(vms[0].node, vms[1].node, "spread over nodes");
    assert_eq!(granted(&mut c, 1, 2), vms, "the same again");
    assert_eq!(refused(&mut c, grab(1, 1)), prereq("wrong_input"), "a uuid is one lease");
    assert_eq!(wait(&mut c, 2, 2), "only 1 clean slot in pool py, 2 needed: 2 leased");
    let _ = run(&mut c, &[add_slot(4, 1), begin(4, 0)]).unwrap();
    let _ = granted(&mut c, 2, 1);
    assert_eq!(wait(&mut c, 3, 1), "no clean slot in pool py: 1 creating, 3 leased");
    assert_eq!(c.meta().serial_no, meta + 1, "only the slot that was added counts");
}

#[test]
fn grabs_that_can_never_be_served_are_refused() {
    let mut c = with_clean(1);
    let with = |change: fn(&mut Command)| {
        let mut command = grab(1, 1);
        change(&mut command);
        command
    };
    let pool_of = with(|c| {
        if let Command::LeaseGrab { pool, .. } = c {
            "go".clone_into(pool)
        }
    });
    assert_eq!(refused(&mut c, pool_of), prereq("unknown_entity"));
    for bad in [
        with(|c| {
            if let Command::LeaseGrab { count, .. } = c {
                *count = 0
            }
        }),
        with(|c| {
            if let Command::LeaseGrab { count, .. } = c {
                *count = 6
            }
        }),
        with(|c| {
            if let Command::LeaseGrab { for_ms, .. } = c {
                *for_ms = 0
            }
        }),
        with(|c| {
            if let Command::LeaseGrab { for_ms, .. } = c {
                *for_ms = 3_600_001
            }
        }),
        with(|c| {
            if let Command::LeaseGrab { ttl_ms, .. } = c {
                *ttl_ms = Some(4_999)
            }
        }),
        with(|c| {
            if let Command::LeaseGrab { owner, .. } = c {
                *owner = LeaseOwner::User { name: String::new() }
            }
        }),
    ] {
        assert_eq!(refused(&mut c, bad.clone()), prereq("wrong_input"), "{bad:?}");
    }
    let _ = run(&mut c, &[pool_set(json!({"max": 100}))]).unwrap();
    assert_eq!(refused(&mut c, grab(1, 65)), prereq("wrong_input"));
    let _ = run(&mut c, &[pool_set(json!({"state": "draining"}))]).unwrap();
    assert_eq!(wait(&mut c, 1, 1), "pool py is draining", "that may be undone");
}

#[test]
fn only_what_may_be_given_is_given() {
    let mut c = with_clean(1);
    c.set_claimed(node_uuid(2), false);
    assert!(wait(&mut c, 1, 1).contains("1 withheld"), "a lost node");
    c.set_claimed(node_uuid(2), true);
    let _ = run(&mut c, &[node_set(2, json!({"drained": true}))]).unwrap();
    let _ = wait(&mut c, 1, 1);
    let _ =
        run(&mut c, &[node_set(2, json!({"drained": false})), pool_set(json!({"lifetime_s": 10}))]).unwrap();
    let ids = &mut Counter(1);
    let mut late = Context { now: NOW + 10.0, clock: 0, owner: None, ids };
    let effect = c.apply(&[grab(1, 1)], &mut late).unwrap();
    assert_eq!(effect.results[0]["state"], "wait", "past its lifetime");
    let _ = run(&mut c, &[blueprint_set(json!({"memory_mib": 300}))]).unwrap();
    let _ = granted(&mut c, 1, 1);
}

#[test]
fn what_was_never_opened_is_clean_again() {
    let mut c = with_clean(2);
    let vms = granted(&mut c, 1, 2);
    let _ = run(&mut c, &[open(1, vms[0])]).unwrap();
    assert!(run(&mut c, &[open(1, vms[0])]).unwrap().changes.is_empty(), "opened once");
    let _ = run(&mut c, &[end(1)]).unwrap();
    let state = |c: &Config, vm: &LeasedVm| c.slot(vm.slot).unwrap().slot.state;
    assert_eq!((state(&c, &vms[0]), state(&c, &vms[1])), (SlotState::Dirty, SlotState::Clean));
    assert!(run(&mut c, &[end(1)]).unwrap().changes.is_empty(), "over once");
    assert_eq!(granted(&mut c, 2, 1), vec![vms[1]]);
}

#[test]
fn a_vm_granted_to_a_task_is_never_clean_again() {
    let mut c = with_clean(1);
    let owner = LeaseOwner::Task { task: TaskId(5), attempt: 1 };
    let (lease, pool) = (lease_uuid(1), "py".to_owned());
    let grab = Command::LeaseGrab { lease, owner, pool, count: 1, for_ms: 60_000, ttl_ms: None };
    let _ = run(&mut c, std::slice::from_ref(&grab)).unwrap();
    assert!(run(&mut c, &[grab]).unwrap().changes.is_empty(), "granted once");
    let _ = run(&mut c, &[end(1)]).unwrap();
    assert_eq!(slot(&c, 1).state, SlotState::Dirty, "nobody asks wconfd before it touches the VM");
}

#[test]
fn a_tasks_lease_is_cut_to_what_its_blueprint_allows() {
    let mut c = with_clean(2);
    let grab = |l: u128, owner: LeaseOwner| {
        let (lease, pool) = (lease_uuid(l), "py".to_owned());
        Command::LeaseGrab { lease, owner, pool, count: 1, for_ms: 3_700_000, ttl_ms: None }
    };
    assert_eq!(
        refused(&mut c, grab(1, user())),
        prereq("wrong_input"),
        "a user asked for a time, and must know"
    );
    let task = LeaseOwner::Task { task: TaskId(5), attempt: 1 };
    let _ = run(&mut c, &[grab(2, task)]).unwrap();
    let lease = &c.lease(lease_uuid(2)).unwrap().lease;
    assert_eq!(lease.until - lease.granted, 3_600_000);
}

#[test]
fn a_tasks_lease_ends_with_its_vm_in_one() {
    let mut c = with_clean(3);
    let task = LeaseOwner::Task { task: TaskId(5), attempt: 1 };
    let (lease, pool) = (lease_uuid(1), "py".to_owned());
    let grab = Command::LeaseGrab { lease, owner: task, pool, count: 1, for_ms: 60_000, ttl_ms: None };
    let _ = run(&mut c, &[grab]).unwrap();
    let vm = c.lease(lease).unwrap().lease.vms[0];
    let into = |l: u128, vm: LeasedVm| {
        let (lease, slot, generation) = (lease_uuid(l), vm.slot, vm.generation);
        Command::LeaseDestroy { lease, slot, generation, holder: owner(1) }
    };
    assert!(c.slot(vm.slot).unwrap().slot.opened, "its grant is its leave to touch the VM");
    let users = granted(&mut c, 2, 1)[0];
    assert!(!c.slot(users.slot).unwrap().slot.opened);
    let _ = run(&mut c, &[open(2, users)]).unwrap();
    assert_eq!(refused(&mut c, into(2, users)), prereq("wrong_state"), "a user's");
    assert_eq!(c.lease(lease_uuid(2)).unwrap().lease.state, LeaseState::Active, "all or nothing");
    assert_eq!(refused(&mut c, into(2, vm)), prereq("wrong_state"), "another's VM");
    let old = LeasedVm { generation: Generation(vm.generation.0 - 1), ..vm };
    assert_eq!(refused(&mut c, into(1, old)), prereq("wrong_state"), "another generation");
    c.set_claimed(vm.node, false);
    let _ = refused(&mut c, into(1, vm));
    assert_eq!(c.lease(lease).unwrap().lease.state, LeaseState::Active, "nobody destroys there now");
    c.set_claimed(vm.node, true);
    let _ = run(&mut c, &[into(1, vm)]).unwrap();
    let slot = c.slot(vm.slot).unwrap().slot.clone();
    assert_eq!((slot.state, slot.holder, slot.lease), (SlotState::Destroying, Some(owner(1)), None));
    assert_eq!(c.lease(lease).unwrap().lease.state, LeaseState::Released);
    assert!(run(&mut c, &[into(1, vm)]).unwrap().changes.is_empty(), "asked again");
    // One that ended otherwise: its VM is DIRTY, and destroyed all the same.
    let _ = run(&mut c, &[end(2)]).unwrap();
    let _ = run(&mut c, &[into(2, users)]).unwrap();
    assert_eq!(c.slot(users.slot).unwrap().slot.state, SlotState::Destroying);
}

#[test]
fn what_is_drained_or_of_an_old_revision_is_not_clean_again() {
    for spoil in
        [drain(1, true), blueprint_set(json!({"memory_mib": 300})), pool_set(json!({"state": "draining"}))]
    {
        let mut c = with_clean(1);
        let _ = granted(&mut c, 1, 1);
        let _ = run(&mut c, std::slice::from_ref(&spoil)).unwrap();
        assert_eq!(slot(&c, 1).state, SlotState::Leased, "I16: {spoil:?}");
        let _ = run(&mut c, &[end(1)]).unwrap();
        assert_eq!(slot(&c, 1).state, SlotState::Dirty, "{spoil:?}");
    }
}

#[test]
fn what_is_over_is_stale() {
    let mut c = with_clean(1);
    let vms = granted(&mut c, 1, 1);
    let other = LeasedVm { generation: Generation(2), ..vms[0] };
    assert_eq!(refused(&mut c, open(1, other)), stale());
    let _ = run(&mut c, &[end(1), end(2)]).unwrap();
    for l in [1, 2] {
        assert_eq!(refused(&mut c, grab(l, 1)), stale(), "I8");
        assert_eq!(refused(&mut c, Command::LeaseRenew { lease: lease_uuid(l) }), stale());
        assert_eq!(refused(&mut c, open(l, vms[0])), stale());
    }
    assert_eq!(refused(&mut c, open(3, vms[0])), stale(), "not known");
    let _ = granted(&mut c, 4, 1);
    let forget = |all: &[u128]| Command::LeaseForget { leases: all.iter().map(|l| lease_uuid(*l)).collect() };
    let _ = run(&mut c, &[forget(&[1, 2, 4, 9])]).unwrap();
    assert!(c.lease(lease_uuid(1)).is_none() && c.lease(lease_uuid(2)).is_none());
    assert!(c.lease(lease_uuid(4)).is_some(), "it lives");
    let many: Vec<_> = (0..1_001).collect();
    assert_eq!(refused(&mut c, forget(&many)), prereq("wrong_input"));
}

#[test]
fn a_lost_vm_breaks_its_lease() {
    let by_inventory = |c: &mut Config| {
        let (slot, generation) = (instance_uuid(1), Generation(1));
        c.fix(&[Fix { slot, generation, dirty: Some("the node says lost".to_owned()) }], NOW, 0)
    };
    let by_hand = |c: &mut Config| run(c, &[dirty(1, 1)]).unwrap();
    for break_it in [by_inventory as fn(&mut Config) -> Effect, by_hand] {
        let mut c = with_clean(3);
        let vms = granted(&mut c, 1, 3);
        let third = vms.iter().find(|vm| vm.slot == instance_uuid(3)).unwrap();
        let _ = run(&mut c, &[open(1, *third)]).unwrap();
        let effect = break_it(&mut c);
        c.check();
        let lease = c.lease(lease_uuid(1)).unwrap().lease.clone();
        assert_eq!(lease.state, LeaseState::Broken);
        assert!(lease.why.as_ref().unwrap().starts_with("VM py-1: "), "{:?}", lease.why);
        let states = [1, 2, 3].map(|n| slot(&c, n).state);
        assert_eq!(states, [SlotState::Dirty, SlotState::Clean, SlotState::Dirty]);
        assert_eq!(refused(&mut c, grab(1, 3)), stale());
        c.undo(effect.undo);
        c.check();
    }
}

fn give_back(l: u128, lost: &[LeasedVm]) -> Command {
    let lost = lost.iter().map(|vm| (vm.slot, vm.generation)).collect();
    Command::LeaseReturn { lease: lease_uuid(l), lost }
}

/// I8 holds for what anybody was told of; a grant that nobody heard of is as never made.
#[test]
fn a_grant_whose_vm_does_not_live_is_taken_back_and_made_anew() {
    let mut c = with_clean(3);
    let vms = granted(&mut c, 1, 2);
    let effect = run(&mut c, &[give_back(1, &vms[..1])]).unwrap();
    c.check();
    assert!(c.lease(lease_uuid(1)).is_none(), "as never granted");
    let state = |c: &Config, vm: &LeasedVm| {
        (c.slot(vm.slot).unwrap().slot.state, c.slot(vm.slot).unwrap().slot.lease)
    };
    assert_eq!(state(&c, &vms[0]), (SlotState::Dirty, None));
    assert_eq!(state(&c, &vms[1]), (SlotState::Clean, None), "the other is as clean as it was");
    let why = c.slot(vms[0].slot).unwrap().slot.why.clone().unwrap();
    assert!(why.contains("no sign of life"), "{why}");
    c.undo(effect.undo);
    c.check();
    assert_eq!(c.lease(lease_uuid(1)).unwrap().lease.vms, vms);
    let _ = run(&mut c, &[give_back(1, &vms[..1]), give_back(1, &vms[..1])]).unwrap();
    let again = granted(&mut c, 1, 2);
    assert!(!again.contains(&vms[0]), "the same lease has other VMs: {again:?}");
    let _ = run(&mut c, &[give_back(1, &[])]).unwrap();
    assert!(c.lease(lease_uuid(1)).is_some(), "whoever names no lost VM takes none from a lease that lives");
}

#[test]
fn a_broken_grant_is_taken_back_and_a_told_one_is_not() {
    let mut c = with_clean(4);
    let _ = granted(&mut c, 1, 2);
    let _ = run(&mut c, &[dirty(1, 1)]).unwrap();
    assert_eq!(refused(&mut c, grab(1, 2)), stale());
    let _ = run(&mut c, &[give_back(1, &[])]).unwrap();
    c.check();
    let second = granted(&mut c, 1, 2);
    let _ = run(&mut c, &[open(1, second[0])]).unwrap();
    assert_eq!(refused(&mut c, give_back(1, &second)), stale(), "it was used");
    let _ = run(&mut c, &[end(1)]).unwrap();
    assert_eq!(refused(&mut c, give_back(1, &second)), stale(), "it was released: over for ever (I8)");
    let task = Command::LeaseGrab {
        lease: lease_uuid(2),
        owner: LeaseOwner::Task { task: TaskId(9), attempt: 1 },
        pool: "py".to_owned(),
        count: 1,
        for_ms: 60_000,
        ttl_ms: None,
    };
    let _ = run(&mut c, &[task]).unwrap();
    assert_eq!(refused(&mut c, give_back(2, &[])), prereq("wrong_input"));
}

#[test]
fn leases_end_by_their_clock() {
    let mut c = with_clean(2);
    let ttl = |l: u128| {
        let Command::LeaseGrab { lease, owner, pool, count, for_ms, .. } = grab(l, 1) else { unreachable!() };
        Command::LeaseGrab { lease, owner, pool, count, for_ms, ttl_ms: Some(5_000) }
    };
    let at = |c: &mut Config, clock: u64, command: Command| {
        let ids = &mut Counter(1);
        let done = c.apply(&[command], &mut Context { now: NOW, clock, owner: None, ids }).map_err(flat);
        c.check();
        done
    };
    assert_eq!((c.next_end(), c.next_tick()), (None, None), "no timer while no lease lives");
    let _ = at(&mut c, 1_000, grab(1, 1)).unwrap();
    let _ = at(&mut c, 2_000, ttl(2)).unwrap();
    assert_eq!((c.next_end(), c.lease_clock(), c.next_tick()), (Some(7_000), 2_000, Some(7_000)));
    let _ = at(&mut c, 6_999, Command::LeaseRenew { lease: lease_uuid(2) }).unwrap();
    assert_eq!((c.next_end(), c.lease_clock()), (Some(11_999), 6_999));
    assert!(c.end_due(NOW, 11_998).changes.is_empty(), "not due");
    let late = at(&mut c, 11_999, Command::LeaseRenew { lease: lease_uuid(2) });
    assert_eq!(refusal(late), stale(), "over, though nobody has ended it yet");
    let effect = c.end_due(NOW, 11_999);
    assert_eq!(effect.changes.len(), 3, "slot, lease and clock in one batch: {effect:?}");
    assert_eq!(c.lease(lease_uuid(2)).unwrap().lease.why.as_deref(), Some("not renewed for 5 s"));
    assert_eq!((c.next_end(), c.lease_clock()), (Some(61_000), 11_999));
    let _ = c.tick(NOW, 17_000);
    assert_eq!(c.lease_clock(), 17_000);
    let _ = c.end_due(NOW, 61_000);
    assert_eq!(c.lease(lease_uuid(1)).unwrap().lease.why.as_deref(), Some("its time is over"));
    assert_eq!(c.next_end(), None);
    c.check();
}

#[test]
fn a_start_gives_a_whole_ttl_but_not_more_than_until() {
    let mut c = with_clean(2);
    let grab = |l: u128, for_ms: u64| {
        let (lease, pool, ttl_ms) = (lease_uuid(l), "py".to_owned(), Some(5_000));
        Command::LeaseGrab { lease, owner: user(), pool, count: 1, for_ms, ttl_ms }
    };
    let _ = run(&mut c, &[grab(1, 60_000), grab(2, 6_000)]).unwrap();
    let _ = c.tick(NOW, 4_000);
    let mut again = Config::load(stored(&c)).unwrap();
    assert_eq!(again.lease_clock(), 4_000);
    let (last, _) = again.resume_leases(None, NOW).unwrap();
    assert!(again.resume_leases(Some(last), NOW).is_none());
    let ends = |l: u128| again.lease(lease_uuid(l)).unwrap().lease.ends();
    assert_eq!((ends(1), ends(2)), (9_000, 6_000));
    again.check();
}

#[test]
fn what_contradicts_itself_is_not_loaded() {
    let mut c = with_clean(1);
    let _ = granted(&mut c, 1, 1);
    let all = stored(&c);
    assert!(Config::load(all.clone()).is_ok());
    for kind in [kind::LEASE, kind::SLOT, kind::POOL, kind::BLUEPRINT] {
        let less = all.iter().filter(|object| object.kind != kind).cloned();
        assert!(Config::load(less).is_err(), "without {kind}");
    }
}

#[test]
fn pools_are_read_by_name() {
    let mut c = with_pool();
    let _ = run(&mut c, &[add_image(image("deb", 'a'))]).unwrap();
    for (kind, name) in [(kind::BLUEPRINT, "bp"), (kind::POOL, "py"), (kind::IMAGE, "deb")] {
        let found = c.read(&[ReadKey::Name(kind.to_owned(), name.to_owned())]).unwrap();
        assert_eq!(found.objects().map(|object| object.kind).collect::<Vec<_>>(), [kind]);
        let none = c.read(&[ReadKey::Name(kind.to_owned(), "nobody".to_owned())]).unwrap();
        assert!(none.is_empty());
    }
    let uuid = ReadKey::Name(kind::POOL.to_owned(), pool_uuid(1).to_string());
    assert_eq!(c.read(&[uuid]).unwrap().len(), 1);
}

#[test]
fn leases_go_around_the_nodes() {
    let mut c = with_clean(4);
    let nodes: Vec<_> = (1..=4).map(|l| granted(&mut c, l, 1)[0].node).collect();
    assert!(nodes[0] != nodes[1] && nodes[0] == nodes[2] && nodes[1] == nodes[3], "{nodes:?}");
}

#[test]
fn what_is_drained_and_clean_by_whatever_way_is_not_given() {
    let c = with_clean(1);
    let drained = |mut object: Object| {
        if object.kind == kind::SLOT {
            let slot: Slot = serde_json::from_slice(&object.body).unwrap();
            object.body = serde_json::to_vec(&Slot { drained: true, ..slot }).unwrap();
        }
        object
    };
    let mut c = Config::load(stored(&c).into_iter().map(drained)).unwrap();
    c.set_claimed(node_uuid(1), true);
    c.set_claimed(node_uuid(2), true);
    assert!(wait(&mut c, 1, 1).contains("1 withheld"), "I11");
}

#[test]
fn the_lease_clock_never_steps_back() {
    let mut c = with_clean(1);
    let _ = c.tick(NOW, 9_000);
    let ids = &mut Counter(1);
    let _ = c.apply(&[grab(1, 1)], &mut Context { now: NOW, clock: 10, owner: None, ids }).unwrap();
    c.check();
    assert_eq!((c.lease_clock(), c.next_end()), (9_000, Some(69_000)));
}

#[test]
fn an_undone_grant_is_given_to_the_next() {
    let mut c = with_clean(1);
    let whole = stored(&c);
    let effect = run(&mut c, &[grab(1, 1)]).unwrap();
    c.undo(effect.undo);
    c.check();
    assert!(stored(&c) == whole, "I19: what was not written was not granted");
    assert_eq!((c.next_end(), granted(&mut c, 2, 1).len()), (None, 1));
}
