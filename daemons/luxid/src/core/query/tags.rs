//! The method `QueryTags` (`spec/luxi.md` §5).

use super::kinds::{group, instance, network, node};
use crate::core::mirror::Snapshot;
use gantry_model::error::GanetiError;
use serde_json::Value;
use std::collections::BTreeSet;

/// What carries tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagKind {
    /// The cluster; its name is not looked at.
    Cluster,
    /// A node group.
    Group,
    /// A node.
    Node,
    /// An instance.
    Instance,
    /// A network.
    Network,
}

impl TagKind {
    /// The kind of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "cluster" => Some(Self::Cluster),
            "nodegroup" => Some(Self::Group),
            "node" => Some(Self::Node),
            "instance" => Some(Self::Instance),
            "network" => Some(Self::Network),
            _ => None,
        }
    }
}

/// The sorted tags of an object.
///
/// # Errors
/// `OpPrereqError` (`unknown_entity`) when there is no such object.
pub fn tags(config: &Snapshot, kind: TagKind, name: &str) -> Result<Vec<String>, GanetiError> {
    let sorted = |tags: &BTreeSet<String>| tags.iter().cloned().collect();
    let cluster = config.cluster()?;
    Ok(match kind {
        TagKind::Cluster => sorted(&cluster.stamp.tags),
        TagKind::Group => sorted(&group::find(config, name)?.stamp.tags),
        TagKind::Node => sorted(&node::find(config, name)?.stamp.tags),
        TagKind::Instance => sorted(&instance::find(config, name)?.instance.stamp.tags),
        TagKind::Network => {
            let network = network::find(config, name)?;
            let tags = network.get("tags").and_then(Value::as_array).into_iter().flatten();
            sorted(&tags.filter_map(Value::as_str).map(str::to_owned).collect())
        }
    })
}
