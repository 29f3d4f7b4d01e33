//! wconfd's lease table, the slots of one pool and what happens in their VMs, for histories with tasks. Commands may be
//! carried out late, twice, or without their answer being heard; news of them comes in order, later.

use super::*;
use crate::core::mirror::PoolCounts;
use gantry_model::ids::{Generation, InstanceUuid, LeaseUuid, NodeUuid, TaskId};
use gantry_model::lease::{LeaseOwner, LeaseRequest, LeasedVm, RequestState};
use gantry_model::task::{
    AttemptOutcome, EndWhy, Output, RunReport, StepResult, Task, TaskResult, TaskSpec, TaskState,
};
use uuid::Uuid;

pub(super) const POOL: &str = "p";
const SLOTS: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sim {
    Clean,
    Leased,
    Dirty,
}

#[derive(Debug, Clone)]
struct Row {
    owner: Option<LeaseOwner>,
    /// Slots and generations.
    vms: Vec<(usize, u64)>,
    lives: bool,
    /// By the loss of a VM.
    broken: bool,
    opened: bool,
}

#[derive(Debug)]
pub(super) struct Lessor {
    index: u64,
    slots: Vec<(u64, Sim)>,
    leases: BTreeMap<LeaseUuid, Row>,
    commands: Vec<Action>,
    news: VecDeque<News>,
    /// Which lease worked in a VM.
    used: BTreeMap<(usize, u64), LeaseUuid>,
    asked: BTreeSet<Ask>,
    pub tasks: BTreeSet<TaskId>,
    answers: u64,
}

impl Lessor {
    pub fn new() -> Self {
        Self {
            index: 1,
            slots: vec![(1, Sim::Clean); SLOTS],
            leases: BTreeMap::new(),
            commands: Vec::new(),
            news: VecDeque::new(),
            used: BTreeMap::new(),
            asked: BTreeSet::new(),
            tasks: BTreeSet::new(),
            answers: 0,
        }
    }

    fn stock(&self) -> Stock {
        let count = |state| self.slots.iter().filter(|(_, s)| *s == state).count() as u64;
        let counts = PoolCounts {
            slots: SLOTS as u64,
            able: SLOTS as u64,
            clean: count(Sim::Clean),
            leased: count(Sim::Leased),
            dirty: count(Sim::Dirty),
            ..PoolCounts::default()
        };
        Stock { active: true, counts }
    }

    fn seen(row: &Row) -> LeaseSeen {
        LeaseSeen { lives: row.lives, broken: row.broken, why: None }
    }

    /// A batch was committed that touched the slots and this lease.
    fn moved(&mut self, lease: Option<LeaseUuid>) {
        self.index += 1;
        let leases = lease.map(|lease| (lease, self.leases.get(&lease).map(Self::seen)));
        let pools = BTreeMap::from([(POOL.to_owned(), Some(self.stock()))]);
        self.news.push_back(News {
            index: self.index,
            all: false,
            pools,
            leases: leases.into_iter().collect(),
        });
    }

    fn all(&self) -> News {
        let pools = BTreeMap::from([(POOL.to_owned(), Some(self.stock()))]);
        let leases = self.leases.iter().map(|(lease, row)| (*lease, Some(Self::seen(row)))).collect();
        News { index: self.index, all: true, pools, leases }
    }

    fn end(&mut self, lease: LeaseUuid) {
        self.over(lease, false);
    }

    /// Ends a lease; `broken`: since its first VM is lost.
    fn over(&mut self, lease: LeaseUuid, broken: bool) {
        let Some(row) = self.leases.get_mut(&lease).filter(|row| row.lives) else { return };
        (row.lives, row.broken) = (false, broken);
        let state = if row.opened { Sim::Dirty } else { Sim::Clean };
        for (at, (slot, _)) in row.vms.clone().into_iter().enumerate() {
            self.slots[slot].1 = if broken && at == 0 { Sim::Dirty } else { state };
        }
        self.moved(Some(lease));
    }

