//! What the check of a submitted opcode refuses and lets pass, and what becomes of secrets.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use gantry_model::opcode::{OP_BYTES_MAX, REDACTED, check, is_redacted, redact, restore};
use serde_json::{Map, Value, json};

fn refused(op: Value) -> String {
    check(&op).map(|_| ()).unwrap_err().to_string()
}

fn delay(more: Value) -> Value {
    with(json!({"OP_ID": "OP_TEST_DELAY", "duration": 1.0}), more)
}

fn create(more: Value) -> Value {
    let op = json!({"OP_ID": "OP_INSTANCE_CREATE", "instance_name": "i", "mode": "create", "disks": [], "nics": [{}]});
    with(op, more)
}

fn set_params(more: Value) -> Value {
    with(json!({"OP_ID": "OP_INSTANCE_SET_PARAMS", "instance_name": "i"}), more)
}

fn with(mut op: Value, more: Value) -> Value {
    op.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    op
}

fn passes(op: &Value) -> Map<String, Value> {
    check(op).unwrap_or_else(|e| panic!("{op}: {e}"))
}

#[test]
fn errors_name_opcode_parameter_given_and_accepted() {
    let cases = [
        (json!([1]), "opcode is list of 1 elements, accepted is an object with the key 'OP_ID'"),
        (json!({"a": 1}), "key 'OP_ID' not found, object contains only [\"a\"]"),
        (
            json!({"OP_ID": "OP_TEST_DELAY", "repeat": 1}),
            "OP_TEST_DELAY: key 'duration' not found (number), object contains only [\"OP_ID\",\"repeat\"]",
        ),
        (delay(json!({"duration": null})), "OP_TEST_DELAY: parameter 'duration' is null, accepted is number"),
        (
            delay(json!({"duration": "4"})),
            "OP_TEST_DELAY: parameter 'duration' is string \"4\", accepted is number",
        ),
        (
            delay(json!({"repeat": -1})),
            "OP_TEST_DELAY: parameter 'repeat' is number -1, accepted is integer from 0",
        ),
        (
            delay(json!({"repeat": 1.0})),
            "OP_TEST_DELAY: parameter 'repeat' is number 1.0, accepted is integer from 0",
        ),
        (
            delay(json!({"priority": 5})),
            "OP_TEST_DELAY: parameter 'priority' is number 5, accepted is one of -10|0|10",
        ),
        (
            delay(json!({"on_nodes": ["a", ""]})),
            "OP_TEST_DELAY: parameter 'on_nodes[1]' is string \"\", accepted is non-empty string",
        ),
        (
            create(json!({"disks": [{"size": "1G"}]})),
            "OP_INSTANCE_CREATE: parameter 'disks[0].size' is string \"1G\", accepted is integer from 0",
        ),
        (
            set_params(json!({"nics": [["add", -1, {"linc": "br0"}]]})),
            "OP_INSTANCE_SET_PARAMS: parameter 'nics[0][2]' is key string \"linc\", \
             accepted is key: one of bridge|ip|link|mac|mode|name|network|vlan",
        ),
    ];
    for (op, text) in cases {
        assert_eq!(refused(op), text);
    }
    let superfluous = refused(delay(json!({"bogus": 1})));
    let wanted = "OP_TEST_DELAY: Superfluous dictionary keys: [\"bogus\"], but only [\"duration\",";
    assert!(superfluous.starts_with(wanted), "{superfluous}");
}

#[test]
fn a_null_for_a_default_is_the_default() {
    let op = passes(&delay(json!({"repeat": null, "on_master": null, "reason": null, "priority": null})));
    assert_eq!(op["repeat"], json!(0));
    assert_eq!(op["on_master"], json!(true));
    assert_eq!(op["reason"], json!([]));
    assert_eq!(op["priority"], json!(0));
}

#[test]
fn dependencies() {
    let op =
        passes(&delay(json!({"depends": [[12, []], [-1, ["success", "error"]], ["0017", ["canceled"]]]})));
    assert_eq!(op["depends"], json!([[12, []], [-1, ["success", "error"]], [17, ["canceled"]]]));
    for bad in
        [json!([["-1", []]]), json!([["x", []]]), json!([[1]]), json!([[1.5, []]]), json!([[1, ["queued"]]])]
    {
        refused(delay(json!({ "depends": bad })));
    }
}

