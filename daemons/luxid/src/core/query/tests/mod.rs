//! Queries over a small made-up cluster.

mod filters;
mod instances;
mod pools;
mod rules;

use super::{Answer, Filter, Inputs, Kind, LiveFacts, Query, Unreachable};
use crate::core::mirror::{Mirror, Snapshot};
use gantry_model::config::{AdminState, Instance, Node, Params, Slot, SlotState, Stamp, kind};
use gantry_model::defaults::{self, ClusterSeed};
use gantry_model::error::GanetiError;
use gantry_model::ids::{ClusterUuid, Generation, GroupUuid, InstanceUuid, NodeUuid};
use gantry_proto::noded::{NodeInfoReply, VmFacts};
use gantry_proto::wconfd::{WatchChange, WatchItem};
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::Arc;
use uuid::Uuid;

/// Uuids: nodes 1…, groups 100…, instances 200….
fn uuid(number: u8) -> Uuid {
    Uuid::from_u128(u128::from(number))
}

fn put<T: Serialize>(kind: &str, key: &str, body: &T) -> WatchChange {
    let body = Some(serde_json::to_string(body).unwrap());
    WatchChange { kind: kind.to_owned(), key: key.to_owned(), rev: 1, body }
}

fn node(number: u8, name: &str) -> Node {
    Node {
        uuid: NodeUuid(uuid(number)),
        name: name.to_owned(),
        primary_ip: format!("192.0.2.{number}"),
        secondary_ip: format!("192.0.2.{number}"),
        master_candidate: number == 2,
        offline: number == 4,
        drained: number == 3,
        group: GroupUuid(uuid(100)),
        master_capable: true,
        vm_capable: true,
        ndparams: Params::new(),
        powered: true,
        noded_port: 1,
        stamp: Stamp::new(10.0),
        extra: Params::new(),
    }
}

fn instance(number: u8, name: &str, home: u8) -> Instance {
    Instance {
        uuid: InstanceUuid(uuid(number)),
        name: name.to_owned(),
        primary_node: NodeUuid(uuid(home)),
        os: "noop+default".to_owned(),
        hypervisor: "fake".to_owned(),
        hvparams: Params::new(),
        beparams: Params::new(),
        osparams: Params::new(),
        admin_state: AdminState::Up,
        admin_state_source: "admin".to_owned(),
        nics: vec![],
        disk_template: "diskless".to_owned(),
        disks: vec![],
        forthcoming: false,
        pool: None,
        stamp: Stamp::new(20.0),
        extra: Params::new(),
    }
}

fn slot(number: u8, home: u8, state: SlotState) -> Slot {
    Slot { generation: Generation(7), state, ..Slot::new(InstanceUuid(uuid(number)), NodeUuid(uuid(home))) }
}

/// The cluster, node1.test to node10.test (2 candidate, 3 drained, 4 offline, 1 master), one group.
fn base() -> Vec<WatchChange> {
    let seed = ClusterSeed {
        uuid: ClusterUuid(uuid(255)),
        name: "c.test".to_owned(),
        master_node: NodeUuid(uuid(1)),
        master_ip: String::new(),
        enabled_hypervisors: vec!["fake".to_owned()],
        now: 5.0,
    };
    let group = defaults::group(GroupUuid(uuid(100)), "default", 1.0);
    let mut all = vec![put(kind::CLUSTER, kind::CLUSTER_KEY, &defaults::cluster(seed))];
    all.push(put(kind::GROUP, &uuid(100).to_string(), &group));
    for number in [1, 2, 3, 4, 10] {
        all.push(put(kind::NODE, &uuid(number).to_string(), &node(number, &format!("node{number}.test"))));
    }
    all
}

fn snapshot(chunk: Vec<WatchChange>) -> Arc<Snapshot> {
    let mut mirror = Mirror::new();
    mirror.apply(&WatchItem::Reset { index: 1, history: Uuid::nil() }).unwrap();
    mirror.apply(&WatchItem::Chunk(chunk)).unwrap();
    mirror.apply(&WatchItem::Loaded).unwrap();
    mirror.snapshot()
}

fn with(instances: &[Instance], slots: &[Slot]) -> Arc<Snapshot> {
    let mut all = base();
    all.extend(instances.iter().map(|i| put(kind::INSTANCE, &i.uuid.to_string(), i)));
    all.extend(slots.iter().map(|s| put(kind::SLOT, &s.uuid.to_string(), s)));
    snapshot(all)
}

fn vm(number: u8) -> VmFacts {
    VmFacts {
        slot: InstanceUuid(uuid(number)),
        generation: Generation(7),
        running: true,
        memory_mib: 33,
        vcpus: 2,
    }
}

fn info(number: u8, vms: Vec<VmFacts>) -> (NodeUuid, Result<NodeInfoReply, Unreachable>) {
    let node = NodeUuid(uuid(number));
    let reply = NodeInfoReply {
        node,
        release: String::new(),
        boot_id: "boot".to_owned(),
        memory_total_mib: 1000 + u64::from(number),
        memory_host_mib: 100,
        memory_free_mib: 500,
        cpus: 8,
        cpus_host: 1,
        numa_nodes: 1,
        sockets: 1,
        disk_total_mib: 2000,
        disk_free_mib: 1500,
        drivers: vec![],
        vms,
    };
    (node, Ok(reply))
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn query(kind: Kind, fields: &[&str], filter: &Value) -> Result<Query, GanetiError> {
    Query::full(kind, &strings(fields), Filter::parse(filter).unwrap().as_ref())
}

fn inputs(live: Vec<(NodeUuid, Result<NodeInfoReply, Unreachable>)>) -> Inputs {
    Inputs { live: LiveFacts::new(live), ..Inputs::default() }
}

fn plain(answer: &Answer) -> Value {
    serde_json::to_value(answer.plain()).unwrap()
}

fn data(answer: &Answer) -> Value {
    serde_json::to_value(answer.full()).unwrap()["data"].take()
}

/// The plain rows of a query that needs nothing.
fn rows(config: &Arc<Snapshot>, kind: Kind, fields: &[&str], filter: Value) -> Result<Value, GanetiError> {
    Ok(plain(&query(kind, fields, &filter)?.plan(config)?.finish(Inputs::default())?))
}

fn names(config: &Arc<Snapshot>, kind: Kind, filter: Value) -> Value {
    rows(config, kind, &["name"], filter)
        .unwrap()
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row[0].clone())
        .collect()
}

fn class_and_code(error: &GanetiError) -> (&str, Option<&str>) {
    (&error.class, error.ecode())
}

#[test]
fn without_a_configuration_only_jobs_and_locks_answer() {
    let nothing = Arc::new(Snapshot::default());
    let error = rows(&nothing, Kind::Node, &["name"], json!(null)).unwrap_err();
    assert_eq!(error.class, "ConfigurationError");
    assert_eq!(rows(&nothing, Kind::Job, &["id"], json!(null)).unwrap(), json!([]));
    assert_eq!(rows(&nothing, Kind::Lock, &["name"], json!(null)).unwrap(), json!([]));
}
