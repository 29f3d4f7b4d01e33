//! What a new cluster starts with: the parameters of `spec/config.md` §2 to §4 with Ganeti's defaults,
//! the instance policy widened so that small test VMs fit. Used by `gantry-wconfd init` and, for keys
//! that an older or imported configuration lacks, by luxid's cluster information.

use crate::collector::{self, COLLECTORS, Collector};
use crate::config::{Cluster, Group, Params, Stamp};
use crate::ids::{ClusterUuid, GroupUuid, NodeUuid};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Name of the group that a new cluster has.
pub const GROUP_NAME: &str = "default";
/// Most jobs at once (`spec/config.md` §2).
pub const RUNNING_JOBS_MAX: u64 = 20;
/// Most jobs followed at once; kept for Ganeti's clients.
pub const TRACKED_JOBS_MAX: u64 = 25;
/// Wanted master candidates, as Ganeti has them: nodes that are added become candidates until there are so many.
pub const CANDIDATE_POOL_SIZE: u64 = 10;
/// First three bytes of generated MACs.
pub const MAC_PREFIX: &str = "aa:00:00";
/// The disk templates that a new cluster allows; the first is the default.
pub const DISK_TEMPLATES: [&str; 2] = ["diskless", "file"];
/// The key of the one set of backend or interface parameters.
pub const DEFAULT_SET: &str = "default";

const HVPARAMS: &str = include_str!("hvparams.json");

/// What is particular to one new cluster.
#[derive(Debug, Clone)]
pub struct ClusterSeed {
    /// Its uuid.
    pub uuid: ClusterUuid,
    /// Its name.
    pub name: String,
    /// Its first node.
    pub master_node: NodeUuid,
    /// IPv4 of the cluster name; empty when unused.
    pub master_ip: String,
    /// At least one; the first is the default.
    pub enabled_hypervisors: Vec<String>,
    /// Epoch of its making.
    pub now: f64,
}

/// A new cluster.
#[must_use]
pub fn cluster(seed: ClusterSeed) -> Cluster {
    Cluster {
        uuid: seed.uuid,
        cluster_name: seed.name,
        master_node: seed.master_node,
        master_ip: seed.master_ip,
        enabled_hypervisors: seed.enabled_hypervisors,
        enabled_disk_templates: DISK_TEMPLATES.map(str::to_owned).to_vec(),
        candidate_pool_size: CANDIDATE_POOL_SIZE,
        max_running_jobs: RUNNING_JOBS_MAX,
        max_tracked_jobs: TRACKED_JOBS_MAX,
        ndparams: ndparams(),
        beparams: beparams(),
        hvparams: hvparams(),
        nicparams: nicparams(),
        diskparams: diskparams(),
        ipolicy: ipolicy(),
        mac_prefix: MAC_PREFIX.to_owned(),
        stamp: Stamp::new(seed.now),
        extra: extra(),
    }
}

/// A new group without parameters of its own.
#[must_use]
pub fn group(uuid: GroupUuid, name: &str, now: f64) -> Group {
    Group {
        uuid,
        name: name.to_owned(),
        ndparams: Params::new(),
        alloc_policy: "preferred".to_owned(),
        ipolicy: Params::new(),
        diskparams: BTreeMap::new(),
        networks: BTreeMap::new(),
        stamp: Stamp::new(now),
        extra: Params::new(),
    }
}

/// Node parameters.
#[must_use]
pub fn ndparams() -> Params {
    object(json!({
        "oob_program": "", "spindle_count": 1, "exclusive_storage": false, "ovs": false,
        "ovs_name": "switch1", "ovs_link": "", "ssh_port": 22, "cpu_speed": 1.0,
    }))
}

/// Backend parameters, MiB.
#[must_use]
pub fn beparams() -> BTreeMap<String, Params> {
    sets(json!({ DEFAULT_SET: {
        "minmem": 128, "maxmem": 128, "vcpus": 1, "auto_balance": true,
        "always_failover": false, "spindle_use": 1,
    }}))
}

/// Hypervisor parameters: Ganeti's six hypervisors, and Gantry's drivers.
#[must_use]
pub fn hvparams() -> BTreeMap<String, Params> {
    serde_json::from_str(HVPARAMS).expect("the table is part of the program and read by its tests")
}

/// Parameters of network interfaces.
#[must_use]
pub fn nicparams() -> BTreeMap<String, Params> {
    sets(json!({ DEFAULT_SET: { "mode": "routed", "link": "100", "vlan": "" } }))
}

