//! Lease requests: kept from the asking to some time after the end, in line with tasks (P5, `model.md` §2.5).

use super::attempt::Grant;
use super::event::{Action, Answer, Ask};
use super::line::{Place, Who};
use super::show::{After, Topic};
use super::{Holder, Queue, Timer, rows};
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::ids::LeaseUuid;
use gantry_model::lease::{LeaseRequest, REQUEST_IDLE_S, RequestState};
use gantry_model::time::Ts;
use std::sync::Arc;

/// Requests that wait or are granted: each is in memory and in every list.
pub const REQUESTS_MAX: usize = 10_000;
/// Requests that are over and kept, so that who asks late hears what became of his.
pub const REQUESTS_OVER_MAX: usize = 10_000;
/// How long they are kept, in seconds.
pub const REQUEST_KEPT_S: u64 = 3600;

/// How far a request is, in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    InLine,
    Asking,
    Granted,
    Over,
}

/// A request.
#[derive(Debug)]
pub(super) struct RequestEntry {
    /// The newest state, committed or not.
    pub request: Arc<LeaseRequest>,
    /// Its revision in queue.data.
    pub rev: u64,
    /// The revision clients see.
    pub shown: Option<u64>,
    stage: Stage,
    granted_at: u64,
    /// Index of W of the newest grant taken back: what the copy shows of the lease up to there is of that one.
    returned_at: u64,
    /// The grant that is on its way here is broken already.
    broken: bool,
    /// When it is withdrawn, or forgotten.
    due: Ts,
    /// Who waits to hear that it is released. Those gone meanwhile are not taken out: nobody hears their answer.
    releasers: Vec<Ask>,
}

impl RequestEntry {
    pub fn new(request: LeaseRequest, rev: u64, due: Ts) -> Self {
        let stage = match request.state {
            RequestState::Waiting => Stage::InLine,
            RequestState::Granted => Stage::Granted,
            RequestState::Over => Stage::Over,
        };
        let request = Arc::new(request);
        let releasers = Vec::new();
        Self {
            request,
            rev,
            shown: None,
            stage,
            granted_at: 0,
            returned_at: 0,
            broken: false,
            due,
            releasers,
        }
    }

    /// Whether its lease was granted, and no later than `index`.
    pub fn had_lease(&self, index: u64) -> bool {
        self.stage == Stage::Granted && self.granted_at <= index
    }

    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Out of line, to be asked for at once: its pool, place and number of VMs.
    pub fn ask_again(&mut self) -> Option<(String, Place, u32)> {
        if self.stage != Stage::InLine {
            return None;
        }
        self.stage = Stage::Asking;
        Some((self.request.pool.clone(), self.place(), self.request.count))
    }

    fn place(&self) -> Place {
        let LeaseRequest { uuid, priority, received, .. } = *self.request;
        Place { priority, received, who: Who::Request(uuid) }
    }
}

impl Queue {
    pub(super) fn request_lease(&mut self, now: Ts, ask: Ask, request: LeaseRequest) {
        let answer = self.take_request(now, request);
        self.reply(ask, answer.map(Answer::LeaseRequested));
    }

    fn take_request(&mut self, now: Ts, request: LeaseRequest) -> Result<LeaseUuid, GanetiError> {
        let lease = request.uuid;
        if let Some(known) = self.requests.get(&lease) {
            let same = (&known.request.pool, known.request.count) == (&request.pool, request.count);
            let text = format!("lease {lease} was asked for already, with another pool or number of VMs");
            return if same { Ok(lease) } else { Err(GanetiError::prereq(text, Ecode::AlreadyExists)) };
        }
        if self.holders.contains_key(&lease) {
            let text = format!("lease {lease} is in use");
            return Err(GanetiError::prereq(text, Ecode::AlreadyExists));
        }
        if self.drained {
            return Err(super::submit::drained());
        }
        if self.requests.len() - self.requests_over.len() >= REQUESTS_MAX {
            let text = format!("{REQUESTS_MAX} leases are waited for or had already; try again later");
            return Err(GanetiError::prereq(text, Ecode::TempInsufficientResources));
        }
        let request = LeaseRequest { received: now, state: RequestState::Waiting, ..request };
        self.keep_request(RequestEntry::new(request, 0, idle_at(now)));
        self.dirty_requests.insert(lease);
        Ok(lease)
    }

