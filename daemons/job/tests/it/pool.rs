//! Blueprints, pools, images and the audit of nodes.

use crate::bed::{Bed, log};
use crate::master::Side;
use gantry_model::config::{Instance, Node, Slot, SlotState, kind};
use gantry_model::ids::{Generation, InstanceUuid};
use gantry_model::job::Status;
use gantry_model::pool::{Blueprint, Image, Pool, PoolState};
use gantry_model::task::BodyRef;
use gantry_noded::core::slot::Verb;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// More steps than a removal here takes.
const STEPS_MAX: usize = 16;

pub fn blueprint() -> Value {
    json!({"OP_ID": "OP_BLUEPRINT_ADD", "blueprint_name": "small", "driver": "fake", "image": "host",
           "memory_mib": 64, "vcpus": 1, "disk_mib": 32, "pids": 32, "recycle": "destroy", "wall_s_max": 60,
           "lease_s_max": 600, "tags": []})
}

pub fn pool(amount: u64) -> Value {
    json!({"OP_ID": "OP_POOL_ADD", "pool_name": "py", "blueprint": "small", "min": 0, "max": 20, "amount": amount,
           "spare": 0, "lifetime_s": 0, "connect_timeout_s": 10, "tags": []})
}

pub fn on(id: &str) -> Value {
    json!({"OP_ID": id, "pool_name": "py"})
}

/// `op` with more parameters.
pub fn with(mut op: Value, more: Value) -> Value {
    op.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    op
}

/// Stores a body; luxid did when it was uploaded.
pub fn store(bed: &Bed, bytes: &[u8]) -> BodyRef {
    let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let path = bed.luxid.root.blob(&digest);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
    BodyRef { digest, bytes: bytes.len() as u64 }
}

