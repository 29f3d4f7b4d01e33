//! When to look at what: periods, news, and slots whose time comes. Milliseconds of the shell's monotonic clock.
//!
//! A DIRTY slot is looked at by itself at once: a turn-over costs what it changes, not what the pool has. All else
//! brings a whole pass forward, each at most once in [`SPACING_MS`].

use crate::core::pass::Pass;
use gantry_model::config::{SlotState, kind};
use gantry_model::ids::InstanceUuid;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Time for further news to arrive, so that slots that become DIRTY together are one lot. While one lot is submitted the
/// next gathers by itself.
pub const DEBOUNCE_MS: u64 = 1;
/// Between two looks at DIRTY slots: a single one is looked at at once, many in a row in lots, for each lot is a process.
pub const GATHER_MS: u64 = 25;
/// Between two runs of a pass that news bring forward: under load news are continuous, and a pass reads whole pools.
pub const SPACING_MS: u64 = 250;
/// How long a slot stays ABSENT before it counts as forgotten: the job that destroyed it makes it anew, and is faster.
pub const ABSENT_MS: u64 = 100;
/// First pause before a slot is looked at again whose key a live job has; doubles up to [`AGAIN_MS_MAX`].
pub const AGAIN_MS: u64 = 100;
/// Longest such pause.
pub const AGAIN_MS_MAX: u64 = 10_000;
/// Most slots noted one by one; beyond them whole passes look at all.
pub const SLOTS_MAX: usize = 4_096;
/// Latest start of passes that keep to their period, after the overseer's own.
pub const FIRST_MS: u64 = 60_000;

/// Kinds of objects whose changes matter.
pub const KINDS: &[&str] = &[kind::SLOT, kind::POOL, kind::BLUEPRINT, kind::NODE];

/// One piece of news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'a> {
    /// Kind of the object.
    pub kind: &'a str,
    /// Its key.
    pub key: &'a str,
    /// Where it stands, if it says so.
    pub state: &'a str,
}

/// What to do now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Work {
    /// Passes over everything, in order.
    pub passes: Vec<Pass>,
    /// Slots that may be DIRTY.
    pub dirty: Vec<InstanceUuid>,
    /// Whether nodes should be asked anew.
    pub nodes: bool,
}

/// A slot to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    at: u64,
    /// Pause before the look after this, should a live job have its key still.
    again: u64,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Agenda {
    /// Period and next run of each pass.
    passes: BTreeMap<Pass, (u64, u64)>,
    /// When each pass ran last.
    ran: BTreeMap<Pass, u64>,
    dirty: BTreeMap<InstanceUuid, Look>,
    absent: BTreeMap<InstanceUuid, u64>,
    /// When DIRTY slots were looked at last.
    looked: Option<u64>,
    nodes: bool,
    /// Whether some CLEAN VM is outdated: then news of CLEAN slots make room for the next.
    pub rolling: bool,
    /// Whether some pool wants more slots the more are leased: then news of leases matter.
    pub spare: bool,
}

impl Agenda {
    /// Quick passes are due at once; the others after their period, or [`FIRST_MS`].
    #[must_use]
    pub fn new(now: u64, period_ms: impl Fn(Pass) -> u64) -> Self {
        let first = |pass: Pass, period: u64| if pass.is_quick() { now } else { now + period.min(FIRST_MS) };
        let passes = Pass::ALL.map(|pass| {
            let period = period_ms(pass).max(1);
            (pass, (period, first(pass, period)))
        });
        Self {
            passes: passes.into(),
            ran: BTreeMap::new(),
            dirty: BTreeMap::new(),
            absent: BTreeMap::new(),
            looked: None,
            nodes: true,
            rolling: false,
            spare: false,
        }
    }

    /// Something changed.
    pub fn heard(&mut self, now: u64, change: Change<'_>) {
        match change.kind {
            kind::SLOT => {
                if let Ok(uuid) = Uuid::try_parse(change.key) {
                    self.slot(now, InstanceUuid(uuid), change.state);
                }
            }
            kind::POOL | kind::BLUEPRINT => {
                self.bring_all(&[Pass::CreateSlots, Pass::ExpandPools, Pass::DrainSlots], now)
            }
            kind::NODE => {
                self.nodes = true;
                self.bring_all(&[Pass::CreateSlots, Pass::ExpandPools, Pass::DrainSlots], now);
            }
            _ => {}
        }
    }

