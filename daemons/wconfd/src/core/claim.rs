//! What a node's inventory says against what W has of its slots (P5.2).
//!
//! | W | node | then |
//! |---|---|---|
//! | any | floor above W's generation | generation := floor; what is not ABSENT is DIRTY |
//! | any live state | opened, and W has it not opened, or for another lease | DIRTY |
//! | BOOTING, CLEAN, LEASED | not live in this generation | DIRTY: it is lost |
//! | CREATING | anything in this generation, or nothing | the creating job will say |
//! | DIRTY, DESTROYING | anything | to be destroyed anyhow |
//! | ABSENT | something lives or is half made | DIRTY, so that it is destroyed |
//!
//! A LEASED slot that becomes DIRTY so breaks its lease. A lost VM that a task's attempt works in is left to the attempt for a
//! while ([`Spared`]): its job hears of the loss by its commands, and it alone can tell a user's own memory, which took PID 1, from a
//! failure of ours that is to be tried again.
//!
//! Slots homed elsewhere and slots W does not know are strangers: W has nothing to put right there.

use super::config::{Config, Fix};
use gantry_model::config::{Slot, SlotState};
use gantry_model::ids::{InstanceUuid, NodeUuid};
use gantry_model::lease::LeaseOwner;
use gantry_proto::noded::{SlotFacts, VmState};
use std::collections::BTreeMap;

/// Revisions of a node's slots when it was asked. A slot that changed since is not compared: the
/// answer may be older than the change.
pub type Asked = BTreeMap<InstanceUuid, u64>;

/// The revisions to remember before a node is asked.
#[must_use]
pub fn asked(config: &Config, node: NodeUuid) -> Asked {
    config.slots_of(node).map(|row| (row.slot.uuid, row.rev)).collect()
}

/// What is compared when a node tells of one VM without being asked: its slot, if it is at that generation. A lost VM never lives
/// again, so that nothing W has stored meanwhile makes the word too old.
#[must_use]
pub fn told_of(config: &Config, node: NodeUuid, facts: &SlotFacts) -> Asked {
    let meant = |slot: &Slot| (slot.uuid, slot.generation) == (facts.slot, facts.generation);
    config.slots_of(node).filter(|row| meant(&row.slot)).map(|row| (row.slot.uuid, row.rev)).collect()
}

/// How long a lost VM is left to the attempt that works in it, ms: its job reads how its command ended and what was counted,
/// and stops the VM for its results.
pub const SPARED_MS: u64 = 5_000;

/// Lost VMs of attempts: the revision of the slot's row, and since when that is seen.
#[derive(Debug, Clone, Default)]
pub struct Spared(BTreeMap<InstanceUuid, (u64, u64)>);

impl Spared {
    /// Whether it is left to its attempt still.
    pub fn spares(&mut self, slot: InstanceUuid, rev: u64, now_ms: u64) -> bool {
        let seen = self.0.get(&slot).filter(|(of, _)| *of == rev).map_or(now_ms, |(_, since)| *since);
        self.0.insert(slot, (rev, seen));
        now_ms.saturating_sub(seen) < SPARED_MS
    }

    /// Keeps what `stands`: a slot that moved on is nobody's loss.
    pub fn keep(&mut self, stands: impl Fn(InstanceUuid, u64) -> bool) {
        self.0.retain(|slot, (rev, _)| stands(*slot, *rev));
    }
}

/// The revision of the slot's row when a task's attempt works in that VM, and the node says that it is lost.
#[must_use]
pub fn attempts_loss(config: &Config, slot: InstanceUuid, facts: &[SlotFacts]) -> Option<u64> {
    let row = config.slot(slot)?;
    let lease = config.lease(row.slot.lease?)?;
    let task = matches!(lease.lease.owner, LeaseOwner::Task { .. });
    let lost = |told: &&SlotFacts| {
        (told.slot, told.generation, told.state) == (slot, row.slot.generation, VmState::Lost)
            && told.holder == row.slot.lease
    };
    (task && facts.iter().any(|told| lost(&told))).then_some(row.rev)
}

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// To be put right in W.
    pub fixes: Vec<Fix>,
    /// Slots that the node has something of and that are not homed there.
    pub strangers: Vec<InstanceUuid>,
}

/// Compares the node's answer with its slots.
#[must_use]
pub fn compare(config: &Config, node: NodeUuid, asked: &Asked, facts: &[SlotFacts]) -> Findings {
    let facts: BTreeMap<_, _> = facts.iter().map(|facts| (facts.slot, facts)).collect();
    let rows = config.slots_of(node).filter(|row| asked.get(&row.slot.uuid) == Some(&row.rev));
    let fixes = rows.filter_map(|row| judge(&row.slot, facts.get(&row.slot.uuid).copied())).collect();
    let homed = |uuid: &InstanceUuid| config.slot(*uuid).is_some_and(|row| row.slot.node == node);
    let lives = |facts: &SlotFacts| facts.state != VmState::Absent;
    let strangers = facts.iter().filter(|(uuid, facts)| lives(facts) && !homed(uuid)).map(|(uuid, _)| *uuid);
    Findings { fixes, strangers: strangers.collect() }
}