    /// Takes back a grant; `lost`: since its first VM does not live.
    fn take_back(&mut self, lease: LeaseUuid, lost: bool) -> Event {
        match self.leases.get(&lease) {
            Some(row) if !row.lives && !row.broken => {
                return Event::GrabRefused { lease, stale: true, why: "over".to_owned() };
            }
            Some(row) if row.broken || lost => {
                let vms = if row.broken { Vec::new() } else { row.vms.clone() };
                for (at, (slot, _)) in vms.into_iter().enumerate() {
                    self.slots[slot].1 = if at == 0 { Sim::Dirty } else { Sim::Clean };
                }
                self.leases.remove(&lease);
                self.moved(Some(lease));
            }
            Some(_) | None => {}
        }
        Event::LeaseReturned { lease, index: self.index }
    }
}

fn vm(slot: usize, generation: u64) -> LeasedVm {
    let uuid = |n: usize| Uuid::from_u64_pair(7, n as u64);
    LeasedVm { slot: InstanceUuid(uuid(slot)), generation: Generation(generation), node: NodeUuid(uuid(100)) }
}

pub(super) fn spec(key: Option<&str>, max_attempts: u32) -> TaskSpec {
    let spec =
        json!({"pool": POOL, "execute": [{"command": "true"}], "key": key, "max_attempts": max_attempts});
    serde_json::from_value(spec).unwrap()
}

impl World {
    /// A world with a pool, and clients that use it.
    pub(in super::super) fn with_pool(seed: u64, weak: Weak) -> Self {
        let mut world = Self::unstarted(seed, weak);
        world.lessor = Some(Lessor::new());
        world.start_luxid();
        world
    }

    fn lessor(&mut self) -> &mut Lessor {
        self.lessor.as_mut().unwrap()
    }

    pub(super) fn pool_thing(&mut self) {
        match self.draw(100) {
            0..22 => self.pool_client(),
            22..58 => self.execute(),
            58..80 => self.hear_news(),
            80..92 => self.recycle(),
            92..96 => {
                // The stream of changes broke and begins anew with the whole state.
                let all = self.lessor().all();
                self.lessor().news.clear();
                self.lessor().news.push_back(all);
            }
            _ => self.expire(),
        }
    }

    /// The whole state, as after a start of luxid.
    pub(super) fn first_news(&mut self) {
        let Some(lessor) = &mut self.lessor else { return };
        lessor.news.clear();
        let all = lessor.all();
        let index = all.index;
        self.feed(Event::News(Box::new(all)));
        self.feed(Event::MirrorAt(index));
    }

    pub(super) fn lessor_forgets(&mut self) {
        if self.lessor.is_some() {
            for _ in 0..self.draw(3) {
                self.execute();
            }
            self.lessor().commands.clear();
            self.lessor().asked.clear();
        }
    }

    pub(super) fn lease_command(&mut self, action: Action) {
        if let Some(lessor) = &mut self.lessor {
            lessor.commands.push(action);
        }
    }

    fn pool_client(&mut self) {
        self.asks += 1;
        let ask = Ask(self.asks);
        let task = TaskId(1 + self.draw(6) as u64);
        let lease = LeaseUuid(Uuid::from_u64_pair(u64::MAX, self.draw(4) as u64));
        let request = match self.draw(12) {
            0..5 => {
                self.lessor().asked.insert(ask);
                let key = ["a", "b"][self.draw(2)];
                let key = self.chance(20).then_some(key);
                let attempts = 1 + u32::try_from(self.draw(3)).unwrap();
                Request::SubmitTask { spec: Box::new(spec(key, attempts)), refusal: None }
            }
            5 => Request::CancelTask(task),
            6 => Request::RerunTasks(vec![task]),
            7 => Request::WaitTask { task, rev: self.draw(4) as u64 },
            8..10 => Request::RequestLease(Box::new(LeaseRequest {
                uuid: lease,
                user: "u".to_owned(),
                pool: POOL.to_owned(),
                count: 1 + u32::try_from(self.draw(2)).unwrap(),
                for_ms: 1000,
                ttl_ms: None,
                priority: 0,
                received: Ts(0, 0),
                state: RequestState::Waiting,
                why: None,
                vms: Vec::new(),
            })),
            10 => Request::ReleaseLease(lease),
            _ => Request::WaitLease { lease, rev: self.draw(3) as u64 },
        };
        self.feed(Event::Asked(ask, request));
    }

    pub(super) fn task_answered(&mut self, ask: Ask, id: TaskId) {
        if let Some(lessor) = &mut self.lessor
            && lessor.asked.remove(&ask)
        {
            lessor.tasks.insert(id);
            if self.stored_task(id).is_none() {
                self.breaks(format!("task {id} was acknowledged and is not stored"));
            }
        }
    }

