//! What the asked nodes said, indexed for queries.

use super::cell::{Cell, Missing};
use gantry_model::config::Node;
use gantry_model::ids::{InstanceUuid, NodeUuid};
use gantry_proto::noded::{NodeInfoReply, VmFacts};
use std::collections::HashMap;

/// A node that was asked and did not answer in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreachable;

/// The answers of the nodes that [`super::Plan`] wanted asked.
#[derive(Debug, Default)]
pub struct LiveFacts {
    nodes: HashMap<NodeUuid, Result<NodeInfoReply, Unreachable>>,
    /// Sorted by slot.
    vms: Vec<(NodeUuid, VmFacts)>,
    /// Length of each pool's line, if asked for.
    waiting: HashMap<String, u64>,
    /// Why pools lack slots, if asked for.
    short: HashMap<String, String>,
}

impl LiveFacts {
    /// Facts from the answer of each asked node.
    #[must_use]
    pub fn new(answers: impl IntoIterator<Item = (NodeUuid, Result<NodeInfoReply, Unreachable>)>) -> Self {
        let nodes: HashMap<_, _> = answers.into_iter().collect();
        let mut vms: Vec<(NodeUuid, VmFacts)> = Vec::new();
        for (node, answer) in &nodes {
            let Ok(info) = answer else { continue };
            vms.extend(info.vms.iter().map(|vm| (*node, vm.clone())));
        }
        vms.sort_by_key(|(node, vm)| (vm.slot, vm.generation, *node));
        Self { nodes, vms, waiting: HashMap::new(), short: HashMap::new() }
    }

    /// Adds how many tasks and lease requests wait for each pool.
    #[must_use]
    pub fn with_waiting(self, waiting: HashMap<String, u64>) -> Self {
        Self { waiting, ..self }
    }

    /// Adds why pools lack slots.
    #[must_use]
    pub fn with_short(self, short: HashMap<String, String>) -> Self {
        Self { short, ..self }
    }

    /// Why a pool lacks slots, as far as it was tried.
    #[must_use]
    pub(super) fn short(&self, pool: &str) -> Option<&str> {
        self.short.get(pool).map(String::as_str)
    }

    /// How many wait for a pool.
    #[must_use]
    pub(super) fn waiting(&self, pool: &str) -> u64 {
        self.waiting.get(pool).copied().unwrap_or(0)
    }

    /// Whether the node answered.
    #[must_use]
    pub fn answered(&self, node: NodeUuid) -> bool {
        matches!(self.nodes.get(&node), Some(Ok(_)))
    }

    /// The VMs of a slot, wherever they are.
    #[must_use]
    pub fn vms(&self, slot: InstanceUuid) -> &[(NodeUuid, VmFacts)] {
        let start = self.vms.partition_point(|(_, vm)| vm.slot < slot);
        let rest = &self.vms[start..];
        &rest[..rest.partition_point(|(_, vm)| vm.slot == slot)]
    }

    /// What a node said, or what stands in its live fields instead.
    pub(super) fn of<'a>(&'a self, node: &Node) -> Result<&'a NodeInfoReply, Cell<'static>> {
        match self.nodes.get(&node.uuid) {
            _ if node.offline => Err(Cell::Missing(Missing::Offline)),
            Some(Ok(info)) => Ok(info),
            Some(Err(Unreachable)) | None => Err(Cell::Missing(Missing::NoData)),
        }
    }
}
