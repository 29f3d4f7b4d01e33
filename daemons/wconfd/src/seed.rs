//! A valid configuration with many instances, for benchmarks and tests of size. Deterministic.

use crate::core::config::Object;
use gantry_model::config::{
    AdminState, Group, Instance, Meta, NODED_PORT, Nic, Node, Params, Slot, Stamp, kind,
};
use gantry_model::defaults;
use gantry_model::ids::{ClusterUuid, GroupUuid, InstanceUuid, NodeUuid};
use serde::Serialize;
use uuid::Uuid;

/// Instances per node: some hundred slots is what one host carries.
const INSTANCES_PER_NODE: usize = 250;
/// Epoch of the making of everything.
const THEN: f64 = 1_700_000_000.0;

fn uuid(space: u128, n: usize) -> Uuid {
    uuid::Builder::from_random_bytes(((space << 64) + n as u128 + 1).to_be_bytes()).into_uuid()
}

fn object(kind: &str, key: impl ToString, value: &impl Serialize) -> Object {
    let body = serde_json::to_vec(value).expect("objects are plain JSON: their maps have texts as keys");
    Object { kind: kind.to_owned(), key: key.to_string(), rev: 1, body }
}

/// A whole new configuration: cluster, one group, as many nodes as `n` instances need, and those with
/// their slots, nothing living in them. The first node is the master.
#[must_use]
pub fn instances(n: usize) -> Vec<Object> {
    let cluster = ClusterUuid(uuid(1, 0));
    let seed = defaults::ClusterSeed {
        uuid: cluster,
        name: "cluster.example.test".to_owned(),
        master_node: NodeUuid(uuid(3, 0)),
        master_ip: String::new(),
        enabled_hypervisors: vec!["fake".to_owned()],
        now: THEN,
    };
    let meta = Meta { version: 3_000_000, serial_no: 1, ctime: THEN, mtime: THEN };
    let group: Group = defaults::group(GroupUuid(uuid(2, 0)), defaults::GROUP_NAME, THEN);
    let mut objects = vec![
        object(kind::META, kind::META_KEY, &meta),
        object(kind::CLUSTER, kind::CLUSTER_KEY, &defaults::cluster(seed)),
        object(kind::GROUP, group.uuid, &group),
    ];
    let nodes = (0..n.div_ceil(INSTANCES_PER_NODE).max(1)).map(|i| node(i, group.uuid));
    let nodes: Vec<_> = nodes.collect();
    objects.extend(nodes.iter().map(|node| object(kind::NODE, node.uuid, node)));
    objects.extend(many(n, &nodes.iter().map(|node| node.uuid).collect::<Vec<_>>()));
    objects
}

/// `n` instances with their slots, in turn on the given nodes (one at least).
#[must_use]
pub fn many(n: usize, nodes: &[NodeUuid]) -> Vec<Object> {
    let of = |i: usize| {
        let instance = instance(i, nodes[i % nodes.len()]);
        let slot = Slot::new(instance.uuid, instance.primary_node);
        [object(kind::INSTANCE, instance.uuid, &instance), object(kind::SLOT, slot.uuid, &slot)]
    };
    (0..n).flat_map(of).collect()
}

fn node(i: usize, group: GroupUuid) -> Node {
    let ip = format!("10.{}.{}.{}", i >> 16 & 255, i >> 8 & 255, i & 255);
    Node {
        uuid: NodeUuid(uuid(3, i)),
        name: format!("node{}.example.test", i + 1),
        primary_ip: ip.clone(),
        secondary_ip: ip,
        master_candidate: i == 0,
        offline: false,
        drained: false,
        group,
        master_capable: true,
        vm_capable: true,
        ndparams: Params::new(),
        powered: true,
        noded_port: NODED_PORT,
        stamp: Stamp::new(THEN),
        extra: Params::new(),
    }
}

fn instance(i: usize, primary_node: NodeUuid) -> Instance {
    let nic = Nic {
        uuid: uuid(5, i).to_string(),
        mac: format!("aa:00:00:{:02x}:{:02x}:{:02x}", i >> 16 & 255, i >> 8 & 255, i & 255),
        nicparams: Params::new(),
        ip: None,
        network: None,
        name: None,
    };
    Instance {
        uuid: InstanceUuid(uuid(4, i)),
        name: format!("inst{}.example.test", i + 1),
        primary_node,
        os: "noop".to_owned(),
        hypervisor: "fake".to_owned(),
        hvparams: Params::new(),
        beparams: Params::new(),
        osparams: Params::new(),
        admin_state: AdminState::Down,
        admin_state_source: "admin".to_owned(),
        nics: vec![nic],
        disk_template: "diskless".to_owned(),
        disks: Vec::new(),
        forthcoming: false,
        pool: None,
        stamp: Stamp::new(THEN),
        extra: Params::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::config::Config;

    #[test]
    fn a_seeded_configuration_is_valid() {
        let config = Config::load(instances(1_000)).unwrap();
        config.check();
        assert_eq!(config.nodes().count(), 4);
        assert_eq!(instances(3), instances(3));
    }
}
