//! What the copy of the configuration shows of pools and leases, and what follows: lines move on, lost leases end their
//! attempts, leases that nobody wants are ended (the table of P1). Everything is worked out anew from the rows, so
//! that it is the same after a restart of luxid, of wconfd, or of both.

use super::Queue;
use super::event::{Action, Shown, Stock};
use super::line::Who;
use gantry_model::ids::LeaseUuid;
use gantry_model::time::Ts;
use std::collections::BTreeMap;

/// A lease as wconfd has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseSeen {
    /// Whether it is active.
    pub lives: bool,
    /// Whether it ended because a VM of it was lost.
    pub broken: bool,
    /// Why it ended.
    pub why: Option<String>,
}

/// A new state of the copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct News {
    /// Its index of W.
    pub index: u64,
    /// Whether everything is listed, so that what is not listed is not there.
    pub all: bool,
    /// Pools that changed; None = gone.
    pub pools: BTreeMap<String, Option<Stock>>,
    /// Leases that changed; None = gone.
    pub leases: BTreeMap<LeaseUuid, Option<LeaseSeen>>,
}

/// What luxid has to do with a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    /// The current attempt of a task, or a request.
    Wanted(Who),
    /// It is wanted no more; it ends as soon as what led to that is stored and its job is over.
    Closing,
    /// The same, and the copy of the configuration shows that it has ended.
    Ended,
}

impl Queue {
    pub(super) fn news(&mut self, now: Ts, news: News) {
        if news.all {
            let gone: Vec<_> =
                self.lines.keys().filter(|pool| !news.pools.contains_key(*pool)).cloned().collect();
            gone.into_iter().for_each(|pool| self.pool_news(now, news.index, pool, None));
            let held = self.holders.iter().filter(|(lease, _)| !news.leases.contains_key(lease));
            let gone: Vec<LeaseUuid> = held.map(|(lease, _)| *lease).collect();
            gone.into_iter().for_each(|lease| self.lease_gone(now, news.index, lease));
        }
        for (pool, stock) in news.pools {
            self.pool_news(now, news.index, pool, stock);
        }
        for (lease, seen) in news.leases {
            match seen {
                Some(seen) => self.lease_seen(now, news.index, lease, seen),
                None => self.lease_gone(now, news.index, lease),
            }
        }
    }

    fn pool_news(&mut self, now: Ts, index: u64, pool: String, stock: Option<Stock>) {
        self.out.shown.push(Shown::Stock(pool.clone(), stock));
        let line = self.lines.entry(pool.clone()).or_default();
        line.tell(index, stock);
        if stock.is_none() {
            let why = format!("pool {pool} was removed");
            for who in line.all() {
                self.never(now, who, &why);
            }
            if self.lines.get(&pool).is_some_and(super::line::Line::is_idle) {
                self.lines.remove(&pool);
            }
        } else {
            self.stirred.insert(pool);
        }
    }

    /// It can never be served.
    pub(super) fn never(&mut self, now: Ts, who: Who, why: &str) {
        match who {
            Who::Task(id) => self.task_hopeless(now, id, why),
            Who::Request(lease) => self.request_over(now, lease, why),
        }
    }

    fn lease_seen(&mut self, now: Ts, index: u64, lease: LeaseUuid, seen: LeaseSeen) {
        let holder = self.holders.get(&lease).copied();
        if seen.lives {
            // Nobody can want it any more: its uuid was stored before it was asked for.
            let over = self.requests.get(&lease).is_some_and(super::request::RequestEntry::is_over);
            match holder {
                None => self.end_lease(lease, "nobody has it"),
                Some(_) if over => self.end_lease(lease, "nobody has it"),
                Some(Holder::Wanted(who)) => self.grab_again(who, lease),
                Some(Holder::Closing | Holder::Ended) => {}
            }
            return;
        }
        let why = seen.why.unwrap_or_else(|| "it ended".to_owned());
        match holder {
            Some(Holder::Wanted(Who::Task(id))) => {
                self.lease_lost(now, id, lease, &format!("lost its VM: {why}"))
            }
            Some(Holder::Wanted(Who::Request(_))) if seen.broken => {
                self.request_broken(now, lease, index, &why);
            }
            Some(Holder::Wanted(Who::Request(_))) => self.request_over(now, lease, &why),
            Some(Holder::Closing | Holder::Ended) => drop(self.holders.insert(lease, Holder::Ended)),
            None => self.out.actions.push(Action::ForgetLease(lease)),
        }
    }

    /// wconfd does not have the lease as of `index`. One granted later, or whose grab is under way, is not meant.
    fn lease_gone(&mut self, now: Ts, index: u64, lease: LeaseUuid) {
        let Some(Holder::Wanted(who)) = self.holders.get(&lease).copied() else { return };
        match who {
            Who::Task(id) if self.tasks.get(&id).is_some_and(|entry| entry.had_lease(index)) => {
                self.lease_lost(now, id, lease, "lost its VM: its lease is gone");
            }
            Who::Request(_) if self.requests.get(&lease).is_some_and(|entry| entry.had_lease(index)) => {
                self.request_over(now, lease, "its lease is gone");
            }
            Who::Task(_) | Who::Request(_) => {}
        }
    }

    /// Has wconfd end a lease, until it has.
    pub(super) fn end_lease(&mut self, lease: LeaseUuid, why: &str) {
        if !self.forget_ended(lease) && self.ending.insert(lease) {
            self.out.actions.push(Action::EndLease { lease, why: why.to_owned() });
        }
    }

    /// wconfd has ended the lease, or had already.
    pub(super) fn lease_ended(&mut self, now: Ts, lease: LeaseUuid) {
        self.ending.remove(&lease);
        match self.holders.get(&lease).copied() {
            Some(Holder::Wanted(Who::Request(_))) => self.request_over(now, lease, "released"),
            Some(Holder::Wanted(Who::Task(_))) => {}
            Some(Holder::Closing | Holder::Ended) | None => {
                self.holders.remove(&lease);
                self.out.actions.push(Action::ForgetLease(lease));
            }
        }
    }
}
