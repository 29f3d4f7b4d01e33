//! Which fields callers may set, and of which type (`spec/config.md` §2 to §5).

use super::error::wrong_input;
use gantry_model::config::{Params, confd};
use gantry_model::error::GanetiError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A type of field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Str,
    Bool,
    /// Whole number, at least this.
    Int(i64),
    Number,
    /// One of these words.
    Word(&'static [&'static str]),
    /// List of texts.
    Texts,
    /// List of these words, not empty, none twice.
    Words(&'static [&'static str]),
    /// List of anything.
    List,
    /// Object of anything.
    Map,
    /// Object of objects.
    Maps,
    /// Object with these keys only.
    Keys(&'static [Field]),
    /// Object whose values are objects with these keys only.
    MapsOf(&'static [Field]),
}

/// A field callers may set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    name: &'static str,
    kind: Kind,
    /// Null removes it.
    optional: bool,
}

const fn must(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, optional: false }
}

const fn may(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, optional: true }
}

/// Ganeti's hypervisors; clients accept no other names for a cluster.
const HYPERVISORS: &[&str] = &["chroot", "fake", "kvm", "lxc", "xen-hvm", "xen-pvm"];
/// Ganeti's disk templates.
pub(super) const DISK_TEMPLATES: &[&str] =
    &["blockdev", "diskless", "drbd", "ext", "file", "gluster", "plain", "rbd", "sharedfile"];

pub(super) const NDPARAMS: &[Field] = &[
    must("oob_program", Kind::Str),
    must("spindle_count", Kind::Int(1)),
    must("exclusive_storage", Kind::Bool),
    must("ovs", Kind::Bool),
    must("ovs_name", Kind::Str),
    must("ovs_link", Kind::Str),
    must("ssh_port", Kind::Int(1)),
    must("cpu_speed", Kind::Number),
];

pub(super) const BEPARAMS: &[Field] = &[
    must("minmem", Kind::Int(1)),
    must("maxmem", Kind::Int(1)),
    must("vcpus", Kind::Int(1)),
    must("auto_balance", Kind::Bool),
    must("always_failover", Kind::Bool),
    must("spindle_use", Kind::Int(0)),
];

const NICPARAMS: &[Field] = &[
    must("mode", Kind::Word(&["bridged", "routed", "openvswitch"])),
    must("link", Kind::Str),
    must("vlan", Kind::Str),
];

pub(super) const IPOLICY: &[Field] = &[
    may("minmax", Kind::List),
    may("std", Kind::Map),
    may("disk-templates", Kind::Words(DISK_TEMPLATES)),
    may("vcpu-ratio", Kind::Number),
    may("spindle-ratio", Kind::Number),
];

