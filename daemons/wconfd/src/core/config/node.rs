//! Nodes and their roles (`spec/failover.md` §3, §4).

use super::cluster;
use super::edit::{Edit, fresh};
use super::error::{exists, not_unique, unknown, wrong_input, wrong_state};
use super::fields;
use gantry_model::config::{Node, Params};
use gantry_model::error::GanetiError;
use gantry_model::ids::NodeUuid;
use gantry_model::names::{is_host_name, natural_cmp};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;

/// Instances named in a refusal; the rest is counted.
const NAMED_MAX: usize = 5;

impl Edit<'_> {
    /// Adds a node.
    pub(super) fn node_add(&mut self, node: &Node) -> Result<Value, GanetiError> {
        self.never_removed("Node", node.uuid.0)?;
        if self.config.index.node_names.contains_key(&node.name) || self.config.nodes.contains_key(&node.uuid)
        {
            return Err(exists(format!("Node {} is already in the configuration", node.name)));
        }
        if !is_host_name(&node.name) {
            return Err(wrong_input(format!("'{}' is not a node name", node.name)));
        }
        if !self.config.groups.contains_key(&node.group) {
            return Err(unknown("Node group", node.group));
        }
        self.check_node(node, None)?;
        self.set_node(node.uuid, Some(node.clone()));
        Ok(json!(node.uuid))
    }

    /// Removes a node without instances that is not the master.
    pub(super) fn node_remove(&mut self, uuid: NodeUuid) -> Result<Value, GanetiError> {
        let node = self.known_node(uuid)?;
        if self.config.cluster.master_node == uuid {
            return Err(wrong_input("Node is the master node, failover to another node is required"));
        }
        if let Some(here) = self.names_on(uuid) {
            return Err(wrong_input(format!(
                "Node {} is the home of {here}: remove them or move them away first; slots of pools go once the \
                 node is drained",
                node.name
            )));
        }
        self.set_node(uuid, None);
        Ok(Value::Null)
    }

    /// Changes flags, addresses and parameters of a node by their names.
    pub(super) fn node_set(
        &mut self,
        uuid: NodeUuid,
        rev: Option<u64>,
        set: &Params,
    ) -> Result<Value, GanetiError> {
        let old = self.known_node(uuid)?;
        let new = fields::set("Node", &*old, fields::NODE, set)?;
        fresh(old.stamp.serial_no, rev, new != *old)?;
        self.check_node(&new, Some(&old))?;
        self.set_node(uuid, Some(new));
        Ok(Value::Null)
    }

    /// The rules of a node as it shall be; `old` is what it was.
    fn check_node(&self, node: &Node, old: Option<&Node>) -> Result<(), GanetiError> {
        self.check_roles(node, old)?;
        for ip in [&node.primary_ip, &node.secondary_ip] {
            if ip.parse::<IpAddr>().is_err() {
                return Err(wrong_input(format!("'{ip}' is not an IP address")));
            }
        }
        if cluster::has(node, &self.config.cluster.master_ip) {
            return Err(not_unique(cluster::taken(&self.config.cluster.master_ip, &node.name)));
        }
        if node.noded_port == 0 {
            return Err(wrong_input("The port of a node can't be 0"));
        }
        let address = (node.primary_ip.clone(), node.noded_port);
        match self.config.index.node_addresses.get(&address).and_then(|other| self.config.node(*other)) {
            Some(other) if other.uuid != node.uuid => {
                return Err(not_unique(format!(
                    "New node ip address(es) conflict with existing node {}",
                    other.name
                )));
            }
            Some(_) | None => {}
        }
        let lost_vms = old.is_some_and(|old| old.vm_capable) && !node.vm_capable;
        match self.names_on(node.uuid) {
            Some(_) if lost_vms => Err(wrong_state(format!(
                "Node {} hosts instances so vm_capable cannot be turned off",
                node.name
            ))),
            Some(_) | None => fields::check_keys("Node ndparams", fields::NDPARAMS, &node.ndparams),
        }
    }

    /// Flags: at most one; the master keeps its own. Who is a candidate is decided by the members (see `members`).
    fn check_roles(&self, node: &Node, old: Option<&Node>) -> Result<(), GanetiError> {
        let roles = |node: &Node| (node.master_candidate, node.offline, node.drained, node.master_capable);
        let master = self.config.cluster.master_node == node.uuid;
        if master && old.is_some_and(|old| roles(old) != roles(node)) {
            return Err(wrong_input("The master role can be changed only via master-failover"));
        }
        let flags = [node.master_candidate, node.offline, node.drained];
        if flags.iter().filter(|flag| **flag).count() > 1 {
            return Err(wrong_input("Can't set the node into more than one state at the same time"));
        }
        if node.master_candidate && !node.master_capable {
            return Err(wrong_input(format!(
                "Node {} is not master capable, cannot make it a master candidate",
                node.name
            )));
        }
        Ok(())
    }

    fn known_node(&self, uuid: NodeUuid) -> Result<Arc<Node>, GanetiError> {
        self.config.nodes.get(&uuid).cloned().ok_or_else(|| unknown("Node", uuid))
    }

    /// Some of the instances whose home this is, for people; None when there are none.
    fn names_on(&self, uuid: NodeUuid) -> Option<String> {
        let here = self.config.index.node_instances.get(&uuid)?;
        let some = here.iter().take(NAMED_MAX);
        let mut names: Vec<_> =
            some.filter_map(|instance| Some(self.config.instance(*instance)?.name.as_str())).collect();
        names.sort_by(|a, b| natural_cmp(a, b));
        let more = here.len().saturating_sub(NAMED_MAX);
        let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
        Some(format!("{}{rest}", names.join(", ")))
    }
}
