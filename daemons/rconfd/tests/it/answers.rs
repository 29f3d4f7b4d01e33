//! Each type of request, each of its errors (`spec/confd.md` §4).

use crate::objects::{changed, cluster, instance_uuid, node_uuid, row, rows, snapshot};
use gantry_confd::Form::{self, Legacy, Second};
use gantry_confd::{Kind, MasterField, Query, Selection};
use gantry_model::config::kind;
use gantry_rconfd::core::answer::{Answer, answer};
use gantry_rconfd::core::snapshot::{Invalid, Snapshot};
use serde_json::{Value, json};
use uuid::Uuid;

fn text(text: &str) -> Query {
    Query::Text(text.to_owned())
}

fn ask(form: Form, kind: Kind, query: &Query) -> (bool, Value, u64) {
    of(&snapshot(&rows()), form, kind, query)
}

fn of(snapshot: &Snapshot, form: Form, kind: Kind, query: &Query) -> (bool, Value, u64) {
    let Answer { ok, text, serial } = answer(snapshot, form, kind, query);
    assert!(text.is_ascii(), "{text}");
    assert!(!text.contains("geheim"), "a secret left: {text}");
    (ok, serde_json::from_str(&text).unwrap(), serial)
}

fn legacy(kind: Kind, query: Query) -> (bool, Value, u64) {
    ask(Legacy, kind, &query)
}

fn says(answer: &(bool, Value, u64)) -> bool {
    !answer.0 && answer.1.is_string() && answer.2 == 0
}

const UNKNOWN: u32 = 0;
const ARGUMENT: u32 = 2;

fn code(code: u32) -> (bool, Value, u64) {
    (false, json!(code), 0)
}

#[test]
fn ping_and_lists_of_addresses() {
    assert_eq!(legacy(Kind::Ping, text("ignored")), (true, json!(3_000_000), 0));
    assert_eq!(
        legacy(Kind::NodeIps, Query::Null),
        (true, json!(["192.0.2.1", "192.0.2.2", "192.0.2.3"]), 40)
    );
    assert_eq!(legacy(Kind::CandidateIps, Query::Null), (true, json!(["192.0.2.1", "192.0.2.2"]), 40));
}

#[test]
fn roles_of_nodes() {
    for (name, role) in
        [("node1.example.test", 0), ("node2", 1), ("node3.example", 2), (&node_uuid(2).to_string(), 1)]
    {
        assert_eq!(legacy(Kind::NodeRole, text(name)), (true, json!(role), 40), "{name}");
    }
    let mut rows = rows();
    rows[4] = changed(&changed(&rows[4], "master_candidate", json!(false)), "drained", json!(true));
    assert_eq!(of(&snapshot(&rows), Legacy, Kind::NodeRole, &text("node2")).1, 3);
    rows[4] = changed(&rows[4], "drained", json!(false));
    assert_eq!(of(&snapshot(&rows), Legacy, Kind::NodeRole, &text("node2")).1, 4);
    for query in [Query::Null, text(""), text("node"), text("node9"), Query::Object(Selection::default())] {
        assert!(says(&legacy(Kind::NodeRole, query.clone())), "{query:?}");
    }
}

#[test]
fn nodes_by_addresses_of_instances() {
    let one = |link: Option<&str>, ip: &str| {
        let selection =
            Selection { link: link.map(str::to_owned), ip: Some(ip.to_owned()), ..Selection::default() };
        legacy(Kind::NodeByInstanceIp, Query::Object(selection))
    };
    // An interface without a link is on the default one, as is one that names it.
    assert_eq!(one(None, "198.51.100.1"), (true, json!("192.0.2.1"), 40));
    assert_eq!(one(Some("br0"), "198.51.100.1"), (true, json!("192.0.2.1"), 40));
    assert_eq!(one(None, "198.51.100.2"), (true, json!("192.0.2.2"), 40));
    assert_eq!(one(Some("br1"), "198.51.100.9"), (true, json!("192.0.2.2"), 40));
    for (link, ip) in
        [(None, "198.51.100.9"), (Some("br1"), "198.51.100.1"), (Some("br9"), "198.51.100.1"), (None, "")]
    {
        assert_eq!(one(link, ip), code(UNKNOWN), "{link:?} {ip}");
    }
    let ips = ["198.51.100.2", "198.51.100.7", "198.51.100.1"].map(str::to_owned).to_vec();
    let list = Query::Object(Selection { ips, ..Selection::default() });
    let want = json!([[0, "192.0.2.2", 40], [1, 0, 0], [0, "192.0.2.1", 40]]);
    assert_eq!(legacy(Kind::NodeByInstanceIp, list), (true, want, 40));
    assert_eq!(legacy(Kind::NodeByInstanceIp, Query::Object(Selection::default())), (true, json!([]), 40));
    for query in [Query::Null, text("198.51.100.1")] {
        assert_eq!(legacy(Kind::NodeByInstanceIp, query), code(ARGUMENT));
    }
}

