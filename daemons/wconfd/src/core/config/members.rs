//! Whose copies count, as an object (docs/adr/0008): what settling a change of the members writes, and the rule that
//! a node's flag says the same.

use super::edit::{Context, Edit, Effect};
use super::error::{Refusal, unknown, wrong_state};
use super::rows::Config;
use gantry_model::config::{Members, Node};
use gantry_model::error::GanetiError;
use gantry_model::ids::NodeUuid;
use gantry_proto::wconfd::Command;
use std::sync::Arc;

/// The object with its revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembersRow {
    /// Grows by one with each stored change.
    pub rev: u64,
    /// The record.
    pub members: Members,
}

impl Config {
    /// The digests of the images that were imported.
    pub fn image_digests(&self) -> impl Iterator<Item = &str> {
        self.images.values().map(|image| image.digest.as_str())
    }

    /// Whose copies count; None when this was never written.
    #[must_use]
    pub fn members(&self) -> Option<&Members> {
        self.members.as_ref().map(|row| &row.members)
    }

    /// Writes the members and what changes with them, in one batch: all or nothing.
    ///
    /// # Errors
    /// The first refusal of a command, or a flag that would contradict the members; nothing has changed then.
    pub fn set_members(
        &mut self,
        members: Members,
        commands: &[Command],
        context: &mut Context,
    ) -> Result<Effect, Refusal> {
        self.batch(Some(members), commands, context)
    }

    /// Names a node as the master. It is a member, so it is no longer drained or offline, whatever was said of it.
    ///
    /// # Errors
    /// There is no such node.
    pub fn take_over(&mut self, node: NodeUuid, now: f64) -> Result<Effect, Refusal> {
        let Some(mut master) = self.nodes.get(&node).map(|node| (**node).clone()) else {
            return Err(unknown("Node", node).into());
        };
        (master.master_candidate, master.offline, master.drained) = (true, false, false);
        let clock = self.lease_clock();
        let mut edit = Edit::new(self, now, clock);
        edit.set_node(node, Some(master));
        let cluster = gantry_model::config::Cluster { master_node: node, ..(*edit.config.cluster).clone() };
        edit.set_cluster(cluster);
        Ok(edit.end(Vec::new(), None))
    }
}

impl Edit<'_> {
    /// Makes every node's flag say what the members do, once they are settled.
    pub(super) fn fit_flags(&mut self) {
        let Some(row) = self.config.members.clone().filter(|row| row.members.settled) else { return };
        let counts = |node: NodeUuid| row.members.members.iter().any(|member| member.node == node);
        let off = |node: &&Arc<Node>| node.master_candidate != counts(node.uuid);
        let nodes: Vec<Node> = self.config.nodes.values().filter(off).map(|node| (**node).clone()).collect();
        for mut node in nodes {
            node.master_candidate = !node.master_candidate;
            self.set_node(node.uuid, Some(node));
        }
    }

    pub(super) fn set_members(&mut self, members: Members) {
        let rev = self.config.members.as_ref().map_or(0, |row| row.rev);
        let old = self.config.members.replace(Arc::new(MembersRow { rev, members }));
        self.old.members.get_or_insert(old);
    }

    /// No node that this batch touched may say another thing of itself than the members do.
    pub(super) fn flags_agree(&self) -> Result<(), GanetiError> {
        let Some(row) = &self.config.members else { return Ok(()) };
        if !row.members.settled {
            // A change under way; the batch that settles it brings the flag.
            return Ok(());
        }
        let counts = |node: NodeUuid| row.members.members.iter().any(|member| member.node == node);
        let touched = self.old.nodes.keys().filter_map(|uuid| self.config.nodes.get(uuid));
        let off = |node: &&Arc<Node>| node.master_candidate != counts(node.uuid);
        match touched.into_iter().find(off) {
            None => Ok(()),
            Some(node) => Err(wrong_state(format!(
                "Node {}: whether it is a master candidate changes with its copies only (gnt-node modify -C)",
                node.name
            ))),
        }
    }
}
