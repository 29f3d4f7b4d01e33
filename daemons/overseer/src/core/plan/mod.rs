//! Planning: from what is seen to the jobs that bring it nearer to what is wanted. Each pass is a function of its own and
//! knows nothing of the others, of time passed, or of what it asked for before.
//!
//! Laws, tested for every pass: where all is as it should be nothing is asked for; equal sights give equal jobs; no lot is
//! over [`LOT`](super::job::LOT); no leased VM is touched, but for leases on lost nodes; keys do not repeat.

mod nodes;
mod pools;
mod slots;
#[cfg(test)]
mod tests;

use crate::core::job::KeyedJob;
use crate::core::pass::Pass;
use crate::core::seen::Seen;

pub use pools::{has_outdated, next_turn, surplus};

/// What one pass asks for. `now` is the wall clock, epoch seconds. All passes but destroy-dirty must see all slots.
#[must_use]
pub fn plan(pass: Pass, seen: &Seen, now: f64) -> Vec<KeyedJob> {
    match pass {
        Pass::DestroyDirty => slots::destroy_dirty(seen, now),
        Pass::CreateSlots => slots::create_slots(seen, now),
        Pass::HealthCheck => slots::health_check(seen),
        Pass::ExpandPools => pools::expand_pools(seen),
        Pass::DrainSlots => pools::drain_slots(seen, now),
        Pass::NodeRepair => nodes::node_repair(seen),
        Pass::AuditNodes => nodes::audit_nodes(seen),
    }
}
