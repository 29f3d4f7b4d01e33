//! Passes that look at each slot by itself.

use super::surplus;
use crate::core::job::{KeyedJob, SlotWork};
use crate::core::seen::{Seen, Slot};
use gantry_model::config::SlotState;
use gantry_model::ids::NodeUuid;
use gantry_model::pool::PoolState;
use std::collections::{BTreeMap, BTreeSet};

/// DIRTY slots whose node can be asked. Those on nodes that are away wait: a failure that nobody is to blame for would
/// count towards [`SLOT_FAILURES_MAX`](gantry_model::pool::SLOT_FAILURES_MAX).
pub(super) fn destroy_dirty(seen: &Seen, now: f64) -> Vec<KeyedJob> {
    let due = |slot: &&Slot| slot.state == SlotState::Dirty && slot.may_try(now) && seen.can_ask(slot);
    KeyedJob::lots(SlotWork::Destroy, &spread(seen.slots.iter().filter(due)))
}

/// ABSENT slots that are wanted and can be made now.
pub(super) fn create_slots(seen: &Seen, now: f64) -> Vec<KeyedJob> {
    let makes = |pool: &&crate::core::seen::Pool| pool.state == PoolState::Active && pool.enabled;
    let pools: BTreeSet<&str> = seen.pools.iter().filter(makes).map(|pool| pool.name.as_str()).collect();
    let surplus = surplus(seen);
    let due = |slot: &&Slot| {
        slot.state == SlotState::Absent
            && seen.counts(slot)
            && slot.may_try(now)
            && seen.can_ask(slot)
            && pools.contains(slot.pool.as_str())
            && !surplus.contains(&slot.uuid)
    };
    KeyedJob::lots(SlotWork::Create, &spread(seen.slots.iter().filter(due)))
}

/// CLEAN slots that may be leased.
pub(super) fn health_check(seen: &Seen) -> Vec<KeyedJob> {
    let due = |slot: &&Slot| slot.state == SlotState::Clean && seen.counts(slot) && seen.can_ask(slot);
    KeyedJob::lots(SlotWork::Verify, &spread(seen.slots.iter().filter(due)))
}

/// In turns over the nodes, so that each lot keeps many of them busy.
fn spread<'a>(slots: impl Iterator<Item = &'a Slot>) -> Vec<&'a Slot> {
    let mut turns: BTreeMap<NodeUuid, u64> = BTreeMap::new();
    let mut placed: Vec<(u64, &Slot)> = slots
        .map(|slot| {
            let turn = turns.entry(slot.node_uuid).or_default();
            *turn += 1;
            (*turn, slot)
        })
        .collect();
    placed.sort_by_key(|(turn, _)| *turn);
    placed.into_iter().map(|(_, slot)| slot).collect()
}
