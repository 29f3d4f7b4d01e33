//! One batch: the values it replaced, and how it ends: finished with new serials, or put back.

use super::error::{Refusal, updated, wrong_input};
use super::members::MembersRow;
use super::object::Change;
use super::pooled::{ClockRow, LeaseRow};
use super::rows::{Applied, Config, Fix, SlotRow};
use gantry_model::config::{Cluster, Group, Instance, Members, Meta, Node, Slot, SlotState};
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::ids::{BlueprintUuid, GroupUuid, InstanceUuid, JobOwner, LeaseUuid, NodeUuid, PoolUuid};
use gantry_model::lease::Lease;
use gantry_model::pool::{Blueprint, Image, Pool};
use gantry_proto::wconfd::Command;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most bytes of JSON one batch may write: it must fit into one frame of the watch stream.
pub const BATCH_BYTES_MAX: usize = 2 << 20;

/// Where new ids come from.
pub trait Ids {
    /// Sixteen bytes nobody had before.
    fn fresh(&mut self) -> [u8; 16];
}

/// What a batch takes from outside.
pub struct Context<'a> {
    /// Seconds since 1970.
    pub now: f64,
    /// Milliseconds a master was up.
    pub clock: u64,
    /// The asking job, with its number of this batch.
    pub owner: Option<(JobOwner, u64)>,
    /// For NICs without uuid or MAC.
    pub ids: &'a mut dyn Ids,
}

/// What a batch did.
#[derive(Debug)]
#[must_use = "changes are to be logged, or undone"]
pub struct Effect {
    /// What to store, in one batch; empty when nothing changed.
    pub changes: Vec<Change>,
    /// A result per command.
    pub results: Vec<Value>,
    /// Whether ssconf values may have changed.
    pub ssconf: bool,
    /// The way back.
    pub undo: Undo,
}

/// The values a batch replaced. None in a map: there was nothing.
#[derive(Debug, Default)]
pub struct Undo {
    pub(super) meta: Option<Arc<Meta>>,
    pub(super) cluster: Option<Arc<Cluster>>,
    pub(super) nodes: BTreeMap<NodeUuid, Option<Arc<Node>>>,
    pub(super) groups: BTreeMap<GroupUuid, Option<Arc<Group>>>,
    pub(super) instances: BTreeMap<InstanceUuid, Option<Arc<Instance>>>,
    pub(super) slots: BTreeMap<InstanceUuid, Option<Arc<SlotRow>>>,
    pub(super) blueprints: BTreeMap<BlueprintUuid, Option<Arc<Blueprint>>>,
    pub(super) pools: BTreeMap<PoolUuid, Option<Arc<Pool>>>,
    pub(super) images: BTreeMap<String, Option<Arc<Image>>>,
    pub(super) leases: BTreeMap<LeaseUuid, Option<Arc<LeaseRow>>>,
    pub(super) clock: Option<ClockRow>,
    pub(super) members: Option<Option<Arc<MembersRow>>>,
    pub(super) applied: BTreeMap<JobOwner, Option<Arc<Applied>>>,
}

/// A batch under way.
pub(super) struct Edit<'a> {
    pub(super) config: &'a mut Config,
    pub(super) old: Undo,
    /// Seconds since 1970.
    pub(super) now: f64,
    /// The lease clock, ms. Never behind the stored one.
    pub(super) clock: u64,
}

impl Config {
    /// Carries out all commands, or none.
    ///
    /// # Errors
    /// The first refusal; nothing has changed then.
    pub fn apply(&mut self, commands: &[Command], context: &mut Context) -> Result<Effect, Refusal> {
        self.batch(None, commands, context)
    }

