//! Who waits for VMs of a pool, in the order of being served, and why: worked out from what is shown, when somebody
//! asks, so that a hundred thousand waiting tasks cost no write.

use crate::core::queue::Stock;
use gantry_model::ids::{LeaseUuid, TaskId};
use gantry_model::lease::{LeaseRequest, RequestState};
use gantry_model::task::{Task, TaskState};
use gantry_model::time::Ts;
use std::collections::{BTreeMap, BTreeSet};

/// How many of those ahead are counted: a list of all waiting tasks asks for each of them.
const AHEAD_MAX: usize = 100;

/// Place in a line: priority, arrival, who.
type Place = (i32, Ts, Who);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Task(TaskId),
    Request(LeaseUuid),
}

#[derive(Debug, Default)]
pub(super) struct Waiting {
    stocks: BTreeMap<String, Stock>,
    lines: BTreeMap<String, BTreeSet<Place>>,
}

impl Waiting {
    pub fn stock(&mut self, pool: String, stock: Option<Stock>) {
        match stock {
            Some(stock) => drop(self.stocks.insert(pool, stock)),
            None => drop(self.stocks.remove(&pool)),
        }
    }

    pub fn task(&mut self, task: &Task) {
        self.put(&task.spec.pool, task_place(task), waits(task));
    }

    pub fn task_gone(&mut self, task: &Task) {
        self.put(&task.spec.pool, task_place(task), false);
    }

    pub fn request(&mut self, request: &LeaseRequest) {
        self.put(&request.pool, request_place(request), request.state == RequestState::Waiting);
    }

    fn put(&mut self, pool: &str, place: Place, waits: bool) {
        if waits {
            self.lines.entry(pool.to_owned()).or_default().insert(place);
        } else if let Some(line) = self.lines.get_mut(pool) {
            line.remove(&place);
            if line.is_empty() {
                self.lines.remove(pool);
            }
        }
    }

    /// How many wait for VMs of a pool.
    pub fn length(&self, pool: &str) -> usize {
        self.lines.get(pool).map_or(0, BTreeSet::len)
    }

    /// Why a task waits, in words; empty when it does not.
    pub fn why_task(&self, task: &Task) -> String {
        if !waits(task) {
            return String::new();
        }
        let here = self.why(&task.spec.pool, task_place(task), 1);
        match &task.why {
            Some(why) if task.state == TaskState::Retrying => format!("{here}, after: {why}"),
            Some(_) | None => here,
        }
    }

    /// Why a request waits, in words; empty when it does not.
    pub fn why_request(&self, request: &LeaseRequest) -> String {
        if request.state != RequestState::Waiting {
            return String::new();
        }
        self.why(&request.pool, request_place(request), request.count)
    }

    fn why(&self, pool: &str, place: Place, count: u32) -> String {
        let line = self.lines.get(pool);
        let ahead = line.map_or(0, |line| line.range(..place).take(AHEAD_MAX + 1).count());
        let ahead =
            if ahead > AHEAD_MAX { format!("over {AHEAD_MAX} ahead") } else { format!("{ahead} ahead") };
        let what = if count == 1 { "a clean VM".to_owned() } else { format!("{count} clean VMs") };
        let Some(stock) = self.stocks.get(pool) else {
            return format!("waiting for pool {pool}, which is not known yet ({ahead})");
        };
        if !stock.active {
            return format!("waiting for pool {pool}, which is draining ({ahead})");
        }
        let counts = &stock.counts;
        if counts.slots == 0 {
            return format!("waiting for {what} in pool {pool}, which has no slots yet ({ahead})");
        }
        let mut parts = vec![format!("{} creating", counts.creating + counts.absent)];
        let more = [
            (counts.clean, "clean"),
            (counts.leased, "leased"),
            (counts.dirty, "recycled"),
            (counts.stuck, "stuck"),
        ];
        parts.extend(more.into_iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")));
        parts.push(ahead);
        format!("waiting for {what} in pool {pool} ({})", parts.join(", "))
    }
}

fn waits(task: &Task) -> bool {
    !task.state.is_final() && task.current().is_none_or(|attempt| attempt.job.is_none())
}

fn task_place(task: &Task) -> Place {
    (task.spec.priority, task.received, Who::Task(task.id))
}

fn request_place(request: &LeaseRequest) -> Place {
    (request.priority, request.received, Who::Request(request.uuid))
}
