//! Who waits for VMs of a pool, in the order of being served, and why: worked out from what is shown, when somebody
//! asks, so that a hundred thousand waiting tasks cost no write.

use crate::core::queue::{BACKOFF_MS, Stock};
use crate::io::grabs::Grabs;
use gantry_model::ids::{JobId, LeaseUuid, TaskId};
use gantry_model::job::{Class, Job};
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
    /// The newest attempt to add slots, by pool, and why it added fewer than there shall be.
    short: BTreeMap<String, (JobId, Option<String>)>,
}

impl Waiting {
    pub fn stock(&mut self, pool: String, stock: Option<Stock>) {
        match stock {
            Some(stock) => drop(self.stocks.insert(pool, stock)),
            None => {
                self.stocks.remove(&pool);
                self.short.remove(&pool);
            }
        }
    }

    /// Learns from a reconciler's job that ended whether its pool found room for its slots.
    pub fn job(&mut self, job: &Job) {
        if job.class != Class::Reconcile {
            return;
        }
        for op in job.ops.iter().filter(|op| op.input["OP_ID"] == "OP_POOL_EXPAND") {
            let Some(pool) = op.input["pool_name"].as_str() else { continue };
            let why = op.result["why"].as_str().filter(|_| op.result["missing"].as_u64() > Some(0));
            // At a start they come in any order.
            if self.short.get(pool).is_none_or(|(newest, _)| *newest < job.id) {
                self.short.insert(pool.to_owned(), (job.id, why.map(str::to_owned)));
            }
        }
    }

    /// Why a pool has fewer slots than it shall have, as far as it was tried.
    pub fn short(&self, pool: &str) -> Option<&str> {
        self.short.get(pool)?.1.as_deref()
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
    pub fn why_task(&self, task: &Task, grabs: &Grabs, now: Ts) -> String {
        if !waits(task) {
            return String::new();
        }
        // A longer pause than there is was set by a wall clock that has stepped back since.
        let longest = Ts(now.0 + BACKOFF_MS.1 / 1000, now.1);
        let due = task.not_before.filter(|due| *due > now && *due <= longest);
        if let (Some(due), Some(why)) = (due, &task.why) {
            return format!("tried again in {:.1} s, after: {why}", due.epoch() - now.epoch());
        }
        let here = self.why(&task.spec.pool, task_place(task), 1, grabs);
        match &task.why {
            Some(why) if task.state == TaskState::Retrying => format!("{here}, after: {why}"),
            Some(_) | None => here,
        }
    }

    /// Why a request waits, in words; empty when it does not.
    pub fn why_request(&self, request: &LeaseRequest, grabs: &Grabs) -> String {
        if request.state != RequestState::Waiting {
            return String::new();
        }
        self.why(&request.pool, request_place(request), request.count, grabs)
    }

    /// Where things stand as far as is known here, and what wconfd says where that alone does not tell why.
    fn why(&self, pool: &str, place: Place, count: u32, grabs: &Grabs) -> String {
        let stands = self.stands(pool, place, count);
        if let Some(silence) = grabs.silence() {
            return format!("{silence}; {stands}");
        }
        let some_clean = self.stocks.get(pool).is_some_and(|stock| stock.active && stock.counts.clean > 0);
        match grabs.held(pool).filter(|_| some_clean) {
            Some(held) => format!("{stands}: {held}"),
            None => stands,
        }
    }

    fn stands(&self, pool: &str, place: Place, count: u32) -> String {
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
            let why = self.short(pool).map_or_else(|| " yet".to_owned(), |why| format!(": {why}"));
            return format!("waiting for {what} in pool {pool}, which has no slots{why} ({ahead})");
        }
        if u64::from(count) > counts.able {
            let able = counts.able;
            let help = if u64::from(count) > counts.slots {
                "gnt-pool resize makes it larger"
            } else {
                "gnt-slot list says why"
            };
            return format!(
                "waiting for {what} at once in pool {pool}, which can have {able} of its {} now: {help}",
                counts.slots
            );
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::mirror::PoolCounts;
    use serde_json::{Value, json};

    fn expand(id: u64, class: Class, result: Value) -> Job {
        let op = json!({"input": {"OP_ID": "OP_POOL_EXPAND", "pool_name": "py"}, "status": "success",
            "result": result, "priority": 0});
        let job = json!({"id": id, "class": class, "ops": [op], "received_timestamp": [1, 0],
            "phase": "ended"});
        serde_json::from_value(job).unwrap()
    }

    #[test]
    fn the_newest_look_for_room_counts() {
        let mut waiting = Waiting::default();
        let short = |why: &str| json!({"added": 1, "missing": 2, "why": why});
        waiting.job(&expand(10, Class::Reconcile, short("full")));
        assert_eq!(waiting.short("py"), Some("full"));
        waiting.job(&expand(9, Class::Reconcile, short("older")));
        waiting.job(&expand(11, Class::Ganeti, short("somebody's own")));
        assert_eq!(waiting.short("py"), Some("full"));
        waiting.stock("py".to_owned(), Some(Stock { active: true, ..Stock::default() }));
        let grabs = Grabs::default();
        let place = (0, Ts::default(), Who::Task(TaskId(1)));
        let why = waiting.why("py", place, 1, &grabs);
        assert_eq!(why, "waiting for a clean VM in pool py, which has no slots: full (0 ahead)");
        waiting.job(&expand(
            12,
            Class::Reconcile,
            json!({"added": 0, "missing": 0, "why": "has all its slots"}),
        ));
        assert_eq!(waiting.short("py"), None);
        waiting.job(&expand(13, Class::Reconcile, short("full")));
        waiting.stock("py".to_owned(), None);
        assert_eq!(waiting.short("py"), None, "a new pool of that name begins anew");
    }

    #[test]
    fn a_pause_between_attempts_is_told_as_one() {
        let (waiting, grabs) = (Waiting::default(), Grabs::default());
        let task = json!({"id": 1, "spec": {"pool": "py", "execute": [{"command": "true"}]}, "state": 6,
            "received": [1, 0], "not_before": [100, 500_000], "why": "its VM died"});
        let task: Task = serde_json::from_value(task).unwrap();
        assert_eq!(task.state, TaskState::Retrying);
        let why = |now| waiting.why_task(&task, &grabs, Ts(now, 0));
        assert_eq!(why(99), "tried again in 1.5 s, after: its VM died");
        let waits = "waiting for pool py, which is not known yet (0 ahead), after: its VM died";
        assert_eq!((why(101).as_str(), why(20).as_str()), (waits, waits), "over; or of another clock");
    }

    #[test]
    fn what_wconfd_says_is_told_where_clean_vms_are_not_given_out() {
        let (mut waiting, grabs) = (Waiting::default(), Grabs::default());
        let mut why = |clean| {
            let counts = PoolCounts { slots: 2, able: 2, clean, leased: 2 - clean, ..PoolCounts::default() };
            waiting.stock("py".to_owned(), Some(Stock { active: true, counts }));
            waiting.why("py", (0, Ts::default(), Who::Task(TaskId(1))), 1, &grabs)
        };
        let clean = "waiting for a clean VM in pool py (0 creating, 2 clean, 0 ahead)";
        assert_eq!(why(2), clean);
        grabs.answered("py", Some("2 withheld"));
        assert_eq!(why(2), format!("{clean}: 2 withheld"));
        assert_eq!(why(0), "waiting for a clean VM in pool py (0 creating, 2 leased, 0 ahead)");
    }
}