    /// As [`Config::apply`], with new members written in the same batch.
    pub(super) fn batch(
        &mut self,
        members: Option<Members>,
        commands: &[Command],
        context: &mut Context,
    ) -> Result<Effect, Refusal> {
        let mut edit = Edit::new(self, context.now, context.clock);
        let of_members = members.is_some();
        if let Some(members) = members {
            edit.set_members(members);
        }
        let results: Result<Vec<Value>, Refusal> =
            commands.iter().map(|command| edit.command(command, context)).collect();
        if of_members && results.is_ok() {
            edit.fit_flags();
        }
        let results = results.and_then(|results| Ok(edit.flags_agree().map(|()| results)?));
        let results = match results {
            Ok(results) => results,
            Err(error) => {
                let undo = edit.old;
                self.undo(undo);
                return Err(error);
            }
        };
        let effect = edit.end(results, context.owner);
        let bytes: usize =
            effect.changes.iter().filter_map(|change| change.body.as_ref()).map(Vec::len).sum();
        if bytes > BATCH_BYTES_MAX {
            self.undo(effect.undo);
            return Err(wrong_input(format!(
                "The request changes {bytes} bytes of configuration at once, at most {BATCH_BYTES_MAX} are \
                 possible: split it"
            ))
            .into());
        }
        Ok(effect)
    }

    /// The death of a job: what it was creating or destroying is dirty (`model.md` §2.5), and its last
    /// batch is forgotten.
    pub fn owner_gone(&mut self, owner: JobOwner, now: f64) -> Effect {
        let clock = self.lease_clock();
        let mut edit = Edit::new(self, now, clock);
        edit.release_holder(owner);
        edit.set_applied(owner, None);
        edit.end(Vec::new(), None)
    }

    /// Puts right what an inventory found (P5.2). What is lost breaks its lease.
    pub fn fix(&mut self, fixes: &[Fix], now: f64, clock: u64) -> Effect {
        let mut edit = Edit::new(self, now, clock);
        fixes.iter().for_each(|fix| edit.fix_slot(fix));
        edit.end(Vec::new(), None)
    }

    /// Puts back what a batch replaced. Only the newest batch can be put back.
    pub fn undo(&mut self, undo: Undo) {
        let Undo { meta, cluster, nodes, groups, instances, slots, applied, .. } = undo;
        let Undo { blueprints, pools, images, leases, clock, members, .. } = undo;
        // First everything out, then everything in: names may have wandered between objects.
        nodes.keys().for_each(|uuid| drop(self.put_node(*uuid, None)));
        groups.keys().for_each(|uuid| drop(self.put_group(*uuid, None)));
        instances.keys().for_each(|uuid| drop(self.put_instance(*uuid, None)));
        slots.keys().for_each(|uuid| drop(self.put_slot(*uuid, None)));
        nodes.into_iter().for_each(|(uuid, row)| drop(self.put_node(uuid, row)));
        groups.into_iter().for_each(|(uuid, row)| drop(self.put_group(uuid, row)));
        instances.into_iter().for_each(|(uuid, row)| drop(self.put_instance(uuid, row)));
        slots.into_iter().for_each(|(uuid, row)| drop(self.put_slot(uuid, row)));
        blueprints.into_iter().for_each(|(uuid, row)| drop(self.put_blueprint(uuid, row)));
        pools.into_iter().for_each(|(uuid, row)| drop(self.put_pool(uuid, row)));
        images.into_iter().for_each(|(name, row)| drop(self.put_image(&name, row)));
        leases.into_iter().for_each(|(uuid, row)| drop(self.put_lease(uuid, row)));
        applied.into_iter().for_each(|(owner, row)| drop(self.put_applied(owner, row)));
        self.clock = clock.unwrap_or(self.clock);
        self.members = members.unwrap_or_else(|| self.members.clone());
        self.meta = meta.unwrap_or_else(|| self.meta.clone());
        self.cluster = cluster.unwrap_or_else(|| self.cluster.clone());
    }
}

