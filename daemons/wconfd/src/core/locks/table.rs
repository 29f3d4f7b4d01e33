//! The commands of the lock table. Each is atomic: refused or blocked, it changes no held lock.

use super::error::LockError;
use super::held::{Gate, Held, Obstacle};
use super::name::{Level, LockName};
use super::request::{Mode, Want, Wants};
use super::rule;
use super::waiting::{Pending, Rank, Waiting};
use std::collections::BTreeSet;

/// In debug builds the whole table is checked after each command while it has at most this many
/// holders and as many waiters; beyond, the check would make long tests quadratic.
const CHECK_OWNERS_MAX: usize = 64;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<O> {
    /// Everything is held as asked.
    Granted,
    /// These other owners are in the way; nothing changed.
    Blocked(BTreeSet<O>),
}

/// One held lock that changed, to be made durable before anybody is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldChange<O> {
    /// Whose.
    pub owner: O,
    /// Which lock.
    pub lock: LockName,
    /// How it is held now; none: no more.
    pub mode: Option<Mode>,
}

/// What a command changed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "held changes are to be written, granted owners to be told"]
pub struct Step<O> {
    /// Waiting owners whose request was granted, in the order of the grants. Not the caller itself.
    pub granted: Vec<O>,
    /// The changes of held locks, in order; an (owner, lock) occurs once at most.
    pub held: Vec<HeldChange<O>>,
}

impl<O> Default for Step<O> {
    fn default() -> Self {
        Self { granted: Vec::new(), held: Vec::new() }
    }
}

impl<O> Step<O> {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.granted.is_empty() && self.held.is_empty()
    }
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "held changes are to be written, granted owners to be told"]
pub struct Answer<O> {
    /// What became of it.
    pub outcome: Outcome<O>,
    /// What it changed: its own locks, and those of waiters that its releases let through.
    pub step: Step<O>,
}

/// A pending request, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingView<'a> {
    /// Its urgency; the smaller the more urgent.
    pub priority: i32,
    /// All it asks for.
    pub wants: &'a Wants,
    /// One lock of it that cannot be had now: the one to name in "waiting for lock …".
    pub wanted: &'a LockName,
}

/// Held locks and pending requests of all owners.
///
/// `O` names an owner; its order decides between requests of equal priority.
#[derive(Debug, Clone)]
pub struct LockTable<O> {
    pub(super) held: Held<O>,
    pub(super) waiting: Waiting<O>,
    retries: u64,
}

impl<O> Default for LockTable<O> {
    fn default() -> Self {
        Self { held: Held::default(), waiting: Waiting::default(), retries: 0 }
    }
}

impl<O: Ord + Clone> LockTable<O> {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The table in which these locks are held and nobody waits: the state after a restart.
    ///
    /// # Errors
    /// Locks that exclude each other, or one lock held by one owner in two modes.
    pub fn restore(held: impl IntoIterator<Item = (O, LockName, Mode)>) -> Result<Self, LockError> {
        let mut table = Self::new();
        for (owner, lock, mode) in held {
            let before = table.held.of(&owner).and_then(|locks| locks.get(&lock));
            if before.is_some_and(|before| *before != mode) {
                return Err(LockError::Inconsistent { lock });
            }
            if Gate::of(&lock, mode).any(|gate| table.held.is_closed(&gate, &owner)) {
                return Err(LockError::Conflict { lock });
            }
            table.held.set(&owner, &lock, Some(mode));
        }
        table.check_if_small();
        Ok(table)
    }

    /// Grants `wants` if nobody is in the way; else says who is, and remembers nothing.
    ///
    /// # Errors
    /// A request against the rules, or one of an owner whose earlier request is pending.
    pub fn update(&mut self, owner: &O, wants: Vec<(LockName, Want)>) -> Result<Answer<O>, LockError> {
        let wants = Wants::new(wants)?;
        if self.waiting.get(owner).is_some() {
            return Err(LockError::RequestPending);
        }
        self.verify(owner, &wants)?;
        Ok(match self.held.obstacle(owner, &wants) {
            None => self.grant(owner, &wants),
            Some(_) => self.blocked(owner, &wants),
        })
    }