pub(super) const CLUSTER: &[Field] = &[
    must("cluster_name", Kind::Str),
    may(gantry_model::config::RENEWED_CA, Kind::Str),
    may(confd::DIGEST, Kind::Word(&confd::DIGESTS)),
    may(confd::STRICT_GANETI, Kind::Bool),
    may(confd::CONFIG_QUERY, Kind::Word(&confd::CONFIG_QUERIES)),
    may(confd::ALLOWED_NETWORKS, Kind::Texts),
    may(confd::LEGACY_NETWORKS, Kind::Texts),
    may(confd::LEGACY_TYPES, Kind::List),
    must("master_ip", Kind::Str),
    must("master_netdev", Kind::Str),
    must("master_netmask", Kind::Int(0)),
    must("use_external_mip_script", Kind::Bool),
    must("candidate_pool_size", Kind::Int(1)),
    must("modify_etc_hosts", Kind::Bool),
    must("modify_ssh_setup", Kind::Bool),
    must("maintain_node_health", Kind::Bool),
    must("uid_pool", Kind::List),
    must("default_iallocator", Kind::Str),
    must("default_iallocator_params", Kind::Map),
    must("hidden_os", Kind::Texts),
    must("blacklisted_os", Kind::Texts),
    must("prealloc_wipe_disks", Kind::Bool),
    must("max_running_jobs", Kind::Int(1)),
    must("max_tracked_jobs", Kind::Int(1)),
    must("compression_tools", Kind::Texts),
    must("data_collectors", Kind::Maps),
    may("rsahostkeypub", Kind::Str),
    may("dsahostkeypub", Kind::Str),
    must("highest_used_port", Kind::Int(1)),
    must("tcpudp_port_pool", Kind::List),
    must("mac_prefix", Kind::Str),
    may("volume_group_name", Kind::Str),
    may("drbd_usermode_helper", Kind::Str),
    must("reserved_lvs", Kind::Texts),
    must("file_storage_dir", Kind::Str),
    must("shared_file_storage_dir", Kind::Str),
    must("gluster_storage_dir", Kind::Str),
    must("enabled_hypervisors", Kind::Words(HYPERVISORS)),
    must("enabled_disk_templates", Kind::Words(DISK_TEMPLATES)),
    must("hvparams", Kind::Maps),
    must("os_hvp", Kind::Maps),
    must("beparams", Kind::MapsOf(BEPARAMS)),
    must("nicparams", Kind::MapsOf(NICPARAMS)),
    must("ndparams", Kind::Keys(NDPARAMS)),
    must("diskparams", Kind::Maps),
    must("osparams", Kind::Maps),
    must("ipolicy", Kind::Keys(IPOLICY)),
    must("hv_state_static", Kind::Map),
    must("disk_state_static", Kind::Map),
    must("install_image", Kind::Str),
    must("zeroing_image", Kind::Str),
    must("instance_communication_network", Kind::Str),
    must("enabled_user_shutdown", Kind::Bool),
    must("ssh_key_type", Kind::Str),
    must("ssh_key_bits", Kind::Int(1)),
];

pub(super) const NODE: &[Field] = &[
    must("primary_ip", Kind::Str),
    must("secondary_ip", Kind::Str),
    must("master_candidate", Kind::Bool),
    must("offline", Kind::Bool),
    must("drained", Kind::Bool),
    must("master_capable", Kind::Bool),
    must("vm_capable", Kind::Bool),
    must("ndparams", Kind::Keys(NDPARAMS)),
    must("powered", Kind::Bool),
    must("noded_port", Kind::Int(1)),
    may("hv_state_static", Kind::Map),
    may("disk_state_static", Kind::Map),
];

pub(super) const GROUP: &[Field] = &[
    must("name", Kind::Str),
    must("ndparams", Kind::Keys(NDPARAMS)),
    must("alloc_policy", Kind::Word(&gantry_model::config::ALLOC_POLICIES)),
    must("ipolicy", Kind::Keys(IPOLICY)),
    must("diskparams", Kind::Maps),
    must("networks", Kind::MapsOf(NICPARAMS)),
];

pub(super) const INSTANCE: &[Field] = &[
    must("name", Kind::Str),
    must("primary_node", Kind::Str),
    must("os", Kind::Str),
    must("hypervisor", Kind::Str),
    must("hvparams", Kind::Map),
    must("beparams", Kind::Keys(BEPARAMS)),
    must("osparams", Kind::Map),
    may("osparams_private", Kind::Map),
    must("nics", Kind::List),
    must("disk_template", Kind::Word(DISK_TEMPLATES)),
    must("disks", Kind::List),
    may("disks_active", Kind::Bool),
    may("network_port", Kind::Int(1)),
    must("forthcoming", Kind::Bool),
];

/// The driver stays: the slots made for it name it. So does the name.
pub(super) const BLUEPRINT: &[Field] = &[
    must("image", Kind::Str),
    must("memory_mib", Kind::Int(1)),
    must("vcpus", Kind::Int(1)),
    must("disk_mib", Kind::Int(1)),
    must("pids", Kind::Int(1)),
    must("recycle", Kind::Word(&["destroy"])),
    must("wall_s_max", Kind::Int(1)),
    must("lease_s_max", Kind::Int(1)),
    must("enabled", Kind::Bool),
];

/// The blueprint stays: revisions of two blueprints can't be compared. So does the name, which its slots have.
pub(super) const POOL: &[Field] = &[
    may("group", Kind::Str),
    must("min", Kind::Int(0)),
    must("max", Kind::Int(0)),
    must("amount", Kind::Int(0)),
    must("spare", Kind::Int(0)),
    must("lifetime_s", Kind::Int(0)),
    must("connect_timeout_s", Kind::Int(1)),
    must("state", Kind::Word(&["active", "draining"])),
];