    /// Takes in a request, new or read back.
    pub(super) fn keep_request(&mut self, entry: RequestEntry) {
        let (lease, due, stage) = (entry.request.uuid, entry.due, entry.stage);
        self.holders.insert(lease, Holder::Wanted(Who::Request(lease)));
        self.requests.insert(lease, entry);
        match stage {
            Stage::InLine => self.request_join(lease),
            Stage::Asking | Stage::Granted => return,
            Stage::Over => drop(self.requests_over.insert((due, lease))),
        }
        self.timers.insert((due, Timer::Request(lease)));
    }

    fn request_join(&mut self, lease: LeaseUuid) {
        let Some(entry) = self.requests.get_mut(&lease) else { return };
        entry.stage = Stage::InLine;
        let (place, pool, count) = (entry.place(), entry.request.pool.clone(), entry.request.count);
        self.lines.entry(pool.clone()).or_default().join(place, count);
        self.stirred.insert(pool);
    }

    pub(super) fn request_line_up(&mut self, lease: LeaseUuid) {
        if self.requests.get(&lease).is_some_and(|entry| entry.stage == Stage::Asking) {
            self.request_join(lease);
        }
    }

    pub(super) fn ask_for_request(&mut self, lease: LeaseUuid) -> Option<LeaseUuid> {
        self.requests.get_mut(&lease)?.stage = Stage::Asking;
        Some(lease)
    }

    pub(super) fn request_granted(&mut self, lease: LeaseUuid, index: u64, grant: Grant) {
        let Some(entry) = self.requests.get_mut(&lease).filter(|entry| entry.stage == Stage::Asking) else {
            return;
        };
        if entry.broken {
            return self.out.actions.push(Action::ReturnLease(lease));
        }
        entry.stage = Stage::Granted;
        entry.granted_at = index;
        let request = Arc::make_mut(&mut entry.request);
        request.state = RequestState::Granted;
        request.why = None;
        request.vms = grant.vms;
        self.dirty_requests.insert(lease);
    }

    /// The copy shows that a lost VM broke its lease. Of a grant that its user was not told of he never hears: it is taken back, and
    /// he gets other VMs.
    pub(super) fn request_broken(&mut self, now: Ts, lease: LeaseUuid, index: u64, why: &str) {
        let Some(entry) = self.requests.get_mut(&lease) else { return };
        match entry.stage {
            _ if index <= entry.returned_at => {}
            Stage::Granted | Stage::Over => self.request_over(now, lease, why),
            // What comes of the grab leads on.
            Stage::Asking => entry.broken = true,
            // Granted to a luxid that died before it heard of that.
            Stage::InLine => {
                let Some((pool, place, count)) = entry.ask_again() else { return };
                let line = self.lines.entry(pool).or_default();
                line.leave(&place);
                line.ask(lease, count);
                self.out.actions.push(Action::ReturnLease(lease));
            }
        }
    }

    /// Back to the same place in line: its lease is as never asked for.
    pub(super) fn lease_returned(&mut self, lease: LeaseUuid, index: u64) {
        let asking = |entry: &&mut RequestEntry| entry.stage == Stage::Asking;
        let Some(entry) = self.requests.get_mut(&lease).filter(asking) else { return };
        (entry.returned_at, entry.broken) = (index, false);
        let pool = entry.request.pool.clone();
        if let Some(line) = self.lines.get_mut(&pool) {
            line.refuse(lease);
        }
        self.request_join(lease);
    }

    /// Its time is up: nobody asked about it, or it was kept long enough.
    pub(super) fn request_due(&mut self, now: Ts, lease: LeaseUuid) {
        let Some(entry) = self.requests.get_mut(&lease) else { return };
        match entry.stage {
            Stage::Granted => {}
            Stage::Over => {
                if entry.due <= now {
                    self.remove_request(lease);
                }
            }
            Stage::InLine | Stage::Asking => {
                if self.waiters.contains_key(&Topic::Request(lease)) {
                    entry.due = idle_at(now);
                }
                if entry.due > now {
                    let due = entry.due;
                    self.timers.insert((due, Timer::Request(lease)));
                } else {
                    let why = format!("withdrawn: nobody asked about it for {REQUEST_IDLE_S} s");
                    self.withdraw(now, lease, &why);
                }
            }
        }
    }

