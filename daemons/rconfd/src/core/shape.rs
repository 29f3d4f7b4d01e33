//! Objects as ConfD shows them: in Ganeti's shape (`spec/confd.md` §4, `spec/config.md` §2 to §5), without what is secret,
//! and for the second form with what only Gantry has.

use gantry_model::collector::{INTERVAL_US, interval_us};
use gantry_model::config::{Cluster, Disk, Group, Instance, Nic, Node, Params, RENEWED_CA, confd};
use gantry_model::defaults;
use serde_json::{Map, Value, json};

/// Hypervisors that Ganeti's decoders know.
const HYPERVISORS: [&str; 6] = ["chroot", "fake", "kvm", "lxc", "xen-hvm", "xen-pvm"];
/// Hypervisors of which the collector of Xen's instances tells.
const XEN: [&str; 2] = ["xen-hvm", "xen-pvm"];
/// Its name.
const XEN_COLLECTOR: &str = "inst-status-xen";
/// Values that leave the machine empty: objects.
const SECRET_OBJECTS: [&str; 2] = ["osparams_private_cluster", "candidate_certs"];
/// Values that leave the machine empty: texts.
const SECRET_TEXTS: [&str; 2] = ["rsahostkeypub", "dsahostkeypub"];

/// Whether Ganeti's decoders can read it.
#[must_use]
pub fn is_ganetis(instance: &Instance) -> bool {
    HYPERVISORS.contains(&instance.hypervisor.as_str())
}

/// An instance with exactly Ganeti's keys.
#[must_use]
pub fn instance(instance: &Instance) -> Value {
    let disks: Vec<&str> = instance.disks.iter().map(|disk| disk.uuid.as_str()).collect();
    let mut all = json!({
        "name": instance.name,
        "primary_node": instance.primary_node,
        "os": instance.os,
        "hypervisor": instance.hypervisor,
        "hvparams": instance.hvparams,
        "beparams": instance.beparams,
        "osparams": instance.osparams,
        "osparams_private": {},
        "admin_state": instance.admin_state,
        "admin_state_source": instance.admin_state_source,
        "nics": instance.nics.iter().map(nic).collect::<Vec<_>>(),
        "disks": disks,
        "disks_active": instance.extra.get("disks_active").and_then(Value::as_bool).unwrap_or(false),
        "ctime": instance.stamp.ctime,
        "mtime": instance.stamp.mtime,
        "uuid": instance.uuid,
        "serial_no": instance.stamp.serial_no,
        "tags": instance.stamp.tags,
    });
    if let Some(port) = instance.extra.get("network_port").filter(|port| port.is_u64()) {
        all["network_port"] = port.clone();
    }
    all
}

/// What only Gantry has of an instance.
#[must_use]
pub fn instance_more(instance: &Instance) -> Value {
    let mut all = json!({"disk_template": instance.disk_template, "forthcoming": instance.forthcoming});
    if let Some(pool) = &instance.pool {
        all["pool"] = json!(pool);
    }
    all
}

fn nic(nic: &Nic) -> Value {
    let mut all = json!({"mac": nic.mac, "nicparams": nic.nicparams, "uuid": nic.uuid});
    for (key, value) in [("ip", &nic.ip), ("network", &nic.network), ("name", &nic.name)] {
        if let Some(value) = value {
            all[key] = json!(value);
        }
    }
    all
}

/// The disks of an instance as Ganeti's objects, in order.
#[must_use]
pub fn disks(instance: &Instance, cluster: Option<&Cluster>) -> Vec<Value> {
    instance.disks.iter().enumerate().map(|(at, one)| disk(instance, at, one, cluster)).collect()
}

fn disk(instance: &Instance, at: usize, disk: &Disk, cluster: Option<&Cluster>) -> Value {
    let mut all = json!({
        "logical_id": logical_id(instance, at, disk, cluster),
        "dev_type": instance.disk_template,
        "children": [],
        "nodes": [instance.primary_node],
        "iv_name": format!("disk/{at}"),
        "size": disk.size,
        "mode": disk.mode,
        "params": {},
        "uuid": disk.uuid,
        "serial_no": instance.stamp.serial_no,
        "ctime": instance.stamp.ctime,
        "mtime": instance.stamp.mtime,
    });
    if let Some(name) = &disk.name {
        all["name"] = json!(name);
    }
    all
}