    /// Grants `wants` if nobody is in the way; else says who is, and keeps the request until it can
    /// be granted (its owner is then in [`Step::granted`] of some later command) or is dropped.
    /// The same request again while it is pending changes nothing and says who is in the way now.
    ///
    /// # Errors
    /// A request against the rules, another one than the owner's pending one, or an upgrade that
    /// would have to wait.
    pub fn update_waiting(
        &mut self,
        owner: &O,
        priority: i32,
        wants: Vec<(LockName, Want)>,
    ) -> Result<Answer<O>, LockError> {
        let wants = Wants::new(wants)?;
        if let Some(pending) = self.waiting.get(owner) {
            if (pending.priority, &pending.wants) != (priority, &wants) {
                return Err(LockError::RequestPending);
            }
            return Ok(self.blocked(owner, &wants));
        }
        self.verify(owner, &wants)?;
        let Some(obstacle) = self.held.obstacle(owner, &wants) else {
            return Ok(self.grant(owner, &wants));
        };
        let held = self.held.of(owner);
        if let Some(lock) = held.and_then(|held| rule::upgrade(held, &wants)) {
            return Err(LockError::UpgradeWaits { lock: lock.clone() });
        }
        let answer = self.blocked(owner, &wants);
        self.waiting.insert(owner, Pending { priority, wants, obstacle });
        self.check_if_small();
        Ok(answer)
    }

    /// Changes the urgency of the owner's pending request. Says whether it has one. Nothing is
    /// granted by it: what waits is blocked at any priority.
    pub fn set_priority(&mut self, owner: &O, priority: i32) -> bool {
        let Some(pending) = self.waiting.remove(owner) else { return false };
        self.waiting.insert(owner, Pending { priority, ..pending });
        self.check_if_small();
        true
    }

    /// Drops the owner's pending request and keeps its locks. Says whether it had one.
    pub fn withdraw(&mut self, owner: &O) -> bool {
        let had = self.waiting.remove(owner).is_some();
        self.check_if_small();
        had
    }

    /// Takes all locks and the pending request of `owner`: all there is of it.
    pub fn free_all(&mut self, owner: &O) -> Step<O> {
        self.weaken(owner, |_, _| None)
    }

    /// Takes the owner's locks of one level, and its pending request.
    pub fn free_level(&mut self, owner: &O, level: Level) -> Step<O> {
        self.weaken(owner, |lock, mode| (lock.level() != level).then_some(mode))
    }

    /// Takes all locks of `owner` but those in `keep`, and its pending request.
    pub fn keep_only(&mut self, owner: &O, keep: &BTreeSet<LockName>) -> Step<O> {
        self.weaken(owner, |lock, mode| keep.contains(lock).then_some(mode))
    }

    /// Makes the owner's locks of one level shared, and drops its pending request.
    pub fn downgrade_level(&mut self, owner: &O, level: Level) -> Step<O> {
        let weaker = |lock: &LockName, mode| Some(if lock.level() == level { Mode::Shared } else { mode });
        self.weaken(owner, weaker)
    }

