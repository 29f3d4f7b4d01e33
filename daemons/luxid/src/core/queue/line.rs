//! The waiting line of one pool: who is next, and whether it may ask wconfd for its VMs now. A value without time and
//! without effects; every step costs O(log n).
//!
//! The copy of the configuration says how many VMs are clean as of some index of W. Grabs that are not answered, and
//! grants the copy does not have yet, are taken off that number, so that no grab is sent that can't be served as far as
//! is known here. One answered with `wait` all the same stops the line until there is news of the pool.
//!
//! Who needs more VMs than the pool could have at all holds nobody up: those behind go first, until the pool is larger.

use super::event::Stock;
use gantry_model::ids::{LeaseUuid, TaskId};
use gantry_model::time::Ts;
use std::collections::{BTreeMap, BTreeSet};

/// Who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    Task(TaskId),
    Request(LeaseUuid),
}

/// A place in line: the priority number, then who came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub priority: i32,
    pub received: Ts,
    pub who: Who,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// None while the pool is not known.
    pub stock: Option<Stock>,
    /// Index of W of the newest news of the pool.
    news: u64,
    waiting: BTreeMap<Place, u32>,
    /// The same, by how many VMs they need.
    by_count: BTreeMap<u32, BTreeSet<Place>>,
    /// Grabs without an answer.
    asked: BTreeMap<LeaseUuid, u32>,
    /// Grants that the copy does not show yet.
    granted: BTreeMap<LeaseUuid, u32>,
    /// VMs in the two above.
    taken: u64,
    /// Grabs of several VMs without an answer: nobody behind them may take one of those VMs.
    many: usize,
    /// The index at which a grab was told to wait.
    pub stopped: Option<u64>,
    /// How often in a row that happened.
    pub stops: u32,
    /// Whether a timer will let it go on.
    pub armed: bool,
    /// Whether its head may ask although the pool is not known here: wconfd says whether there is one.
    pub blind: bool,
}

impl Line {
    pub fn join(&mut self, place: Place, count: u32) {
        self.leave(&place);
        self.waiting.insert(place, count);
        self.by_count.entry(count).or_default().insert(place);
    }

    pub fn leave(&mut self, place: &Place) {
        let Some(count) = self.waiting.remove(place) else { return };
        if let Some(places) = self.by_count.get_mut(&count) {
            places.remove(place);
            if places.is_empty() {
                self.by_count.remove(&count);
            }
        }
    }

    /// Whether it can be forgotten.
    pub fn is_idle(&self) -> bool {
        !self.armed && self.waiting.is_empty() && self.asked.is_empty() && self.granted.is_empty()
    }

    /// Whether anybody is in line.
    pub fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Everybody in line.
    pub fn all(&self) -> Vec<Who> {
        self.waiting.keys().map(|place| place.who).collect()
    }

    /// Takes the next one out of line if it may ask now.
    pub fn next(&mut self) -> Option<(Who, u32)> {
        let (able, free) = match self.stock {
            Some(stock) if stock.active => (stock.counts.able, stock.counts.clean.saturating_sub(self.taken)),
            None if self.blind && self.asked.is_empty() => (u64::MAX, u64::MAX),
            Some(_) | None => return None,
        };
        if self.stopped.is_some() || self.many > 0 {
            return None;
        }
        let (place, count) = self.first(able)?;
        if u64::from(count) > free {
            return None;
        }
        self.leave(&place);
        Some((place.who, count))
    }

    /// The first of those who need no more than `able`. There are no more numbers than a lease may have VMs.
    fn first(&self, able: u64) -> Option<(Place, u32)> {
        let able = u32::try_from(able).unwrap_or(u32::MAX);
        let firsts =
            self.by_count.range(..=able).filter_map(|(count, places)| Some((*places.first()?, *count)));
        firsts.min()
    }

    /// A grab is on its way.
    pub fn ask(&mut self, lease: LeaseUuid, count: u32) {
        if self.asked.insert(lease, count).is_none() {
            self.taken += u64::from(count);
            self.many += usize::from(count > 1);
        }
    }

    fn answered(&mut self, lease: LeaseUuid) -> Option<u32> {
        let count = self.asked.remove(&lease)?;
        self.taken -= u64::from(count);
        self.many -= usize::from(count > 1);
        Some(count)
    }

    /// The grab was granted, and whether the copy shows it.
    pub fn grant(&mut self, lease: LeaseUuid, shown: bool) {
        self.stops = 0;
        if let Some(count) = self.answered(lease)
            && !shown
        {
            self.granted.insert(lease, count);
            self.taken += u64::from(count);
        }
    }

    /// The copy shows the grant by now.
    pub fn show(&mut self, lease: LeaseUuid) {
        if let Some(count) = self.granted.remove(&lease) {
            self.taken -= u64::from(count);
        }
    }

    /// The grab will not be granted.
    pub fn refuse(&mut self, lease: LeaseUuid) {
        self.answered(lease);
    }

    /// The grab can't be granted as of this index. The line goes on with the next news.
    pub fn wait(&mut self, lease: LeaseUuid, index: u64) {
        self.answered(lease);
        if self.news <= index {
            self.stopped = Some(index);
            self.stops = self.stops.saturating_add(1);
        }
    }

    /// The copy of the configuration shows this of the pool as of `index`.
    pub fn tell(&mut self, index: u64, stock: Option<Stock>) {
        self.stock = stock;
        self.blind = false;
        self.news = self.news.max(index);
        if self.stopped.is_some_and(|at| at < index) {
            self.stopped = None;
        }
    }
}
