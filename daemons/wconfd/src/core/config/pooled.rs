//! Rows of pools and leases in memory, and their indexes: which slots of a pool may be leased, how many stand where,
//! which lease ends next.

use super::rows::{Config, SlotRow, enter, leave};
use gantry_model::config::{Instance, SlotState};
use gantry_model::ids::{BlueprintUuid, InstanceUuid, LeaseUuid, NodeUuid, PoolUuid};
use gantry_model::lease::{Lease, LeaseClock, LeaseState};
use gantry_model::pool::{Blueprint, Image, Pool};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A lease with the revision of its record.
#[derive(Debug, Clone, PartialEq)]
pub struct LeaseRow {
    /// Grows by one with each stored change.
    pub rev: u64,
    /// The record.
    pub lease: Lease,
}

/// The stored lease clock with its revision; revision 0: never stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClockRow {
    /// Grows by one with each stored change.
    pub rev: u64,
    /// The record.
    pub clock: LeaseClock,
}

/// Slots that may be leased, by pool and node, those first that were ready first. The time is in milliseconds.
pub(super) type Clean = BTreeMap<String, BTreeMap<NodeUuid, BTreeSet<(u64, InstanceUuid)>>>;

/// Derived from the rows of pools, their slots and leases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PoolIndexes {
    pub blueprint_names: BTreeMap<String, BlueprintUuid>,
    pub pool_names: BTreeMap<String, PoolUuid>,
    pub blueprint_pools: BTreeMap<BlueprintUuid, BTreeSet<PoolUuid>>,
    pub image_blueprints: BTreeMap<String, BTreeSet<BlueprintUuid>>,
    /// Slots of a pool, counted by node and by state. No zeros.
    pub by_node: BTreeMap<String, BTreeMap<NodeUuid, u64>>,
    pub by_state: BTreeMap<String, BTreeMap<SlotState, u64>>,
    /// CLEAN and not drained.
    pub clean: Clean,
    /// Active leases by their end.
    pub ends: BTreeSet<(u64, LeaseUuid)>,
}

/// Changes a count, leaving no zero behind.
fn count<K: Ord>(map: &mut BTreeMap<String, BTreeMap<K, u64>>, pool: &str, key: K, more: bool) {
    let counts = map.entry(pool.to_owned()).or_default();
    let number = counts.get(&key).copied().unwrap_or_default();
    match if more { number + 1 } else { number.saturating_sub(1) } {
        0 => counts.remove(&key),
        left => counts.insert(key, left),
    };
    if counts.is_empty() {
        map.remove(pool);
    }
}

/// Epoch seconds as whole milliseconds, to be ordered by.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an epoch is small and positive")]
pub(super) fn epoch_ms(epoch: f64) -> u64 {
    (epoch * 1000.0).max(0.0) as u64
}

impl PoolIndexes {
    /// Enters or removes a slot of a pool.
    fn slot(&mut self, instance: &Instance, row: &SlotRow, more: bool) {
        let Some(pool) = &instance.pool else { return };
        let slot = &row.slot;
        count(&mut self.by_node, pool, slot.node, more);
        count(&mut self.by_state, pool, slot.state, more);
        if slot.state != SlotState::Clean || slot.drained {
            return;
        }
        let place = (slot.ready_at.map_or(0, epoch_ms), slot.uuid);
        let nodes = self.clean.entry(pool.clone()).or_default();
        if more {
            enter(nodes, slot.node, place);
        } else {
            leave(nodes, &slot.node, &place);
        }
        if nodes.is_empty() {
            self.clean.remove(pool);
        }
    }
}

impl Config {
    /// Enters a slot into what is counted of its pool, or takes it out, once instance and slot are both there.
    pub(super) fn count_slot(&mut self, uuid: InstanceUuid, more: bool) {
        if let (Some(instance), Some(row)) = (self.instances.get(&uuid), self.slots.get(&uuid)) {
            self.index.pools.slot(instance, row, more);
        }
    }

    /// Replaces or removes a blueprint. Returns what was there.
    pub(super) fn put_blueprint(
        &mut self,
        uuid: BlueprintUuid,
        row: Option<Arc<Blueprint>>,
    ) -> Option<Arc<Blueprint>> {
        let old = self.blueprints.remove(&uuid);
        let index = &mut self.index.pools;
        if let Some(old) = &old {
            index.blueprint_names.remove(&old.name);
            leave(&mut index.image_blueprints, &old.image, &uuid);
        }
        if let Some(row) = row {
            index.blueprint_names.insert(row.name.clone(), uuid);
            enter(&mut index.image_blueprints, row.image.clone(), uuid);
            self.blueprints.insert(uuid, row);
        }
        old
    }

    /// Replaces or removes a pool. Returns what was there.
    pub(super) fn put_pool(&mut self, uuid: PoolUuid, row: Option<Arc<Pool>>) -> Option<Arc<Pool>> {
        let old = self.pools.remove(&uuid);
        let index = &mut self.index.pools;
        if let Some(old) = &old {
            index.pool_names.remove(&old.name);
            leave(&mut index.blueprint_pools, &old.blueprint, &uuid);
        }
        if let Some(row) = row {
            index.pool_names.insert(row.name.clone(), uuid);
            enter(&mut index.blueprint_pools, row.blueprint, uuid);
            self.pools.insert(uuid, row);
        }
        old
    }

    /// Replaces or removes an image. Returns what was there.
    pub(super) fn put_image(&mut self, name: &str, row: Option<Arc<Image>>) -> Option<Arc<Image>> {
        match row {
            Some(row) => self.images.insert(name.to_owned(), row),
            None => self.images.remove(name),
        }
    }

    /// Replaces or removes a lease. Returns what was there.
    pub(super) fn put_lease(&mut self, uuid: LeaseUuid, row: Option<Arc<LeaseRow>>) -> Option<Arc<LeaseRow>> {
        let old = self.leases.remove(&uuid);
        let ends = |row: &LeaseRow| (row.lease.state == LeaseState::Active).then(|| (row.lease.ends(), uuid));
        if let Some(end) = old.as_deref().and_then(ends) {
            self.index.pools.ends.remove(&end);
        }
        if let Some(row) = row {
            self.index.pools.ends.extend(ends(&row));
            self.leases.insert(uuid, row);
        }
        old
    }

    /// A pool by its name.
    #[must_use]
    pub fn pool(&self, name: &str) -> Option<&Arc<Pool>> {
        self.pools.get(self.index.pools.pool_names.get(name)?)
    }

    /// A lease's record.
    #[must_use]
    pub fn lease(&self, uuid: LeaseUuid) -> Option<&Arc<LeaseRow>> {
        self.leases.get(&uuid)
    }

    /// The lease clock as it is stored, ms.
    #[must_use]
    pub fn lease_clock(&self) -> u64 {
        self.clock.clock.ms
    }

    /// The lease clock at which the next lease ends if nobody renews it; None while none lives.
    #[must_use]
    pub fn next_end(&self) -> Option<u64> {
        self.index.pools.ends.first().map(|(end, _)| *end)
    }

    /// The pool of which a slot could have that name.
    pub(super) fn pool_of_name(&self, name: &str) -> Option<&Arc<Pool>> {
        let (pool, number) = name.rsplit_once('-')?;
        let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        self.pool(pool).filter(|_| digits)
    }
}