    /// What `owner` holds, in lock order.
    pub fn held<'a>(&'a self, owner: &O) -> impl Iterator<Item = (&'a LockName, Mode)> + use<'a, O> {
        self.held.of(owner).into_iter().flatten().map(|(lock, mode)| (lock, *mode))
    }

    /// The pending request of `owner`.
    #[must_use]
    pub fn pending(&self, owner: &O) -> Option<PendingView<'_>> {
        self.waiting.get(owner).map(|pending| PendingView {
            priority: pending.priority,
            wants: &pending.wants,
            wanted: &pending.obstacle.wanted,
        })
    }

    /// Every other owner in the way of the owner's pending request; empty when it has none.
    #[must_use]
    pub fn blockers(&self, owner: &O) -> BTreeSet<O> {
        match self.waiting.get(owner) {
            Some(pending) => self.held.blockers(owner, &pending.wants),
            None => BTreeSet::new(),
        }
    }

    /// All owners that hold or wait for something.
    #[must_use]
    pub fn owners(&self) -> BTreeSet<O> {
        let holders = self.held.owners().map(|(owner, _)| owner);
        holders.chain(self.waiting.iter().map(|(owner, _)| owner)).cloned().collect()
    }

    /// How many pending requests were looked at again since the table was made: the work that
    /// releases caused.
    #[must_use]
    pub fn retries(&self) -> u64 {
        self.retries
    }

    /// Asserts the invariants: the indexes agree, nobody holds what another excludes, every pending
    /// request keeps the rules and is filed under a gate that is one of its own and closed to it.
    ///
    /// # Panics
    /// When one does not hold, which is a bug of this module.
    pub fn check(&self) {
        self.held.check();
        self.waiting.check();
        for (owner, pending) in self.waiting.iter() {
            let Obstacle { wanted, gate } = &pending.obstacle;
            assert!(self.held.is_closed(gate, owner), "who waits for {wanted} is blocked there");
            assert!(!self.held.stands_in(gate, owner), "who waits for {wanted} is not in its own way");
            let mut wants = pending.wants.acquisitions().filter(|(lock, _)| *lock == wanted);
            let own = wants.any(|(lock, mode)| Gate::of(lock, mode).any(|of| of == *gate));
            assert!(own, "who waits for {wanted} asked for it");
            assert_eq!(self.verify(owner, &pending.wants), Ok(()), "what waits keeps the rules");
        }
    }

    /// Runs [`Self::check`] in debug builds while that is cheap.
    fn check_if_small(&self) {
        let small = || {
            self.held.owners().nth(CHECK_OWNERS_MAX).is_none()
                && self.waiting.iter().nth(CHECK_OWNERS_MAX).is_none()
        };
        if cfg!(debug_assertions) && small() {
            self.check();
        }
    }

    /// The rules that hold whoever else holds what.
    fn verify(&self, owner: &O, wants: &Wants) -> Result<(), LockError> {
        self.held.of(owner).map_or(Ok(()), |held| rule::verify(held, wants))
    }

    /// The answer to a request that others are in the way of.
    fn blocked(&self, owner: &O, wants: &Wants) -> Answer<O> {
        let blockers = self.held.blockers(owner, wants);
        Answer { outcome: Outcome::Blocked(blockers), step: Step::default() }
    }

    /// Carries a request out that nobody is in the way of.
    fn grant(&mut self, owner: &O, wants: &Wants) -> Answer<O> {
        let mut step = Step::default();
        let opened = self.apply(owner, wants, &mut step);
        self.settle(opened, &mut step);
        Answer { outcome: Outcome::Granted, step }
    }

    /// Drops the owner's pending request and replaces the mode of each of its locks by a weaker one.
    fn weaken(&mut self, owner: &O, weaker: impl Fn(&LockName, Mode) -> Option<Mode>) -> Step<O> {
        self.waiting.remove(owner);
        let locks = self.held.of(owner).into_iter().flatten();
        let changes: Vec<_> = locks.map(|(lock, mode)| (lock.clone(), weaker(lock, *mode))).collect();
        let mut step = Step::default();
        let mut opened = BTreeSet::new();
        for (lock, after) in changes {
            self.change(owner, &lock, after, &mut step, &mut opened);
        }
        self.settle(opened, &mut step);
        step
    }

    /// Sets all locks of a request. Returns the gates that this may have opened.
    fn apply(&mut self, owner: &O, wants: &Wants, step: &mut Step<O>) -> BTreeSet<Gate> {
        let mut opened = BTreeSet::new();
        for (lock, want) in wants.as_slice() {
            self.change(owner, lock, want.mode(), step, &mut opened);
        }
        opened
    }

    /// Sets one lock, notes the change and the gates it may have opened.
    fn change(
        &mut self,
        owner: &O,
        lock: &LockName,
        mode: Option<Mode>,
        step: &mut Step<O>,
        opened: &mut BTreeSet<Gate>,
    ) {
        let before = self.held.set(owner, lock, mode);
        if before == mode {
            return;
        }
        step.held.push(HeldChange { owner: owner.clone(), lock: lock.clone(), mode });
        if mode < before {
            opened.extend(Gate::opened_by(lock));
        }
    }

    /// Grants whatever waits and can be granted, always the most urgent of all first.
    fn settle(&mut self, opened: BTreeSet<Gate>, step: &mut Step<O>) {
        // The most urgent request that each opened gate lets through. A grant may close a gate after
        // its entry was made, so an entry is believed only if it would be made again.
        let mut heads: BTreeSet<(Rank<O>, Gate)> = BTreeSet::new();
        self.push_heads(opened, &mut heads);
        while let Some((rank, gate)) = heads.pop_first() {
            let mut opened = BTreeSet::new();
            if self.candidate(&gate).as_ref() == Some(&rank) {
                opened = self.retry(&rank.1, step);
            }
            opened.insert(gate);
            self.push_heads(opened, &mut heads);
        }
        self.check_if_small();
    }

    fn push_heads(&self, gates: BTreeSet<Gate>, heads: &mut BTreeSet<(Rank<O>, Gate)>) {
        heads.extend(gates.into_iter().filter_map(|gate| Some((self.candidate(&gate)?, gate))));
    }

    /// The most urgent request that `gate` lets through. Who waits there does not stand there (the rules
    /// leave only upgrades for that, and they do not wait), so a gate is open to all of them or to none.
    fn candidate(&self, gate: &Gate) -> Option<Rank<O>> {
        self.waiting.first(gate).filter(|_| self.held.is_open(gate)).cloned()
    }

    /// Looks at a pending request again: grants it, or files it under the next gate in its way.
    /// Returns the gates that a grant may have opened.
    fn retry(&mut self, owner: &O, step: &mut Step<O>) -> BTreeSet<Gate> {
        self.retries += 1;
        let pending = self.waiting.remove(owner).expect("a candidate is pending");
        match self.held.obstacle(owner, &pending.wants) {
            Some(obstacle) => {
                self.waiting.insert(owner, Pending { obstacle, ..pending });
                BTreeSet::new()
            }
            None => {
                step.granted.push(owner.clone());
                self.apply(owner, &pending.wants, step)
            }
        }
    }
}
