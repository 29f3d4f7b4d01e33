//! The owner's part of the members: the object, and the first batch of a new master.

use super::mailbox::Reply;
use super::owner::{Owner, Random};
use crate::core::config::{Context, Effect, Refusal};
use gantry_model::config::Members;
use gantry_model::ids::{JobOwner, NodeUuid};
use gantry_proto::envelope::Fail;
use gantry_proto::wconfd::Command;
use gantry_rt::clock;
use gantry_store::Index;
use std::collections::VecDeque;

/// The members object as far as it is committed, and what of it is on its way.
#[derive(Debug, Default)]
pub(super) struct Settled {
    committed: Option<Members>,
    appended: VecDeque<(Index, Option<Members>)>,
}

impl Settled {
    /// What is committed at the start.
    pub(super) fn new(committed: Option<Members>) -> Self {
        Self { committed, appended: VecDeque::new() }
    }

    /// A batch on its way to the disk has this one. One change at a time writes a few, so few wait.
    pub(super) fn appended(&mut self, index: Index, members: Option<Members>) {
        self.appended.push_back((index, members));
    }

    /// All batches up to here are committed.
    pub(super) fn advance(&mut self, committed: Index) {
        while let Some((_, members)) = self.appended.pop_front_if(|(index, _)| *index <= committed) {
            self.committed = members;
        }
    }
}

impl Owner {
    /// The members, as committed. Answered at once: what comes before this may be committed only when a change of the
    /// members is, and who makes that change asks this.
    pub fn members(&mut self, reply: Reply<Option<Members>>) {
        reply.send(Ok(self.members.committed.clone()));
    }

    /// A node's name, at once: for who makes a change of the members.
    pub fn node_name(&mut self, node: NodeUuid, reply: Reply<Option<String>>) {
        reply.send(Ok(self.config.node(node).map(|node| node.name.clone())));
    }

    /// The digests of the images, those of rows that are not committed yet too. Answers at once: who asks is a copy's
    /// sender, and what comes before this is committed only when senders go on.
    pub fn image_digests(&self, reply: Reply<Vec<gantry_store::Digest>>) {
        let images = self.config.image_digests().filter_map(gantry_store::digest).collect();
        reply.send(Ok(images));
    }

    /// Writes the members, what changes with them, and every node's flag that does not say the same yet, in one batch.
    /// The answer is its index.
    pub fn set_members(&mut self, members: Members, commands: &[Command], reply: Reply<u64>) {
        let done = self.try_set(members, commands);
        self.answer(reply, done);
    }

    fn try_set(&mut self, members: Members, commands: &[Command]) -> Result<u64, Fail> {
        self.has_room()?;
        let effect = self.effect(|config, context| config.set_members(members, commands, context))?;
        self.store(effect)?;
        Ok(self.last.0)
    }

    /// Whether a job may send these commands: it lives and holds the locks.
    pub fn allowed(&mut self, owner: JobOwner, commands: &[Command], reply: Reply<()>) {
        let done = self.lives(owner).and_then(|()| self.may(owner, commands));
        reply.send(done);
    }

    /// Names this node as the master, if another one is named: the first batch of a new master (P1.8). The name of the
    /// one before, if it is another.
    ///
    /// # Errors
    /// The store's.
    pub fn take_over(&mut self, node: NodeUuid) -> Result<Option<String>, Fail> {
        let before = self.config.cluster().master_node;
        if before == node {
            return Ok(None);
        }
        let before = self.config.node(before).map(|node| node.name.clone()).unwrap_or_default();
        tracing::info!(%node, before = %self.config.cluster().master_node, "this node is the master now");
        let effect = self.config.take_over(node, clock::now().epoch())?;
        self.store(effect)?;
        Ok(Some(before))
    }

    fn effect(
        &mut self,
        change: impl FnOnce(&mut crate::core::config::Config, &mut Context) -> Result<Effect, Refusal>,
    ) -> Result<Effect, Fail> {
        let (now, lease_clock) = (clock::now().epoch(), self.lease_time.now());
        let mut context = Context { now, clock: lease_clock, owner: None, ids: &mut Random };
        Ok(change(&mut self.config, &mut context)?)
    }
}
