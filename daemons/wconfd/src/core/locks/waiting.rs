//! Pending requests. Each is filed under one gate that is closed to its owner; as long as that gate
//! stays closed to it, nothing else needs to be looked at.

use super::held::{Gate, Obstacle};
use super::request::Wants;
use std::collections::{BTreeMap, BTreeSet};

/// The place of a request among others: the smaller the more urgent. An owner has one request, so
/// nothing more is needed to tell two apart.
pub(super) type Rank<O> = (i32, O);

/// One pending request.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) priority: i32,
    pub(super) wants: Wants,
    pub(super) obstacle: Obstacle,
}

/// All pending requests.
#[derive(Debug, Clone)]
pub(super) struct Waiting<O> {
    by_owner: BTreeMap<O, Pending>,
    queues: BTreeMap<Gate, BTreeSet<Rank<O>>>,
}

impl<O> Default for Waiting<O> {
    fn default() -> Self {
        Self { by_owner: BTreeMap::new(), queues: BTreeMap::new() }
    }
}

impl<O: Ord + Clone> Waiting<O> {
    /// The request of `owner`.
    pub(super) fn get(&self, owner: &O) -> Option<&Pending> {
        self.by_owner.get(owner)
    }

    /// All owners that wait, with their requests.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&O, &Pending)> {
        self.by_owner.iter()
    }

    /// Files a request; it takes the place of an earlier one of the same owner.
    pub(super) fn insert(&mut self, owner: &O, pending: Pending) {
        self.remove(owner);
        self.queues
            .entry(pending.obstacle.gate.clone())
            .or_default()
            .insert((pending.priority, owner.clone()));
        self.by_owner.insert(owner.clone(), pending);
    }

    /// Takes the request of `owner` out.
    pub(super) fn remove(&mut self, owner: &O) -> Option<Pending> {
        let pending = self.by_owner.remove(owner)?;
        let gate = &pending.obstacle.gate;
        let queue = self.queues.get_mut(gate).expect("a pending request is filed at its gate");
        queue.remove(&(pending.priority, owner.clone()));
        if queue.is_empty() {
            self.queues.remove(gate);
        }
        Some(pending)
    }

    /// The most urgent request filed under `gate`.
    pub(super) fn first(&self, gate: &Gate) -> Option<&Rank<O>> {
        self.queues.get(gate)?.first()
    }

    /// Asserts that every request is filed exactly once, under its gate.
    pub(super) fn check(&self) {
        let filed: usize = self.queues.values().map(BTreeSet::len).sum();
        assert_eq!(filed, self.by_owner.len(), "each request is filed once");
        assert!(self.queues.values().all(|queue| !queue.is_empty()), "no empty queue is kept");
        for (owner, pending) in &self.by_owner {
            let queue = self.queues.get(&pending.obstacle.gate);
            let rank = (pending.priority, owner.clone());
            assert!(queue.is_some_and(|queue| queue.contains(&rank)), "a request is at its gate");
        }
    }
}