/// Refuses a change that rests on an object that has changed since. A repeat of the change that made
/// the newest revision is none (`changes` false).
pub(super) fn fresh(stored: u64, read: Option<u64>, changes: bool) -> Result<(), GanetiError> {
    match read {
        Some(read) if read == stored || (read + 1 == stored && !changes) => Ok(()),
        Some(read) => Err(updated(stored, read)),
        None => Ok(()),
    }
}

impl<'a> Edit<'a> {
    pub(super) fn new(config: &'a mut Config, now: f64, clock: u64) -> Self {
        let clock = clock.max(config.lease_clock());
        Self { config, old: Undo::default(), now, clock }
    }

    /// Ends the batch with what it did.
    pub(super) fn end(mut self, results: Vec<Value>, owner: Option<(JobOwner, u64)>) -> Effect {
        let (mut changes, ssconf) = self.finish(self.now);
        if let (Some((owner, seq)), false) = (owner, changes.is_empty()) {
            self.set_applied(owner, Some(Applied { seq, results: results.clone(), index: 0 }));
        }
        self.finish_applied(&mut changes);
        Effect { changes, results, ssconf, undo: self.old }
    }

    fn command(&mut self, command: &Command, context: &mut Context) -> Result<Value, Refusal> {
        let done = match command {
            Command::ClusterSet { rev, set } => self.cluster_set(*rev, set),
            Command::NodeAdd { node } => self.node_add(node),
            Command::NodeRemove { node } => self.node_remove(*node),
            Command::NodeSet { node, rev, set } => self.node_set(*node, *rev, set),
            Command::GroupAdd { group } => self.group_add(group),
            Command::GroupRemove { group } => self.group_remove(*group),
            Command::GroupSet { group, rev, set } => self.group_set(*group, *rev, set),
            Command::GroupAssign { group, nodes } => self.group_assign(*group, nodes),
            Command::InstanceAdd { instance } => self.instance_add(instance, context),
            Command::InstanceRemove { instance } => self.instance_remove(*instance),
            Command::InstanceSetState { instance, state, source } => {
                self.instance_set_state(*instance, *state, source)
            }
            Command::InstanceSet { instance, rev, set } => self.instance_set(*instance, *rev, set, context),
            Command::TagsAdd { target, tags } => self.tags_add(target, tags),
            Command::TagsDel { target, tags } => self.tags_del(target, tags),
            Command::SlotBegin { .. }
            | Command::SlotReady { .. }
            | Command::SlotDirty { .. }
            | Command::SlotBeginDestroy { .. }
            | Command::SlotAbsent { .. }
            | Command::SlotAdd { .. }
            | Command::SlotRemove { .. }
            | Command::SlotDrain { .. }
            | Command::SlotUnstick { .. }
            | Command::LeaseDestroy { .. } => self.slot_command(command, context),
            Command::BlueprintAdd { blueprint } => self.blueprint_add(blueprint),
            Command::BlueprintSet { blueprint, rev, set } => self.blueprint_set(*blueprint, *rev, set),
            Command::BlueprintRemove { blueprint } => self.blueprint_remove(*blueprint),
            Command::PoolAdd { pool } => self.pool_add(pool),
            Command::PoolSet { pool, rev, set } => self.pool_set(*pool, *rev, set),
            Command::PoolRemove { pool } => self.pool_remove(*pool),
            Command::ImageAdd { image } => self.image_add(image),
            Command::ImageRemove { name } => self.image_remove(name),
            Command::LeaseGrab { .. }
            | Command::LeaseRenew { .. }
            | Command::LeaseOpen { .. }
            | Command::LeaseEnd { .. }
            | Command::LeaseReturn { .. }
            | Command::LeaseForget { .. } => return self.lease_command(command),
        };
        Ok(done?)
    }

    pub(super) fn set_cluster(&mut self, cluster: Cluster) {
        let old = std::mem::replace(&mut self.config.cluster, Arc::new(cluster));
        self.old.cluster.get_or_insert(old);
    }

    pub(super) fn set_node(&mut self, uuid: NodeUuid, node: Option<Node>) {
        let old = self.config.put_node(uuid, node.map(Arc::new));
        self.old.nodes.entry(uuid).or_insert(old);
    }

