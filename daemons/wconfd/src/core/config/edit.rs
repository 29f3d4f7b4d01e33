//! One batch: the values it replaced, and how it ends: finished with new serials, or put back.

use super::error::{updated, wrong_input};
use super::object::Change;
use super::rows::{Applied, Config, Fix, SlotRow};
use super::slot::Soil;
use gantry_model::config::{Cluster, Group, Instance, Meta, Node, Slot, SlotState, Stamp, kind};
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::ids::{GroupUuid, InstanceUuid, JobOwner, NodeUuid};
use gantry_proto::wconfd::Command;
use serde::Serialize;
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
    meta: Option<Arc<Meta>>,
    cluster: Option<Arc<Cluster>>,
    nodes: BTreeMap<NodeUuid, Option<Arc<Node>>>,
    groups: BTreeMap<GroupUuid, Option<Arc<Group>>>,
    instances: BTreeMap<InstanceUuid, Option<Arc<Instance>>>,
    slots: BTreeMap<InstanceUuid, Option<Arc<SlotRow>>>,
    applied: BTreeMap<JobOwner, Option<Arc<Applied>>>,
}

/// A batch under way.
pub(super) struct Edit<'a> {
    pub(super) config: &'a mut Config,
    old: Undo,
}

impl Config {
    /// Carries out all commands, or none.
    ///
    /// # Errors
    /// The first refusal, in Ganeti's form; nothing has changed then.
    pub fn apply(&mut self, commands: &[Command], context: &mut Context) -> Result<Effect, GanetiError> {
        let mut edit = Edit::new(self);
        let results = commands.iter().map(|command| edit.command(command, context)).collect();
        let results: Vec<Value> = match results {
            Ok(results) => results,
            Err(error) => {
                let undo = edit.old;
                self.undo(undo);
                return Err(error);
            }
        };
        let effect = edit.end(context.now, results, context.owner);
        let bytes: usize =
            effect.changes.iter().filter_map(|change| change.body.as_ref()).map(Vec::len).sum();
        if bytes > BATCH_BYTES_MAX {
            self.undo(effect.undo);
            return Err(wrong_input(format!(
                "The request changes {bytes} bytes of configuration at once, at most {BATCH_BYTES_MAX} are \
                 possible: split it"
            )));
        }
        Ok(effect)
    }

    /// The death of a job: what it was creating or destroying is dirty (`model.md` §2.5), and its last
    /// batch is forgotten.
    pub fn owner_gone(&mut self, owner: JobOwner, now: f64) -> Effect {
        let mut edit = Edit::new(self);
        edit.release_holder(owner);
        edit.set_applied(owner, None);
        edit.end(now, Vec::new(), None)
    }

    /// Puts right what an inventory found (P5.2).
    pub fn fix(&mut self, fixes: &[Fix], now: f64) -> Effect {
        let mut edit = Edit::new(self);
        fixes.iter().for_each(|fix| edit.fix_slot(fix));
        edit.end(now, Vec::new(), None)
    }

