//! The object of `QueryClusterInfo` (`spec/luxi.md` §6). Every key is there whatever the configuration lacks:
//! a missing one crashes clients.

use crate::core::mirror::Snapshot;
use gantry_model::config::{Cluster, Params};
use gantry_model::defaults;
use gantry_model::error::GanetiError;
use serde_json::{Map, Value, json};

/// The Ganeti release whose protocols are spoken (`spec/luxi.md` §8).
pub const SOFTWARE_VERSION: &str = "3.0.2";
/// Version of the LUXI protocol and of the configuration's shape.
pub const PROTOCOL_VERSION: u64 = 3_000_000;
/// Highest version of the OS script interface.
pub const OS_API_VERSION: u64 = 20;
/// Version of the export format.
pub const EXPORT_VERSION: u64 = 0;

/// `primary_ip_family` of IPv6, as the kernel numbers it.
const FAMILY_IPV6: u64 = 10;

/// Keys taken from the cluster object as they stand, else from the defaults.
const EXTRA_KEYS: [&str; 27] = [
    "os_hvp",
    "osparams",
    "master_netdev",
    "master_netmask",
    "use_external_mip_script",
    "file_storage_dir",
    "shared_file_storage_dir",
    "gluster_storage_dir",
    "maintain_node_health",
    "uid_pool",
    "default_iallocator",
    "default_iallocator_params",
    "reserved_lvs",
    "prealloc_wipe_disks",
    "hidden_os",
    "blacklisted_os",
    "install_image",
    "instance_communication_network",
    "zeroing_image",
    "compression_tools",
    "enabled_user_shutdown",
    "modify_ssh_setup",
    "ssh_key_type",
    "ssh_key_bits",
    "volume_group_name",
    "drbd_usermode_helper",
    "data_collectors",
];

/// The whole object.
///
/// # Errors
/// No configuration yet; a master node that is not among the nodes (`ConfigurationError`).
pub fn cluster_info(config: &Snapshot) -> Result<Value, GanetiError> {
    let cluster = config.cluster()?;
    let master = config.nodes().get(&cluster.master_node).ok_or_else(|| {
        let text = format!("the master node {} is not among the nodes", cluster.master_node);
        GanetiError::new("ConfigurationError", text)
    })?;
    let mut info = versions();
    info.extend(typed(cluster));
    info.insert("master".to_owned(), json!(master.name));
    info.extend(extra(cluster));
    Ok(Value::Object(info))
}

fn versions() -> Params {
    let pointer_bits = format!("{}bits", usize::BITS);
    object(json!({
        "software_version": SOFTWARE_VERSION,
        "protocol_version": PROTOCOL_VERSION,
        "config_version": PROTOCOL_VERSION,
        "os_api_version": OS_API_VERSION,
        "export_version": EXPORT_VERSION,
        "vcs_version": concat!("(gantry) version ", env!("CARGO_PKG_VERSION")),
        "architecture": [pointer_bits, std::env::consts::ARCH],
    }))
}

fn typed(cluster: &Cluster) -> Params {
    object(json!({
        "name": cluster.cluster_name,
        "uuid": cluster.uuid,
        "default_hypervisor": cluster.enabled_hypervisors.first(),
        "enabled_hypervisors": cluster.enabled_hypervisors,
        "enabled_disk_templates": cluster.enabled_disk_templates,
        "hvparams": cluster.hvparams,
        "beparams": cluster.beparams,
        "nicparams": cluster.nicparams,
        "ndparams": cluster.ndparams,
        "diskparams": cluster.diskparams,
        "ipolicy": cluster.ipolicy,
        "candidate_pool_size": cluster.candidate_pool_size,
        "max_running_jobs": cluster.max_running_jobs,
        "max_tracked_jobs": cluster.max_tracked_jobs,
        "mac_prefix": cluster.mac_prefix,
        "ctime": cluster.stamp.ctime,
        "mtime": cluster.stamp.mtime,
        "tags": cluster.stamp.tags,
    }))
}

fn extra(cluster: &Cluster) -> Params {
    let defaults = defaults::extra();
    let value =
        |key: &str| cluster.extra.get(key).or_else(|| defaults.get(key)).cloned().unwrap_or(Value::Null);
    let mut info: Params = EXTRA_KEYS.iter().map(|key| ((*key).to_owned(), value(key))).collect();
    let collectors = info.remove("data_collectors").map(object).unwrap_or_default();
    let part = |key: &str| -> Value {
        let entry =
            |(name, set): (&String, &Value)| (name.clone(), set.get(key).cloned().unwrap_or(Value::Null));
        Value::Object(collectors.iter().map(entry).collect())
    };
    info.insert("enabled_data_collectors".to_owned(), part("active"));
    info.insert("data_collector_interval".to_owned(), part("interval"));
    let is_ipv6 = value("primary_ip_family").as_u64() == Some(FAMILY_IPV6);
    info.insert("primary_ip_version".to_owned(), json!(if is_ipv6 { 6 } else { 4 }));
    info
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}