    pub(super) fn set_group(&mut self, uuid: GroupUuid, group: Option<Group>) {
        let old = self.config.put_group(uuid, group.map(Arc::new));
        self.old.groups.entry(uuid).or_insert(old);
    }

    pub(super) fn set_instance(&mut self, uuid: InstanceUuid, instance: Option<Instance>) {
        let old = self.config.put_instance(uuid, instance.map(Arc::new));
        self.old.instances.entry(uuid).or_insert(old);
    }

    pub(super) fn set_slot(&mut self, uuid: InstanceUuid, slot: Option<Slot>) {
        let rev = self.config.slots.get(&uuid).map_or(0, |row| row.rev);
        let old = self.config.put_slot(uuid, slot.map(|slot| Arc::new(SlotRow { rev, slot })));
        self.old.slots.entry(uuid).or_insert(old);
    }

    pub(super) fn set_blueprint(&mut self, uuid: BlueprintUuid, blueprint: Option<Blueprint>) {
        let old = self.config.put_blueprint(uuid, blueprint.map(Arc::new));
        self.old.blueprints.entry(uuid).or_insert(old);
    }

    pub(super) fn set_pool(&mut self, uuid: PoolUuid, pool: Option<Pool>) {
        let old = self.config.put_pool(uuid, pool.map(Arc::new));
        self.old.pools.entry(uuid).or_insert(old);
    }

    pub(super) fn set_image(&mut self, name: &str, image: Option<Image>) {
        let old = self.config.put_image(name, image.map(Arc::new));
        self.old.images.entry(name.to_owned()).or_insert(old);
    }

    pub(super) fn set_lease(&mut self, uuid: LeaseUuid, lease: Option<Lease>) {
        let rev = self.config.leases.get(&uuid).map_or(0, |row| row.rev);
        let old = self.config.put_lease(uuid, lease.map(|lease| Arc::new(LeaseRow { rev, lease })));
        self.old.leases.entry(uuid).or_insert(old);
    }

    fn set_applied(&mut self, owner: JobOwner, applied: Option<Applied>) {
        let old = self.config.put_applied(owner, applied.map(Arc::new));
        self.old.applied.entry(owner).or_insert(old);
    }

    /// Refuses a uuid that this batch removed: nothing is added under it a second time.
    pub(super) fn never_removed(&self, what: &str, uuid: uuid::Uuid) -> Result<(), GanetiError> {
        let instance = InstanceUuid(uuid);
        let removed = self.old.instances.get(&instance).is_some_and(Option::is_some)
            || self.old.nodes.get(&NodeUuid(uuid)).is_some_and(Option::is_some)
            || self.old.groups.get(&GroupUuid(uuid)).is_some_and(Option::is_some)
            || self.old.blueprints.get(&BlueprintUuid(uuid)).is_some_and(Option::is_some)
            || self.old.pools.get(&PoolUuid(uuid)).is_some_and(Option::is_some);
        if !removed {
            return Ok(());
        }
        let text = format!("{what} uuid {uuid} was removed in the same request and is not used again");
        Err(GanetiError::prereq(text, Ecode::AlreadyExists))
    }

    /// What a dead job was creating or destroying is dirty.
    fn release_holder(&mut self, owner: JobOwner) {
        let slots = self.config.index.holders.get(&owner).cloned().unwrap_or_default();
        for uuid in slots {
            let Some(row) = self.config.slots.get(&uuid) else { continue };
            let doing = match row.slot.state {
                SlotState::Creating | SlotState::Booting => "creating",
                SlotState::Destroying => "destroying",
                SlotState::Absent | SlotState::Clean | SlotState::Leased | SlotState::Dirty => continue,
            };
            let slot = row.slot.clone();
            self.soil(slot, format!("job {} died while {doing} it", owner.job));
        }
    }
}