    fn stored_task(&self, id: TaskId) -> Option<Task> {
        let (_, body) = self.disk.get(&(kind::TASK.to_owned(), id.to_string()))?;
        Some(serde_json::from_slice(body).unwrap())
    }

    /// wconfd carries out one command.
    pub(super) fn execute(&mut self) {
        let many = self.lessor().commands.len();
        if many == 0 {
            return;
        }
        let at = self.draw(many);
        let command = self.lessor().commands[at].clone();
        let answer = self.carry_out(&command);
        // The answer may get lost with its connection: the command is asked again.
        if self.chance(10) {
            return;
        }
        self.lessor().commands.remove(at);
        if let Some(answer) = answer {
            self.lessor().answers += 1;
            let number = self.lessor().answers;
            self.tell(JobId(1_000_000 + number), answer);
        }
    }

    fn carry_out(&mut self, command: &Action) -> Option<Event> {
        match command {
            Action::Grab { lease, owner, count, .. } => {
                let event = self.carry_out_grab(*lease, owner, *count as usize);
                let dead = matches!(owner, LeaseOwner::User { .. }) && self.chance(25);
                Some(match event {
                    Event::Granted { .. } if dead => {
                        // The node may tell the master of the death before luxid hears of it.
                        if self.chance(50) {
                            self.lessor().over(*lease, true);
                        }
                        self.lessor().take_back(*lease, true)
                    }
                    Event::GrabRefused { stale: true, .. } if matches!(owner, LeaseOwner::User { .. }) => {
                        self.lessor().take_back(*lease, false)
                    }
                    other => other,
                })
            }
            Action::ReturnLease(lease) => Some(self.lessor().take_back(*lease, false)),
            Action::EndLease { lease, .. } => {
                self.check_end_of_lease(*lease);
                let lessor = self.lessor();
                if lessor.leases.contains_key(lease) {
                    lessor.end(*lease);
                } else {
                    let never =
                        Row { owner: None, vms: Vec::new(), lives: false, broken: false, opened: false };
                    lessor.leases.insert(*lease, never);
                    lessor.moved(Some(*lease));
                }
                Some(Event::LeaseEnded(*lease))
            }
            Action::ForgetLease(lease) => {
                let lessor = self.lessor();
                if lessor.leases.get(lease).is_some_and(|row| !row.lives) {
                    lessor.leases.remove(lease);
                    lessor.moved(Some(*lease));
                }
                None
            }
            _ => None,
        }
    }

    fn carry_out_grab(&mut self, lease: LeaseUuid, owner: &LeaseOwner, count: usize) -> Event {
        let lessor = self.lessor();
        if let Some(row) = lessor.leases.get(&lease) {
            let vms = row.vms.iter().map(|(slot, g)| vm(*slot, *g)).collect();
            let grant = Grant { vms, names: Vec::new() };
            return match row.lives {
                true => Event::Granted { lease, index: lessor.index, grant },
                false => Event::GrabRefused { lease, stale: true, why: "over".to_owned() },
            };
        }
        let clean: Vec<usize> =
            (0..SLOTS).filter(|slot| lessor.slots[*slot].1 == Sim::Clean).take(count).collect();
        if clean.len() < count {
            return Event::GrabWaits { lease, index: lessor.index };
        }
        let vms: Vec<(usize, u64)> = clean.iter().map(|slot| (*slot, lessor.slots[*slot].0)).collect();
        for slot in clean {
            lessor.slots[slot].1 = Sim::Leased;
        }
        let opened = matches!(owner, LeaseOwner::Task { .. });
        let row = Row { owner: Some(owner.clone()), vms: vms.clone(), lives: true, broken: false, opened };
        lessor.leases.insert(lease, row);
        lessor.moved(Some(lease));
        let index = lessor.index;
        if let LeaseOwner::Task { task, attempt } = owner {
            let stored = self.stored_task(*task);
            let named = |a: &gantry_model::task::Attempt| a.lease == lease && a.number == *attempt;
            if stored.is_some_and(|task| !task.attempts.iter().any(named)) {
                self.breaks(format!("lease {lease} was granted before task {task} names it"));
            }
        }
        let vms = vms.into_iter().map(|(slot, g)| vm(slot, g)).collect();
        Event::Granted { lease, index, grant: Grant { vms, names: Vec::new() } }
    }

