//! The cluster of the samples, rebuilt from its `config.data` and the numbers in the answers.

use gantry_luxid::core::mirror::{Mirror, Snapshot};
use gantry_luxid::core::query::{Inputs, LiveFacts};
use gantry_model::config::kind;
use gantry_model::ids::NodeUuid;
use gantry_model::job::{Job, OpState, Phase, Status};
use gantry_model::time::Ts;
use gantry_proto::noded::NodeInfoReply;
use gantry_proto::wconfd::{WatchChange, WatchItem};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use uuid::Uuid;

/// Where the samples lie.
pub fn golden(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/ganeti").join(path)
}

/// One object of the watch stream.
pub fn change(kind: &str, key: &str, body: &Value) -> WatchChange {
    WatchChange { kind: kind.to_owned(), key: key.to_owned(), rev: 1, body: Some(body.to_string()) }
}

/// A snapshot of these objects.
pub fn snapshot(chunk: Vec<WatchChange>) -> Arc<Snapshot> {
    let mut mirror = Mirror::new();
    mirror.apply(&WatchItem::Reset { index: 1, history: Uuid::nil() }).unwrap();
    mirror.apply(&WatchItem::Chunk(chunk)).unwrap();
    mirror.apply(&WatchItem::Loaded).unwrap();
    mirror.snapshot()
}

/// The sample cluster.
pub fn sample() -> Arc<Snapshot> {
    let text = std::fs::read_to_string(golden("files/config.data.json")).unwrap();
    let data: Value = serde_json::from_str(&text).unwrap();
    let mut chunk = vec![change(kind::CLUSTER, kind::CLUSTER_KEY, &data["cluster"])];
    for (section, kind) in [("nodes", kind::NODE), ("nodegroups", kind::GROUP), ("instances", kind::INSTANCE)]
    {
        for (key, object) in data[section].as_object().unwrap() {
            let mut object = object.clone();
            if kind == kind::INSTANCE {
                // Ganeti derives it from the disks.
                object["disk_template"] = json!("diskless");
            }
            chunk.push(change(kind, key, &object));
        }
    }
    snapshot(chunk)
}

/// What a node of the sample cluster reported.
pub fn info(node: NodeUuid) -> NodeInfoReply {
    NodeInfoReply {
        node,
        release: String::new(),
        boot_id: "b".to_owned(),
        memory_total_mib: 24105,
        memory_host_mib: 2974,
        memory_free_mib: 21896,
        cpus: 2,
        cpus_host: 2,
        numa_nodes: 1,
        sockets: 1,
        disk_total_mib: 258_019,
        disk_free_mib: 68255,
        drivers: vec!["fake".to_owned()],
        vms: Vec::new(),
    }
}

/// Job 340 of the samples.
pub fn job_340(archived: bool) -> Arc<Job> {
    let input: Map<String, Value> =
        serde_json::from_value(json!({ "OP_ID": "OP_TEST_DELAY", "duration": 1e-06 })).unwrap();
    let op = OpState { status: Status::Success, ..OpState::new(input) };
    Arc::new(Job {
        id: "340".parse().unwrap(),
        ops: vec![op],
        received_timestamp: Ts(1_795_175_515, 443_677),
        start_timestamp: Some(Ts(1_795_175_516, 79_592)),
        end_timestamp: Some(Ts(1_795_175_516, 508_621)),
        phase: Phase::Ended,
        archived,
        had_secrets: false,
        process_id: None,
        seen_w: 0,
        class: gantry_model::job::Class::default(),
        key: None,
        attempt: None,
    })
}

/// What the shell would fetch for a plan.
pub fn inputs(nodes: &[NodeUuid], jobs: Vec<Arc<Job>>) -> Inputs {
    let live = LiveFacts::new(nodes.iter().map(|node| (*node, Ok(info(*node)))));
    Inputs { live, jobs, ..Inputs::default() }
}
