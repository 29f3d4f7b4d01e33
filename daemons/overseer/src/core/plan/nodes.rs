//! Passes about nodes.

use crate::core::job::{KeyedJob, SlotWork};
use crate::core::seen::{Seen, Slot};
use gantry_model::config::SlotState;

/// Leases on nodes that are lost are broken, so that their owners learn it. CLEAN VMs there wait for their node; nobody
/// can lease them meanwhile, and when it is back it says what became of them.
pub(super) fn node_repair(seen: &Seen) -> Vec<KeyedJob> {
    let due = |slot: &&Slot| slot.state == SlotState::Leased && seen.is_lost(slot);
    let slots: Vec<&Slot> = seen.slots.iter().filter(due).collect();
    KeyedJob::lots(SlotWork::Break("node lost"), &slots)
}

/// Nodes that can be asked; also those that shall have no VMs may have some left, or the role and key of a candidate.
pub(super) fn audit_nodes(seen: &Seen) -> Vec<KeyedJob> {
    seen.nodes.iter().filter(|node| node.is_there()).map(KeyedJob::audit).collect()
}