/// Disk parameters of Ganeti's templates.
#[must_use]
pub fn diskparams() -> BTreeMap<String, Params> {
    sets(json!({
        "blockdev": {}, "diskless": {}, "file": {}, "sharedfile": {}, "plain": { "stripes": 1 },
        "drbd": {
            "c-delay-target": 1, "c-fill-target": 0, "c-max-rate": 61440, "c-min-rate": 4096,
            "c-plan-ahead": 20, "data-stripes": 1, "disk-barriers": "n", "disk-custom": "",
            "dynamic-resync": false, "meta-barriers": false, "meta-stripes": 1, "metavg": "xenvg",
            "net-custom": "", "protocol": "C", "resync-rate": 61440,
        },
        "ext": { "access": "kernelspace" },
        "gluster": { "access": "kernelspace", "host": "127.0.0.1", "port": 24007, "volume": "gv0" },
        "rbd": { "access": "kernelspace", "pool": "rbd" },
    }))
}

/// The instance policy. Wider than Ganeti's own: test VMs are small, need no disk and often no network.
#[must_use]
pub fn ipolicy() -> Params {
    object(json!({
        "minmax": [{
            "min": {
                "memory-size": 4, "disk-size": 4, "disk-count": 0, "cpu-count": 1,
                "nic-count": 0, "spindle-use": 1,
            },
            "max": {
                "memory-size": 1_048_576, "disk-size": 1_048_576, "disk-count": 16, "cpu-count": 64,
                "nic-count": 8, "spindle-use": 64,
            },
        }],
        "std": {
            "memory-size": 128, "disk-size": 1024, "disk-count": 0, "cpu-count": 1,
            "nic-count": 0, "spindle-use": 1,
        },
        "disk-templates": DISK_TEMPLATES,
        "vcpu-ratio": 4.0,
        "spindle-ratio": 32.0,
    }))
}

/// The rest of the cluster object, under Ganeti's names (`spec/config.md` §2).
#[must_use]
pub fn extra() -> Params {
    object(json!({
        "master_netdev": "eth0", "master_netmask": 32, "use_external_mip_script": false, "primary_ip_family": 2,
        "candidate_certs": {}, "modify_etc_hosts": false, "modify_ssh_setup": false,
        "maintain_node_health": false, "uid_pool": [], "default_iallocator": "",
        "default_iallocator_params": {}, "hidden_os": [], "blacklisted_os": [], "prealloc_wipe_disks": false,
        "compression_tools": ["gzip", "gzip-fast", "gzip-slow"], "data_collectors": data_collectors(),
        "rsahostkeypub": "", "dsahostkeypub": "", "highest_used_port": 10999, "tcpudp_port_pool": [],
        "reserved_lvs": [], "file_storage_dir": "", "shared_file_storage_dir": "", "gluster_storage_dir": "",
        "os_hvp": {}, "osparams": {}, "osparams_private_cluster": {}, "hv_state_static": {},
        "disk_state_static": {}, "install_image": "", "zeroing_image": "",
        "instance_communication_network": "", "enabled_user_shutdown": false, "ssh_key_type": "rsa",
        "ssh_key_bits": 2048,
    }))
}

/// MonD's collectors: whether each is on, and its interval in microseconds.
#[must_use]
pub fn data_collectors() -> Value {
    let one = |collector: &Collector| {
        let settings = json!({ "active": collector.active, "interval": collector::INTERVAL_US });
        (collector.name.to_owned(), settings)
    };
    COLLECTORS.iter().map(one).collect()
}

fn object(value: Value) -> Params {
    match value {
        Value::Object(map) => map,
        _ => Params::new(),
    }
}

fn sets(value: Value) -> BTreeMap<String, Params> {
    object(value).into_iter().map(|(name, set)| (name, object(set))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_new_cluster_is_read_back_as_written() {
        let one = cluster(ClusterSeed {
            uuid: ClusterUuid(Uuid::nil()),
            name: "c.test".to_owned(),
            master_node: NodeUuid(Uuid::nil()),
            master_ip: String::new(),
            enabled_hypervisors: vec!["fake".to_owned()],
            now: 1.5,
        });
        let text = serde_json::to_string(&one).unwrap();
        assert_eq!(serde_json::from_str::<Cluster>(&text).unwrap(), one);
        assert!(one.hvparams.contains_key("fake") && one.hvparams.contains_key("oci"));
        assert_eq!(one.extra["data_collectors"]["cpu-avg-load"]["active"], true);
        assert_eq!(one.ipolicy["minmax"][0]["min"]["disk-count"], 0);
        assert!(!one.beparams[DEFAULT_SET].is_empty() && !one.diskparams["drbd"].is_empty());
    }
}