#[test]
fn the_master() {
    assert_eq!(legacy(Kind::Master, Query::Null), (true, json!("node1.example.test"), 40));
    let fields = |fields: &[MasterField]| {
        legacy(Kind::Master, Query::Object(Selection { fields: fields.to_vec(), ..Selection::default() }))
    };
    let all = [MasterField::NodeIp, MasterField::Name, MasterField::ClusterIp, MasterField::Name];
    let want = json!(["192.0.2.1", "node1.example.test", "192.0.2.100", "node1.example.test"]);
    assert_eq!(fields(&all), (true, want, 40));
    assert_eq!(fields(&[]), (true, json!([]), 40));
    assert_eq!(legacy(Kind::Master, text("x")), code(ARGUMENT));
}

#[test]
fn addresses_on_links() {
    let both = (true, json!(["198.51.100.1", "198.51.100.2"]), 40);
    assert_eq!(legacy(Kind::InstanceIps, Query::Null), both);
    assert_eq!(legacy(Kind::InstanceIps, text("br0")), both);
    assert_eq!(legacy(Kind::InstanceIps, text("br1")), (true, json!(["198.51.100.9"]), 40));
    assert_eq!(legacy(Kind::InstanceIps, text("br9")), (true, json!([]), 40));
    assert!(says(&legacy(Kind::InstanceIps, Query::Object(Selection::default()))));
}

#[test]
fn instances_of_a_node_have_ganetis_keys_and_no_others() {
    let (ok, lists, serial) = legacy(Kind::Instances, text("node1"));
    assert!(ok && serial == 11 && lists[1] == json!([]));
    assert_eq!(lists[0].as_array().unwrap().len(), 2);
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let want = [
        "admin_state",
        "admin_state_source",
        "beparams",
        "ctime",
        "disks",
        "disks_active",
        "hvparams",
        "hypervisor",
        "mtime",
        "name",
        "nics",
        "os",
        "osparams",
        "osparams_private",
        "primary_node",
        "serial_no",
        "tags",
        "uuid",
    ];
    let one = &lists[0][0];
    assert_eq!(keys(one), want);
    assert_eq!(keys(&one["nics"][0]), ["ip", "mac", "nicparams", "uuid"]);
    assert_eq!((&one["osparams_private"], &one["primary_node"]), (&json!({}), &json!(node_uuid(1))));
    let (_, lists, _) = ask(Second, Kind::Instances, &text("node1"));
    assert_eq!((&lists[0][1]["pool"], &lists[0][1]["forthcoming"]), (&json!("py"), &json!(true)));
    assert_eq!(legacy(Kind::Instances, text("node3")), (true, json!([[], []]), 13));
    for query in [Query::Null, text("nosuch"), Query::Object(Selection::default())] {
        assert!(says(&legacy(Kind::Instances, query.clone())) && says(&legacy(Kind::Minors, query)));
    }
    assert_eq!(legacy(Kind::Minors, text("node2")), (true, json!([]), 12));
}

#[test]
fn what_ganetis_decoders_do_not_know_is_left_out_when_asked_for() {
    let mut rows = rows();
    rows[1] = changed(&rows[1], "confd_strict_ganeti", json!(true));
    let strict = snapshot(&rows);
    let count = |form| of(&strict, form, Kind::Instances, &text("node1")).1[0].as_array().unwrap().len();
    assert_eq!((count(Legacy), count(Second)), (1, 2));
    let pointer = text(&format!("/instances/{}/name", instance_uuid(3)));
    assert_eq!(of(&strict, Legacy, Kind::Config, &pointer), code(ARGUMENT));
    assert_eq!(of(&strict, Second, Kind::Config, &pointer).1, "py-1");
    assert!(says(&of(&strict, Legacy, Kind::Disks, &text("py-1"))));
}

