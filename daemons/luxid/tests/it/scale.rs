//! What htools ask, at size.

use crate::cluster::{change, inputs, snapshot};
use gantry_luxid::core::luxi::{self, Request, Shape};
use gantry_luxid::core::mirror::Snapshot;
use gantry_model::config::kind;
use gantry_model::defaults::{self, ClusterSeed};
use gantry_model::ids::{ClusterUuid, NodeUuid};
use gantry_proto::wconfd::WatchChange;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

const INSTANCES: u128 = 10_000;
const NODES: u128 = 200;
/// Bound for a release build on a machine of two cores; debug builds only print their time.
const QUERY_TIME_MAX: Duration = Duration::from_millis(60);

fn uuid(section: u128, number: u128) -> String {
    Uuid::from_u128((section << 64) + number).to_string()
}

fn cluster() -> Arc<Snapshot> {
    let master = NodeUuid(uuid(1, 0).parse().unwrap());
    let seed = ClusterSeed {
        uuid: ClusterUuid(Uuid::nil()),
        name: "c".to_owned(),
        master_node: master,
        master_ip: String::new(),
        enabled_hypervisors: vec!["fake".to_owned()],
        now: 1.5,
    };
    let cluster = serde_json::to_value(defaults::cluster(seed)).unwrap();
    let mut chunk = vec![change(kind::CLUSTER, kind::CLUSTER_KEY, &cluster)];
    let group = defaults::group(uuid(2, 0).parse().unwrap(), "default", 1.0);
    chunk.push(change(kind::GROUP, &uuid(2, 0), &serde_json::to_value(group).unwrap()));
    chunk.extend((0..NODES).map(node));
    chunk.extend((0..INSTANCES).map(instance));
    snapshot(chunk)
}

fn node(n: u128) -> WatchChange {
    let body = json!({
        "uuid": uuid(1, n), "name": format!("node{n}.test"), "primary_ip": "192.0.2.1", "secondary_ip": "192.0.2.1",
        "master_candidate": false, "offline": false, "drained": false, "group": uuid(2, 0),
        "master_capable": true, "vm_capable": true, "powered": true,
        "serial_no": 1, "ctime": 1.0, "mtime": 1.0,
    });
    change(kind::NODE, &uuid(1, n), &body)
}

fn instance(n: u128) -> WatchChange {
    let body = json!({
        "uuid": uuid(3, n), "name": format!("inst{n}.test"), "primary_node": uuid(1, n % NODES), "os": "noop",
        "hypervisor": "fake", "beparams": { "maxmem": 64 }, "admin_state": "up", "admin_state_source": "admin",
        "disk_template": "file", "disks": [{ "uuid": "d", "size": 128, "mode": "rw" }],
        "tags": ["one", "two"], "serial_no": 1, "ctime": 1.0, "mtime": 1.0,
    });
    change(kind::INSTANCE, &uuid(3, n), &body)
}

fn ask(config: &Arc<Snapshot>, args: &Value) -> (Vec<u8>, usize) {
    let message = json!({ "method": "Query", "args": args }).to_string();
    let request: Request = luxi::parse(message.as_bytes()).unwrap();
    let (query, shape) = request.query().unwrap().unwrap();
    assert_eq!(shape, Shape::Full);
    let plan = query.plan(config).unwrap();
    let nodes = plan.needs().nodes.clone();
    let answer = plan.finish(inputs(&nodes, Vec::new())).unwrap();
    (luxi::success(&answer.full()), nodes.len())
}

#[test]
fn ten_thousand_instances_are_listed_for_htools_in_time() {
    let config = cluster();
    let fields = json!([
        "name",
        "disk_usage",
        "be/memory",
        "be/vcpus",
        "status",
        "pnode",
        "snodes",
        "tags",
        "be/auto_balance",
        "disk_template",
        "be/spindle_use",
        "disk.sizes",
        "disk.spindles",
        "forthcoming"
    ]);
    let args = json!(["instance", fields, null]);
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        let (bytes, asked) = ask(&config, &args);
        best = best.min(start.elapsed());
        assert_eq!(asked, usize::try_from(NODES).unwrap());
        let text = std::str::from_utf8(&bytes[..bytes.len() - 1]).unwrap();
        let answer: Value = serde_json::from_str(text).unwrap();
        let data = answer["result"]["data"].as_array().unwrap();
        assert_eq!(data.len(), usize::try_from(INSTANCES).unwrap());
        assert_eq!(
            data[10],
            json!([
                [0, "inst10.test"],
                [0, 128],
                [0, 64],
                [0, 1],
                [0, "ERROR_down"],
                [0, "node10.test"],
                [0, []],
                [0, ["one", "two"]],
                [0, true],
                [0, "file"],
                [0, 1],
                [0, [128]],
                [0, [null]],
                [0, false]
            ])
        );
    }
    println!("14 fields of {INSTANCES} instances: {best:?}");
    assert!(cfg!(debug_assertions) || best < QUERY_TIME_MAX, "{best:?}");
}

#[test]
fn a_query_of_configuration_asks_no_node() {
    let config = cluster();
    let count = |args: Value| ask(&config, &args).1;
    assert_eq!(count(json!(["instance", ["name", "pnode", "tags"], null])), 0);
    assert_eq!(count(json!(["instance", ["name"], ["=~", "name", "^inst7"]])), 0);
    assert_eq!(count(json!(["node", ["name", "pinst_cnt"], null])), 0);
    // A filter on a live field asks those that the rest of the filter leaves.
    let filter = json!(["&", ["==", "status", "ERROR_down"], ["==", "pnode", "node7"]]);
    assert_eq!(count(json!(["instance", ["name"], filter])), 1);
    assert_eq!(
        count(json!(["node", ["name", "mfree"], ["|", ["==", "name", "node7"], ["==", "name", "node8"]]])),
        2
    );
}