/// What is wrong with one slot; None when nothing is.
fn judge(slot: &Slot, facts: Option<&SlotFacts>) -> Option<Fix> {
    let floor = facts.map_or(slot.generation, |facts| facts.floor.max(facts.generation));
    let generation = slot.generation.max(floor);
    let raised = generation > slot.generation;
    let why = match slot.state {
        SlotState::Dirty | SlotState::Destroying if !raised => None,
        SlotState::Dirty => None,
        SlotState::Destroying => Some(format!("the node is at generation {generation} already")),
        SlotState::Absent => leftover(facts),
        SlotState::Creating if !raised => touched(slot, facts),
        SlotState::Booting | SlotState::Clean | SlotState::Leased if !raised => {
            lost(slot, facts).or_else(|| touched(slot, facts))
        }
        SlotState::Creating | SlotState::Booting | SlotState::Clean | SlotState::Leased => {
            Some(format!("the node is at generation {generation} already"))
        }
    };
    (raised || why.is_some()).then_some(Fix { slot: slot.uuid, generation, dirty: why })
}

/// Something on the node where nothing should be.
fn leftover(facts: Option<&SlotFacts>) -> Option<String> {
    let facts = facts?;
    match facts.state {
        VmState::Absent => None,
        VmState::Creating | VmState::Live | VmState::Destroying | VmState::Lost => {
            Some(format!("the node has a VM of generation {} in it", facts.generation))
        }
    }
}

/// The VM that W counts on is not there.
fn lost(slot: &Slot, facts: Option<&SlotFacts>) -> Option<String> {
    let Some(facts) = facts else { return Some("the node knows nothing of it".to_owned()) };
    let state = match facts.state {
        VmState::Live if facts.generation == slot.generation => return None,
        VmState::Live => "live in another generation",
        VmState::Creating => "still being made",
        VmState::Absent => "absent",
        VmState::Destroying => "being destroyed",
        VmState::Lost => "lost",
    };
    Some(format!("the node says that its VM is {state}"))
}

