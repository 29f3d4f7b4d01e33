//! The slow obvious model: two flat maps, the rules as the specification words them, and after each
//! step a search from the start for the most urgent request that can be granted.

use super::super::*;
use std::collections::{BTreeMap, BTreeSet};

/// Owners in tests.
pub type Who = u8;

/// The model. Compare with [`LockTable`] through the same operations.
#[derive(Debug, Clone, Default)]
pub struct Model {
    pub held: BTreeMap<(Who, LockName), Mode>,
    pub pending: BTreeMap<Who, (i32, Wants)>,
}

/// Whether one lock is the group lock of the other.
fn is_group_of(group: &LockName, member: &LockName) -> bool {
    group.is_set() && !member.is_set() && group.level() == member.level()
}

impl Model {
    /// The other owners that hold something which excludes a wish in `wants`.
    pub fn blockers(&self, who: Who, wants: &Wants) -> BTreeSet<Who> {
        let excludes = |held: &LockName, held_mode: Mode| {
            wants.as_slice().iter().any(|(lock, want)| {
                let related = lock == held || is_group_of(lock, held) || is_group_of(held, lock);
                let exclusive = *want == Want::Exclusive || held_mode == Mode::Exclusive;
                related && exclusive && *want != Want::Release
            })
        };
        let others = self.held.iter().filter(|((holder, _), _)| *holder != who);
        others.filter(|((_, lock), mode)| excludes(lock, **mode)).map(|((holder, _), _)| *holder).collect()
    }

    fn verify(&self, who: Who, wants: &Wants) -> Result<(), ()> {
        let mine = |lock: &LockName| self.held.get(&(who, lock.clone())).copied();
        let all = self.held.keys().filter(|(holder, _)| *holder == who);
        let Some(highest) = all.map(|(_, lock)| lock).max() else { return Ok(()) };
        for (lock, want) in wants.as_slice() {
            let Some(mode) = want.mode() else { continue };
            let group = self
                .held
                .iter()
                .find(|((holder, held), _)| *holder == who && is_group_of(held, lock))
                .map(|(_, mode)| *mode);
            let sufficient = |held: Option<Mode>| match (held, mode) {
                (None, _) | (Some(Mode::Shared), Mode::Exclusive) => false,
                (Some(Mode::Exclusive), _) | (Some(Mode::Shared), Mode::Shared) => true,
            };
            let under_shared = group == Some(Mode::Shared) && mode == Mode::Exclusive;
            let unordered = lock < highest && !sufficient(mine(lock)) && !sufficient(group);
            let repeated = mine(lock) == Some(mode);
            if !repeated && (under_shared || unordered) {
                return Err(());
            }
        }
        Ok(())
    }

    fn apply(&mut self, who: Who, wants: &Wants) {
        for (lock, want) in wants.as_slice() {
            match want.mode() {
                Some(mode) => self.held.insert((who, lock.clone()), mode),
                None => self.held.remove(&(who, lock.clone())),
            };
        }
    }

    /// Grants all that can be granted, searching from the most urgent after each grant.
    fn settle(&mut self) -> Vec<Who> {
        let mut granted = Vec::new();
        loop {
            let mut order: Vec<_> = self.pending.iter().map(|(who, (prio, _))| (*prio, *who)).collect();
            order.sort_unstable();
            let next = order
                .into_iter()
                .map(|(_, who)| who)
                .find(|who| self.blockers(*who, &self.pending[who].1).is_empty());
            let Some(who) = next else { return granted };
            if let Some((_, wants)) = self.pending.remove(&who) {
                self.apply(who, &wants);
            }
            granted.push(who);
        }
    }

    /// The blockers (none: granted) and who else was granted.
    pub fn update(
        &mut self,
        who: Who,
        wait: Option<i32>,
        wants: &Wants,
    ) -> Result<(BTreeSet<Who>, Vec<Who>), ()> {
        if let Some((priority, pending)) = self.pending.get(&who) {
            return if wait == Some(*priority) && pending == wants {
                Ok((self.blockers(who, wants), Vec::new()))
            } else {
                Err(())
            };
        }
        self.verify(who, wants)?;
        let blockers = self.blockers(who, wants);
        if blockers.is_empty() {
            self.apply(who, wants);
            return Ok((blockers, self.settle()));
        }
        if let Some(priority) = wait {
            let upgrades = |(lock, want): &(LockName, Want)| {
                *want == Want::Exclusive && self.held.get(&(who, lock.clone())) == Some(&Mode::Shared)
            };
            if wants.as_slice().iter().any(upgrades) {
                return Err(());
            }
            self.pending.insert(who, (priority, wants.clone()));
        }
        Ok((blockers, Vec::new()))
    }

    /// Drops the pending request and gives each lock of the owner the mode `weaker` says.
    pub fn weaken(&mut self, who: Who, weaker: impl Fn(&LockName, Mode) -> Option<Mode>) -> Vec<Who> {
        self.pending.remove(&who);
        let before = std::mem::take(&mut self.held);
        for ((holder, lock), mode) in before {
            let after = if holder == who { weaker(&lock, mode) } else { Some(mode) };
            if let Some(after) = after {
                self.held.insert((holder, lock), after);
            }
        }
        self.settle()
    }

    /// The rows of the lock query.
    pub fn rows(&self) -> Vec<LockRow<Who>> {
        let acquisitions = |wants: &Wants| -> Vec<(LockName, Mode)> {
            wants.acquisitions().map(|(lock, mode)| (lock.clone(), mode)).collect()
        };
        let mut names: BTreeSet<LockName> = self.held.keys().map(|(_, lock)| lock.clone()).collect();
        names.extend(self.pending.values().flat_map(|(_, w)| acquisitions(w)).map(|(lock, _)| lock));
        names.extend(names.clone().iter().filter_map(LockName::group));
        let row = |name: LockName| {
            let holders = self.held.iter().filter(|((_, lock), _)| *lock == name);
            let mut pending: Vec<_> = self
                .pending
                .iter()
                .flat_map(|(who, (prio, w))| {
                    acquisitions(w).into_iter().map(|(lock, mode)| (*prio, *who, lock, mode))
                })
                .filter(|(_, _, lock, _)| *lock == name)
                .collect();
            pending.sort();
            let pending = pending.into_iter().map(|(_, owner, _, mode)| LockWaiter { mode, owner }).collect();
            LockRow {
                mode: holders.clone().map(|(_, mode)| *mode).next(),
                owners: holders.map(|((who, _), _)| *who).collect(),
                pending,
                name,
            }
        };
        names.into_iter().map(row).collect()
    }
}