#[test]
fn our_hypervisors_pass_beside_ganetis() {
    for name in ["openvz", "oci", "lxc", "fake"] {
        passes(&create(json!({ "hypervisor": name })));
        passes(&json!({"OP_ID": "OP_CLUSTER_SET_PARAMS", "enabled_hypervisors": [name]}));
    }
    assert!(refused(create(json!({"hypervisor": "vmware"}))).contains("openvz|oci"));
}

#[test]
fn disks_and_nics() {
    for good in [
        json!([{"size": 1024}]),
        json!([{"adopt": "lv1"}]),
        json!([{"size": 1, "mode": "ro", "name": null, "provider": "p", "own_key": [1]}]),
    ] {
        passes(&create(json!({ "disks": good })));
    }
    for bad in [
        json!([{}]),
        json!([{"size": -1}]),
        json!([{"size": null}]),
        json!([{"size": 1, "mode": "x"}]),
        json!({}),
    ] {
        refused(create(json!({ "disks": bad })));
    }
    passes(&create(json!({"nics": [{}, {"ip": "pool", "vlan": null, "link": "br0"}]})));
    refused(create(json!({"nics": [{"vlan": 3}]})));
}

#[test]
fn changes_of_disks_and_nics() {
    for good in [
        json!([["add", -1, {"size": 10}], ["remove", "data", {}], ["modify", 0, {"mode": "ro"}]]),
        json!([["add", {"size": 10}], [0, {}], ["attach", {"name": "d"}]]),
    ] {
        passes(&set_params(json!({ "disks": good })));
    }
    for bad in [
        json!([["grow", 0, {}]]),
        json!([["add", -2, {}]]),
        json!([["add", "", {}]]),
        json!([["add", 0, []]]),
        json!([["add"]]),
        json!([[-2, {}]]),
        json!([["add", 0, {"size": "x"}]]),
    ] {
        refused(set_params(json!({ "disks": bad })));
    }
}

#[test]
fn addresses() {
    let network =
        |more| with(json!({"OP_ID": "OP_NETWORK_ADD", "network_name": "n", "network": "10.0.0.0/8"}), more);
    passes(&network(json!({"gateway": "10.0.0.1", "network6": "fd00::/64", "gateway6": "fd00::1"})));
    for bad in [
        json!({"network": "10.0.0.0"}),
        json!({"network": "10.0.0.0/33"}),
        json!({"network": "10.0.0.0/+8"}),
        json!({"gateway": "10.0.0"}),
        json!({"network6": "fd00::/129"}),
        json!({"add_reserved_ips": ["x"]}),
    ] {
        refused(network(bad));
    }
}

#[test]
fn the_size_is_limited_before_and_after_filling_in() {
    let op = |chars: usize| delay(json!({"comment": "x".repeat(chars)}));
    passes(&op(OP_BYTES_MAX - 1000));
    let text = refused(op(OP_BYTES_MAX));
    assert_eq!(text, format!("OP_TEST_DELAY: opcode is larger than {OP_BYTES_MAX} bytes of JSON"));
    // Small enough as given, too large with the defaults.
    let bare = op(0).to_string().len();
    refused(op(OP_BYTES_MAX - bare));
}

#[test]
fn error_texts_are_bounded() {
    let long = "k".repeat(10_000);
    let many: Map<String, Value> =
        (0..5000).map(|i| (format!("{i}{long}")[..100].to_owned(), json!(1))).collect();
    for op in [
        json!({ "OP_ID": long }),
        json!({ &long: 1 }),
        delay(json!({ "on_nodes": long })),
        delay(Value::Object(many)),
        json!({"OP_ID": "OP_CLUSTER_SET_PARAMS", "diskparams": {&long: {}}}),
    ] {
        assert!(refused(op).len() < 12_000);
    }
}

