//! A simulated world around the queue: processes with sockets, socketpairs and spool files, a disk with commits
//! that lag, a luxid that dies. Every random choice comes from one seed. Promises are checked on the way; the
//! first one broken is the answer.

mod lessor;

use super::super::rules::Rule;
use super::*;
use gantry_model::job::{Class, Phase};
use lessor::Lessor;
use std::collections::{BTreeSet, VecDeque};

/// A rule that a test takes away: of the queue's core, or of what the shell does for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weak {
    Nothing,
    Core(Rule),
    /// All starts of a job share one socket path.
    OneSocketPath,
    /// All starts of a job share one spool file.
    SpoolWithoutStart,
}

/// How far a job's process is.
#[derive(Debug, Clone, PartialEq)]
enum Life {
    Spawned,
    Listening,
    Ready,
    Went(u64),
    /// The result of an attempt is said; goes on when it is stored.
    Waits(Report),
    /// It is stored: ends the lease, then makes the VM anew.
    TurnsOver(Report, u64),
    /// Outcome said, confirmation awaited.
    Done(Report),
    Gone,
}

struct Proc {
    owner: JobOwner,
    life: Life,
    /// luxid holds the other end of its socketpair.
    pair: bool,
    /// luxid reads its reports.
    linked: bool,
    cancel: bool,
    /// How it ended, once that is out of its hands.
    outcome: Option<Status>,
}

pub(super) struct World {
    weak: Weak,
    stormy: bool,
    seed: u64,
    now: u64,
    run: u64,
    queue: Option<Queue>,
    /// Committed rows.
    disk: BTreeMap<(String, String), (u64, Vec<u8>)>,
    unflushed: VecDeque<(Ticket, Vec<Change>)>,
    procs: Vec<Proc>,
    sockets: BTreeMap<String, usize>,
    spools: BTreeMap<String, Report>,
    /// What the shell has for the core, in order per job.
    inbox: Vec<(JobId, Event)>,
    orders: Vec<Action>,
    asks: u64,
    submitted: BTreeSet<Ask>,
    acked: BTreeSet<JobId>,
    went: BTreeMap<JobId, usize>,
    /// None in histories without tasks.
    lessor: Option<Lessor>,
    broken: Option<String>,
}

impl World {
    pub(super) fn new(seed: u64, weak: Weak) -> Self {
        let mut world = Self::unstarted(seed, weak);
        world.start_luxid();
        world
    }

    fn unstarted(seed: u64, weak: Weak) -> Self {
        Self {
            weak,
            stormy: seed % 2 == 1,
            seed: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            now: 1,
            run: 0,
            queue: None,
            disk: BTreeMap::new(),
            unflushed: VecDeque::new(),
            procs: Vec::new(),
            sockets: BTreeMap::new(),
            spools: BTreeMap::new(),
            inbox: Vec::new(),
            orders: Vec::new(),
            asks: 0,
            submitted: BTreeSet::new(),
            acked: BTreeSet::new(),
            went: BTreeMap::new(),
            lessor: None,
            broken: None,
        }
    }

    /// Runs a history of `length` random things, then lets everything come to rest. The promise broken, if any.
    pub(super) fn play(mut self, length: usize) -> Option<String> {
        for _ in 0..length {
            self.anything();
            if self.broken.is_some() {
                return self.broken;
            }
        }
        self.rest();
        self.broken
    }

    fn draw(&mut self, below: usize) -> usize {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        usize::try_from(self.seed % below.max(1) as u64).unwrap()
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.draw(100) < percent
    }

    fn breaks(&mut self, promise: String) {
        self.broken.get_or_insert(promise);
    }

    fn rules(&self) -> Rules {
        match self.weak {
            Weak::Core(rule) => Rules::ALL.without(rule),
            Weak::Nothing | Weak::OneSocketPath | Weak::SpoolWithoutStart => Rules::ALL,
        }
    }

    fn socket(&self, owner: JobOwner) -> String {
        if self.weak == Weak::OneSocketPath { owner.job.to_string() } else { owner.to_string() }
    }

