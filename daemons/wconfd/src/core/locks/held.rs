//! Who owns what, with the indexes that answer "who is in the way" without looking at other locks.
//! Applies changes blindly: `table` has asked before whether they are allowed.

use super::name::{Level, LockName};
use super::request::{Mode, Wants};
use std::collections::{BTreeMap, BTreeSet};

/// Where holders may be in the way of a request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// The holders of this lock.
    Lock(LockName),
    /// The holders of any member of this level; they are in the way of its group lock.
    Members(Level),
}

/// A place seen by who comes with a mode: closed by every other holder to an exclusive wish, by every
/// other exclusive holder to a shared wish.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Gate {
    pub(super) place: Place,
    pub(super) mode: Mode,
}

impl Gate {
    /// The gates that must be open for `lock` to be held in `mode`: the lock's own, that of its group
    /// lock if it is a member, that of its members if it is a group lock.
    pub(super) fn of(lock: &LockName, mode: Mode) -> impl Iterator<Item = Gate> {
        let related = match lock.group() {
            Some(group) => Some(Place::Lock(group)),
            None if lock.is_set() => Some(Place::Members(lock.level())),
            None => None,
        };
        [Some(Place::Lock(lock.clone())), related]
            .into_iter()
            .flatten()
            .map(move |place| Gate { place, mode })
    }

    /// The gates that may open when an owner gives `lock` up or shares it.
    pub(super) fn opened_by(lock: &LockName) -> impl Iterator<Item = Gate> {
        let members = lock.group().map(|_| Place::Members(lock.level()));
        [Some(Place::Lock(lock.clone())), members]
            .into_iter()
            .flatten()
            .flat_map(|place| [Mode::Shared, Mode::Exclusive].map(|mode| Gate { place: place.clone(), mode }))
    }
}

/// What keeps a request waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Obstacle {
    /// The lock asked for.
    pub(super) wanted: LockName,
    /// The gate that is closed.
    pub(super) gate: Gate,
}

/// Holders of the members of one level, with the number of members each holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Members<O> {
    any: BTreeMap<O, usize>,
    exclusive: BTreeMap<O, usize>,
}

impl<O> Default for Members<O> {
    fn default() -> Self {
        Self { any: BTreeMap::new(), exclusive: BTreeMap::new() }
    }
}

/// All held locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held<O> {
    by_owner: BTreeMap<O, BTreeMap<LockName, Mode>>,
    by_lock: BTreeMap<LockName, BTreeMap<O, Mode>>,
    members: [Members<O>; Level::ALL.len()],
}

impl<O> Default for Held<O> {
    fn default() -> Self {
        Self {
            by_owner: BTreeMap::new(),
            by_lock: BTreeMap::new(),
            members: std::array::from_fn(|_| Members::default()),
        }
    }
}

impl<O: Ord + Clone> Held<O> {
    /// Makes `owner` hold `lock` in `mode` (none: not at all). Returns the mode before.
    pub(super) fn set(&mut self, owner: &O, lock: &LockName, mode: Option<Mode>) -> Option<Mode> {
        let before = put(&mut self.by_owner, owner, lock, mode);
        put(&mut self.by_lock, lock, owner, mode);
        if lock.group().is_some() {
            let members = &mut self.members[lock.level().index()];
            let exclusive = Some(Mode::Exclusive);
            count(&mut members.any, owner, before.is_some(), mode.is_some());
            count(&mut members.exclusive, owner, before == exclusive, mode == exclusive);
        }
        before
    }

    /// What `owner` holds; none when it holds nothing.
    pub(super) fn of(&self, owner: &O) -> Option<&BTreeMap<LockName, Mode>> {
        self.by_owner.get(owner)
    }

    /// All owners with what they hold, which is never nothing.
    pub(super) fn owners(&self) -> impl Iterator<Item = (&O, &BTreeMap<LockName, Mode>)> {
        self.by_owner.iter()
    }

    /// All held locks with their holders, who are never none.
    pub(super) fn locks(&self) -> impl Iterator<Item = (&LockName, &BTreeMap<O, Mode>)> {
        self.by_lock.iter()
    }