#[test]
fn errors_do_not_repeat_secrets() {
    let wrong = [
        create(json!({"osparams_secret": "hunter2"})),
        json!({"OP_ID": "OP_CLUSTER_SET_PARAMS", "osparams_private_cluster": {"os": "hunter2"}}),
        json!({"OP_ID": "OP_CLUSTER_SET_PARAMS", "osparams_private_cluster": ["hunter2"]}),
        json!({"OP_ID": "OP_NODE_ADD", "node_name": "n", "join_secret": ["hunter2"]}),
        json!({"OP_ID": "OP_NODE_ADD", "node_name": "n", "join_secret": 4711}),
        delay(json!({"join_secret": "hunter2"})),
    ];
    for op in wrong {
        let text = refused(op);
        assert!(!text.contains("hunter2") && !text.contains("4711"), "{text}");
    }
}

/// Redacts, sees that nothing of the secret is left, restores.
fn comes_back(op: &Map<String, Value>, secrets: usize) -> Map<String, Value> {
    let mut stored = op.clone();
    let taken = redact(&mut stored);
    assert_eq!(taken.len(), secrets);
    let text = format!("{} {taken:?}", Value::Object(stored.clone()));
    assert!(!text.contains("hunter2"), "{text}");
    assert_eq!(is_redacted(&stored), secrets > 0);
    assert!(redact(&mut stored.clone()).is_empty(), "nothing is left to take");
    let sent: Vec<_> = serde_json::from_str(&serde_json::to_string(&taken).unwrap()).unwrap();
    let mut back = stored.clone();
    restore(&mut back, &sent);
    assert_eq!(&back, op);
    stored
}

#[test]
fn secrets_of_each_form_are_taken_and_come_back() {
    let op = passes(&create(json!({
        "osparams_private": {"a/b~c": "hunter2", "none": null, "": 0},
        "osparams_secret": {"deep": {"x": ["hunter2"]}},
    })));
    let stored = comes_back(&op, 3);
    assert_eq!(stored["osparams_private"], json!({"a/b~c": REDACTED, "none": null, "": REDACTED}));
    assert_eq!(stored["osparams_secret"], json!({"deep": REDACTED}));
    assert_eq!(passes(&Value::Object(stored.clone())), stored, "a stored opcode still passes");

    let op = json!({"OP_ID": "OP_CLUSTER_SET_PARAMS", "osparams_private_cluster": {"os": {"k": "hunter2"}}});
    let stored = comes_back(&passes(&op), 1);
    assert_eq!(stored["osparams_private_cluster"], json!({"os": {"k": REDACTED}}));

    let op = json!({"OP_ID": "OP_NODE_ADD", "node_name": "n", "join_secret": "hunter2"});
    assert_eq!(comes_back(&passes(&op), 1)["join_secret"], json!(REDACTED));
    comes_back(&passes(&json!({"OP_ID": "OP_NODE_ADD", "node_name": "n"})), 0);
}

#[test]
fn secrets_inside_other_opcodes_are_taken_too() {
    let inner = create(json!({"osparams_secret": {"k": "hunter2"}}));
    let op = passes(&json!({"OP_ID": "OP_INSTANCE_MULTI_ALLOC", "instances": [inner.clone(), inner]}));
    let stored = comes_back(&op, 2);
    assert_eq!(stored["instances"][1]["osparams_secret"]["k"], json!(REDACTED));
}

#[test]
fn opcodes_that_would_not_pass_do_not_leak() {
    let op = json!({"OP_ID": "OP_NO_SUCH", "osparams_secret": ["hunter2"], "osparams_private_cluster": {"os": "hunter2"}});
    comes_back(op.as_object().unwrap(), 2);
}

#[test]
fn restore_touches_redacted_places_only() {
    let op = passes(&create(json!({"osparams_secret": {"k": "old"}})));
    let mut stored = op.clone();
    let taken = redact(&mut stored);
    let mut other = passes(&create(json!({"osparams_secret": {"k": "new"}})));
    let before = other.clone();
    restore(&mut other, &taken);
    assert_eq!(other, before);
}
