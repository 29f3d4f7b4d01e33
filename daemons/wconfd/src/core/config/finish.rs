//! How a batch ends: what differs from before gets its new serials and times, and becomes changes to store.

use super::edit::Edit;
use super::object::Change;
use super::pooled::ClockRow;
use gantry_model::config::{Stamp, kind};
use gantry_model::lease::LeaseClock;
use serde::Serialize;
use std::sync::Arc;

impl Edit<'_> {
    /// Gives what differs its new serials and times. Returns the changes to store, and whether
    /// ssconf values may have changed.
    pub(super) fn finish(&mut self, now: f64) -> (Vec<Change>, bool) {
        let mut changes = Vec::new();
        let (groups_moved, groups_came) = self.finish_groups(now, &mut changes);
        let nodes_moved = self.finish_nodes(now, &mut changes);
        let (instances_moved, instances_came) = self.finish_instances(now, &mut changes);
        let pools_moved = self.finish_pools(now, &mut changes);
        self.finish_members(&mut changes);
        let bump = nodes_moved || groups_came || instances_came;
        let cluster_moved = self.finish_cluster(now, bump, &mut changes);
        if cluster_moved || groups_moved || instances_moved || pools_moved {
            self.old.meta.get_or_insert_with(|| self.config.meta.clone());
            let meta = Arc::make_mut(&mut self.config.meta);
            meta.serial_no += 1;
            meta.mtime = now;
            changes.insert(0, stored(kind::META, kind::META_KEY.to_owned(), meta.serial_no, meta));
        }
        self.finish_leases(&mut changes);
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

    /// Whether any blueprint, pool or image changed. None of them is in ssconf or counts for the cluster's serial.
    fn finish_pools(&mut self, now: f64, changes: &mut Vec<Change>) -> bool {
        let (before, config) = (changes.len(), &mut *self.config);
        for (name, old) in &self.old.images {
            let row = config.images.get_mut(name);
            changes.extend(finish_row(kind::IMAGE, name, old.as_ref(), row, now, |row| &mut row.stamp));
        }
        for (uuid, old) in &self.old.blueprints {
            let row = config.blueprints.get_mut(uuid);
            changes.extend(finish_row(kind::BLUEPRINT, uuid, old.as_ref(), row, now, |row| &mut row.stamp));
        }
        for (uuid, old) in &self.old.pools {
            let row = config.pools.get_mut(uuid);
            changes.extend(finish_row(kind::POOL, uuid, old.as_ref(), row, now, |row| &mut row.stamp));
        }
        changes.len() > before
    }

    /// The members, when they changed.
    fn finish_members(&mut self, changes: &mut Vec<Change>) {
        let Some(old) = &self.old.members else { return };
        let Some(row) = &mut self.config.members else { return };
        if old.as_ref().is_some_and(|old| old.members == row.members) {
            return;
        }
        let row = Arc::make_mut(row);
        row.rev = old.as_ref().map_or(0, |old| old.rev) + 1;
        changes.push(stored(kind::MEMBERS, kind::MEMBERS_KEY.to_owned(), row.rev, &row.members));
    }

    /// Leases that changed, and the clock with them: no lease may be of a time that is not stored.
    fn finish_leases(&mut self, changes: &mut Vec<Change>) {
        let before = changes.len();
        for (uuid, old) in &self.old.leases {
            match (old, self.config.leases.get_mut(uuid)) {
                (None, None) => {}
                (Some(old), None) => changes.push(removed(kind::LEASE, uuid.to_string(), old.rev)),
                (Some(old), Some(row)) if old.lease == row.lease => {}
                (old, Some(row)) => {
                    let row = Arc::make_mut(row);
                    row.rev = old.as_ref().map_or(0, |old| old.rev) + 1;
                    changes.push(stored(kind::LEASE, uuid.to_string(), row.rev, &row.lease));
                }
            }
        }
        if changes.len() > before {
            changes.push(self.tick());
        }
    }

    /// Stores the lease clock.
    pub(super) fn tick(&mut self) -> Change {
        let old = self.config.clock;
        self.old.clock.get_or_insert(old);
        self.config.clock = ClockRow { rev: old.rev + 1, clock: LeaseClock { ms: self.clock } };
        stored(kind::LEASE_CLOCK, kind::LEASE_CLOCK_KEY.to_owned(), old.rev + 1, &self.config.clock.clock)
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

    pub(super) fn finish_applied(&mut self, changes: &mut Vec<Change>) {
        for (owner, old) in &self.old.applied {
            match (old, self.config.applied.get(owner)) {
                (None, None) => {}
                (Some(old), None) => changes.push(removed(kind::APPLIED, owner.to_string(), old.seq)),
                (_, Some(row)) => changes.push(stored(kind::APPLIED, owner.to_string(), row.seq, &**row)),
            }
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
