//! The objects in memory with the indexes that commands need.

use gantry_model::config::{Cluster, Group, Instance, Meta, Node, Slot};
use gantry_model::ids::{
    BlueprintUuid, Generation, GroupUuid, InstanceUuid, JobOwner, LeaseUuid, NodeUuid, PoolUuid,
};
use gantry_model::pool::{Blueprint, Image, Pool};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::members::MembersRow;
use super::object::Object;
use super::pooled::{ClockRow, LeaseRow, PoolIndexes};

/// A slot with the revision of its record.
#[derive(Debug, Clone, PartialEq)]
pub struct SlotRow {
    /// Grows by one with each stored change.
    pub rev: u64,
    /// The record.
    pub slot: Slot,
}

/// What comparing a node's inventory with the slots found to be put right (P5.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fix {
    /// Which slot.
    pub slot: InstanceUuid,
    /// The generation to go on from; never lower than the slot's.
    pub generation: Generation,
    /// Why it is dirty; None leaves the state.
    pub dirty: Option<String>,
}

/// The last batch of a job that changed something: makes asking for it again harmless.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// The job's number of the batch.
    pub seq: u64,
    /// A result per command.
    pub results: Vec<Value>,
    /// Index of the batch, or a later one; not stored, since it is not known before.
    #[serde(skip)]
    pub index: u64,
}

/// The whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    pub(super) meta: Arc<Meta>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) nodes: BTreeMap<NodeUuid, Arc<Node>>,
    pub(super) groups: BTreeMap<GroupUuid, Arc<Group>>,
    pub(super) instances: BTreeMap<InstanceUuid, Arc<Instance>>,
    pub(super) slots: BTreeMap<InstanceUuid, Arc<SlotRow>>,
    pub(super) blueprints: BTreeMap<BlueprintUuid, Arc<Blueprint>>,
    pub(super) pools: BTreeMap<PoolUuid, Arc<Pool>>,
    /// By name.
    pub(super) images: BTreeMap<String, Arc<Image>>,
    pub(super) leases: BTreeMap<LeaseUuid, Arc<LeaseRow>>,
    pub(super) clock: ClockRow,
    /// Whose copies count; None in a configuration that never had a second node's.
    pub(super) members: Option<Arc<MembersRow>>,
    /// By job, its last batch.
    pub(super) applied: BTreeMap<JobOwner, Arc<Applied>>,
    /// Objects of kinds this release has no commands for: read, watched, never changed.
    pub(super) others: BTreeMap<(String, String), Arc<Object>>,
    pub(super) index: Indexes,
    /// Nodes this master has claimed: not stored, set by the shell.
    pub(super) claimed: BTreeSet<NodeUuid>,
    /// By pool, the node that gave the last slot: the next lease looks behind it first. Not stored; it only spreads work.
    pub(super) rotor: BTreeMap<String, NodeUuid>,
}

/// Derived from the rows; equal to what a fresh load of the same rows gives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Indexes {
    pub node_names: BTreeMap<String, NodeUuid>,
    pub node_addresses: BTreeMap<(String, u16), NodeUuid>,
    pub group_names: BTreeMap<String, GroupUuid>,
    pub group_nodes: BTreeMap<GroupUuid, BTreeSet<NodeUuid>>,
    pub instance_names: BTreeMap<String, InstanceUuid>,
    pub node_instances: BTreeMap<NodeUuid, BTreeSet<InstanceUuid>>,
    pub macs: BTreeMap<String, InstanceUuid>,
    pub holders: BTreeMap<JobOwner, BTreeSet<InstanceUuid>>,
    pub pools: PoolIndexes,
}

pub(super) fn enter<K: Ord, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: K, value: V) {
    map.entry(key).or_default().insert(value);
}

pub(super) fn leave<K: Ord, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(set) = map.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            map.remove(key);
        }
    }
}

impl Config {
    /// A configuration with the two objects every one has.
    pub(super) fn bare(meta: Arc<Meta>, cluster: Arc<Cluster>) -> Self {
        Self {
            meta,
            cluster,
            nodes: BTreeMap::new(),
            groups: BTreeMap::new(),
            instances: BTreeMap::new(),
            slots: BTreeMap::new(),
            blueprints: BTreeMap::new(),
            pools: BTreeMap::new(),
            images: BTreeMap::new(),
            leases: BTreeMap::new(),
            clock: ClockRow::default(),
            members: None,
            applied: BTreeMap::new(),
            others: BTreeMap::new(),
            index: Indexes::default(),
            claimed: BTreeSet::new(),
            rotor: BTreeMap::new(),
        }
    }

    /// Replaces or removes a node. Returns what was there.
    pub(super) fn put_node(&mut self, uuid: NodeUuid, row: Option<Arc<Node>>) -> Option<Arc<Node>> {
        let old = self.nodes.remove(&uuid);
        let index = &mut self.index;
        if let Some(old) = &old {
            index.node_names.remove(&old.name);
            index.node_addresses.remove(&(old.primary_ip.clone(), old.noded_port));
            leave(&mut index.group_nodes, &old.group, &uuid);
        }
        if let Some(row) = row {
            index.node_names.insert(row.name.clone(), uuid);
            index.node_addresses.insert((row.primary_ip.clone(), row.noded_port), uuid);
            enter(&mut index.group_nodes, row.group, uuid);
            self.nodes.insert(uuid, row);
        }
        old
    }

    /// Replaces or removes a group. Returns what was there.
    pub(super) fn put_group(&mut self, uuid: GroupUuid, row: Option<Arc<Group>>) -> Option<Arc<Group>> {
        let old = self.groups.remove(&uuid);
        if let Some(old) = &old {
            self.index.group_names.remove(&old.name);
        }
        if let Some(row) = row {
            self.index.group_names.insert(row.name.clone(), uuid);
            self.groups.insert(uuid, row);
        }
        old
    }