    /// What became of an attempt is stored before its lease is ended.
    fn check_end_of_lease(&mut self, lease: LeaseUuid) {
        let row = self.lessor().leases.get(&lease).cloned();
        let Some(LeaseOwner::Task { task, .. }) = row.filter(|row| row.lives).and_then(|row| row.owner)
        else {
            return;
        };
        let open = |a: &gantry_model::task::Attempt| a.lease == lease && a.outcome.is_none();
        if self.stored_task(task).is_some_and(|task| task.attempts.iter().any(open)) {
            self.breaks(format!("lease {lease} was ended before the end of its attempt was stored"));
        }
    }

    pub(super) fn hear_news(&mut self) {
        if let Some(news) = self.lessor().news.pop_front() {
            let index = news.index;
            self.feed(Event::News(Box::new(news)));
            self.feed(Event::MirrorAt(index));
        }
    }

    /// The overseer makes a dirty slot anew.
    pub(super) fn recycle(&mut self) {
        let dirty: Vec<usize> =
            (0..SLOTS).filter(|slot| self.lessor().slots[*slot].1 == Sim::Dirty).collect();
        if !dirty.is_empty() {
            let slot = dirty[self.draw(dirty.len())];
            let lessor = self.lessor();
            lessor.slots[slot] = (lessor.slots[slot].0 + 1, Sim::Clean);
            lessor.moved(None);
        }
    }

    /// Some lease ends by itself: its time, or its VM, is over.
    fn expire(&mut self) {
        let lives = self.lessor().leases.iter().filter(|(_, row)| row.lives).map(|(lease, _)| *lease);
        let lives: Vec<LeaseUuid> = lives.collect();
        if !lives.is_empty() {
            let lease = lives[self.draw(lives.len())];
            let broken = self.chance(50);
            self.lessor().over(lease, broken);
        }
    }

    /// What the process of an attempt does next; its last word, once it is at its end.
    pub(super) fn attempt_work(&mut self, job: &Job, step: u64) -> (Status, Value, Option<TaskState>) {
        let input = &job.ops[0].input;
        let lease: LeaseUuid = serde_json::from_value(input["lease"].clone()).unwrap();
        let failed = (Status::Error, json!("stale"), None);
        match step {
            0 => (Status::Waiting, Value::Null, None),
            1 => {
                let Some(row) = self.lessor().leases.get_mut(&lease).filter(|row| row.lives) else {
                    return failed;
                };
                row.opened = true;
                let at = row.vms[0];
                let first = *self.lessor().used.entry(at).or_insert(lease);
                if first != lease {
                    self.breaks(format!("VM {at:?} was used under {first} and {lease}"));
                }
                (Status::Running, Value::Null, Some(TaskState::Running))
            }
            _ if self.chance(20) => failed,
            _ => {
                let state = if self.chance(30) { TaskState::RunFailed } else { TaskState::Success };
                let step = StepResult {
                    name: lease.to_string(),
                    compile: false,
                    why: EndWhy::Exit,
                    exit: Some(0),
                    signal: None,
                    wall_ms: 1,
                    cpu_us: 1,
                    memory_peak_bytes: 1,
                    truncated: false,
                    out: Output::default(),
                    err: Output::default(),
                };
                let result = TaskResult { steps: vec![step], ..TaskResult::default() };
                (Status::Success, json!(RunReport { state, why: None, result }), None)
            }
        }
    }

    /// The job of an attempt ends its lease, and with it its VM.
    pub(super) fn end_own_lease(&mut self, job: &Job) {
        let lease = serde_json::from_value(job.ops[0].input["lease"].clone()).unwrap();
        self.check_end_of_lease(lease);
        self.lessor().end(lease);
    }

    /// The job of an attempt makes its VM anew, unless the overseer has.
    pub(super) fn renew_own(&mut self, job: &Job) {
        let input = &job.ops[0].input;
        let at: Uuid = serde_json::from_value(input["slot"].clone()).unwrap();
        let slot = (0..SLOTS).find(|slot| vm(*slot, 0).slot == InstanceUuid(at)).unwrap();
        let lessor = self.lessor();
        let generation = input["generation"].as_u64().unwrap();
        if lessor.slots[slot] == (generation, Sim::Dirty) {
            lessor.slots[slot] = (generation + 1, Sim::Clean);
            lessor.moved(None);
        }
    }