#[test]
fn disks_of_an_instance() {
    let (ok, list, serial) = legacy(Kind::Disks, text("inst1.example.test"));
    assert!(ok && serial == 101);
    let keys: Vec<&str> = list[0].as_object().unwrap().keys().map(String::as_str).collect();
    let want = [
        "children",
        "ctime",
        "dev_type",
        "iv_name",
        "logical_id",
        "mode",
        "mtime",
        "nodes",
        "params",
        "serial_no",
        "size",
        "uuid",
    ];
    assert_eq!(keys, want);
    assert_eq!((&list[0]["iv_name"], &list[0]["nodes"]), (&json!("disk/0"), &json!([node_uuid(1)])));
    assert_eq!(legacy(Kind::Disks, text(&instance_uuid(1).to_string())).1, list);
    assert_eq!(legacy(Kind::Disks, text("inst1")).1, list, "a name may be short");
    assert_eq!(legacy(Kind::Disks, text("py-1")), (true, json!([]), 103));
    for query in [Query::Null, text("inst"), text("inst9"), Query::Object(Selection::default())] {
        assert!(says(&legacy(Kind::Disks, query)));
    }
}

#[test]
fn parts_of_the_configuration_by_pointer() {
    let at = |form, pointer: &str| ask(form, Kind::Config, &text(pointer));
    let instance = format!("/instances/{}", instance_uuid(1));
    let disk = Uuid::from_u128(0x9001).to_string();
    for (pointer, want) in [
        ("/version".to_owned(), json!(3_000_000)),
        ("/serial_no".to_owned(), json!(77)),
        ("/cluster/cluster_name".to_owned(), json!("c.example.test")),
        ("/cluster/tags/0".to_owned(), json!("ä😀")),
        ("/cluster/nicparams/default/link".to_owned(), json!("br0")),
        (format!("/nodes/{}/primary_ip", node_uuid(2)), json!("192.0.2.2")),
        (format!("{instance}/nics/0/ip"), json!("198.51.100.1")),
        (format!("/disks/{disk}/size"), json!(64)),
        // Secrets are not there, nor what is in them.
        ("/cluster/osparams_private_cluster".to_owned(), json!({})),
        ("/cluster/candidate_certs".to_owned(), json!({})),
        ("/cluster/rsahostkeypub".to_owned(), json!("")),
        (format!("{instance}/osparams_private"), json!({})),
    ] {
        for form in [Legacy, Second] {
            assert_eq!(at(form, &pointer), (true, want.clone(), 40), "{pointer}");
        }
    }
    for pointer in [
        "",
        "/",
        "cluster",
        "/nosuch",
        "/cluster/",
        "/cluster//x",
        "/cluster/tags/1",
        "/cluster/tags/00",
        "/cluster/tags/-",
        "/cluster/tags/+0",
        "/version/x",
        "/cluster/~2",
        "/cluster/~",
        "/instances/x",
        "/disks/x",
        "/cluster/osparams_private_cluster/os",
        "/cluster/confd_strict_ganeti",
        "/pools",
        "/instances/x/y",
    ] {
        assert_eq!(at(Legacy, pointer), code(ARGUMENT), "{pointer}");
    }
    assert_eq!(legacy(Kind::Config, Query::Null), code(ARGUMENT));
    // What only Gantry has is there in its own form.
    assert_eq!(at(Second, "/cluster/confd_strict_ganeti").1, false);
    assert_eq!(at(Second, &format!("/pools/{}/name", Uuid::from_u128(5))).1, "py");
    // Whole parts.
    assert_eq!(at(Legacy, "/nodes").1.as_object().unwrap().len(), 3);
    assert_eq!(at(Legacy, "/instances").1.as_object().unwrap().len(), 3);
    assert_eq!(at(Legacy, "/disks").1.as_object().unwrap().len(), 2);
    assert_eq!(at(Legacy, "/nodegroups").1.as_object().unwrap().len(), 1);
    assert_eq!(
        at(Legacy, "/nodegroups").1.as_object().unwrap().values().next().unwrap()["members"],
        json!([])
    );
    assert_eq!(at(Legacy, &format!("/nodes/{}/noded_port", node_uuid(1))), code(ARGUMENT), "Gantry's alone");
    // Escapes of the pointer itself.
    let mut cluster = cluster();
    cluster.hvparams.insert("a/b~c".to_owned(), gantry_model::config::Params::new());
    let mut rows = rows();
    rows[1] = row(kind::CLUSTER, kind::CLUSTER_KEY, &cluster);
    assert_eq!(of(&snapshot(&rows), Legacy, Kind::Config, &text("/cluster/hvparams/a~1b~0c")).1, json!({}));
}