/// Where a disk would be in Ganeti's terms: Gantry's drivers keep disks inside the VM, so this is a name, no path to open.
fn logical_id(instance: &Instance, at: usize, disk: &Disk, cluster: Option<&Cluster>) -> Value {
    let text = |key: &str| {
        cluster.and_then(|cluster| cluster.extra.get(key)).and_then(Value::as_str).unwrap_or_default()
    };
    let file = |dir: &str| json!(["loop", format!("{}/{}/disk{at}", text(dir), instance.name)]);
    match instance.disk_template.as_str() {
        "sharedfile" => file("shared_file_storage_dir"),
        "gluster" => file("gluster_storage_dir"),
        "plain" => json!([text("volume_group_name"), format!("{}.disk{at}", disk.uuid)]),
        "blockdev" => json!(["manual", ""]),
        "rbd" => json!(["rbd", disk.uuid]),
        "ext" => json!(["", disk.uuid]),
        _ => file("file_storage_dir"),
    }
}

/// A node with Ganeti's keys.
#[must_use]
pub fn node(node: &Node) -> Value {
    let mut all = json!({
        "name": node.name,
        "primary_ip": node.primary_ip,
        "secondary_ip": node.secondary_ip,
        "serial_no": node.stamp.serial_no,
        "master_candidate": node.master_candidate,
        "offline": node.offline,
        "drained": node.drained,
        "group": node.group,
        "master_capable": node.master_capable,
        "vm_capable": node.vm_capable,
        "ndparams": node.ndparams,
        "powered": node.powered,
        "ctime": node.stamp.ctime,
        "mtime": node.stamp.mtime,
        "uuid": node.uuid,
        "tags": node.stamp.tags,
    });
    for key in ["hv_state_static", "disk_state_static"] {
        if let Some(value) = node.extra.get(key) {
            all[key] = value.clone();
        }
    }
    all
}

/// A node group with Ganeti's keys.
#[must_use]
pub fn group(group: &Group) -> Value {
    json!({
        "name": group.name,
        "uuid": group.uuid,
        "ndparams": group.ndparams,
        "alloc_policy": group.alloc_policy,
        "ipolicy": group.ipolicy,
        "diskparams": group.diskparams,
        "networks": group.networks,
        "members": [],
        "serial_no": group.stamp.serial_no,
        "ctime": group.stamp.ctime,
        "mtime": group.stamp.mtime,
        "tags": group.stamp.tags,
    })
}

/// The cluster without its secrets, and what only Gantry has of it.
#[must_use]
pub fn cluster(cluster: &Cluster) -> (Value, Params) {
    let Ok(Value::Object(mut all)) = serde_json::to_value(cluster) else { return (json!({}), Params::new()) };
    let ours = |key: &String| key == RENEWED_CA || key.starts_with(confd::PREFIX);
    let keys: Vec<String> = all.keys().filter(|key| ours(key)).cloned().collect();
    let more = keys.into_iter().filter_map(|key| all.remove_entry(&key)).collect();
    for (keys, empty) in [(SECRET_OBJECTS, json!({})), (SECRET_TEXTS, json!(""))] {
        for key in keys {
            if let Some(value) = all.get_mut(key) {
                *value = empty.clone();
            }
        }
    }
    (Value::Object(all), more)
}

/// MonD's collectors: what is on, and how often.
#[must_use]
pub fn collectors(cluster: &Cluster) -> Value {
    let defaults = defaults::data_collectors();
    let set = cluster.extra.get("data_collectors").and_then(Value::as_object);
    let all = set.or(defaults.as_object()).cloned().unwrap_or_default();
    let xen = cluster.enabled_hypervisors.iter().any(|name| XEN.contains(&name.as_str()));
    let one = |(name, set): (String, Value)| {
        let active = set["active"].as_bool().unwrap_or(true) && (name != XEN_COLLECTOR || xen);
        let interval = interval_us(&set["interval"]).unwrap_or(INTERVAL_US);
        (name, json!({"active": active, "interval": interval}))
    };
    Value::Object(all.into_iter().map(one).collect::<Map<_, _>>())
}