    fn spool(&self, owner: JobOwner) -> String {
        if self.weak == Weak::SpoolWithoutStart { owner.job.to_string() } else { owner.to_string() }
    }

    fn anything(&mut self) {
        if self.lessor.is_some() && self.chance(45) {
            return self.pool_thing();
        }
        // Half the histories are stormy: few jobs, and luxid dies often.
        let (submit, crash) = if self.stormy { (3, 90) } else { (8, 97) };
        match self.draw(100) {
            roll if roll < submit => self.client(),
            roll if roll >= crash => self.crash(),
            0..28 => self.flush(),
            28..50 => self.deliver(),
            50..62 => self.obey(),
            62..86 => self.live(),
            86..92 => self.watch(),
            92..95 => self.kill(),
            _ => self.mirror(),
        }
    }

    // --- luxid ---

    fn start_luxid(&mut self) {
        self.run += 1;
        let rows: Vec<_> = self.disk.clone().into_iter().collect();
        let stored = rows.iter().map(|((kind, key), (rev, body))| StoredRow { kind, key, rev: *rev, body });
        let me = Me { epoch: 1, run: self.run };
        let (queue, effects) = Queue::load(me, self.rules(), ids(self.run), Ts(self.now, 0), stored).unwrap();
        self.queue = Some(queue);
        self.perform(effects);
        // Adopt or find dead, then open (P4.7). Attaching itself may come later.
        while let Some(at) = self.orders.iter().position(|a| matches!(a, Action::Adopt { .. })) {
            let Action::Adopt { owner, .. } = self.orders.remove(at) else { continue };
            self.probe(owner);
        }
        for (_, event) in std::mem::take(&mut self.inbox) {
            self.feed(event);
        }
        self.feed(Event::MaxRunning(3));
        self.first_news();
        self.feed(Event::Open);
    }

    fn crash(&mut self) {
        let kept = self.draw(self.unflushed.len() + 1);
        for _ in 0..kept {
            self.flush_one();
        }
        self.lessor_forgets();
        self.queue = None;
        self.unflushed.clear();
        self.inbox.clear();
        self.orders.clear();
        self.submitted.clear();
        for proc in &mut self.procs {
            proc.pair = false;
            proc.linked = false;
        }
        for _ in 0..self.draw(6) {
            self.live();
        }
        self.start_luxid();
    }

    fn feed(&mut self, event: Event) {
        self.now += 1;
        let Some(queue) = &mut self.queue else { return };
        // A second is a while.
        let alone = queue.waits_for_batch().then_some(Event::NoBatch);
        let effects = queue.step(Ts(self.now, 0), [event].into_iter().chain(alone));
        self.perform(effects);
        self.check_order();
    }

    fn perform(&mut self, effects: Effects) {
        self.unflushed.extend(effects.batch);
        for shown in effects.shown {
            self.check_shown(shown);
        }
        for (ask, answer) in effects.replies {
            if let Ok(Answer::TaskSubmitted(id)) = &answer {
                self.task_answered(ask, *id);
            }
            let ids = match answer {
                Ok(Answer::Submitted(id)) => vec![id],
                Ok(Answer::SubmittedMany(ids)) => ids.into_iter().flatten().collect(),
                Ok(_) | Err(_) => Vec::new(),
            };
            if self.submitted.remove(&ask) {
                self.acked.extend(ids);
            }
            self.check_acked();
        }
        for action in effects.actions {
            if let Action::Grab { .. }
            | Action::EndLease { .. }
            | Action::ReturnLease(_)
            | Action::ForgetLease(_) = action
            {
                self.lease_command(action);
            } else if let Action::Spawn { owner, .. } = action {
                self.procs.push(Proc {
                    owner,
                    life: Life::Spawned,
                    pair: true,
                    linked: false,
                    cancel: false,
                    outcome: None,
                });
            } else {
                self.orders.push(action);
            }
        }
    }

    // --- the disk ---

    fn flush(&mut self) {
        if let Some(ticket) = self.flush_one() {
            self.feed(Event::Committed(ticket));
        }
    }

