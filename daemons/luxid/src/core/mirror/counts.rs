//! How many slots of each pool stand where, kept with each change: a line of waiting tasks looks at its pool after every
//! batch and must not walk the slots for it. A slot's change costs O(log n), a node that begins or ceases to take work
//! one step for each of its slots.

use super::snapshot::{InstanceRow, Snapshot};
use super::touched::Touched;
use gantry_model::config::{Node, SlotState};
use gantry_model::ids::{InstanceUuid, NodeUuid};
use std::sync::Arc;

/// The slots of one pool. Each is counted in `slots`, perhaps in `able`, and at most one of the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolCounts {
    /// All of them.
    pub slots: u64,
    /// Those that could be leased at once, if all that goes on ended well: neither stuck nor drained, on nodes that take work.
    pub able: u64,
    /// Nothing lives in it.
    pub absent: u64,
    /// CREATING and BOOTING.
    pub creating: u64,
    /// CLEAN and can be leased: not drained, its node neither offline nor drained. Other CLEAN ones are in none of
    /// these numbers.
    pub clean: u64,
    /// Leased.
    pub leased: u64,
    /// DIRTY and DESTROYING.
    pub dirty: u64,
    /// Failed so often that it is tried seldom, whatever its state.
    pub stuck: u64,
}

impl PoolCounts {
    /// The number that a slot counts in, besides `slots`.
    fn part(&mut self, row: &InstanceRow, node_works: bool) -> Option<&mut u64> {
        let Some(slot) = &row.slot else { return Some(&mut self.absent) };
        match slot.state {
            _ if slot.stuck => Some(&mut self.stuck),
            SlotState::Absent => Some(&mut self.absent),
            SlotState::Creating | SlotState::Booting => Some(&mut self.creating),
            SlotState::Clean if slot.drained || !node_works => None,
            SlotState::Clean => Some(&mut self.clean),
            SlotState::Leased => Some(&mut self.leased),
            SlotState::Dirty | SlotState::Destroying => Some(&mut self.dirty),
        }
    }

    fn add(&mut self, row: &InstanceRow, node_works: bool) {
        self.slots += 1;
        self.able += u64::from(is_able(row, node_works));
        if let Some(part) = self.part(row, node_works) {
            *part += 1;
        }
    }

    fn take(&mut self, row: &InstanceRow, node_works: bool) {
        self.slots -= 1;
        self.able -= u64::from(is_able(row, node_works));
        if let Some(part) = self.part(row, node_works) {
            *part -= 1;
        }
    }
}

fn is_able(row: &InstanceRow, node_works: bool) -> bool {
    node_works && row.slot.as_ref().is_none_or(|slot| !slot.stuck && !slot.drained)
}

fn works(node: &Node) -> bool {
    !node.offline && !node.drained
}

impl Snapshot {
    /// How many slots of the pool of this name stand where; O(log n).
    #[must_use]
    pub fn pool_counts(&self, name: &str) -> PoolCounts {
        self.counts.get(name).copied().unwrap_or_default()
    }

    /// Whether the node takes work, as far as the configuration says; an unknown one does not.
    #[must_use]
    pub fn node_works(&self, node: NodeUuid) -> bool {
        self.nodes().get(&node).is_some_and(|node| works(node))
    }

    /// Takes an instance out of the numbers, as it is now: before a change of it or of its slot.
    pub(super) fn uncount(&mut self, uuid: InstanceUuid, touched: &mut Touched) {
        self.number(uuid, touched, PoolCounts::take);
    }

    /// Puts an instance into the numbers: after the change.
    pub(super) fn count(&mut self, uuid: InstanceUuid, touched: &mut Touched) {
        self.number(uuid, touched, PoolCounts::add);
    }

    fn number(
        &mut self,
        uuid: InstanceUuid,
        touched: &mut Touched,
        change: fn(&mut PoolCounts, &InstanceRow, bool),
    ) {
        let Some(row) = self.instances().get(&uuid) else { return };
        let Some(pool) = row.instance.pool.clone() else { return };
        touched.pool(&pool);
        let node_works = self.node_works(row.instance.primary_node);
        let mut counts = self.pool_counts(&pool);
        change(&mut counts, row, node_works);
        if counts.slots == 0 {
            self.counts.remove(pool.as_str());
        } else {
            self.counts.insert(Arc::from(pool), counts);
        }
    }

    /// Moves the slots of a node that begins or ceases to take work; before the node itself is changed.
    pub(super) fn recount_node(&mut self, uuid: NodeUuid, new: Option<&Node>, touched: &mut Touched) {
        let (before, after) = (self.node_works(uuid), new.is_some_and(works));
        if before == after {
            return;
        }
        let Some(homed) = self.instances_of(uuid).cloned() else { return };
        for (place, ()) in homed.iter() {
            let Some(row) = self.instances().get(&place.id).cloned() else { continue };
            let Some(pool) = &row.instance.pool else { continue };
            touched.pool(pool);
            let mut counts = self.pool_counts(pool);
            counts.take(&row, before);
            counts.add(&row, after);
            self.counts.insert(Arc::from(pool.as_str()), counts);
        }
    }
}