/// Somebody worked in it whom W does not know of.
fn touched(slot: &Slot, facts: Option<&SlotFacts>) -> Option<String> {
    let facts = facts.filter(|facts| facts.generation == slot.generation)?;
    if facts.opened && !slot.opened {
        return Some("the node says that it was opened".to_owned());
    }
    match facts.holder {
        Some(holder) if Some(holder) != slot.lease => Some(format!("the node gave it to lease {holder}")),
        Some(_) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::ids::{Generation, LeaseUuid};
    use uuid::Uuid;

    fn slot(state: SlotState, generation: u64) -> Slot {
        let (uuid, node) = (InstanceUuid(Uuid::from_u128(1)), NodeUuid(Uuid::from_u128(2)));
        Slot { state, generation: Generation(generation), ..Slot::new(uuid, node) }
    }

    fn facts(state: VmState, generation: u64, floor: u64) -> SlotFacts {
        SlotFacts {
            slot: InstanceUuid(Uuid::from_u128(1)),
            floor: Generation(floor),
            generation: Generation(generation),
            state,
            holder: None,
            opened: false,
        }
    }

    /// (generation, dirty) after judging, None for no fix.
    fn verdict(slot: &Slot, facts: Option<&SlotFacts>) -> Option<(u64, bool)> {
        judge(slot, facts).map(|fix| (fix.generation.0, fix.dirty.is_some()))
    }

    #[test]
    fn a_loss_is_left_to_its_attempt_for_a_while_and_no_longer() {
        let mut spared = Spared::default();
        let [one, other] = [1, 2].map(|n| InstanceUuid(Uuid::from_u128(n)));
        assert!(spared.spares(one, 7, 1_000) && spared.spares(one, 7, 1_000 + SPARED_MS - 1));
        assert!(spared.spares(other, 7, 1_000 + SPARED_MS), "each by itself");
        assert!(!spared.spares(one, 7, 1_000 + SPARED_MS));
        assert!(spared.spares(one, 8, 1_000 + SPARED_MS), "another VM, or another lease");
        spared.keep(|slot, _| slot == other);
        assert!(spared.spares(one, 8, 9_000_000), "forgotten: it begins anew");
        assert!(!spared.spares(other, 7, 9_000_000));
    }

    const ALL: [SlotState; 7] = [
        SlotState::Absent,
        SlotState::Creating,
        SlotState::Booting,
        SlotState::Clean,
        SlotState::Leased,
        SlotState::Dirty,
        SlotState::Destroying,
    ];

    #[test]
    fn what_agrees_is_left_alone() {
        let live = facts(VmState::Live, 3, 3);
        for state in [SlotState::Creating, SlotState::Booting, SlotState::Clean, SlotState::Leased] {
            assert_eq!(verdict(&slot(state, 3), Some(&live)), None, "{state:?}");
        }
        for state in [VmState::Live, VmState::Destroying, VmState::Lost, VmState::Absent] {
            assert_eq!(verdict(&slot(SlotState::Dirty, 3), Some(&facts(state, 3, 3))), None);
            assert_eq!(verdict(&slot(SlotState::Destroying, 3), Some(&facts(state, 3, 3))), None);
        }
        assert_eq!(verdict(&slot(SlotState::Absent, 3), Some(&facts(VmState::Absent, 3, 3))), None);
        assert_eq!(verdict(&slot(SlotState::Absent, 0), None), None);
    }

    #[test]
    fn a_higher_floor_raises_the_generation_in_every_state() {
        for state in ALL {
            let dirty = !matches!(state, SlotState::Absent | SlotState::Dirty);
            assert_eq!(
                verdict(&slot(state, 3), Some(&facts(VmState::Absent, 3, 5))),
                Some((5, dirty)),
                "{state:?}"
            );
        }
    }

    #[test]
    fn a_lower_floor_never_lowers_it() {
        for state in ALL {
            let fix = judge(&slot(state, 9), Some(&facts(VmState::Absent, 2, 2)));
            assert!(fix.is_none_or(|fix| fix.generation == Generation(9)), "{state:?}");
        }
    }

    #[test]
    fn what_was_opened_unseen_is_dirty() {
        let opened = SlotFacts { opened: true, ..facts(VmState::Live, 3, 3) };
        assert_eq!(verdict(&slot(SlotState::Clean, 3), Some(&opened)), Some((3, true)));
        let known = Slot { opened: true, ..slot(SlotState::Leased, 3) };
        assert_eq!(verdict(&known, Some(&opened)), None);
    }

    #[test]
    fn another_holder_is_dirty_the_own_is_not() {
        let lease = LeaseUuid(Uuid::from_u128(7));
        let held = SlotFacts { holder: Some(lease), opened: true, ..facts(VmState::Live, 3, 3) };
        let own = Slot { lease: Some(lease), opened: true, ..slot(SlotState::Leased, 3) };
        assert_eq!(verdict(&own, Some(&held)), None);
        let other = Slot { lease: Some(LeaseUuid(Uuid::from_u128(8))), ..own };
        assert_eq!(verdict(&other, Some(&held)), Some((3, true)));
    }

    #[test]
    fn a_leased_vm_touched_before_w_heard_of_it_is_dirty() {
        let lease = Some(LeaseUuid(Uuid::from_u128(7)));
        let mine = Slot { lease, ..slot(SlotState::Leased, 3) };
        let live = facts(VmState::Live, 3, 3);
        assert_eq!(verdict(&mine, Some(&live)), None, "leased, not touched");
        let held = SlotFacts { holder: lease, ..live.clone() };
        assert_eq!(verdict(&mine, Some(&held)), None, "its own");
        let opened = SlotFacts { opened: true, ..held };
        assert_eq!(
            verdict(&mine, Some(&opened)),
            Some((3, true)),
            "opened is durable in W before the node hears it"
        );
        let closed = Slot { opened: true, ..mine };
        assert_eq!(verdict(&closed, Some(&live)), None, "W knows first");
        let given_back = Slot { lease: None, ..slot(SlotState::Clean, 3) };
        let late = SlotFacts { holder: lease, opened: true, ..live };
        assert_eq!(verdict(&given_back, Some(&late)), Some((3, true)), "a late open of an ended lease");
    }

    #[test]
    fn what_is_lost_is_dirty_but_not_while_it_is_made() {
        for state in [VmState::Absent, VmState::Lost, VmState::Destroying, VmState::Creating] {
            for ours in [SlotState::Booting, SlotState::Clean, SlotState::Leased] {
                assert_eq!(verdict(&slot(ours, 3), Some(&facts(state, 3, 3))), Some((3, true)));
                assert_eq!(verdict(&slot(ours, 3), None), Some((3, true)));
            }
            assert_eq!(verdict(&slot(SlotState::Creating, 3), Some(&facts(state, 3, 3))), None);
        }
        assert_eq!(verdict(&slot(SlotState::Creating, 3), None), None);
        assert_eq!(verdict(&slot(SlotState::Clean, 3), Some(&facts(VmState::Live, 2, 2))), Some((3, true)));
    }

    #[test]
    fn leftovers_in_an_absent_slot_are_destroyed() {
        for state in [VmState::Live, VmState::Creating, VmState::Destroying, VmState::Lost] {
            assert_eq!(verdict(&slot(SlotState::Absent, 3), Some(&facts(state, 3, 3))), Some((3, true)));
        }
        let higher = facts(VmState::Live, 6, 6);
        assert_eq!(verdict(&slot(SlotState::Absent, 3), Some(&higher)), Some((6, true)));
    }
}