    fn flush_one(&mut self) -> Option<Ticket> {
        let (ticket, changes) = self.unflushed.pop_front()?;
        for change in changes {
            self.check_change(&change);
            let key = (change.kind.to_owned(), change.key);
            match change.body {
                Some(body) => drop(self.disk.insert(key, (change.rev, body))),
                None => drop(self.disk.remove(&key)),
            }
        }
        Some(ticket)
    }

    fn stored(&self, id: JobId) -> Option<Job> {
        let row = |kind: &str| self.disk.get(&(kind.to_owned(), id.to_string()));
        let (_, body) = row(kind::JOB).or_else(|| row(kind::ARCHIVE))?;
        serde_json::from_slice(body).ok()
    }

    // --- clients ---

    fn client(&mut self) {
        self.asks += 1;
        let ask = Ask(self.asks);
        let job = JobId(1 + self.draw(8) as u64);
        let request = match self.draw(10) {
            0..5 => {
                self.submitted.insert(ask);
                let priority = [-10, 0, 10][self.draw(3)];
                let depends = if self.chance(20) { json!([[-1, []]]) } else { Value::Null };
                let depends = if self.asks == 1 { Value::Null } else { depends };
                let op = delay_op(json!({"priority": priority, "depends": depends}));
                let ops = vec![op; 1 + self.draw(2)];
                Request::Submit { job: new_job(&ops), into_drained: false }
            }
            5 => Request::Cancel { job, kill: false },
            6 => Request::Cancel { job, kill: true },
            7 => Request::SetPriority { job, priority: [-5, 5][self.draw(2)] },
            8 => Request::Archive(job),
            _ => Request::Wait { job, rev: self.draw(4) as u64 },
        };
        self.feed(Event::Asked(ask, request));
    }

    // --- the shell ---

    fn deliver(&mut self) {
        if self.inbox.is_empty() {
            return;
        }
        let at = self.draw(self.inbox.len());
        let job = self.inbox[at].0;
        let first = self.inbox.iter().position(|(id, _)| *id == job).unwrap();
        let (_, event) = self.inbox.remove(first);
        if self.chance(10) && matches!(event, Event::Dead(..) | Event::Reported(_)) {
            self.inbox.push((job, event.clone()));
        }
        self.feed(event);
    }

    fn tell(&mut self, job: JobId, event: Event) {
        if self.queue.is_some() || matches!(event, Event::Dead(..)) {
            self.inbox.push((job, event));
        }
    }

    /// Does one thing the core asked for.
    fn obey(&mut self) {
        if self.orders.is_empty() {
            return;
        }
        let at = self.draw(self.orders.len());
        match self.orders.remove(at) {
            Action::Go { owner, .. } => self.say_go(owner),
            Action::Abandon(owner) => {
                let child = self.procs.iter().position(|p| p.owner == owner);
                if let Some(at) = child {
                    self.procs[at].life = Life::Gone;
                }
            }
            Action::Confirm { owner, number, .. } => {
                let Some(proc) = self.procs.iter_mut().find(|p| p.owner == owner && p.linked) else { return };
                match proc.life.clone() {
                    Life::Done(report) if number >= report.number => {
                        proc.outcome = Some(report.ops[0].status);
                        proc.life = Life::Gone;
                    }
                    Life::Waits(report) if number >= report.number => proc.life = Life::TurnsOver(report, 0),
                    _ => {}
                }
            }
            Action::Cancel(owner) => {
                for proc in self.procs.iter_mut().filter(|p| p.owner == owner) {
                    proc.cancel = true;
                }
            }
            Action::Kill { owner, ask, .. } => {
                let found = self.listener(owner);
                if let Some(at) = found {
                    self.procs[at].life = Life::Gone;
                }
                let how = if found.is_some() { KillResult::Sent } else { KillResult::AlreadyDead };
                if let Some(ask) = ask {
                    self.tell(owner.job, Event::Killed(ask, owner, how));
                }
                self.probe(owner);
            }
            Action::Clean(owner) | Action::Discard(owner) => drop(self.spools.remove(&self.spool(owner))),
            Action::Adopt { owner, .. } => self.probe(owner),
            Action::Spawn { .. }
            | Action::SetPriority(..)
            | Action::OwnerGone(_)
            | Action::OwnerLeft(_)
            | Action::Grab { .. }
            | Action::EndLease { .. }
            | Action::ReturnLease(_)
            | Action::ForgetLease(_) => {}
        }
    }

