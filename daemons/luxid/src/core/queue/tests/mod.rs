//! Tests of the queue: single steps by name, and random histories in a simulated world ([`world`]).

mod clients;
mod histories;
mod lines;
mod returns;
mod starts;
mod tasks;
mod turn_overs;
mod unhurried;
mod world;

use super::*;
use gantry_model::ids::JobOwner;
use gantry_model::job::{Job, OpReport, OpState, Outcome, Report, Status};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A queue with a disk that the test commits by hand.
struct Bench {
    queue: Queue,
    now: u64,
    asks: u64,
    tickets: Vec<Ticket>,
    rows: BTreeMap<(String, String), (u64, Vec<u8>)>,
    shown: BTreeMap<JobId, (u64, Arc<Job>)>,
    archived: BTreeMap<JobId, Arc<Job>>,
    replies: BTreeMap<Ask, Result<Answer, GanetiError>>,
    actions: Vec<Action>,
}

/// Ids that no other run draws.
#[derive(Debug)]
struct Counter(u64, u64);

impl Ids for Counter {
    fn fresh(&mut self) -> [u8; 16] {
        self.1 += 1;
        uuid::Uuid::from_u64_pair(self.0, self.1).into_bytes()
    }
}

fn ids(run: u64) -> Box<dyn Ids> {
    Box::new(Counter(run, 0))
}

fn delay_op(extra: Value) -> Value {
    let mut op =
        json!({"OP_ID": "OP_TEST_DELAY", "duration": 1.0, "on_master": true, "on_nodes": [], "reason": []});
    for (key, value) in extra.as_object().unwrap() {
        op[key] = value.clone();
    }
    op
}

fn new_job(ops: &[Value]) -> NewJob {
    prepare(ops.iter().map(|op| op.as_object().unwrap().clone()).collect()).unwrap()
}

fn one_op(extra: Value) -> NewJob {
    new_job(&[delay_op(extra)])
}

fn process(pid: u32) -> Process {
    Process { pid, start_time: 7, boot_id: "b".to_owned() }
}

