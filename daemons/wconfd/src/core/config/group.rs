//! Node groups, and which nodes are in them.

use super::edit::{Edit, fresh};
use super::error::{exists, unknown, wrong_input, wrong_state};
use super::fields;
use gantry_model::config::{ALLOC_POLICIES, Group, Params};
use gantry_model::error::GanetiError;
use gantry_model::ids::{GroupUuid, NodeUuid};
use gantry_model::names::{is_group_name, natural_cmp};
use serde_json::{Value, json};
use std::sync::Arc;

impl Edit<'_> {
    /// Adds a group.
    pub(super) fn group_add(&mut self, group: &Group) -> Result<Value, GanetiError> {
        self.never_removed("Node group", group.uuid.0)?;
        if self.config.groups.contains_key(&group.uuid) {
            return Err(exists(format!("A node group with uuid {} already exists", group.uuid)));
        }
        if let Some(uuid) = self.config.index.group_names.get(&group.name) {
            return Err(exists(format!(
                "Desired group name '{}' already exists as a node group (UUID: {uuid})",
                group.name
            )));
        }
        check(group)?;
        self.set_group(group.uuid, Some(group.clone()));
        Ok(json!(group.uuid))
    }

    /// Removes an empty group that is not the last.
    pub(super) fn group_remove(&mut self, uuid: GroupUuid) -> Result<Value, GanetiError> {
        let group = self.group(uuid)?;
        if let Some(nodes) = self.config.index.group_nodes.get(&uuid) {
            let mut names: Vec<_> =
                nodes.iter().filter_map(|node| Some(self.config.node(*node)?.name.as_str())).collect();
            names.sort_by(|a, b| natural_cmp(a, b));
            return Err(wrong_state(format!(
                "Group '{}' not empty, has the following nodes: {}",
                group.name,
                names.join(", ")
            )));
        }
        if let Some(pool) = self.config.pools.values().find(|pool| pool.group == Some(uuid)) {
            let text =
                format!("Group '{}' is the one of pool '{}': remove that first", group.name, pool.name);
            return Err(wrong_state(text));
        }
        if self.config.groups.len() == 1 {
            return Err(wrong_state(format!("Group '{}' is the only group, cannot be removed", group.name)));
        }
        self.set_group(uuid, None);
        Ok(Value::Null)
    }

    /// Changes a group by its field names.
    pub(super) fn group_set(
        &mut self,
        uuid: GroupUuid,
        rev: Option<u64>,
        set: &Params,
    ) -> Result<Value, GanetiError> {
        let old = self.group(uuid)?;
        let new = fields::set("Node group", &*old, fields::GROUP, set)?;
        fresh(old.stamp.serial_no, rev, new != *old)?;
        match self.config.index.group_names.get(&new.name) {
            Some(other) if *other != uuid => {
                return Err(exists(format!(
                    "Desired new name '{}' clashes with existing node group (UUID: {other})",
                    new.name
                )));
            }
            Some(_) | None => {}
        }
        check(&new)?;
        self.set_group(uuid, Some(new));
        Ok(Value::Null)
    }

    /// Moves nodes to a group.
    pub(super) fn group_assign(
        &mut self,
        group: GroupUuid,
        nodes: &[NodeUuid],
    ) -> Result<Value, GanetiError> {
        self.group(group)?;
        for uuid in nodes {
            let row = self.config.nodes.get(uuid).ok_or_else(|| unknown("Node", uuid))?;
            let mut node = (**row).clone();
            node.group = group;
            self.set_node(*uuid, Some(node));
        }
        Ok(Value::Null)
    }

    fn group(&self, uuid: GroupUuid) -> Result<Arc<Group>, GanetiError> {
        self.config.groups.get(&uuid).cloned().ok_or_else(|| unknown("Node group", uuid))
    }
}

fn check(group: &Group) -> Result<(), GanetiError> {
    if !is_group_name(&group.name) {
        return Err(wrong_input(format!("Invalid group name '{}'", group.name)));
    }
    if !ALLOC_POLICIES.contains(&group.alloc_policy.as_str()) {
        return Err(wrong_input(format!(
            "Allocation policy '{}' is none of {}",
            group.alloc_policy,
            ALLOC_POLICIES.join(", ")
        )));
    }
    fields::check_keys("Group ndparams", fields::NDPARAMS, &group.ndparams)?;
    fields::check_keys("Group ipolicy", fields::IPOLICY, &group.ipolicy)
}
