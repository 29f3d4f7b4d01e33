//! `role.json`: what a node is, hence which daemons boot runs there. Written only by noded and init.

use crate::ids::{ClusterUuid, NodeUuid};
use serde::{Deserialize, Serialize};

/// A node's role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs the master's daemons too.
    Master,
    /// Holds copies.
    Candidate,
    /// Runs VMs only.
    Regular,
}

/// The content of `role.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleFile {
    /// This node.
    pub node: NodeUuid,
    /// Its cluster.
    pub cluster: ClusterUuid,
    /// Its role.
    pub role: Role,
    /// The epoch in which it got it.
    pub epoch: u64,
}