    /// The living process behind the socket path of a start.
    fn listener(&self, owner: JobOwner) -> Option<usize> {
        let at = *self.sockets.get(&self.socket(owner))?;
        (self.procs[at].life != Life::Gone).then_some(at)
    }

    fn say_go(&mut self, owner: JobOwner) {
        let Some(at) = self.listener(owner) else {
            return self.tell(owner.job, Event::StartFailed(owner, "refused".to_owned()));
        };
        let proc = &mut self.procs[at];
        if proc.owner != owner || proc.life != Life::Ready {
            return self.tell(owner.job, Event::StartFailed(owner, "not this start".to_owned()));
        }
        proc.life = Life::Went(0);
        proc.linked = true;
        let times = self.went.entry(owner.job).or_default();
        *times += 1;
        if *times > 1 {
            self.breaks(format!("job {} was told to go twice", owner.job));
        }
    }

    /// Connects to a start: attach, or dead by the kernel's word.
    fn probe(&mut self, owner: JobOwner) {
        match self.listener(owner) {
            Some(at) => {
                let proc = &mut self.procs[at];
                proc.linked = proc.owner == owner && works(&proc.life);
                if let (true, Life::Done(report) | Life::Waits(report)) = (proc.linked, &proc.life) {
                    let report = Box::new(report.clone());
                    self.tell(owner.job, Event::Reported(report));
                }
            }
            None => {
                let spool = self.spools.get(&self.spool(owner)).cloned().map(Box::new);
                self.tell(owner.job, Event::Dead(owner, spool));
            }
        }
    }

    /// The shell looks at a start it believes told to go: its connection closed, say.
    fn watch(&mut self) {
        let Some(queue) = &self.queue else { return };
        let owners: Vec<_> =
            queue.live.values().filter(|e| told_to_go(e)).filter_map(|e| e.job.owner()).collect();
        if owners.is_empty() {
            return;
        }
        let owner = owners[self.draw(owners.len())];
        let going = self.orders.iter().any(|a| matches!(a, Action::Go { owner: o, .. } if *o == owner));
        let lost = self.procs.iter().any(|p| p.owner == owner && p.life == Life::Gone);
        let linked = self.procs.iter().any(|p| p.owner == owner && p.linked && p.life != Life::Gone);
        let queued = self.inbox.iter().any(|(id, _)| *id == owner.job);
        if !going && !queued && (lost || !linked) {
            self.probe(owner);
        }
    }

    fn mirror(&mut self) {
        let index = self.draw(20) as u64;
        self.feed(Event::MirrorAt(index));
    }

    // --- processes ---

    fn kill(&mut self) {
        let living: Vec<usize> =
            (0..self.procs.len()).filter(|i| self.procs[*i].life != Life::Gone).collect();
        if !living.is_empty() {
            let at = living[self.draw(living.len())];
            self.procs[at].life = Life::Gone;
            self.child_gone(at);
        }
    }

    /// luxid's own child that was not told to go: the starter sees it end.
    fn child_gone(&mut self, at: usize) {
        let proc = &self.procs[at];
        if proc.pair && !self.went.contains_key(&proc.owner.job) {
            let owner = proc.owner;
            self.tell(owner.job, Event::StartFailed(owner, "killed".to_owned()));
        }
    }

    fn live(&mut self) {
        let living: Vec<usize> =
            (0..self.procs.len()).filter(|i| self.procs[*i].life != Life::Gone).collect();
        if !living.is_empty() {
            let at = living[self.draw(living.len())];
            self.live_one(at);
        }
    }