    /// Its time is another by the wall clock, which was set.
    pub(super) fn request_moved(&mut self, lease: LeaseUuid, moved: impl Fn(Ts) -> Ts) {
        let Some(entry) = self.requests.get_mut(&lease) else { return };
        let before = entry.due;
        entry.due = moved(before);
        if self.requests_over.remove(&(before, lease)) {
            self.requests_over.insert((entry.due, lease));
        }
    }

    fn withdraw(&mut self, now: Ts, lease: LeaseUuid, why: &str) {
        self.request_over(now, lease, why);
        self.after.push(After::EndLease(lease, "its request was withdrawn"));
    }

    /// The request is over; its lease has ended, or never was, or is ended by the caller.
    pub(super) fn request_over(&mut self, now: Ts, lease: LeaseUuid, why: &str) {
        let Some(entry) = self.requests.get_mut(&lease).filter(|entry| !entry.is_over()) else { return };
        let place = entry.place();
        if let Some(line) = self.lines.get_mut(&entry.request.pool) {
            line.leave(&place);
            line.refuse(lease);
        }
        self.stirred.insert(entry.request.pool.clone());
        entry.stage = Stage::Over;
        entry.due = Ts(now.0 + REQUEST_KEPT_S, now.1);
        let request = Arc::make_mut(&mut entry.request);
        request.state = RequestState::Over;
        request.why = Some(why.to_owned());
        let due = entry.due;
        for ask in std::mem::take(&mut entry.releasers) {
            self.told(ask, true, format!("Lease {lease} is over: {why}"));
        }
        self.dirty_requests.insert(lease);
        self.requests_over.insert((due, lease));
        self.timers.insert((due, Timer::Request(lease)));
        self.drop_old_requests();
    }

    pub(super) fn drop_old_requests(&mut self) {
        while self.requests_over.len() > REQUESTS_OVER_MAX {
            let Some((_, oldest)) = self.requests_over.first().copied() else { return };
            self.remove_request(oldest);
        }
    }

    fn remove_request(&mut self, lease: LeaseUuid) {
        let Some(entry) = self.requests.remove(&lease) else { return };
        self.requests_over.remove(&(entry.due, lease));
        self.timers.remove(&(entry.due, Timer::Request(lease)));
        self.holders.insert(lease, Holder::Closing);
        self.dirty_requests.remove(&lease);
        self.changes.push(rows::remove(super::kind::REQUEST, &lease, entry.rev + 1));
        self.after.push(After::RequestGone(lease));
        // Ended or not: once more, and then forgotten.
        self.after.push(After::EndLease(lease, "its request is over"));
    }

    pub(super) fn release_lease(&mut self, now: Ts, ask: Ask, lease: LeaseUuid) {
        let Some(entry) = self.requests.get_mut(&lease) else {
            return self.told(ask, false, format!("Lease {lease} not found"));
        };
        match entry.stage {
            Stage::Over => self.told(ask, false, format!("Lease {lease} is over already")),
            Stage::InLine | Stage::Asking => {
                self.withdraw(now, lease, "withdrawn on request");
                self.told(ask, true, format!("The request for lease {lease} is withdrawn"));
            }
            // Answered when it has ended: who hears that has its word.
            Stage::Granted => {
                entry.releasers.push(ask);
                self.end_lease(lease, "released on request");
            }
        }
    }

    /// Answers at once when there is something new to see, else when there is. Who asks is still there.
    pub(super) fn wait_request(&mut self, now: Ts, ask: Ask, lease: LeaseUuid, rev: u64) {
        let entry = self.requests.get_mut(&lease);
        if let Some(entry) = entry
            && matches!(entry.stage, Stage::InLine | Stage::Asking)
        {
            entry.due = idle_at(now);
        }
        let shown = self.requests.get(&lease).map(|entry| entry.shown);
        self.wait_for(ask, Topic::Request(lease), shown, rev);
    }
}

/// When a request that is asked about now is withdrawn.
pub(super) fn idle_at(now: Ts) -> Ts {
    Ts(now.0 + REQUEST_IDLE_S, now.1)
}