    /// A task's row changes only in legal ways.
    pub(super) fn check_task_change(&mut self, before: Option<Task>, after: &Task) {
        let id = after.id;
        if before.as_ref().is_some_and(|task| task.state.is_final() && task != after) {
            self.breaks(format!("task {id} changed after its end"));
        }
        if after.attempts.len() > after.spec.max_attempts as usize {
            self.breaks(format!("task {id} has {} attempts", after.attempts.len()));
        }
        let leases: BTreeSet<LeaseUuid> = after.attempts.iter().map(|attempt| attempt.lease).collect();
        if leases.len() != after.attempts.len() {
            self.breaks(format!("task {id}: two attempts with one lease"));
        }
        let user = |outcome| matches!(outcome, Some(AttemptOutcome::UserOk | AttemptOutcome::UserFail));
        let earlier = after.attempts.split_last().map_or(&[][..], |(_, earlier)| earlier);
        if earlier.iter().any(|attempt| user(attempt.outcome)) {
            self.breaks(format!("task {id} was run again after a result"));
        }
        let last = after.attempts.last();
        if let Some(result) = &after.result {
            let named = last.map(|attempt| attempt.lease.to_string());
            if named.as_ref() != Some(&result.steps[0].name) {
                self.breaks(format!("task {id} has the result of an attempt that is not its current one"));
            }
            if !last.is_some_and(|attempt| user(attempt.outcome)) {
                self.breaks(format!("task {id} is {} and has a result", after.state.as_str()));
            }
        } else if matches!(after.state, TaskState::Success | TaskState::RunFailed) {
            self.breaks(format!("task {id} is {} without a result", after.state.as_str()));
        }
    }

    /// At rest: every acknowledged task is over, and no lease of a task is left.
    pub(super) fn check_pool_at_rest(&mut self) {
        let Some(lessor) = &self.lessor else { return };
        let tasks = lessor.tasks.clone();
        let left: Vec<LeaseUuid> =
            lessor.leases.iter().filter(|(_, row)| !user_has(row)).map(|(lease, _)| *lease).collect();
        for id in tasks {
            match self.stored_task(id) {
                Some(task) if task.state.is_final() => {}
                Some(task) => {
                    let queue = self.queue.as_ref().unwrap();
                    let stage = queue.tasks[&id].stage;
                    let line = &queue.lines[POOL];
                    let text = format!(
                        "task {id} never ends: {stage:?} {:?} {line:?} {:?} {:?} {:?} {:?} now {}",
                        task.attempts, queue.holders, queue.timers, self.lessor, self.orders, self.now
                    );
                    self.breaks(text);
                }
                None => self.breaks(format!("task {id} was acknowledged and is lost")),
            }
        }
        let known =
            |lease: &LeaseUuid| self.disk.contains_key(&(kind::REQUEST.to_owned(), lease.to_string()));
        if let Some(lease) = left.into_iter().find(|lease| !known(lease)) {
            self.breaks(format!("lease {lease} is left"));
        }
    }

    pub(super) fn pool_rests(&self) -> bool {
        let Some(lessor) = &self.lessor else { return true };
        let over = |id: &TaskId| self.stored_task(*id).is_none_or(|task| task.state.is_final());
        let jobs = self.queue.as_ref().is_some_and(|q| q.live.values().any(|e| e.job.attempt.is_some()));
        !jobs && lessor.commands.is_empty() && lessor.news.is_empty() && lessor.tasks.iter().all(over)
    }

    /// Users give their VMs back, so that tasks get some.
    pub(super) fn pool_calms(&mut self) {
        if self.lessor.is_none() {
            return;
        }
        let users = self.lessor().leases.iter().filter(|(_, row)| row.lives && user_has(row));
        let users: Vec<LeaseUuid> = users.map(|(lease, _)| *lease).collect();
        users.into_iter().for_each(|lease| self.lessor().end(lease));
        self.execute();
        self.hear_news();
        self.recycle();
    }
}

fn user_has(row: &Row) -> bool {
    matches!(row.owner, Some(LeaseOwner::User { .. }))
}
