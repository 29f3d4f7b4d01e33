//! Tags of cluster, nodes, groups and instances (`spec/config.md` §5).

use super::edit::Edit;
use super::error::{tag, unknown};
use gantry_model::config::Stamp;
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::names::{TAG_LEN_MAX, TAGS_MAX, is_tag};
use gantry_proto::wconfd::TagTarget;
use serde_json::Value;
use std::collections::BTreeSet;

impl Edit<'_> {
    /// Adds tags; those already there are no error.
    pub(super) fn tags_add(
        &mut self,
        target: &TagTarget,
        tags: &BTreeSet<String>,
    ) -> Result<Value, GanetiError> {
        tags.iter().try_for_each(|tag| check(tag))?;
        self.retag(target, |stamp| {
            stamp.tags.extend(tags.iter().cloned());
            if stamp.tags.len() > TAGS_MAX {
                return Err(tag(format!("Too many tags on object (maximum {TAGS_MAX})")));
            }
            Ok(())
        })
    }

    /// Removes tags; one that is not there refuses all.
    pub(super) fn tags_del(
        &mut self,
        target: &TagTarget,
        tags: &BTreeSet<String>,
    ) -> Result<Value, GanetiError> {
        tags.iter().try_for_each(|tag| check(tag))?;
        self.retag(target, |stamp| {
            let missing: Vec<_> = tags.difference(&stamp.tags).map(|tag| format!("'{tag}'")).collect();
            if !missing.is_empty() {
                let text = format!("Tag(s) {} not found", missing.join(", "));
                return Err(GanetiError::prereq(text, Ecode::UnknownEntity));
            }
            stamp.tags.retain(|tag| !tags.contains(tag));
            Ok(())
        })
    }

    fn retag(
        &mut self,
        target: &TagTarget,
        change: impl FnOnce(&mut Stamp) -> Result<(), GanetiError>,
    ) -> Result<Value, GanetiError> {
        match target {
            TagTarget::Cluster => {
                let mut cluster = (*self.config.cluster).clone();
                change(&mut cluster.stamp)?;
                self.set_cluster(cluster);
            }
            TagTarget::Node(uuid) => {
                let row = self.config.nodes.get(uuid).ok_or_else(|| unknown("Node", uuid))?;
                let mut node = (**row).clone();
                change(&mut node.stamp)?;
                self.set_node(*uuid, Some(node));
            }
            TagTarget::Group(uuid) => {
                let row = self.config.groups.get(uuid).ok_or_else(|| unknown("Node group", uuid))?;
                let mut group = (**row).clone();
                change(&mut group.stamp)?;
                self.set_group(*uuid, Some(group));
            }
            TagTarget::Instance(uuid) => {
                let row = self.config.instances.get(uuid).ok_or_else(|| unknown("Instance", uuid))?;
                let mut instance = (**row).clone();
                change(&mut instance.stamp)?;
                self.set_instance(*uuid, Some(instance));
            }
        }
        Ok(Value::Null)
    }
}

pub(super) fn check(text: &str) -> Result<(), GanetiError> {
    if text.is_empty() {
        return Err(tag("Tags cannot be empty"));
    }
    if text.len() > TAG_LEN_MAX {
        return Err(tag(format!("Tag too long (maximum {TAG_LEN_MAX} characters)")));
    }
    if !is_tag(text) {
        return Err(tag(format!("Tag '{text}' contains invalid characters")));
    }
    Ok(())
}