    /// Puts back what a batch replaced. Only the newest batch can be put back.
    pub fn undo(&mut self, undo: Undo) {
        let Undo { meta, cluster, nodes, groups, instances, slots, applied } = undo;
        // First everything out, then everything in: names may have wandered between objects.
        nodes.keys().for_each(|uuid| drop(self.put_node(*uuid, None)));
        groups.keys().for_each(|uuid| drop(self.put_group(*uuid, None)));
        instances.keys().for_each(|uuid| drop(self.put_instance(*uuid, None)));
        slots.keys().for_each(|uuid| drop(self.put_slot(*uuid, None)));
        nodes.into_iter().for_each(|(uuid, row)| drop(self.put_node(uuid, row)));
        groups.into_iter().for_each(|(uuid, row)| drop(self.put_group(uuid, row)));
        instances.into_iter().for_each(|(uuid, row)| drop(self.put_instance(uuid, row)));
        slots.into_iter().for_each(|(uuid, row)| drop(self.put_slot(uuid, row)));
        applied.into_iter().for_each(|(owner, row)| drop(self.put_applied(owner, row)));
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
    fn new(config: &'a mut Config) -> Self {
        Self { config, old: Undo::default() }
    }

    /// Ends the batch with what it did.
    fn end(mut self, now: f64, results: Vec<Value>, owner: Option<(JobOwner, u64)>) -> Effect {
        let (mut changes, ssconf) = self.finish(now);
        if let (Some((owner, seq)), false) = (owner, changes.is_empty()) {
            self.set_applied(owner, Some(Applied { seq, results: results.clone(), index: 0 }));
        }
        self.finish_applied(&mut changes);
        Effect { changes, results, ssconf, undo: self.old }
    }

    fn command(&mut self, command: &Command, context: &mut Context) -> Result<Value, GanetiError> {
        match command {
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
            Command::SlotBegin { slot, expected, holder } => {
                self.slot_begin(*slot, *expected, *holder, context)
            }
            Command::SlotReady { slot, generation } => self.slot_ready(*slot, *generation, context),
            Command::SlotDirty { slot, generation, why } => self.slot_dirty(*slot, *generation, why),
            Command::SlotBeginDestroy { slot, generation, holder } => {
                self.slot_begin_destroy(*slot, *generation, *holder, context)
            }
            Command::SlotAbsent { slot, generation, floor } => {
                self.slot_absent(*slot, *generation, *floor, context)
            }
            // Pools and leases.
            _ => Err(wrong_input("pools and leases are not built yet".to_owned())),
        }
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

    fn set_applied(&mut self, owner: JobOwner, applied: Option<Applied>) {
        let old = self.config.put_applied(owner, applied.map(Arc::new));
        self.old.applied.entry(owner).or_insert(old);
    }

    /// Refuses a uuid that this batch removed: nothing is added under it a second time.
    pub(super) fn never_removed(&self, what: &str, uuid: uuid::Uuid) -> Result<(), GanetiError> {
        let instance = InstanceUuid(uuid);
        let removed = self.old.instances.get(&instance).is_some_and(Option::is_some)
            || self.old.nodes.get(&NodeUuid(uuid)).is_some_and(Option::is_some)
            || self.old.groups.get(&GroupUuid(uuid)).is_some_and(Option::is_some);
        if !removed {
            return Ok(());
        }
        let text = format!("{what} uuid {uuid} was removed in the same request and is not used again");
        Err(GanetiError::prereq(text, Ecode::AlreadyExists))
    }

    /// Gives what differs its new serials and times. Returns the changes to store, and whether
    /// ssconf values may have changed.
    fn finish(&mut self, now: f64) -> (Vec<Change>, bool) {
        let mut changes = Vec::new();
        let (groups_moved, groups_came) = self.finish_groups(now, &mut changes);
        let nodes_moved = self.finish_nodes(now, &mut changes);
        let (instances_moved, instances_came) = self.finish_instances(now, &mut changes);
        let bump = nodes_moved || groups_came || instances_came;
        let cluster_moved = self.finish_cluster(now, bump, &mut changes);
        if cluster_moved || groups_moved || instances_moved {
            self.old.meta.get_or_insert_with(|| self.config.meta.clone());
            let meta = Arc::make_mut(&mut self.config.meta);
            meta.serial_no += 1;
            meta.mtime = now;
            changes.insert(0, stored(kind::META, kind::META_KEY.to_owned(), meta.serial_no, meta));
        }
        self.finish_slots(&mut changes);
        (changes, cluster_moved || groups_moved)
    }

    /// The cluster, if it changed or `bump` says that its serial grows for another's sake.
    fn finish_cluster(&mut self, now: f64, bump: bool, changes: &mut Vec<Change>) -> bool {
        let changed = self.old.cluster.as_ref().is_some_and(|old| **old != *self.config.cluster);
        if !changed && !bump {
            self.old.cluster = None;
            return false;
        }
        self.old.cluster.get_or_insert_with(|| self.config.cluster.clone());
        let cluster = Arc::make_mut(&mut self.config.cluster);
        cluster.stamp.bump(now);
        changes.push(stored(kind::CLUSTER, kind::CLUSTER_KEY.to_owned(), cluster.stamp.serial_no, cluster));
        true
    }

    fn finish_nodes(&mut self, now: f64, changes: &mut Vec<Change>) -> bool {
        let before = changes.len();
        for (uuid, old) in &self.old.nodes {
            let row = self.config.nodes.get_mut(uuid);
            changes.extend(finish_row(kind::NODE, uuid, old.as_ref(), row, now, |row| &mut row.stamp));
        }
        changes.len() > before
    }

    /// Whether any group changed, and whether one came or went.
    fn finish_groups(&mut self, now: f64, changes: &mut Vec<Change>) -> (bool, bool) {
        let (before, mut came) = (changes.len(), false);
        for (uuid, old) in &self.old.groups {
            let row = self.config.groups.get_mut(uuid);
            came |= old.is_some() != row.is_some();
            changes.extend(finish_row(kind::GROUP, uuid, old.as_ref(), row, now, |row| &mut row.stamp));
        }
        (changes.len() > before, came)
    }

    /// Whether any instance changed, and whether one came, went or has another name.
    fn finish_instances(&mut self, now: f64, changes: &mut Vec<Change>) -> (bool, bool) {
        let (before, mut came) = (changes.len(), false);
        for (uuid, old) in &self.old.instances {
            let row = self.config.instances.get_mut(uuid);
            came |= old.as_ref().map(|old| &old.name) != row.as_ref().map(|row| &row.name);
            changes.extend(finish_row(kind::INSTANCE, uuid, old.as_ref(), row, now, |row| &mut row.stamp));
        }
        (changes.len() > before, came)
    }

    fn finish_slots(&mut self, changes: &mut Vec<Change>) {
        for (uuid, old) in &self.old.slots {
            match (old, self.config.slots.get_mut(uuid)) {
                (None, None) => {}
                (Some(old), None) => changes.push(removed(kind::SLOT, uuid.to_string(), old.rev)),
                (Some(old), Some(row)) if old.slot == row.slot => {}
                (old, Some(row)) => {
                    let row = Arc::make_mut(row);
                    row.rev = old.as_ref().map_or(0, |old| old.rev) + 1;
                    changes.push(stored(kind::SLOT, uuid.to_string(), row.rev, &row.slot));
                }
            }
        }
    }

    fn finish_applied(&mut self, changes: &mut Vec<Change>) {
        for (owner, old) in &self.old.applied {
            match (old, self.config.applied.get(owner)) {
                (None, None) => {}
                (Some(old), None) => changes.push(removed(kind::APPLIED, owner.to_string(), old.seq)),
                (_, Some(row)) => changes.push(stored(kind::APPLIED, owner.to_string(), row.seq, &**row)),
            }
        }
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
            let mut slot = row.slot.clone();
            slot.soil(format!("job {} died while {doing} it", owner.job));
            self.set_slot(uuid, Some(slot));
        }
    }
}

/// Stamps a row that differs from what it was. None when it does not.
fn finish_row<K: ToString, T: Clone + PartialEq + Serialize>(
    kind: &str,
    key: &K,
    old: Option<&Arc<T>>,
    row: Option<&mut Arc<T>>,
    now: f64,
    stamp: impl Fn(&mut T) -> &mut Stamp,
) -> Option<Change> {
    match (old, row) {
        (None, None) => None,
        (Some(old), None) => {
            let serial = stamp(&mut (**old).clone()).serial_no;
            Some(removed(kind, key.to_string(), serial))
        }
        (Some(old), Some(row)) if **old == **row => None,
        (old, Some(row)) => {
            let row = Arc::make_mut(row);
            let mark = stamp(row);
            match old {
                Some(_) => mark.bump(now),
                None => {
                    *mark = Stamp { tags: std::mem::take(&mut mark.tags), ..Stamp::new(now) };
                }
            }
            let serial = mark.serial_no;
            Some(stored(kind, key.to_string(), serial, row))
        }
    }
}

fn stored<T: Serialize>(kind: &str, key: String, rev: u64, value: &T) -> Change {
    let body = serde_json::to_vec(value).expect("objects are plain JSON: their maps have texts as keys");
    Change { kind: kind.to_owned(), key, rev, body: Some(body) }
}

fn removed(kind: &str, key: String, rev: u64) -> Change {
    Change { kind: kind.to_owned(), key, rev, body: None }
}