    /// Replaces or removes an instance. Returns what was there.
    pub(super) fn put_instance(
        &mut self,
        uuid: InstanceUuid,
        row: Option<Arc<Instance>>,
    ) -> Option<Arc<Instance>> {
        self.count_slot(uuid, false);
        let old = self.instances.remove(&uuid);
        let index = &mut self.index;
        if let Some(old) = &old {
            index.instance_names.remove(&old.name);
            leave(&mut index.node_instances, &old.primary_node, &uuid);
            old.nics.iter().for_each(|nic| {
                index.macs.remove(&nic.mac);
            });
        }
        if let Some(row) = row {
            index.instance_names.insert(row.name.clone(), uuid);
            enter(&mut index.node_instances, row.primary_node, uuid);
            index.macs.extend(row.nics.iter().map(|nic| (nic.mac.clone(), uuid)));
            self.instances.insert(uuid, row);
        }
        self.count_slot(uuid, true);
        old
    }

    /// Replaces or removes a slot. Returns what was there.
    pub(super) fn put_slot(&mut self, uuid: InstanceUuid, row: Option<Arc<SlotRow>>) -> Option<Arc<SlotRow>> {
        self.count_slot(uuid, false);
        let old = self.slots.remove(&uuid);
        if let Some(holder) = old.as_ref().and_then(|old| old.slot.holder) {
            leave(&mut self.index.holders, &holder, &uuid);
        }
        if let Some(row) = row {
            if let Some(holder) = row.slot.holder {
                enter(&mut self.index.holders, holder, uuid);
            }
            self.slots.insert(uuid, row);
        }
        self.count_slot(uuid, true);
        old
    }

    /// Replaces or removes a job's last batch. Returns what was there.
    pub(super) fn put_applied(&mut self, owner: JobOwner, row: Option<Arc<Applied>>) -> Option<Arc<Applied>> {
        match row {
            Some(row) => self.applied.insert(owner, row),
            None => self.applied.remove(&owner),
        }
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Serial and times of the whole.
    #[must_use]
    pub fn meta(&self) -> &Arc<Meta> {
        &self.meta
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// A node.
    #[must_use]
    pub fn node(&self, uuid: NodeUuid) -> Option<&Arc<Node>> {
        self.nodes.get(&uuid)
    }

    /// An instance.
    #[must_use]
    pub fn instance(&self, uuid: InstanceUuid) -> Option<&Arc<Instance>> {
        self.instances.get(&uuid)
    }

    /// A slot's record.
    #[must_use]
    pub fn slot(&self, uuid: InstanceUuid) -> Option<&Arc<SlotRow>> {
        self.slots.get(&uuid)
    }

    /// The slots homed on a node.
    pub fn slots_of(&self, node: NodeUuid) -> impl Iterator<Item = &Arc<SlotRow>> {
        let uuids = self.index.node_instances.get(&node).into_iter().flatten();
        uuids.filter_map(|uuid| self.slots.get(uuid))
    }

    /// All jobs that the configuration knows: as holder of a slot, or by their last batch.
    pub fn owners(&self) -> impl Iterator<Item = JobOwner> {
        self.index.holders.keys().chain(self.applied.keys()).copied()
    }

    /// The last batch of a job that changed something.
    #[must_use]
    pub fn applied(&self, owner: JobOwner) -> Option<&Applied> {
        self.applied.get(&owner).map(|applied| &**applied)
    }

    /// Notes at which index the job's last batch stands: in memory only.
    pub fn applied_at(&mut self, owner: JobOwner, index: u64) {
        if let Some(applied) = self.applied.get_mut(&owner) {
            Arc::make_mut(applied).index = index;
        }
    }

    /// Says whether this master has claimed the node. Creates and destroys need it (P5.2). Not
    /// stored, and not touched by commands: a removed node is given up by who claimed it.
    pub fn set_claimed(&mut self, node: NodeUuid, claimed: bool) {
        if claimed {
            self.claimed.insert(node);
        } else {
            self.claimed.remove(&node);
        }
    }

    /// Asserts that the indexes are those of the rows and that all references and flags hold.
    ///
    /// # Panics
    /// When they are not, which is a bug of this module.
    pub fn check(&self) {
        let mut fresh = Indexes::default();
        std::mem::swap(&mut fresh, &mut self.reindexed().index);
        assert_eq!(fresh, self.index, "indexes follow the rows");
        assert_eq!(self.verify(), Ok(()), "references hold");
        assert_eq!(
            self.instances.keys().collect::<Vec<_>>(),
            self.slots.keys().collect::<Vec<_>>(),
            "each instance has one slot"
        );
    }

    /// The same rows with indexes made anew.
    fn reindexed(&self) -> Self {
        let mut fresh = Self::bare(self.meta.clone(), self.cluster.clone());
        self.nodes.iter().for_each(|(k, row)| drop(fresh.put_node(*k, Some(row.clone()))));
        self.groups.iter().for_each(|(k, row)| drop(fresh.put_group(*k, Some(row.clone()))));
        self.instances.iter().for_each(|(k, row)| drop(fresh.put_instance(*k, Some(row.clone()))));
        self.slots.iter().for_each(|(k, row)| drop(fresh.put_slot(*k, Some(row.clone()))));
        self.blueprints.iter().for_each(|(k, row)| drop(fresh.put_blueprint(*k, Some(row.clone()))));
        self.pools.iter().for_each(|(k, row)| drop(fresh.put_pool(*k, Some(row.clone()))));
        self.leases.iter().for_each(|(k, row)| drop(fresh.put_lease(*k, Some(row.clone()))));
        fresh.members.clone_from(&self.members);
        fresh
    }
}