#[test]
fn collectors_are_told_exactly() {
    let (ok, all, serial) = legacy(Kind::Collectors, text("ignored"));
    assert!(ok && serial == 40);
    let names: Vec<&str> = all.as_object().unwrap().keys().map(String::as_str).collect();
    let mut want = gantry_model::collector::COLLECTORS.map(|collector| collector.name);
    want.sort_unstable();
    assert_eq!(names, want);
    let ganetis = ["cpu-avg-load", "diskstats", "drbd", "inst-status-xen", "lv", "xen-cpu-avg-load"];
    assert!(ganetis.iter().all(|name| names.contains(name)));
    assert_eq!(all["cpu-avg-load"], json!({"active": true, "interval": 5_000_000}));
    assert_eq!(all["inst-status-xen"]["active"], false, "there is no Xen");
    // Ganeti writes floats; what is no number is the default.
    let mut rows = rows();
    let set = json!({"lv": {"active": false, "interval": 2.5e6}, "drbd": {"interval": 1}, "diskstats": {"interval": "x"}});
    rows[1] = changed(&rows[1], "data_collectors", set);
    let (_, all, _) = of(&snapshot(&rows), Legacy, Kind::Collectors, &Query::Null);
    assert_eq!(all["lv"], json!({"active": false, "interval": 2_500_000}));
    assert_eq!(all["drbd"]["interval"], 100_000, "what nobody can do is cut to what can be done");
    assert_eq!(all["diskstats"], json!({"active": true, "interval": 5_000_000}));
}

#[test]
fn pools_slots_and_leases() {
    let ask = |kind, query| ask(Second, kind, &query);
    let (ok, pools, serial) = ask(Kind::Pools, Query::Null);
    assert!(ok && serial == 500, "as fresh as the log");
    assert_eq!((&pools[0]["name"], &pools[0]["slots"]), (&json!("py"), &json!({"LEASED": 1})));
    let (_, slots, _) = ask(Kind::Slots, text("py"));
    assert_eq!(
        (&slots[0]["name"], &slots[0]["node"], &slots[0]["state"]),
        (&json!("py-1"), &json!("node1.example.test"), &json!("LEASED"))
    );
    assert_eq!(ask(Kind::Slots, text("nosuch")), code(UNKNOWN));
    assert_eq!(ask(Kind::Slots, Query::Null), code(ARGUMENT));
    let (_, leases, _) = ask(Kind::Leases, Query::Null);
    assert_eq!((&leases[0]["pool"], &leases[0]["state"]), (&json!("py"), &json!("active")));
    assert_eq!(ask(Kind::Leases, text(&Uuid::from_u128(7).to_string())).1, leases[0]);
    assert_eq!(ask(Kind::Leases, text("nosuch")), code(UNKNOWN));
}

#[test]
fn an_answer_too_long_is_an_error_and_costs_no_more_than_a_long_one() {
    let mut rows = rows();
    for number in 10..500 {
        rows.push(row(
            kind::INSTANCE,
            instance_uuid(number),
            &crate::objects::instance(number, 1, Vec::new()),
        ));
    }
    let large = snapshot(&rows);
    for (kind, query) in [(Kind::Instances, "node1"), (Kind::Config, "/instances")] {
        assert_eq!(of(&large, Legacy, kind, &text(query)), (false, json!(1), 0), "{query}");
    }
    assert!(of(&large, Legacy, Kind::Config, &text(&format!("/instances/{}", instance_uuid(499)))).0);
}

#[test]
fn without_a_configuration_every_question_has_the_same_answer() {
    let none = Snapshot::default();
    assert_eq!(none.check(), Err(Invalid::Missing("meta")));
    let said = answer(&none, Legacy, Kind::Ping, &Query::Null);
    assert!(!said.ok && said.serial == 0 && !said.text.contains('/'), "names no file: {}", said.text);
    assert!(Kind::ALL.iter().all(|(kind, ..)| answer(&none, Second, *kind, &Query::Null) == said));
    let mut all = snapshot(&rows());
    assert_eq!(all.check(), Ok(()));
    all.change(kind::NODE, &node_uuid(1).to_string(), None).unwrap();
    assert_eq!(all.check(), Err(Invalid::Master));
}
