//! A small cluster to try commands on.

mod commands;
mod history;
mod model;
mod pool_history;
mod pool_model;
mod pools;
mod slots;

use super::*;
use gantry_model::config::{
    AdminState, Group, Instance, MemberCopy, Members, Meta, NODED_PORT, Nic, Node, Params, Stamp, kind,
};
use gantry_model::defaults;
use gantry_model::error::GanetiError;
use gantry_model::ids::{ClusterUuid, GroupUuid, InstanceUuid, JobId, JobOwner, NodeUuid, StartNo};
use gantry_proto::wconfd::Command;
use serde_json::Value;
use uuid::Uuid;

pub(super) const NOW: f64 = 1_000.5;

/// Counts, so that each draw differs.
#[derive(Debug, Default)]
pub(super) struct Counter(pub u128);

impl Ids for Counter {
    fn fresh(&mut self) -> [u8; 16] {
        self.0 += 1;
        self.0.to_le_bytes()
    }
}

pub(super) fn node_uuid(n: u128) -> NodeUuid {
    NodeUuid(Uuid::from_u128(0x100 + n))
}

pub(super) fn group_uuid(n: u128) -> GroupUuid {
    GroupUuid(Uuid::from_u128(0x200 + n))
}

pub(super) fn instance_uuid(n: u128) -> InstanceUuid {
    InstanceUuid(Uuid::from_u128(0x300 + n))
}

pub(super) fn owner(job: u64) -> JobOwner {
    JobOwner { job: JobId(job), start: StartNo { epoch: 1, run: 1, counter: job } }
}

pub(super) fn node(n: u128, name: &str) -> Node {
    Node {
        uuid: node_uuid(n),
        name: name.to_owned(),
        primary_ip: format!("192.0.2.{n}"),
        secondary_ip: format!("192.0.2.{n}"),
        master_candidate: false,
        offline: false,
        drained: false,
        group: group_uuid(1),
        master_capable: true,
        vm_capable: true,
        ndparams: Params::new(),
        powered: true,
        noded_port: NODED_PORT,
        stamp: Stamp::new(0.0),
        extra: Params::new(),
    }
}

pub(super) fn group(n: u128, name: &str) -> Group {
    defaults::group(group_uuid(n), name, 0.0)
}

pub(super) fn instance(n: u128, name: &str, on: u128) -> Instance {
    Instance {
        uuid: instance_uuid(n),
        name: name.to_owned(),
        primary_node: node_uuid(on),
        os: "noop".to_owned(),
        hypervisor: "fake".to_owned(),
        hvparams: Params::new(),
        beparams: Params::new(),
        osparams: Params::new(),
        admin_state: AdminState::Down,
        admin_state_source: "admin".to_owned(),
        nics: Vec::new(),
        disk_template: "diskless".to_owned(),
        disks: Vec::new(),
        forthcoming: false,
        pool: None,
        stamp: Stamp::new(0.0),
        extra: Params::new(),
    }
}

pub(super) fn nic(mac: &str) -> Nic {
    let (uuid, nicparams) = (String::new(), Params::new());
    Nic { uuid, mac: mac.to_owned(), nicparams, ip: None, network: None, name: None }
}

pub(super) fn object<T: serde::Serialize>(kind: &str, key: impl ToString, value: &T) -> Object {
    Object { kind: kind.to_owned(), key: key.to_string(), rev: 1, body: serde_json::to_vec(value).unwrap() }
}

/// The stored objects of a cluster with master node 1 and group 1.
pub(super) fn seed() -> Vec<Object> {
    let cluster = defaults::cluster(defaults::ClusterSeed {
        uuid: ClusterUuid(Uuid::from_u128(9)),
        name: "cluster.example.test".to_owned(),
        master_node: node_uuid(1),
        master_ip: String::new(),
        enabled_hypervisors: vec!["fake".to_owned()],
        now: 1.0,
    });
    let meta = Meta { version: 3_000_000, serial_no: 1, ctime: 1.0, mtime: 1.0 };
    let master = Node { master_candidate: true, ..node(1, "node1.example.test") };
    let copy = MemberCopy { node: node_uuid(1), copy_id: Uuid::from_u128(8) };
    let members = Members { n: 1, members: vec![copy], settled: true, learner: None };
    vec![
        object(kind::META, kind::META_KEY, &meta),
        object(kind::CLUSTER, kind::CLUSTER_KEY, &cluster),
        object(kind::GROUP, group_uuid(1), &group(1, "default")),
        object(kind::NODE, node_uuid(1), &master),
        object(kind::MEMBERS, kind::MEMBERS_KEY, &members),
    ]
}

/// The cluster of [`seed`], its master claimed.
pub(super) fn config() -> Config {
    let mut config = Config::load(seed()).unwrap();
    config.set_claimed(node_uuid(1), true);
    config
}

pub(super) fn run(config: &mut Config, commands: &[Command]) -> Result<Effect, GanetiError> {
    run_as(config, None, commands)
}

pub(super) fn run_as(
    config: &mut Config,
    owner: Option<(JobOwner, u64)>,
    commands: &[Command],
) -> Result<Effect, GanetiError> {
    let ids = &mut Counter(u128::from(config.meta().serial_no) << 64);
    let clock = config.lease_clock();
    let effect = config.apply(commands, &mut Context { now: NOW, clock, owner, ids });
    config.check();
    effect.map_err(flat)
}

/// A refusal in Ganeti's form; what is stale gets a class of its own.
pub(super) fn flat(refusal: Refusal) -> GanetiError {
    match refusal {
        Refusal::Ganeti(error) => error,
        Refusal::Stale(text) => GanetiError::new(STALE, text),
    }
}

/// Class of what [`flat`] made of a stale lease.
pub(super) const STALE: &str = "Stale";

/// The class and code of a refusal.
pub(super) fn refusal(result: Result<Effect, GanetiError>) -> (String, String) {
    let error = result.expect_err("refused");
    (error.class.clone(), error.ecode().unwrap_or_default().to_owned())
}

pub(super) fn prereq(code: &str) -> (String, String) {
    ("OpPrereqError".to_owned(), code.to_owned())
}

pub(super) fn params(value: Value) -> Params {
    value.as_object().unwrap().clone()
}

pub(super) fn add_node(n: u128) -> Command {
    Command::NodeAdd { node: Box::new(node(n, &format!("node{n}.example.test"))) }
}

pub(super) fn add_group(n: u128) -> Command {
    Command::GroupAdd { group: Box::new(group(n, &format!("group{n}"))) }
}

pub(super) fn add_instance(n: u128, on: u128) -> Command {
    Command::InstanceAdd { instance: Box::new(instance(n, &format!("inst{n}.example.test"), on)) }
}

/// Everything stored, in order, as it would be loaded.
pub(super) fn stored(config: &Config) -> Vec<Object> {
    config.snapshot().objects().collect()
}