    fn live_one(&mut self, at: usize) {
        let owner = self.procs[at].owner;
        match self.procs[at].life.clone() {
            Life::Spawned => {
                self.sockets.insert(self.socket(owner), at);
                self.procs[at].life = Life::Listening;
            }
            Life::Listening if self.procs[at].pair => {
                self.procs[at].life = Life::Ready;
                self.tell(owner.job, Event::Ready(owner, process(1)));
            }
            Life::Listening | Life::Ready => {
                if !self.procs[at].pair {
                    let spool =
                        Report { outcome: Outcome::NeverBegan, ..report(owner, 1, &[Status::Queued]) };
                    self.spools.insert(self.spool(owner), spool);
                    self.procs[at].life = Life::Gone;
                }
            }
            Life::Went(step) => self.work(at, step),
            Life::Waits(report) => {
                // Nobody is there who could store it: the turn-over is left to the overseer.
                if !self.procs[at].linked {
                    self.procs[at].life = Life::Done(ended(report, Status::Success));
                }
            }
            Life::TurnsOver(report, step) => self.turn_over(at, report, step),
            Life::Done(report) => {
                if !self.procs[at].linked {
                    self.procs[at].outcome = Some(report.ops[0].status);
                    self.spools.insert(self.spool(owner), report);
                    self.procs[at].life = Life::Gone;
                }
            }
            Life::Gone => {}
        }
    }

    fn work(&mut self, at: usize, step: u64) {
        let owner = self.procs[at].owner;
        let ops = self.stored(owner.job).map_or(1, |job| job.ops.len());
        let stored = self.stored(owner.job);
        if let Some(job) = stored.filter(|job| job.attempt.is_some()) {
            return self.work_attempt(at, &job, step);
        }
        let word = match step {
            0 => Status::Waiting,
            _ if self.procs[at].cancel => Status::Canceled,
            1 => Status::Running,
            _ => Status::Success,
        };
        let mut said = report(owner, step + 1, &vec![word; ops]);
        said.seen_w = self.draw(20) as u64;
        if word.is_final() {
            self.procs[at].life = Life::Done(said.clone());
        } else {
            self.procs[at].life = Life::Went(step + 1);
        }
        if self.procs[at].linked {
            self.tell(owner.job, Event::Reported(Box::new(said)));
        }
    }

    fn work_attempt(&mut self, at: usize, job: &Job, step: u64) {
        let owner = self.procs[at].owner;
        let (word, result, stage) = self.attempt_work(job, step);
        let later = if word == Status::Error { Status::Error } else { Status::Queued };
        let words = [word, later];
        let mut said = report(owner, step + 1, &words[..job.ops.len()]);
        said.ops[0].result = result;
        said.stage = stage;
        self.procs[at].life = match said.outcome {
            Outcome::Ended => Life::Done(said.clone()),
            _ if word.is_final() => Life::Waits(said.clone()),
            _ => Life::Went(step + 1),
        };
        if self.procs[at].linked {
            self.tell(owner.job, Event::Reported(Box::new(said)));
        }
    }

    fn turn_over(&mut self, at: usize, report: Report, step: u64) {
        let owner = self.procs[at].owner;
        let Some(job) = self.stored(owner.job) else { return };
        let fails = self.chance(20);
        if step == 0 && !fails {
            self.end_own_lease(&job);
            self.procs[at].life = Life::TurnsOver(report, 1);
            return;
        }
        if !fails {
            self.renew_own(&job);
        }
        let said = ended(report, if fails { Status::Error } else { Status::Success });
        self.procs[at].life = Life::Done(said.clone());
        if self.procs[at].linked {
            self.tell(owner.job, Event::Reported(Box::new(said)));
        }
    }

    // --- promises ---

