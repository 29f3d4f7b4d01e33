//! The opcode table as a whole: complete, unique, and every default of its own type.

use gantry_model::opcode::{COMMON, OP_ID, Relevance, all, check, spec, summary};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

#[test]
fn it_has_the_75_opcodes_of_ganeti_and_18_of_our_own_each_once() {
    let names: BTreeSet<_> = all().iter().map(|s| s.id).collect();
    assert_eq!((all().len(), names.len()), (93, 93));
    assert!(names.iter().all(|n| n.starts_with("OP_")));
    assert!(spec("OP_TEST_DELAY").is_some());
    assert!(spec("TEST_DELAY").is_none());
}

#[test]
fn every_entry_is_sound() {
    for s in all() {
        let keys: BTreeSet<_> = s.keys().collect();
        assert_eq!(keys.len(), s.params.len() + COMMON.len() + 1, "{}: a key twice", s.id);
        assert!(s.summary.is_none_or(|p| s.params.iter().any(|q| q.name == p)), "{}", s.id);
        for param in s.all_params() {
            if let Some(default) = param.default() {
                assert_eq!(param.ty.accepts(&default), Ok(()), "{} {}", s.id, param.name);
            }
            assert!(!param.ty.describe().is_empty());
        }
    }
}

#[test]
fn opcodes_without_required_parameters_are_their_name_alone() {
    let mut bare = 0;
    for s in all().iter().filter(|s| s.params.iter().all(|p| p.default().is_some())) {
        let op = check(&json!({ OP_ID: s.id })).unwrap();
        assert_eq!(op.keys().map(String::as_str).collect::<BTreeSet<_>>(), s.keys().collect());
        assert_eq!(op["reason"], json!([]));
        assert_eq!(op["priority"], json!(0));
        assert!(summary(&op).starts_with(&s.id[3..]));
        bare += 1;
    }
    assert!(bare > 15, "{bare}");
}

#[test]
fn the_big_lock_is_for_eight() {
    let alone: BTreeSet<_> = all().iter().filter(|s| s.needs_bgl).map(|s| s.id).collect();
    let wanted = BTreeSet::from([
        "OP_CLUSTER_ACTIVATE_MASTER_IP",
        "OP_CLUSTER_DEACTIVATE_MASTER_IP",
        "OP_CLUSTER_DESTROY",
        "OP_CLUSTER_POST_INIT",
        "OP_CLUSTER_RENAME",
        "OP_NODE_ADD",
        "OP_NODE_REMOVE",
        "OP_TEST_ALLOCATOR",
    ]);
    assert_eq!(alone, wanted);
    assert_eq!(spec("OP_TEST_DELAY").unwrap().relevance, Relevance::A);
    assert_eq!(spec("OP_TEST_DUMMY").unwrap().relevance, Relevance::C);
}

#[test]
fn keys_stand_in_canonical_order() {
    let keys: Vec<_> = spec("OP_TEST_DELAY").unwrap().keys().collect();
    let wanted = "duration on_master on_nodes on_node_uuids repeat interruptible no_locks \
                  dry_run debug_level priority depends comment reason OP_ID";
    assert_eq!(keys.join(" "), wanted);
}

#[test]
fn summaries_of_what_cannot_be_checked() {
    let text = |op: Value| summary(op.as_object().unwrap());
    assert_eq!(summary(&Map::new()), "INVALID_OP");
    assert_eq!(text(json!({"OP_ID": 5})), "INVALID_OP");
    assert_eq!(text(json!({"OP_ID": "OP_NO_SUCH", "name": "x"})), "NO_SUCH");
    assert_eq!(text(json!({"OP_ID": "OP_INSTANCE_CREATE"})), "INSTANCE_CREATE");
    assert_eq!(text(json!({"OP_ID": "OP_TEST_ALLOCATOR", "iallocator": null})), "TEST_ALLOCATOR");
    assert_eq!(
        text(json!({"OP_ID": "OP_INSTANCE_CREATE", "instance_name": "inst1"})),
        "INSTANCE_CREATE(inst1)"
    );
    assert_eq!(text(json!({"OP_ID": "OP_TEST_DELAY", "duration": 1})), "TEST_DELAY(1.0)");
    assert_eq!(text(json!({"OP_ID": "OP_CLUSTER_VERIFY", "group_name": "g"})), "CLUSTER_VERIFY");
}