    /// Whether `gate` is open to all.
    pub(super) fn is_open(&self, gate: &Gate) -> bool {
        self.standing(gate).next().is_none()
    }

    /// Whether another than `owner` closes `gate`.
    pub(super) fn is_closed(&self, gate: &Gate, owner: &O) -> bool {
        self.standing(gate).any(|holder| holder != owner)
    }

    /// Whether `owner` itself stands in `gate`.
    pub(super) fn stands_in(&self, gate: &Gate, owner: &O) -> bool {
        self.standing(gate).any(|holder| holder == owner)
    }

    /// The first obstacle to `wants`, none when they can be had at once.
    pub(super) fn obstacle(&self, owner: &O, wants: &Wants) -> Option<Obstacle> {
        wants.acquisitions().find_map(|(lock, mode)| {
            Gate::of(lock, mode)
                .find(|gate| self.is_closed(gate, owner))
                .map(|gate| Obstacle { wanted: lock.clone(), gate })
        })
    }

    /// Every other owner that is in the way of `wants`.
    pub(super) fn blockers(&self, owner: &O, wants: &Wants) -> BTreeSet<O> {
        let mut blockers = BTreeSet::new();
        for (lock, mode) in wants.acquisitions() {
            for gate in Gate::of(lock, mode) {
                blockers.extend(self.standing(&gate).filter(|holder| *holder != owner).cloned());
            }
        }
        blockers
    }

    /// The owners that stand in `gate`. Sharers and an exclusive holder of one lock never mix, so the
    /// mode of one holder says whether all are in the way.
    fn standing(&self, gate: &Gate) -> impl Iterator<Item = &O> {
        let (holders, members) = match &gate.place {
            Place::Lock(lock) => (self.by_lock.get(lock), None),
            Place::Members(level) => {
                let members = &self.members[level.index()];
                let counts = match gate.mode {
                    Mode::Shared => &members.exclusive,
                    Mode::Exclusive => &members.any,
                };
                (None, Some(counts))
            }
        };
        let in_way = |holders: &&BTreeMap<O, Mode>| {
            let held = holders.values().next().copied();
            held.max(Some(gate.mode)) == Some(Mode::Exclusive)
        };
        let holders = holders.filter(in_way).into_iter().flat_map(BTreeMap::keys);
        holders.chain(members.into_iter().flat_map(BTreeMap::keys))
    }

    /// Asserts that the indexes agree and that nobody holds what another excludes.
    pub(super) fn check(&self) {
        let mut again = Self::default();
        for (owner, locks) in &self.by_owner {
            assert!(!locks.is_empty(), "an owner without locks is not kept");
            for (lock, mode) in locks {
                again.set(owner, lock, Some(*mode));
                let free = Gate::of(lock, *mode).all(|gate| !self.is_closed(&gate, owner));
                assert!(free, "{lock} is held against another holder");
            }
        }
        assert!(again.by_lock == self.by_lock, "the index by lock mirrors the owners' locks");
        assert!(again.members == self.members, "the member counts mirror the owners' locks");
    }
}

/// Sets or removes the entry (`outer`, `inner`), keeping no empty inner map. Returns the old value.
fn put<A: Ord + Clone, B: Ord + Clone>(
    map: &mut BTreeMap<A, BTreeMap<B, Mode>>,
    outer: &A,
    inner: &B,
    mode: Option<Mode>,
) -> Option<Mode> {
    if let Some(mode) = mode {
        return map.entry(outer.clone()).or_default().insert(inner.clone(), mode);
    }
    let entries = map.get_mut(outer)?;
    let before = entries.remove(inner);
    if entries.is_empty() {
        map.remove(outer);
    }
    before
}

/// Moves the count of `owner` as one of its locks comes to count or ceases to.
fn count<O: Ord + Clone>(counts: &mut BTreeMap<O, usize>, owner: &O, before: bool, after: bool) {
    match (before, after) {
        (false, true) => *counts.entry(owner.clone()).or_default() += 1,
        (true, false) => {
            let left = counts.get_mut(owner).expect("who held a member was counted");
            *left -= 1;
            if *left == 0 {
                counts.remove(owner);
            }
        }
        (true, true) | (false, false) => {}
    }
}