    fn check_change(&mut self, change: &Change) {
        if change.kind == kind::TASK {
            let before = self.disk.get(&(kind::TASK.to_owned(), change.key.clone()));
            let before = before.map(|(_, body)| serde_json::from_slice(body).unwrap());
            if let Some(body) = &change.body {
                self.check_task_change(before, &serde_json::from_slice(body).unwrap());
            }
        }
        if change.kind != kind::JOB {
            return;
        }
        let before = self.disk.get(&(kind::JOB.to_owned(), change.key.clone()));
        let before: Option<Job> = before.map(|(_, body)| serde_json::from_slice(body).unwrap());
        let after: Option<Job> = change.body.as_ref().map(|body| serde_json::from_slice(body).unwrap());
        let Some(after) = after else { return };
        let was_over = before.as_ref().is_some_and(|job| job.phase == Phase::Ended);
        if was_over && before.as_ref() != Some(&after) {
            self.breaks(format!("job {} changed after its end", after.id));
        }
        let death =
            after.ops.iter().any(|op| op.result == json!(format!("detected death of job {}", after.id)));
        let at_work = |p: &Proc| p.owner.job == after.id && works(&p.life);
        if !was_over && death && self.procs.iter().any(at_work) {
            self.breaks(format!("job {} was called dead while it worked", after.id));
        }
    }

    fn check_shown(&mut self, shown: Shown) {
        let Shown::Job { rev, job } = shown else { return };
        let row = self.disk.get(&(kind::JOB.to_owned(), job.id.to_string()));
        if row.is_none_or(|(stored, _)| *stored < rev) {
            self.breaks(format!("job {} was shown before it was stored", job.id));
        }
    }

    fn check_acked(&mut self) {
        let lost = self.acked.iter().copied().find(|id| self.stored(*id).is_none());
        if let Some(id) = lost {
            self.breaks(format!("job {id} was acknowledged and is lost"));
        }
    }

    /// Nothing that might have started was passed over by something less urgent.
    fn check_order(&mut self) {
        let Some(queue) = &self.queue else { return };
        let Some(first) = queue.lanes.of(Class::Ganeti).ready.first().copied() else { return };
        if queue.open && queue.lanes.of(Class::Ganeti).running < queue.lanes.of(Class::Ganeti).max {
            self.breaks(format!("job {} waits beside a free slot", first.1));
        }
    }

    /// Everything goes on undisturbed until nothing moves; then every acknowledged job must be over.
    fn rest(&mut self) {
        for _ in 0..4000 {
            self.feed(Event::MirrorAt(100));
            self.flush();
            self.deliver();
            self.obey();
            self.live();
            self.watch();
            self.pool_calms();
            if self.broken.is_some() {
                return;
            }
            if self.is_at_rest() {
                break;
            }
        }
        self.check_pool_at_rest();
        for id in self.acked.clone() {
            match self.stored(id) {
                Some(job) if job.phase == Phase::Ended => self.check_end(&job),
                Some(job) => self.breaks(format!("job {id} never ends: {:?}", job.phase)),
                None => self.breaks(format!("job {id} was acknowledged and is lost")),
            }
        }
    }

    fn is_at_rest(&self) -> bool {
        let over = |id: &JobId| self.stored(*id).is_some_and(|job| job.phase == Phase::Ended);
        self.unflushed.is_empty()
            && self.inbox.is_empty()
            && self.orders.is_empty()
            && self.pool_rests()
            && self.acked.iter().all(over)
    }

    /// What a process finished is what the job shows.
    fn check_end(&mut self, job: &Job) {
        let finished = self.procs.iter().find(|p| p.owner.job == job.id && p.outcome.is_some());
        let Some(outcome) = finished.and_then(|p| p.outcome) else { return };
        if job.status() != outcome {
            self.breaks(format!("job {} ended as {outcome:?} and is stored as {:?}", job.id, job.status()));
        }
    }
}

/// Whether it was told to go and has not left.
fn works(life: &Life) -> bool {
    matches!(life, Life::Went(_) | Life::Waits(_) | Life::TurnsOver(..) | Life::Done(_))
}

/// The last report of an attempt's job whose second opcode ended so.
fn ended(mut report: Report, word: Status) -> Report {
    report.number += 1;
    report.outcome = Outcome::Ended;
    (report.ops[1].status, report.ops[1].result) = (word, json!("turned over"));
    report
}

fn told_to_go(entry: &Entry) -> bool {
    use super::super::entry::Stage;
    matches!(entry.stage, Stage::Going(_) | Stage::Running(_))
}