fn report(owner: JobOwner, number: u64, words: &[Status]) -> Report {
    let op = |status: &Status| OpReport {
        status: *status,
        result: if status.is_final() { json!(owner.to_string()) } else { Value::Null },
        priority: 0,
        input: None,
        start: Some(Ts(5, 0)),
        exec: None,
        end: status.is_final().then_some(Ts(6, 0)),
        log: Vec::new(),
    };
    let ended = words.iter().all(|w| w.is_final());
    let outcome = if ended { Outcome::Ended } else { Outcome::Underway };
    Report { owner, number, outcome, ops: words.iter().map(op).collect(), seen_w: 0, stage: None }
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self::closed();
        bench.step(Event::Open);
        bench
    }

    fn closed() -> Self {
        let me = Me { epoch: 1, run: 1 };
        let (queue, _) = Queue::load(me, Rules::ALL, ids(1), Ts(1, 0), []).unwrap();
        Self {
            queue,
            now: 10,
            asks: 0,
            tickets: Vec::new(),
            rows: BTreeMap::new(),
            shown: BTreeMap::new(),
            archived: BTreeMap::new(),
            replies: BTreeMap::new(),
            actions: Vec::new(),
        }
    }

    /// luxid is killed and starts again with what the test has committed.
    fn restart(&mut self, epoch: u64, run: u64) {
        let rows: Vec<_> = self.rows.clone().into_iter().collect();
        let stored = rows.iter().map(|((kind, key), (rev, body))| StoredRow { kind, key, rev: *rev, body });
        let (queue, effects) =
            Queue::load(Me { epoch, run }, Rules::ALL, ids(run), Ts(self.now, 0), stored).unwrap();
        *self = Self { queue, rows: self.rows.clone(), now: self.now, ..Self::closed() };
        self.perform(effects);
        self.commit();
        self.step(Event::Open);
    }

    fn step(&mut self, event: Event) {
        self.now += 1;
        // A second is a while.
        let alone = self.queue.waits_for_batch().then_some(Event::NoBatch);
        let effects = self.queue.step(Ts(self.now, 0), [event].into_iter().chain(alone));
        self.perform(effects);
    }

    fn perform(&mut self, effects: Effects) {
        if let Some((ticket, changes)) = effects.batch {
            self.tickets.push(ticket);
            let is_task = |change: &&Change| change.kind == kind::TASK;
            let tasks: Vec<_> = changes.iter().filter(is_task).filter_map(|task| task.body.clone()).collect();
            for change in changes {
                let key = (change.kind.to_owned(), change.key);
                match change.body {
                    Some(body) => drop(self.rows.insert(key, (change.rev, body))),
                    None => drop(self.rows.remove(&key)),
                }
            }
            tasks.iter().for_each(|task| self.check_job_of(task));
        }
        for shown in effects.shown {
            match shown {
                Shown::Job { rev, job } => drop(self.shown.insert(job.id, (rev, job))),
                Shown::Archived(job) => {
                    self.shown.remove(&job.id);
                    self.archived.insert(job.id, job);
                }
                Shown::ArchiveGone(id) => drop(self.archived.remove(&id)),
                _ => {}
            }
        }
        self.replies.extend(effects.replies);
        self.actions.extend(effects.actions);
    }

    /// A job that a stored attempt names is stored, and its number is given out.
    fn check_job_of(&self, task: &[u8]) {
        let task: gantry_model::task::Task = serde_json::from_slice(task).unwrap();
        let Some(job) = task.current().and_then(|attempt| attempt.job) else { return };
        let row = |kind: &str, key: &str| self.rows.get(&(kind.to_owned(), key.to_owned()));
        let key = job.to_string();
        assert!(row(kind::JOB, &key).or(row(kind::ARCHIVE, &key)).is_some(), "job {key} is not stored");
        let last: u64 = serde_json::from_slice(&row(kind::SERIAL, "job").unwrap().1).unwrap();
        assert!(job.0 <= last, "number {key} would be given out again");
    }

    fn commit(&mut self) {
        for ticket in std::mem::take(&mut self.tickets) {
            self.step(Event::Committed(ticket));
        }
    }

    fn ask(&mut self, request: Request) -> Ask {
        self.asks += 1;
        let ask = Ask(self.asks);
        self.step(Event::Asked(ask, request));
        ask
    }

    /// Asks, commits, and returns the answer.
    fn asked(&mut self, request: Request) -> Result<Answer, GanetiError> {
        let ask = self.ask(request);
        self.commit();
        self.replies.remove(&ask).expect("an answer")
    }

    fn submit(&mut self, job: NewJob) -> JobId {
        match self.asked(Request::Submit { job, into_drained: false }) {
            Ok(Answer::Submitted(id)) => id,
            other => panic!("not submitted: {other:?}"),
        }
    }

    fn told(&mut self, request: Request) -> (bool, String) {
        match self.asked(request) {
            Ok(Answer::Told(done, text)) => (done, text),
            other => panic!("no such answer: {other:?}"),
        }
    }

    /// The start of the job's newest process.
    fn spawned(&self, id: JobId) -> JobOwner {
        let mut spawns = self.actions.iter().rev().filter_map(|action| match action {
            Action::Spawn { owner, .. } if owner.job == id => Some(*owner),
            _ => None,
        });
        spawns.next().unwrap_or_else(|| panic!("job {id} was not started"))
    }

    fn is_spawned(&self, id: JobId) -> bool {
        self.actions.iter().any(|a| matches!(a, Action::Spawn { owner, .. } if owner.job == id))
    }

    fn went(&self, owner: JobOwner) -> bool {
        self.actions.iter().any(|a| matches!(a, Action::Go { owner: o, .. } if *o == owner))
    }

    /// Takes a started job as far as go.
    fn go(&mut self, id: JobId) -> JobOwner {
        let owner = self.spawned(id);
        self.step(Event::Ready(owner, process(100)));
        self.commit();
        assert!(self.went(owner));
        owner
    }

    fn reported(&mut self, report: Report) {
        self.step(Event::Reported(Box::new(report)));
        self.commit();
        if self.queue.keeps_reports() {
            self.step(Event::Tick);
            self.commit();
        }
    }

    fn run(&mut self, id: JobId, words: &[Status]) {
        let owner = self.go(id);
        self.reported(report(owner, 1, words));
    }

    fn job(&self, id: JobId) -> &Job {
        &self.shown[&id].1
    }

    fn status(&self, id: JobId) -> Status {
        self.job(id).status()
    }

    fn op(&self, id: JobId, index: usize) -> &OpState {
        &self.job(id).ops[index]
    }
}