/// Sets fields of `object` by their names.
///
/// # Errors
/// A field that is unknown, fixed, or of another type.
pub(super) fn set<T: Serialize + DeserializeOwned>(
    what: &str,
    object: &T,
    table: &[Field],
    set: &Params,
) -> Result<T, GanetiError> {
    let mut map = match serde_json::to_value(object) {
        Ok(Value::Object(map)) => map,
        Ok(_) | Err(_) => return Err(GanetiError::generic(format!("{what} has no JSON object form"))),
    };
    for (name, value) in set {
        let Some(field) = table.iter().find(|field| field.name == name) else {
            let why = if map.contains_key(name) { "can't be changed" } else { "does not exist" };
            return Err(wrong_input(format!("{what} field '{name}' {why}")));
        };
        if value.is_null() && field.optional {
            map.remove(name);
            continue;
        }
        check(&format!("{what} field '{name}'"), field.kind, value)?;
        map.insert(name.clone(), value.clone());
    }
    serde_json::from_value(Value::Object(map))
        .map_err(|why| wrong_input(format!("{what} fields can't be set so: {why}")))
}

/// Refuses own parameters that are unknown or of another type.
pub(super) fn check_keys(what: &str, table: &'static [Field], params: &Params) -> Result<(), GanetiError> {
    for (name, value) in params {
        let Some(field) = table.iter().find(|field| field.name == name) else {
            return Err(wrong_input(format!("{what}: there is no parameter '{name}'")));
        };
        check(&format!("{what}: parameter '{name}'"), field.kind, value)?;
    }
    Ok(())
}

fn check(what: &str, kind: Kind, value: &Value) -> Result<(), GanetiError> {
    let bad = |wanted: &str| Err(wrong_input(format!("{what} must be {wanted}, not {}", shown(value))));
    match kind {
        Kind::Str if !value.is_string() => bad("a string"),
        Kind::Bool if !value.is_boolean() => bad("true or false"),
        Kind::Number if !value.is_number() => bad("a number"),
        Kind::Map if !value.is_object() => bad("an object"),
        Kind::List if !value.is_array() => bad("a list"),
        Kind::Str | Kind::Bool | Kind::Number | Kind::Map | Kind::List => Ok(()),
        Kind::Int(least) => match value.as_i64() {
            Some(number) if number >= least => Ok(()),
            Some(_) | None => bad(&format!("a whole number of at least {least}")),
        },
        Kind::Word(words) => match value.as_str() {
            Some(word) if words.contains(&word) => Ok(()),
            Some(_) | None => bad(&format!("one of {}", words.join(", "))),
        },
        Kind::Texts => match value.as_array() {
            Some(list) if list.iter().all(Value::is_string) => Ok(()),
            Some(_) | None => bad("a list of strings"),
        },
        Kind::Words(words) => match value.as_array() {
            Some(list) if is_words(words, list) => Ok(()),
            Some(_) | None => bad(&format!("a list, not empty, none twice, of {}", words.join(", "))),
        },
        Kind::Maps | Kind::MapsOf(_) => {
            let Some(map) = value.as_object() else { return bad("an object of objects") };
            for (key, inner) in map {
                let Some(params) = inner.as_object() else { return bad("an object of objects") };
                if let Kind::MapsOf(table) = kind {
                    check_keys(&format!("{what}, '{key}'"), table, params)?;
                }
            }
            Ok(())
        }
        Kind::Keys(table) => match value.as_object() {
            Some(params) => check_keys(what, table, params),
            None => bad("an object"),
        },
    }
}

fn is_words(words: &[&str], list: &[Value]) -> bool {
    let mut seen = std::collections::BTreeSet::new();
    !list.is_empty()
        && list.iter().all(|item| item.as_str().is_some_and(|w| words.contains(&w) && seen.insert(w)))
}

/// The value for people, cut where it gets long.
fn shown(value: &Value) -> String {
    const SHOWN_CHARS_MAX: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}
