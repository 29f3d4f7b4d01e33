//! Changes of the cluster object.

use super::edit::{Edit, fresh};
use super::error::{not_unique, wrong_input};
use super::fields;
use gantry_model::config::{Cluster, Node, Params, RENEWED_CA, confd};
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::master_ip::MasterAddress;
use gantry_model::names::is_host_name;
use gantry_model::network::Network;
use serde_json::Value;

/// A failover asks all candidates, and a commit waits for a majority of them.
const CANDIDATE_POOL_SIZE_MAX: u64 = gantry_store::MEMBERS_MAX as u64;

/// Highest type of requests of ConfD's legacy form (`spec/confd.md` §4).
const LEGACY_TYPE_MAX: u64 = 11;

impl Edit<'_> {
    /// Sets fields of the cluster by their names.
    pub(super) fn cluster_set(&mut self, rev: Option<u64>, set: &Params) -> Result<Value, GanetiError> {
        let old = self.config.cluster.clone();
        let new = fields::set("Cluster", &*old, fields::CLUSTER, set)?;
        fresh(old.stamp.serial_no, rev, new != *old)?;
        check(&new)?;
        check_confd(&old, &new)?;
        self.nobody_has(&new.master_ip)?;
        self.none_needs(&old, &new)?;
        self.set_cluster(new);
        Ok(Value::Null)
    }

    /// The cluster's address moves from node to node, so no node may have it for itself.
    fn nobody_has(&self, master_ip: &str) -> Result<(), GanetiError> {
        match self.config.nodes.values().find(|node| has(node, master_ip)) {
            Some(node) => Err(not_unique(taken(master_ip, &node.name))),
            None => Ok(()),
        }
    }

    /// Whether no instance needs what `new` takes away of the enabled things.
    fn none_needs(&self, old: &Cluster, new: &Cluster) -> Result<(), GanetiError> {
        if old.enabled_disk_templates == new.enabled_disk_templates
            && old.enabled_hypervisors == new.enabled_hypervisors
        {
            return Ok(());
        }
        for instance in self.config.instances.values() {
            for (what, needed, enabled) in [
                ("disk template", &instance.disk_template, &new.enabled_disk_templates),
                ("hypervisor", &instance.hypervisor, &new.enabled_hypervisors),
            ] {
                if !enabled.contains(needed) {
                    let text =
                        format!("Cannot disable {what} '{needed}': instance '{}' uses it", instance.name);
                    return Err(GanetiError::prereq(text, Ecode::WrongState));
                }
            }
        }
        Ok(())
    }
}

/// Whether an address is a node's own.
pub(super) fn has(node: &Node, ip: &str) -> bool {
    [&node.primary_ip, &node.secondary_ip].contains(&&ip.to_owned())
}

/// Why the cluster's address can't be a node's too.
pub(super) fn taken(ip: &str, node: &str) -> String {
    format!(
        "the cluster's address {ip} (master_ip) can't be the address of a node, {node}: it moves with the master"
    )
}

fn check(cluster: &Cluster) -> Result<(), GanetiError> {
    if !is_host_name(&cluster.cluster_name) {
        return Err(wrong_input(format!("'{}' is not a cluster name", cluster.cluster_name)));
    }
    if cluster.candidate_pool_size > CANDIDATE_POOL_SIZE_MAX {
        return Err(wrong_input(format!(
            "candidate_pool_size {} is more than the {CANDIDATE_POOL_SIZE_MAX} copies that a cluster can have",
            cluster.candidate_pool_size
        )));
    }
    MasterAddress::of(cluster).map_err(wrong_input)?;
    if let Some(print) = cluster.extra.get(RENEWED_CA).filter(|print| !print.as_str().is_some_and(is_print)) {
        return Err(wrong_input(format!("{RENEWED_CA} {print} is no SHA-256 fingerprint")));
    }
    if !is_mac_prefix(&cluster.mac_prefix) {
        return Err(wrong_input(format!("Invalid MAC address prefix '{}'", cluster.mac_prefix)));
    }
    if let Some(name) = cluster.enabled_hypervisors.iter().find(|name| !cluster.hvparams.contains_key(*name))
    {
        return Err(wrong_input(format!("Enabled hypervisor '{name}' has no hvparams")));
    }
    for (what, there) in [
        ("beparams", cluster.beparams.contains_key("default")),
        ("nicparams", cluster.nicparams.contains_key("default")),
    ] {
        if !there {
            return Err(wrong_input(format!("Cluster {what} need an entry 'default'")));
        }
    }
    cluster.beparams.values().try_for_each(memory_in_order)
}

/// Servers are told first and clients later, so that nobody is left in silence on the way.
fn check_confd(old: &Cluster, new: &Cluster) -> Result<(), GanetiError> {
    let digest = |cluster: &Cluster| {
        let word = cluster.extra.get(confd::DIGEST).and_then(Value::as_str);
        word.unwrap_or(confd::BOTH).to_owned()
    };
    let (from, to) = (digest(old), digest(new));
    if from != to && from != confd::BOTH && to != confd::BOTH {
        return Err(wrong_input(format!(
            "{} can't go from {from} to {to} in one step: set it to {} first",
            confd::DIGEST,
            confd::BOTH
        )));
    }
    for name in [confd::ALLOWED_NETWORKS, confd::LEGACY_NETWORKS] {
        let texts = new.extra.get(name).and_then(Value::as_array).into_iter().flatten();
        for text in texts.filter_map(Value::as_str) {
            text.parse::<Network>().map_err(|why| wrong_input(format!("{name}: {why}")))?;
        }
    }
    let types = new.extra.get(confd::LEGACY_TYPES).and_then(Value::as_array).into_iter().flatten();
    match types.into_iter().find(|kind| kind.as_u64().is_none_or(|number| number > LEGACY_TYPE_MAX)) {
        Some(kind) => {
            let name = confd::LEGACY_TYPES;
            Err(wrong_input(format!(
                "{name}: {kind} is no number of a type of requests, 0 to {LEGACY_TYPE_MAX}"
            )))
        }
        None => Ok(()),
    }
}

/// SHA-256 in lower-case hex.
fn is_print(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// minmem ≤ maxmem where both are given.
pub(super) fn memory_in_order(params: &Params) -> Result<(), GanetiError> {
    let of = |name| params.get(name).and_then(Value::as_u64);
    match (of("minmem"), of("maxmem")) {
        (Some(min), Some(max)) if min > max => {
            Err(wrong_input(format!("Minimum memory {min} is more than maximum memory {max}")))
        }
        (Some(_) | None, Some(_) | None) => Ok(()),
    }
}

/// Three bytes, lower-case hex with colons, of a unicast address.
pub fn is_mac_prefix(text: &str) -> bool {
    let parts: Vec<_> = text.split(':').collect();
    let hex = |part: &&str| {
        part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let even = |part: &str| u8::from_str_radix(part, 16).is_ok_and(|byte| byte % 2 == 0);
    parts.len() == 3 && parts.iter().all(hex) && even(parts[0])
}
