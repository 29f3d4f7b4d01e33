//! One rule at a time.

use super::*;
use gantry_proto::wconfd::{ReadKey, TagTarget};
use serde_json::json;
use std::collections::BTreeSet;

fn tags(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn node_set(n: u128, set: Value) -> Command {
    Command::NodeSet { node: node_uuid(n), rev: None, set: params(set) }
}

fn cluster_set(set: Value) -> Command {
    Command::ClusterSet { rev: None, set: params(set) }
}

fn instance_set(n: u128, set: Value) -> Command {
    Command::InstanceSet { instance: instance_uuid(n), rev: None, set: params(set) }
}

fn group_set(n: u128, set: Value) -> Command {
    Command::GroupSet { group: group_uuid(n), rev: None, set: params(set) }
}

/// (meta, cluster) serials.
fn serials(config: &Config) -> (u64, u64) {
    (config.meta().serial_no, config.cluster().stamp.serial_no)
}

#[test]
fn serials_grow_as_ganetis_do() {
    let mut c = config();
    let _ = run(&mut c, &[add_node(2)]).unwrap();
    assert_eq!(serials(&c), (2, 2), "a node came");
    let _ = run(&mut c, &[node_set(2, json!({"drained": true}))]).unwrap();
    assert_eq!(serials(&c), (3, 3), "a node changed");
    assert_eq!(c.node(node_uuid(2)).unwrap().stamp.serial_no, 2);
    let _ = run(&mut c, &[add_group(2)]).unwrap();
    assert_eq!(serials(&c), (4, 4), "a group came");
    let _ = run(&mut c, &[group_set(2, json!({"alloc_policy": "unallocable"}))]).unwrap();
    assert_eq!(serials(&c), (5, 4), "a group changed");
    let _ = run(&mut c, &[add_instance(1, 1)]).unwrap();
    assert_eq!(serials(&c), (6, 5), "an instance came");
    let _ = run(&mut c, &[instance_set(1, json!({"os": "debian"}))]).unwrap();
    assert_eq!(serials(&c), (7, 5), "an instance changed");
    let _ = run(&mut c, &[instance_set(1, json!({"name": "other.example.test"}))]).unwrap();
    assert_eq!(serials(&c), (8, 6), "an instance was renamed");
    let _ = run(&mut c, &[Command::InstanceRemove { instance: instance_uuid(1) }]).unwrap();
    assert_eq!(serials(&c), (9, 7), "an instance went");
    let _ = run(&mut c, &[Command::GroupAssign { group: group_uuid(2), nodes: vec![node_uuid(2)] }]).unwrap();
    assert_eq!(serials(&c), (10, 8), "a node moved");
}

#[test]
fn what_changes_nothing_writes_nothing() {
    let mut c = config();
    let _ = run(&mut c, &[add_node(2)]).unwrap();
    let before = stored(&c);
    let same = [
        node_set(2, json!({"drained": false})),
        cluster_set(json!({"max_running_jobs": defaults::RUNNING_JOBS_MAX})),
        Command::TagsAdd { target: TagTarget::Cluster, tags: tags(&["x"]) },
        Command::TagsDel { target: TagTarget::Cluster, tags: tags(&["x"]) },
    ];
    let effect = run(&mut c, &same).unwrap();
    assert!(effect.changes.is_empty() && !effect.ssconf);
    assert_eq!(effect.results.len(), 4);
    assert_eq!(stored(&c), before);
}

#[test]
fn a_batch_is_all_or_nothing() {
    let mut c = config();
    let before = stored(&c);
    let refused = run(&mut c, &[add_node(2), add_group(2), add_instance(1, 2), add_instance(1, 2)]);
    assert_eq!(refusal(refused), prereq("already_exists"));
    assert_eq!(stored(&c), before);
}

#[test]
fn names_that_wandered_in_a_batch_are_put_back() {
    let mut c = config();
    let _ = run(&mut c, &[add_instance(1, 1), add_instance(2, 1)]).unwrap();
    let before = stored(&c);
    let swap = [
        instance_set(1, json!({"name": "third"})),
        instance_set(2, json!({"name": "inst1.example.test"})),
        instance_set(1, json!({"name": "inst2.example.test"})),
    ];
    let effect = run(&mut c, &swap).unwrap();
    assert_eq!(c.instance(instance_uuid(2)).unwrap().name, "inst1.example.test");
    c.undo(effect.undo);
    c.check();
    assert_eq!(stored(&c), before);
}

#[test]
fn a_stale_revision_is_refused_and_a_repeat_is_not() {
    let mut c = config();
    let set =
        |rev, value| Command::ClusterSet { rev: Some(rev), set: params(json!({"max_running_jobs": value})) };
    let _ = run(&mut c, &[set(1, 7)]).unwrap();
    let repeat = run(&mut c, &[set(1, 7)]).unwrap();
    assert!(repeat.changes.is_empty());
    let error = run(&mut c, &[set(1, 8)]).unwrap_err();
    assert_eq!(error.class, "ConfigurationError");
    assert_eq!(error.to_string(), "Configuration object updated since it has been read: 2 != 1");
    let _ = run(&mut c, &[set(2, 8)]).unwrap();
}

#[test]
fn the_masters_role_and_copies_are_guarded() {
    let mut c = config();
    let _ = run(&mut c, &[add_node(2)]).unwrap();
    for set in
        [json!({"offline": true}), json!({"master_candidate": false}), json!({"master_capable": false})]
    {
        assert_eq!(refusal(run(&mut c, &[node_set(1, set)])), prereq("wrong_input"));
    }
    assert_eq!(refusal(run(&mut c, &[Command::NodeRemove { node: node_uuid(1) }])), prereq("wrong_input"));
    assert_eq!(
        refusal(run(&mut c, &[node_set(2, json!({"master_candidate": true}))])),
        prereq("wrong_state")
    );
    let two = json!({"offline": true, "drained": true});
    assert_eq!(refusal(run(&mut c, &[node_set(2, two)])), prereq("wrong_input"));
    let candidate = Node { master_candidate: true, ..node(3, "node3.example.test") };
    assert_eq!(
        refusal(run(&mut c, &[Command::NodeAdd { node: Box::new(candidate) }])),
        prereq("wrong_state")
    );
    let error = run(&mut c, &[cluster_set(json!({"candidate_pool_size": 11}))]).unwrap_err();
    assert!(error.to_string().contains("10 copies"), "{error}");
    let moved = cluster_set(json!({"master_node": node_uuid(2)}));
    assert_eq!(refusal(run(&mut c, &[moved])), prereq("wrong_input"));
}

#[test]
fn nodes_are_unique_known_and_empty_when_they_go() {
    let mut c = config();
    let _ = run(&mut c, &[add_node(2), add_instance(1, 2)]).unwrap();
    assert_eq!(refusal(run(&mut c, &[add_node(2)])), prereq("already_exists"));
    let twin = Node { primary_ip: "192.0.2.2".to_owned(), ..node(3, "node3.example.test") };
    assert_eq!(
        refusal(run(&mut c, &[Command::NodeAdd { node: Box::new(twin.clone()) }])),
        prereq("resource_not_unique")
    );
    let beside = Node { noded_port: 1812, ..twin };
    let _ = run(&mut c, &[Command::NodeAdd { node: Box::new(beside) }]).unwrap();
    let lost = Node { group: group_uuid(7), ..node(4, "node4.example.test") };
    assert_eq!(refusal(run(&mut c, &[Command::NodeAdd { node: Box::new(lost) }])), prereq("unknown_entity"));
    assert_eq!(refusal(run(&mut c, &[Command::NodeRemove { node: node_uuid(2) }])), prereq("wrong_input"));
    assert_eq!(refusal(run(&mut c, &[Command::NodeRemove { node: node_uuid(9) }])), prereq("unknown_entity"));
    assert_eq!(refusal(run(&mut c, &[node_set(2, json!({"vm_capable": false}))])), prereq("wrong_state"));
    let _ = run(&mut c, &[Command::NodeRemove { node: node_uuid(3) }]).unwrap();
}

#[test]
fn groups_are_unique_and_neither_the_last_nor_full_when_they_go() {
    let mut c = config();
    let remove = |n| Command::GroupRemove { group: group_uuid(n) };
    assert_eq!(refusal(run(&mut c, &[remove(1)])), prereq("wrong_state"));
    let _ = run(&mut c, &[add_group(2)]).unwrap();
    assert_eq!(refusal(run(&mut c, &[remove(1)])), prereq("wrong_state"));
    let _ = run(&mut c, &[Command::GroupAssign { group: group_uuid(2), nodes: vec![node_uuid(1)] }]).unwrap();
    assert_eq!(refusal(run(&mut c, &[group_set(2, json!({"name": "default"}))])), prereq("already_exists"));
    let same_name = Command::GroupAdd { group: Box::new(group(3, "group2")) };
    assert_eq!(refusal(run(&mut c, &[same_name])), prereq("already_exists"));
    let _ = run(&mut c, &[remove(1)]).unwrap();
    assert_eq!(refusal(run(&mut c, &[remove(2)])), prereq("wrong_state"));
}

#[test]
fn fields_have_names_and_types() {
    let mut c = config();
    for (set, word) in [
        (json!({"nonsense": 1}), "does not exist"),
        (json!({"uuid": "x"}), "can't be changed"),
        (json!({"max_running_jobs": "many"}), "whole number"),
        (json!({"max_running_jobs": 0}), "at least 1"),
        (json!({"enabled_hypervisors": []}), "not empty"),
        (json!({"enabled_hypervisors": ["vmware"]}), "one"),
        (json!({"beparams": {"default": {"vcpus": "two"}}}), "vcpus"),
        (json!({"beparams": {"default": {"cores": 2}}}), "no parameter 'cores'"),
        (json!({"beparams": {}}), "default"),
        (json!({"beparams": {"default": {"minmem": 9, "maxmem": 8}}}), "more than maximum"),
        (json!({"mac_prefix": "zz:00:00"}), "prefix"),
        (json!({"cluster_name": "-"}), "not a cluster name"),
        (json!({"master_ip": "nowhere"}), "not an IPv4 address"),
        (json!({"master_ip": "2001:db8::1"}), "not an IPv4 address"),
        (json!({"master_ip": "192.0.2.99", "master_netmask": 33}), "1 to 32"),
        (json!({"master_ip": "192.0.2.99", "master_netdev": "../x"}), "can't name a network device"),
        (json!({"cluster_name": null}), "string"),
        (json!({"hidden_os": [1]}), "list of strings"),
    ] {
        let error = run(&mut c, &[cluster_set(set.clone())]).expect_err(&set.to_string());
        assert_eq!(error.ecode(), Some("wrong_input"), "{set}: {error}");
        let text = error.to_string();
        assert!(word == "one" || text.contains(word), "{set}: {text}");
    }
    let error = run(&mut c, &[cluster_set(json!({"master_ip": "192.0.2.1"}))]).expect_err("a node's");
    assert_eq!(error.ecode(), Some("resource_not_unique"), "{error}");
    let _ = run(&mut c, &[cluster_set(json!({"enabled_hypervisors": ["lxc", "fake"], "hidden_os": ["x"]}))])
        .unwrap();
    assert_eq!(c.cluster().enabled_hypervisors, ["lxc", "fake"]);
    assert_eq!(c.cluster().extra["hidden_os"], json!(["x"]));
}

#[test]
fn tags_keep_their_rules() {
    let mut c = config();
    let add = |words: &[&str]| Command::TagsAdd { target: TagTarget::Cluster, tags: tags(words) };
    let del = |words: &[&str]| Command::TagsDel { target: TagTarget::Cluster, tags: tags(words) };
    let tag_error = ("TagError".to_owned(), String::new());
    for bad in ["", "a b", &"x".repeat(129)] {
        assert_eq!(refusal(run(&mut c, &[add(&[bad])])), tag_error, "{bad}");
    }
    let many: Vec<String> = (0..4097).map(|n| format!("t{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(refusal(run(&mut c, &[add(&many)])), tag_error);
    let _ = run(&mut c, &[add(&["a", "b"])]).unwrap();
    let error = run(&mut c, &[del(&["a", "c"])]).unwrap_err();
    assert_eq!((error.to_string().as_str(), error.ecode()), ("Tag(s) 'c' not found", Some("unknown_entity")));
    let _ = run(&mut c, &[del(&["a"])]).unwrap();
    assert_eq!(c.cluster().stamp.tags, tags(&["b"]));
    let nowhere = Command::TagsAdd { target: TagTarget::Instance(instance_uuid(5)), tags: tags(&["a"]) };
    assert_eq!(refusal(run(&mut c, &[nowhere])), prereq("unknown_entity"));
}

#[test]
fn macs_are_given_and_unique() {
    let mut c = config();
    let with = |n, nics| {
        let one = instance(n, &format!("inst{n}.example.test"), 1);
        Command::InstanceAdd { instance: Box::new(Instance { nics, ..one }) }
    };
    let _ = run(&mut c, &[with(1, vec![nic("auto"), nic("")])]).unwrap();
    let nics = &c.instance(instance_uuid(1)).unwrap().nics;
    assert!(nics[0].mac.starts_with("aa:00:00:") && nics[0].mac != nics[1].mac);
    assert!(Uuid::try_parse(&nics[0].uuid).is_ok());
    let taken = nics[0].mac.to_ascii_uppercase();
    assert_eq!(refusal(run(&mut c, &[with(2, vec![nic(&taken)])])), prereq("resource_not_unique"));
    assert_eq!(refusal(run(&mut c, &[with(2, vec![nic("aa:00:00:11:22")])])), prereq("wrong_input"));
    let twice = vec![nic("aa:00:00:11:22:33"), nic("aa:00:00:11:22:33")];
    assert_eq!(refusal(run(&mut c, &[with(2, twice)])), prereq("resource_not_unique"));
}

#[test]
fn instances_need_a_home_that_takes_them() {
    let mut c = config();
    let _ = run(&mut c, &[add_node(2), node_set(2, json!({"drained": true}))]).unwrap();
    let error = run(&mut c, &[add_instance(1, 2)]).unwrap_err();
    assert_eq!(error.to_string(), "Cannot use drained primary node 'node2.example.test'");
    assert_eq!(refusal(run(&mut c, &[add_instance(1, 3)])), prereq("unknown_entity"));
    let _ = run(&mut c, &[node_set(2, json!({"drained": false})), add_instance(1, 2)]).unwrap();
    let _ = run(&mut c, &[instance_set(1, json!({"primary_node": node_uuid(1)}))]).unwrap();
    assert_eq!(c.slot(instance_uuid(1)).unwrap().slot.node, node_uuid(1));
}

#[test]
fn a_uuid_is_not_used_twice_in_a_batch() {
    let mut c = config();
    let _ = run(&mut c, &[add_instance(1, 1)]).unwrap();
    let again = [Command::InstanceRemove { instance: instance_uuid(1) }, add_instance(1, 1)];
    assert_eq!(refusal(run(&mut c, &again)), prereq("already_exists"));
}

#[test]
fn a_batch_too_large_for_a_frame_is_refused_whole() {
    let mut c = config();
    let before = stored(&c);
    let long = "x".repeat(BATCH_BYTES_MAX);
    assert_eq!(refusal(run(&mut c, &[cluster_set(json!({"install_image": long}))])), prereq("wrong_input"));
    assert_eq!(stored(&c), before);
}

#[test]
fn a_jobs_last_batch_is_remembered_until_it_is_gone() {
    let mut c = config();
    let effect = run_as(&mut c, Some((owner(1), 1)), &[add_instance(1, 1)]).unwrap();
    assert_eq!(effect.changes.last().unwrap().kind, kind::APPLIED);
    assert_eq!(c.applied(owner(1)).unwrap().results, [json!(instance_uuid(1))]);
    let nothing = run_as(&mut c, Some((owner(1), 2)), &[instance_set(1, json!({}))]).unwrap();
    assert!(nothing.changes.is_empty());
    assert_eq!(c.applied(owner(1)).unwrap().seq, 1);
    let undone = run_as(&mut c, Some((owner(1), 2)), &[instance_set(1, json!({"os": "a"}))]).unwrap();
    c.undo(undone.undo);
    assert_eq!(c.applied(owner(1)).unwrap().seq, 1);
    let gone = c.owner_gone(owner(1), NOW);
    assert!(gone.changes.iter().any(|change| change.kind == kind::APPLIED && change.body.is_none()));
    assert!(c.applied(owner(1)).is_none());
}

#[test]
fn objects_are_read_by_key_name_and_node() {
    let mut c = config();
    let _ = run(&mut c, &[add_node(2), add_instance(1, 2), add_instance(10, 1)]).unwrap();
    let read = |keys: &[ReadKey]| -> Vec<String> {
        c.read(keys).unwrap().objects().map(|object| format!("{}/{}", object.kind, object.key)).collect()
    };
    let name = |kind: &str, name: &str| ReadKey::Name(kind.to_owned(), name.to_owned());
    let inst1 = format!("instance/{}", instance_uuid(1));
    assert_eq!(read(&[name(kind::INSTANCE, "inst1")]), [inst1.as_str()]);
    assert_eq!(read(&[name(kind::INSTANCE, "inst1.example.test")]), [inst1.as_str()]);
    assert_eq!(read(&[name(kind::INSTANCE, &instance_uuid(1).to_string())]), [inst1.as_str()]);
    assert!(read(&[name(kind::INSTANCE, "inst"), name(kind::NODE, "node9")]).is_empty());
    let slot1 = format!("slot/{}", instance_uuid(1));
    assert_eq!(read(&[ReadKey::InstancesOf(node_uuid(2))]), [inst1, slot1]);
    assert_eq!(read(&[ReadKey::Kind(kind::NODE.to_owned())]).len(), 2);
    let whole = [
        format!("slot/{}", instance_uuid(1)),
        format!("instance/{}", instance_uuid(1)),
        format!("node/{}", node_uuid(2)),
    ];
    assert_eq!(read(&[ReadKey::SlotWhole(instance_uuid(1))]), whole, "one that is in no pool");
    assert!(read(&[ReadKey::SlotWhole(instance_uuid(9))]).is_empty());
    assert!(c.read(&[name(kind::SLOT, "x")]).is_err());
    let twin = Command::InstanceAdd { instance: Box::new(instance(3, "inst1.example.other", 1)) };
    let _ = run(&mut c, &[twin]).unwrap();
    let error = c.read(&[name(kind::INSTANCE, "inst1")]).unwrap_err();
    assert!(error.to_string().contains("ambiguous: inst1.example.other, inst1.example.test"), "{error}");
}

#[test]
fn broken_stores_are_not_served() {
    let without = |kind: &str| seed().into_iter().filter(|object| object.kind != kind).collect::<Vec<_>>();
    for kind in [kind::META, kind::CLUSTER, kind::GROUP, kind::NODE] {
        assert!(Config::load(without(kind)).is_err(), "{kind}");
    }
    let mut misplaced = seed();
    misplaced[3].key = node_uuid(7).to_string();
    assert!(matches!(Config::load(misplaced), Err(LoadError::Misplaced { .. })));
    let mut slotless = seed();
    slotless.push(object(kind::INSTANCE, instance_uuid(1), &instance(1, "a", 1)));
    assert!(matches!(Config::load(slotless), Err(LoadError::Broken(_))));
    let mut twins = seed();
    twins.push(object(kind::GROUP, group_uuid(2), &group(2, "default")));
    assert!(matches!(Config::load(twins), Err(LoadError::Twice { .. })));
    let mut torn = seed();
    torn[1].body.truncate(20);
    assert!(matches!(Config::load(torn), Err(LoadError::Body { .. })));
}

#[test]
fn what_is_stored_loads_again() {
    let mut c = config();
    let _ = run_as(&mut c, Some((owner(1), 1)), &[add_node(2), add_group(2), add_instance(1, 2)]).unwrap();
    let again = Config::load(stored(&c)).unwrap();
    assert_eq!(stored(&again), stored(&c));
}

#[test]
fn what_an_instance_uses_is_not_disabled() {
    let mut c = config();
    let _ = run(&mut c, &[add_instance(1, 1)]).unwrap();
    for set in [json!({"enabled_disk_templates": ["rbd"]}), json!({"enabled_hypervisors": ["lxc"]})] {
        assert_eq!(refusal(run(&mut c, &[cluster_set(set)])), prereq("wrong_state"));
    }
    let remove = Command::InstanceRemove { instance: instance_uuid(1) };
    let _ = run(&mut c, &[remove, cluster_set(json!({"enabled_disk_templates": ["rbd"]}))]).unwrap();
}

#[test]
fn how_confd_answers_is_checked_and_forms_change_step_by_step() {
    let mut c = config();
    let mut digest = |word: &str| run(&mut c, &[cluster_set(json!({"confd_digest": word}))]).map(drop);
    for (word, good) in [
        ("sha3", false),
        ("both", true),
        ("sha1", true),
        ("sha256", false),
        ("both", true),
        ("sha256", true),
        ("sha1", false),
    ] {
        let done = digest(word);
        assert_eq!(done.is_ok(), good, "{word}: {done:?}");
    }
    for (set, good) in [
        (json!({"confd_allowed_networks": ["192.0.2.0/24", "2001:db8::/32", "198.51.100.7"]}), true),
        (json!({"confd_allowed_networks": ["192.0.2.0/33"]}), false),
        (json!({"confd_legacy_networks": ["here"]}), false),
        (json!({"confd_legacy_networks": []}), true),
        (json!({"confd_legacy_types": [0, 11]}), true),
        (json!({"confd_legacy_types": [12]}), false),
        (json!({"confd_legacy_types": ["1"]}), false),
        (json!({"confd_strict_ganeti": true, "confd_config_query": "local"}), true),
        (json!({"confd_config_query": "sometimes"}), false),
    ] {
        let done = run(&mut c, &[cluster_set(set.clone())]).map(drop);
        assert_eq!(done.is_ok(), good, "{set}: {done:?}");
    }
}