    fn slot(&mut self, now: u64, slot: InstanceUuid, state: &str) {
        self.dirty.remove(&slot);
        self.absent.remove(&slot);
        if state == SlotState::Dirty.as_str() {
            let next = self.looked.map_or(0, |looked| looked + GATHER_MS);
            self.look(slot, Look { at: next.max(now + DEBOUNCE_MS), again: AGAIN_MS });
        } else if state == SlotState::Absent.as_str() {
            self.absent.insert(slot, now + ABSENT_MS);
            if self.absent.len() > SLOTS_MAX {
                self.absent.clear();
                self.bring(Pass::CreateSlots, now);
            }
        } else if state.is_empty() || self.spare && state == SlotState::Leased.as_str() {
            // Gone: its pool may want another.
            self.bring(Pass::ExpandPools, now);
        } else if state == SlotState::Clean.as_str() && self.rolling {
            self.bring(Pass::DrainSlots, now);
        }
    }

    fn look(&mut self, slot: InstanceUuid, look: Look) {
        self.dirty.insert(slot, look);
        if self.dirty.len() > SLOTS_MAX {
            self.dirty.clear();
            self.bring(Pass::DestroyDirty, look.at);
        }
    }

    /// Anything may have changed since `now` or before: quick passes look at everything, from `at` on.
    pub fn lost(&mut self, at: u64) {
        self.dirty.clear();
        self.absent.clear();
        self.nodes = true;
        for pass in Pass::ALL.into_iter().filter(|pass| pass.is_quick()) {
            self.bring(pass, at);
        }
    }

    /// A DIRTY slot may be tried from then on.
    pub fn try_at(&mut self, slot: InstanceUuid, at: u64) {
        self.look(slot, Look { at, again: AGAIN_MS });
    }

    /// A live job has the slot's key: it is looked at again later and later. `before` is the pause that led to this look.
    pub fn again(&mut self, now: u64, slot: InstanceUuid, before: u64) {
        let pause = before.clamp(AGAIN_MS, AGAIN_MS_MAX);
        self.look(slot, Look { at: now + pause, again: (pause * 2).min(AGAIN_MS_MAX) });
    }

    /// Runs a pass at `at` at the latest, within the spacing.
    pub fn bring(&mut self, pass: Pass, at: u64) {
        let earliest = self.ran.get(&pass).map_or(0, |ran| ran + SPACING_MS);
        if let Some((_, due)) = self.passes.get_mut(&pass) {
            *due = (*due).min(at.max(earliest));
        }
    }

    /// The same for several.
    pub fn bring_all(&mut self, passes: &[Pass], at: u64) {
        passes.iter().for_each(|pass| self.bring(*pass, at));
    }

    /// When [`Agenda::take`] has something next.
    #[must_use]
    pub fn next_due(&self) -> u64 {
        let passes = self.passes.values().map(|(_, due)| *due);
        let dirty = self.dirty.values().map(|look| look.at);
        let nodes = self.nodes.then_some(0);
        passes.chain(dirty).chain(self.absent.values().copied()).chain(nodes).min().unwrap_or(u64::MAX)
    }

    /// What is due now; with each slot the pause should it have to be looked at again.
    pub fn take(&mut self, now: u64) -> (Work, BTreeMap<InstanceUuid, u64>) {
        if self.absent.values().any(|at| *at <= now) {
            self.absent.retain(|_, at| *at > now);
            self.bring_all(&[Pass::CreateSlots, Pass::DrainSlots], now);
        }
        let mut work = Work { nodes: std::mem::take(&mut self.nodes), ..Work::default() };
        for pass in Pass::ALL {
            let Some((period, due)) = self.passes.get_mut(&pass) else { continue };
            if *due <= now {
                *due = now + *period;
                self.ran.insert(pass, now);
                work.passes.push(pass);
            }
        }
        let due: BTreeMap<InstanceUuid, u64> = self
            .dirty
            .iter()
            .filter(|(_, look)| look.at <= now)
            .map(|(slot, look)| (*slot, look.again))
            .collect();
        self.dirty.retain(|_, look| look.at > now);
        work.dirty = due.keys().copied().collect();
        if !work.dirty.is_empty() {
            self.looked = Some(now);
        }
        (work, due)
    }
}

#[cfg(test)]
mod tests;