/// Entries of an opcode on slots, all as they stand.
pub fn entries(bed: &Bed) -> Vec<Value> {
    bed.master.state().slots("py").values().map(|slot| json!([slot.uuid, slot.generation])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn blueprints_are_added_changed_and_removed() {
    let mut bed = Bed::new().await;
    let uuid = bed.result(&blueprint()).await;
    let all = |bed: &Bed| bed.master.state().all::<Blueprint>(kind::BLUEPRINT);
    assert_eq!((json!(all(&bed)[0].uuid), all(&bed)[0].memory_mib), (uuid, 64));
    let (class, text, code) = bed.fails(&blueprint()).await;
    assert_eq!((class.as_str(), code.as_str()), ("OpPrereqError", "already_exists"));
    assert_eq!(text, "Blueprint 'small' is already in the cluster");
    let modify = |set: Value| json!({"OP_ID": "OP_BLUEPRINT_MODIFY", "blueprint_name": "small", "set": set});
    bed.succeeds(&modify(json!({"memory_mib": 128, "enabled": false}))).await;
    assert_eq!((all(&bed)[0].memory_mib, all(&bed)[0].enabled), (128, false));
    for (set, code, words) in [
        (json!({"memory_mib": 1}), "wrong_input", "memory_mib must be 16 to"),
        (json!({"image": "none"}), "unknown_entity", "Image 'none' not known"),
        (json!({"uuid": "x"}), "wrong_input", "'uuid' can't be changed"),
    ] {
        let (_, text, found) = bed.fails(&modify(set)).await;
        assert!(found == code && text.contains(words), "{found}: {text}");
    }
    bed.succeeds(&modify(json!({"enabled": true}))).await;
    bed.succeeds(&pool(1)).await;
    let remove = json!({"OP_ID": "OP_BLUEPRINT_REMOVE", "blueprint_name": "small"});
    let (_, text, code) = bed.fails(&remove).await;
    assert_eq!(
        (text.as_str(), code.as_str()),
        ("Blueprint small is used by pool py; remove it first", "wrong_state")
    );
    bed.succeeds(&on("OP_POOL_REMOVE")).await;
    bed.succeeds(&remove).await;
    assert!(all(&bed).is_empty());
    assert_eq!(bed.fails(&remove).await.2, "unknown_entity");
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_are_added_changed_resized_and_drained() {
    let mut bed = Bed::new().await;
    assert_eq!(bed.fails(&pool(1)).await.1, "Blueprint 'small' not known");
    bed.succeeds(&blueprint()).await;
    let mut plain = pool(3);
    plain.as_object_mut().unwrap().remove("max");
    bed.succeeds(&plain).await;
    let all = |bed: &Bed| bed.master.state().all::<Pool>(kind::POOL).remove(0);
    assert_eq!((all(&bed).max, all(&bed).amount), (3, 3), "without a word max is the amount");
    let resize = |amount: u64| with(on("OP_POOL_RESIZE"), json!({"amount": amount}));
    bed.succeeds(&resize(4)).await;
    assert_eq!((all(&bed).max, all(&bed).amount), (4, 4), "and grows with it");
    bed.succeeds(&resize(3)).await;
    assert_eq!((all(&bed).max, all(&bed).amount), (4, 3), "and stays");
    bed.succeeds(&resize(4)).await;
    let modify = |set: Value| with(on("OP_POOL_MODIFY"), json!({"set": set}));
    bed.succeeds(&modify(json!({"max": 5, "group": "default"}))).await;
    assert!(all(&bed).group.is_some());
    bed.succeeds(&resize(4)).await;
    assert_eq!((all(&bed).max, all(&bed).amount), (5, 4));
    let (_, text, code) = bed.fails(&resize(6)).await;
    assert!(code == "wrong_input" && text.contains("may have 5 slots at most, not 6"), "{text}");
    let (_, text, _) = bed.fails(&modify(json!({"blueprint": "small"}))).await;
    assert!(text.contains("blueprint"), "{text}");
    assert_eq!(bed.fails(&modify(json!({"group": "none"}))).await.2, "unknown_entity");
    assert_eq!(bed.fails(&modify(json!({"min": 5}))).await.2, "wrong_input");
    bed.succeeds(&on("OP_POOL_DRAIN")).await;
    assert_eq!(all(&bed).state, PoolState::Draining);
    assert_eq!(
        bed.result(&on("OP_POOL_EXPAND")).await,
        json!({"added": 0, "missing": 0, "why": "pool py is draining"})
    );
    bed.succeeds(&with(on("OP_POOL_DRAIN"), json!({"drain": false}))).await;
    assert_eq!(all(&bed).state, PoolState::Active);
    let mut bad = pool(1);
    bad["pool_name"] = json!("No");
    assert_eq!(bed.fails(&bad).await.2, "wrong_input");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_grows_by_what_it_lacks_and_by_what_there_is_room_for() {
    let mut bed = Bed::new().await;
    bed.succeeds(&blueprint()).await;
    bed.succeeds(&pool(3)).await;
    assert_eq!(bed.result(&on("OP_POOL_EXPAND")).await, json!({"added": 3, "missing": 0, "why": null}));
    let names = |bed: &Bed| bed.master.state().slots("py").keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&bed), ["py-1", "py-2", "py-3"]);
    let one = bed.master.state().instance("py-2").unwrap().0;
    assert!(
        one.forthcoming && one.pool.as_deref() == Some("py") && one.os == "host" && one.hypervisor == "fake"
    );
    assert_eq!((&one.beparams["maxmem"], one.disks[0].size), (&json!(64), 32));
    assert_eq!(bed.result(&on("OP_POOL_EXPAND")).await["added"], 0, "all are there");
    // A drained one does not count, and its number is not taken twice.
    bed.master.state().meddle(kind::SLOT, one.uuid, |slot: &mut Slot| slot.drained = true);
    assert_eq!(bed.result(&on("OP_POOL_EXPAND")).await["added"], 1);
    assert_eq!(names(&bed), ["py-1", "py-2", "py-3", "py-4"]);
    // The node has 64 GiB; one instance of 60 leaves room for four of a GiB, which counts slots too.
    let big = json!({"OP_ID": "OP_BLUEPRINT_MODIFY", "blueprint_name": "small", "set": {"memory_mib": 1024}});
    bed.succeeds(&big).await;
    let create = json!({"OP_ID": "OP_INSTANCE_CREATE", "instance_name": "big.example.test", "mode": "create",
        "os_type": "noop", "disk_template": "diskless", "hypervisor": "fake", "beparams": {"memory": 58 * 1024},
        "nics": [], "start": false});
    bed.succeeds(&create).await;
    bed.succeeds(&with(on("OP_POOL_RESIZE"), json!({"amount": 9}))).await;
    let result = bed.result(&on("OP_POOL_EXPAND")).await;
    assert_eq!((&result["added"], &result["missing"]), (&json!(2), &json!(4)), "{result}");
    assert!(
        result["why"].as_str().unwrap().contains("memory: 65536 MiB, of which 65536 are promised"),
        "{result}"
    );
    // Slots count for instances: nothing is left for one.
    let more = with(create, json!({"instance_name": "more.example.test", "beparams": {"memory": 128}}));
    let (_, text, code) = bed.fails(&more).await;
    assert!(code == "insufficient_resources" && text.contains("memory"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_removed_with_its_slots() {
    let mut bed = Bed::new().await;
    bed.succeeds(&blueprint()).await;
    bed.succeeds(&pool(5)).await;
    bed.succeeds(&on("OP_POOL_EXPAND")).await;
    let three = entries(&bed)[..3].to_vec();
    bed.succeeds(&json!({"OP_ID": "OP_SLOT_CREATE", "slots": three})).await;
    let lease = gantry_model::ids::LeaseUuid(uuid::Uuid::from_u128(77));
    bed.master.state().lease("py", lease);
    let (_, text, code) = bed.fails(&on("OP_POOL_REMOVE")).await;
    assert!(code == "wrong_state" && text.contains("1 leased VMs (py-"), "{text}");
    assert_eq!(bed.master.state().all::<Pool>(kind::POOL)[0].state, PoolState::Active, "nothing was done");
    let report = bed.report(&with(on("OP_POOL_REMOVE"), json!({"force": true}))).await;
    assert!(log(&report).iter().any(|text| text == "5 of 5 slots gone"), "{:?}", log(&report));
    let state = bed.master.state();
    assert!(state.all::<Pool>(kind::POOL).is_empty() && state.all::<Instance>(kind::INSTANCE).is_empty());
    assert!(state.vms.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_of_a_node_that_never_comes_back_go_by_force() {
    let mut bed = Bed::new().await;
    bed.succeeds(&blueprint()).await;
    bed.succeeds(&pool(2)).await;
    bed.succeeds(&on("OP_POOL_EXPAND")).await;
    let first = entries(&bed)[..1].to_vec();
    bed.succeeds(&json!({"OP_ID": "OP_SLOT_CREATE", "slots": first})).await;
    let node = bed.master.node;
    bed.master.state().meddle(kind::NODE, node, |node: &mut Node| {
        (node.offline, node.master_candidate) = (true, false);
    });
    let report = bed.report(&with(on("OP_POOL_REMOVE"), json!({"force": true}))).await;
    let told = log(&report);
    assert!(
        told.iter().any(|text| text.contains("is offline: what may live in py-1 was not destroyed")),
        "{told:?}"
    );
    assert!(bed.master.state().all::<Pool>(kind::POOL).is_empty());
    assert!(bed.master.state().slots("py").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_may_come_back_keeps_its_slots_and_instances_are_never_given_up() {
    const NODE: &str = "node2.example.test";
    let mut bed = Bed::new().await;
    bed.with_pool(1).await;
    let second = bed.master.state().config.nodes().find(|node| node.name == NODE).unwrap().uuid;
    let slot = bed.master.state().slots("py")["py-1"].uuid;
    bed.master.state().move_slot(slot, second);
    let remove = json!({"OP_ID": "OP_NODE_REMOVE", "node_name": NODE});
    let flags = |bed: &Bed, drained, offline| {
        bed.master.state().meddle(kind::NODE, second, |node: &mut Node| {
            (node.drained, node.offline) = (drained, offline);
        });
    };
    for (drained, advice) in [(false, "gnt-node modify -D yes"), (true, "gnt-slot recycle --force NAME")] {
        flags(&bed, drained, false);
        let (_, text, code) = bed.fails(&remove).await;
        assert!(
            code == "wrong_input" && text.contains("1 slot(s) of pools") && text.contains("(py-1)"),
            "{text}"
        );
        assert!(
            text.contains(advice) && text.contains("gnt-node modify -O yes node2.example.test"),
            "{text}"
        );
    }
    flags(&bed, false, false);
    let create = json!({"OP_ID": "OP_INSTANCE_CREATE", "instance_name": "own.example.test", "mode": "create",
        "os_type": "noop", "disk_template": "diskless", "hypervisor": "fake", "beparams": {"memory": 128},
        "nics": [], "start": false});
    bed.succeeds(&create).await;
    let own = bed.master.state().instance("own.example.test").unwrap().0.uuid;
    bed.master.state().move_slot(own, second);
    flags(&bed, false, true);
    let (_, text, code) = bed.fails(&remove).await;
    assert!(code == "wrong_input" && text.contains("home of 1 instance(s) (own.example.test)"), "{text}");
    assert_eq!(bed.master.state().slots("py").len(), 1, "nothing was given up");
}

/// Killed anywhere, the same command again ends it.
#[tokio::test(flavor = "multi_thread")]
async fn the_removal_of_a_pool_converges_from_every_crash() {
    let mut bed = Bed::new().await;
    for step in 0..STEPS_MAX {
        for side in [Side::Before, Side::After] {
            bed.master.reset();
            bed.succeeds(&blueprint()).await;
            bed.succeeds(&pool(2)).await;
            bed.succeeds(&on("OP_POOL_EXPAND")).await;
            let first = entries(&bed)[..1].to_vec();
            bed.succeeds(&json!({"OP_ID": "OP_SLOT_CREATE", "slots": first})).await;
            let (owner, report) = bed.run(&on("OP_POOL_REMOVE"), Some((step, side))).await;
            let done = report.is_some();
            bed.master.state().owner_gone(owner);
            if !done && !bed.master.state().all::<Pool>(kind::POOL).is_empty() {
                bed.succeeds(&on("OP_POOL_REMOVE")).await;
            }
            let state = bed.master.state();
            let at = format!("killed {side:?} step {step}");
            assert!(state.all::<Pool>(kind::POOL).is_empty() && state.slots("py").is_empty(), "{at}");
            assert!(state.vms.is_empty(), "{at}");
            if done {
                // Draining, leaving, begin to destroy, the node, absent, slot gone, pool gone.
                assert_eq!(state.steps.len(), 7, "{:?}", state.steps);
                return;
            }
        }
    }
    panic!("a removal takes more than {STEPS_MAX} steps")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_removal_leaves_the_pool_draining() {
    let mut bed = Bed::new().await;
    bed.succeeds(&blueprint()).await;
    bed.succeeds(&pool(2)).await;
    bed.succeeds(&on("OP_POOL_EXPAND")).await;
    // What somebody creates is waited for.
    let uuid = bed.master.state().slots("py")["py-1"].uuid;
    bed.master.state().meddle(kind::SLOT, uuid, |slot: &mut Slot| {
        (slot.state, slot.generation) = (SlotState::Creating, gantry_model::ids::Generation(1));
        slot.holder = Some(crate::start(999));
    });
    let waits =
        |report: &gantry_model::job::Report| log(report).iter().any(|text| text == "1 of 2 slots gone");
    let (_, report) = bed.run_until(&on("OP_POOL_REMOVE"), None, waits).await;
    assert_eq!(report.unwrap().ops[0].status, Status::Canceled);
    let state = bed.master.state();
    assert_eq!(state.all::<Pool>(kind::POOL)[0].state, PoolState::Draining);
    assert_eq!(state.slots("py").keys().collect::<Vec<_>>(), ["py-1"]);
}

/// Long before it gives up.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_says_at_once_which_node_keeps_it() {
    let mut bed = Bed::new().await;
    bed.with_pool(2).await;
    bed.succeeds(&json!({"OP_ID": "OP_SLOT_CREATE", "slots": entries(&bed)[..1]})).await;
    let node = bed.master.node;
    bed.master.state().config.set_claimed(node, false);
    bed.master.state().lost = true;
    let name = bed.master.state().config.node(node).unwrap().name.clone();
    let told = |report: &gantry_model::job::Report| {
        let wanted =
            format!("1 of 2 slots do not go now: node {name} does not answer and has 1 of them, py-1 first");
        log(report).iter().any(|text| text.contains(&wanted))
    };
    let (_, report) = bed.run_until(&with(on("OP_POOL_REMOVE"), json!({"force": true})), None, told).await;
    let report = report.unwrap();
    let said = log(&report);
    assert_eq!(report.ops[0].status, Status::Canceled, "{said:?}");
    let advice = "gnt-node modify -O yes";
    assert!(
        said.iter().any(|text| text.contains(advice) && text.contains("waits for them for 1")),
        "{said:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_imported_from_the_store_and_go_when_unused() {
    let mut bed = Bed::new().await;
    let body = store(&bed, b"an archive");
    let import = |digest: &str, bytes: u64| json!({"OP_ID": "OP_OS_IMPORT", "image_name": "alpine", "digest": digest, "bytes": bytes});
    for (op, code) in [
        (import(&"0".repeat(64), 10), "unknown_entity"),
        (import("xyz", 10), "wrong_input"),
        (import(&body.digest, 9), "wrong_input"),
        (with(import(&body.digest, 10), json!({"image_name": "host"})), "wrong_input"),
    ] {
        assert_eq!(bed.fails(&op).await.2, code, "{op}");
    }
    bed.succeeds(&import(&body.digest, 10)).await;
    bed.succeeds(&import(&body.digest, 10)).await;
    let other = store(&bed, b"another");
    assert_eq!(bed.fails(&import(&other.digest, 7)).await.2, "already_exists");
    bed.succeeds(&with(blueprint(), json!({"image": "alpine"}))).await;
    let remove = json!({"OP_ID": "OP_OS_REMOVE", "image_name": "alpine"});
    let (_, text, code) = bed.fails(&remove).await;
    assert!(code == "wrong_state" && text.contains("used by blueprint small"), "{text}");
    bed.succeeds(&json!({"OP_ID": "OP_BLUEPRINT_REMOVE", "blueprint_name": "small"})).await;
    bed.succeeds(&remove).await;
    assert!(bed.master.state().all::<Image>(kind::IMAGE).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_tells_what_was_killed() {
    let mut bed = Bed::new().await;
    bed.master.state().strangers = vec!["gantry-old".to_owned()];
    let node = bed.master.node;
    let report = bed.report(&json!({"OP_ID": "OP_NODE_AUDIT", "node_name": node.to_string()})).await;
    let told = json!({"killed": ["gantry-old"], "failed": [["gantry-bad", "busy"]], "seen": 3});
    assert_eq!(report.ops[0].result, told);
    let log = log(&report);
    assert!(log[0].ends_with("killed the stranger gantry-old") && log[1].contains("gantry-bad"), "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_destroys_what_lives_in_slots_that_are_gone() {
    let mut bed = Bed::new().await;
    bed.with_pool(1).await;
    bed.succeeds(&json!({"OP_ID": "OP_SLOT_CREATE", "slots": entries(&bed)})).await;
    let node = bed.master.node;
    let audit = json!({"OP_ID": "OP_NODE_AUDIT", "node_name": node.to_string()});
    let vms = |bed: &Bed| bed.master.state().vms.clone();
    let known = vms(&bed);
    // The slot was given up while its node was offline.
    let gone = InstanceUuid(uuid::Uuid::from_u128(77));
    let create = Verb::Create { generation: Generation(4), driver: "fake".to_owned() };
    bed.master.state().node(gone, &create).unwrap();
    assert_ne!(vms(&bed), known);
    let report = bed.report(&audit).await;
    assert_eq!(report.ops[0].result["killed"], json!([format!("slot {gone}.4")]));
    assert_eq!(vms(&bed), known, "what the cluster knows stays");
    assert_eq!(bed.report(&audit).await.ops[0].result["killed"], json!([]), "once");
}
