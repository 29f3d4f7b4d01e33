//! Tasks, lease requests and keyed jobs, one rule at a time.

use super::*;
use crate::core::mirror::PoolCounts;
use gantry_model::ids::{Generation, InstanceUuid, LeaseUuid, NodeUuid, TaskId};
use gantry_model::job::Class;
use gantry_model::lease::{LeaseRequest, LeasedVm, REQUEST_IDLE_S, RequestState};
use gantry_model::task::{AttemptOutcome, RunReport, Task, TaskResult, TaskSpec, TaskState};
use uuid::Uuid;

fn spec(extra: Value) -> TaskSpec {
    let mut spec = json!({"pool": "p", "execute": [{"command": "true"}]});
    for (key, value) in extra.as_object().unwrap() {
        spec[key] = value.clone();
    }
    serde_json::from_value(spec).unwrap()
}

pub(super) fn boxed_spec() -> Box<TaskSpec> {
    Box::new(spec(json!({})))
}

pub(super) fn lease(number: u64) -> LeaseUuid {
    LeaseUuid(Uuid::from_u64_pair(u64::MAX, number))
}

pub(super) fn request(number: u64, count: u32) -> LeaseRequest {
    LeaseRequest {
        uuid: lease(number),
        user: "u".to_owned(),
        pool: "p".to_owned(),
        count,
        for_ms: 1000,
        ttl_ms: None,
        priority: 0,
        received: Ts(0, 0),
        state: RequestState::Waiting,
        why: None,
        vms: Vec::new(),
    }
}

pub(super) fn grant(count: u64) -> Grant {
    let vm = |n| LeasedVm {
        slot: InstanceUuid(Uuid::from_u64_pair(7, n)),
        generation: Generation(1),
        node: NodeUuid(Uuid::from_u64_pair(8, 1)),
    };
    Grant { vms: (0..count).map(vm).collect(), names: Vec::new() }
}

impl Bench {
    /// The copy of the configuration shows so many clean VMs as of `index`.
    /// A pool with so many clean VMs and a few that are being made.
    pub(super) fn clean(&mut self, index: u64, clean: u64) {
        self.stock(
            index,
            PoolCounts { slots: clean + 3, able: clean + 3, clean, creating: 3, ..PoolCounts::default() },
        );
    }

    fn stock(&mut self, index: u64, counts: PoolCounts) {
        let pools = BTreeMap::from([("p".to_owned(), Some(Stock { active: true, counts }))]);
        self.step(Event::News(Box::new(News { index, pools, ..News::default() })));
        self.step(Event::MirrorAt(index));
    }

    fn lease_over(&mut self, index: u64, lease: LeaseUuid) {
        let seen = LeaseSeen { lives: false, broken: false, why: Some("node1 is lost".to_owned()) };
        let leases = BTreeMap::from([(lease, Some(seen))]);
        self.step(Event::News(Box::new(News { index, leases, ..News::default() })));
    }

    pub(super) fn task(&mut self, extra: Value) -> TaskId {
        let request = Request::SubmitTask { spec: Box::new(spec(extra)), refusal: None };
        match self.asked(request) {
            Ok(Answer::TaskSubmitted(id)) => id,
            other => panic!("not submitted: {other:?}"),
        }
    }

    pub(super) fn request(&mut self, number: u64, count: u32) {
        let asked = self.asked(Request::RequestLease(Box::new(request(number, count))));
        assert_eq!(asked, Ok(Answer::LeaseRequested(lease(number))));
    }

    /// The leases asked for so far, in order.
    pub(super) fn grabs(&self) -> Vec<LeaseUuid> {
        let grab = |action: &Action| match action {
            Action::Grab { lease, .. } => Some(*lease),
            _ => None,
        };
        self.actions.iter().filter_map(grab).collect()
    }

    pub(super) fn ended(&self) -> Vec<LeaseUuid> {
        let end = |action: &Action| match action {
            Action::EndLease { lease, .. } => Some(*lease),
            _ => None,
        };
        self.actions.iter().filter_map(end).collect()
    }

    pub(super) fn forgotten(&self) -> Vec<LeaseUuid> {
        let forget = |action: &Action| match action {
            Action::ForgetLease(lease) => Some(*lease),
            _ => None,
        };
        self.actions.iter().filter_map(forget).collect()
    }

    pub(super) fn stored(&self, id: TaskId) -> Task {
        serde_json::from_slice(&self.rows[&(kind::TASK.to_owned(), id.to_string())].1).unwrap()
    }

    pub(super) fn stored_request(&self, number: u64) -> Option<LeaseRequest> {
        let row = self.rows.get(&(kind::REQUEST.to_owned(), lease(number).to_string()))?;
        Some(serde_json::from_slice(&row.1).unwrap())
    }

    /// Grants the newest lease asked for; the attempt's start.
    pub(super) fn begin(&mut self, id: TaskId, index: u64) -> JobOwner {
        let lease = self.stored(id).attempts.last().unwrap().lease;
        self.step(Event::Granted { lease, index, grant: grant(1) });
        let job = self.newest_start().job;
        self.go(job)
    }

    /// The start that was asked for last.
    fn newest_start(&self) -> JobOwner {
        let start = |action: &Action| match action {
            Action::Spawn { owner, .. } => Some(*owner),
            _ => None,
        };
        self.actions.iter().rev().find_map(start).unwrap()
    }

    fn end_well(&mut self, owner: JobOwner, state: TaskState) {
        let mut last = report(owner, 9, &[Status::Success]);
        last.ops[0].result = json!(RunReport { state, why: None, result: TaskResult::default() });
        self.reported(last);
    }

    fn end_badly(&mut self, owner: JobOwner) {
        self.reported(report(owner, 9, &[Status::Error]));
    }
}

#[test]
fn the_whole_way_of_a_task() {
    let mut b = Bench::new();
    b.clean(1, 1);
    let ask = b.ask(Request::SubmitTask { spec: Box::new(spec(json!({}))), refusal: None });
    assert_eq!(
        (b.tickets.len(), b.grabs().len()),
        (1, 0),
        "its attempt is stored with it, and asked for after"
    );
    b.commit();
    assert_eq!(b.replies.remove(&ask), Some(Ok(Answer::TaskSubmitted(TaskId(1)))));
    let lease = b.grabs()[0];
    let owner = b.begin(TaskId(1), 2);
    let job = b.job(owner.job);
    assert_eq!((job.class, job.ops[0].input["OP_ID"].as_str()), (Class::Attempt, Some(OP_TASK_RUN)));
    b.reported(Report { stage: Some(TaskState::Running), ..report(owner, 1, &[Status::Running]) });
    assert_eq!(b.stored(TaskId(1)).state, TaskState::Running);
    b.end_well(owner, TaskState::Success);
    let task = b.stored(TaskId(1));
    assert_eq!((task.state, task.attempts[0].outcome), (TaskState::Success, Some(AttemptOutcome::UserOk)));
    assert!(task.result.is_some() && b.archived.contains_key(&owner.job));
    assert_eq!(b.ended(), [lease]);
    assert!(b.forgotten().is_empty());
    b.step(Event::LeaseEnded(lease));
    assert_eq!(b.forgotten(), [lease]);
}

#[test]
fn an_infrastructure_failure_waits_longer_each_time_and_gives_up() {
    let mut b = Bench::new();
    b.clean(1, 9);
    let id = b.task(json!({"max_attempts": 2}));
    let owner = b.begin(id, 2);
    b.end_badly(owner);
    let task = b.stored(id);
    assert_eq!(task.state, TaskState::Retrying);
    assert_eq!(
        task.not_before,
        Some(Ts(b.now - 1, 200_000)),
        "0.2 s after the report, which was a commit ago"
    );
    assert_eq!(b.queue.due(), None, "a second has passed since: it is in line");
    let owner = b.begin(id, 3);
    b.end_badly(owner);
    let task = b.stored(id);
    assert_eq!((task.state, task.attempts.len()), (TaskState::Unknown, 2));
    assert_ne!(task.attempts[0].lease, task.attempts[1].lease);
    assert_eq!(b.ended().len(), 2);
}

#[test]
fn a_cancelled_task_never_becomes_a_success() {
    let mut b = Bench::new();
    b.clean(1, 1);
    let id = b.task(json!({}));
    let owner = b.begin(id, 2);
    assert!(b.told(Request::CancelTask(id)).0);
    assert!(b.actions.iter().any(|a| matches!(a, Action::Kill { owner: o, .. } if *o == owner)));
    assert!(b.ended().is_empty(), "its job still lives");
    b.end_well(owner, TaskState::Success);
    let task = b.stored(id);
    assert_eq!((task.state, task.result), (TaskState::Cancelled, None));
    assert_eq!(b.ended().len(), 1);
}

#[test]
fn of_a_long_reason_the_beginning_is_stored() {
    let mut b = Bench::new();
    b.clean(1, 1);
    let id = b.task(json!({}));
    let owner = b.begin(id, 2);
    let mut last = report(owner, 9, &[Status::Success]);
    let why = Some("\u{e4}".repeat(1 << 18));
    last.ops[0].result =
        json!(RunReport { state: TaskState::RunFailed, why: why.clone(), result: TaskResult::default() });
    b.reported(last);
    let task = b.stored(id);
    assert_eq!(task.why.as_ref().map(String::len), Some(1024));
    assert_eq!(task.attempts[0].why, task.why);
}

#[test]
fn no_more_is_asked_for_than_is_clean() {
    let mut b = Bench::new();
    b.clean(1, 2);
    let ids = [b.task(json!({})), b.task(json!({})), b.task(json!({"priority": -5})), b.task(json!({}))];
    assert_eq!(b.grabs().len(), 2);
    let owner = b.begin(ids[0], 5);
    assert_eq!(b.grabs().len(), 2, "the copy does not show the grant yet");
    b.clean(5, 1);
    assert_eq!(b.grabs().len(), 2, "one is clean, and asked for by the second");
    b.end_well(owner, TaskState::Success);
    b.clean(7, 2);
    b.commit();
    assert_eq!(b.grabs().len(), 3);
    assert_eq!(b.grabs()[2], b.stored(ids[2]).attempts[0].lease, "the urgent one first");
}

#[test]
fn waiting_costs_no_writes() {
    let mut b = Bench::new();
    b.clean(1, 0);
    for _ in 0..500 {
        b.task(json!({}));
    }
    for index in 2..50 {
        b.clean(index, 0);
    }
    assert!(b.tickets.is_empty(), "nothing was stored");
    b.clean(50, 3);
    let stored: Vec<_> = b.rows.iter().filter(|((k, _), (rev, _))| k == kind::TASK && *rev > 1).collect();
    assert_eq!(stored.len(), 3, "only those who ask");
}

#[test]
fn a_head_that_needs_several_is_not_overtaken() {
    let mut b = Bench::new();
    b.clean(1, 1);
    b.request(1, 2);
    let id = b.task(json!({}));
    assert_eq!(b.grabs(), []);
    b.clean(2, 3);
    b.commit();
    assert_eq!(b.grabs(), [lease(1)], "nor while it is asked for");
    b.step(Event::Granted { lease: lease(1), index: 3, grant: grant(2) });
    b.commit();
    assert_eq!(b.grabs()[1], b.stored(id).attempts[0].lease);
    assert_eq!(b.stored_request(1).unwrap().state, RequestState::Granted);
}

#[test]
fn who_needs_more_than_the_pool_can_have_holds_nobody_up() {
    let mut b = Bench::new();
    let with = |clean, stuck| PoolCounts {
        slots: clean + stuck,
        able: clean,
        clean,
        stuck,
        ..PoolCounts::default()
    };
    b.stock(1, with(2, 1));
    b.request(1, 3);
    assert_eq!(b.grabs(), []);
    let id = b.task(json!({}));
    assert_eq!(b.grabs(), [b.stored(id).attempts[0].lease], "three are too many for it");
    b.stock(2, with(3, 0));
    b.commit();
    assert_eq!(b.grabs().len(), 1, "one is asked for");
    b.step(Event::Granted { lease: b.grabs()[0], index: 3, grant: grant(1) });
    b.stock(3, with(3, 0));
    b.commit();
    assert_eq!(b.grabs()[1], lease(1), "large enough again");
}

#[test]
fn a_grab_told_to_wait_keeps_its_lease_and_asks_again_with_news() {
    let mut b = Bench::new();
    b.clean(1, 1);
    let id = b.task(json!({}));
    let lease = b.grabs()[0];
    b.step(Event::GrabWaits { lease, index: 4 });
    assert_eq!(b.grabs().len(), 1);
    assert!(b.queue.due().is_some(), "it does not wait for ever");
    b.clean(5, 1);
    assert_eq!(b.grabs(), [lease, lease]);
    assert_eq!(b.stored(id).attempts.len(), 1);
}

#[test]
fn a_grab_told_to_wait_asks_again_without_news_too() {
    let mut b = Bench::new();
    b.clean(1, 1);
    b.task(json!({}));
    let lease = b.grabs()[0];
    b.step(Event::GrabWaits { lease, index: 4 });
    b.step(Event::Tick);
    assert_eq!(b.grabs(), [lease, lease]);
}

#[test]
fn whoever_gets_in_line_for_a_pool_that_is_gone_is_told_by_wconfd() {
    let mut b = Bench::new();
    b.clean(1, 1);
    let pools = BTreeMap::from([("p".to_owned(), None)]);
    b.step(Event::News(Box::new(News { index: 2, pools, ..News::default() })));
    // It was looked at before the pool went, and gets in line after; so does one whose pause is over then.
    let ids = [b.task(json!({})), b.task(json!({}))];
    b.step(Event::Tick);
    b.commit();
    for (at, id) in ids.into_iter().enumerate() {
        assert_eq!(b.grabs().len(), at + 1, "one after the other, and none waits for ever");
        let lease = b.grabs()[at];
        assert_eq!(b.stored(id).attempts[0].lease, lease);
        b.step(Event::GrabRefused { lease, stale: false, why: "Pool 'p' not known".to_owned() });
        b.commit();
        assert_eq!(b.stored(id).state, TaskState::Unknown);
    }
    assert_eq!(b.queue.due(), None, "nothing is left of the line");
}

#[test]
fn a_grab_that_is_wanted_no_more_lets_the_next_one_ask() {
    let mut b = Bench::new();
    b.clean(1, 1);
    let ids = [b.task(json!({})), b.task(json!({}))];
    let first = b.grabs()[0];
    assert_eq!(b.grabs(), [first]);
    assert!(b.told(Request::CancelTask(ids[0])).0);
    b.step(Event::LeaseEnded(first));
    b.commit();
    // wconfd ended the lease before it was granted: no slot moved, so no news of the pool will come.
    assert_eq!(b.grabs().last(), Some(&b.stored(ids[1]).attempts[0].lease));
}

#[test]
fn a_clock_that_is_set_back_makes_no_pause_longer() {
    const HOUR: u64 = 3_600;
    let mut b = Bench::new();
    b.now += HOUR;
    b.clean(1, 9);
    let id = b.task(json!({"max_attempts": 9}));
    for index in 2..9 {
        while b.stored(id).attempts.last().is_none_or(|attempt| attempt.outcome.is_some()) {
            b.step(Event::Tick);
            b.commit();
        }
        let owner = b.begin(id, index);
        b.reported(report(owner, 9, &[Status::Error]));
        b.commit();
    }
    assert_eq!((b.stored(id).state, b.grabs().len()), (TaskState::Retrying, 7), "for ten seconds");
    b.request(2, 20);
    b.now -= HOUR;
    b.request(3, 20);
    assert_eq!(
        b.stored_request(3).unwrap().state,
        RequestState::Waiting,
        "nor is who comes first then sent away"
    );
    for _ in 0..10 {
        b.step(Event::Tick);
        b.commit();
    }
    assert_eq!(b.grabs().len(), 8, "it is tried again after the pause there was");
    assert_eq!(b.stored_request(2).unwrap().state, RequestState::Waiting);
    b.now += REQUEST_IDLE_S;
    b.step(Event::Tick);
    b.commit();
    assert_eq!(b.stored_request(2).unwrap().state, RequestState::Over, "nor does it wait an hour more");
}

#[test]
fn a_long_failure_does_not_make_a_task_too_large_to_be_stored() {
    let mut b = Bench::new();
    b.clean(1, 9);
    let id = b.task(json!({"max_attempts": 5}));
    for index in 2..7 {
        let owner = b.begin(id, index);
        let mut last = report(owner, 9, &[Status::Error]);
        last.ops[0].result = json!("ä".repeat(400 << 10));
        b.reported(last);
        b.step(Event::Tick);
        b.commit();
    }
    let row = &b.rows[&(kind::TASK.to_owned(), id.to_string())].1;
    assert_eq!(b.stored(id).state, TaskState::Unknown);
    assert!(row.len() < 64 << 10, "{} bytes", row.len());
}

#[test]
fn a_lost_lease_ends_the_attempt_and_kills_its_job() {
    let mut b = Bench::new();
    b.clean(1, 1);
    let id = b.task(json!({}));
    let owner = b.begin(id, 2);
    let first = b.grabs()[0];
    b.lease_over(3, first);
    b.commit();
    assert_eq!(b.stored(id).attempts[0].outcome, Some(AttemptOutcome::InfraFail));
    assert!(b.actions.iter().any(|a| matches!(a, Action::Kill { owner: o, .. } if *o == owner)));
    b.end_well(owner, TaskState::Success);
    assert_eq!(b.stored(id).result, None, "too late");
}

#[test]
fn a_whole_state_without_the_lease_means_that_it_is_gone() {
    let mut b = Bench::new();
    b.clean(1, 1);
    let id = b.task(json!({}));
    b.begin(id, 8);
    let counts = PoolCounts { slots: 1, able: 1, ..PoolCounts::default() };
    let all = |index| {
        let pools = BTreeMap::from([("p".to_owned(), Some(Stock { active: true, counts }))]);
        Event::News(Box::new(News { index, all: true, pools, leases: BTreeMap::new() }))
    };
    b.step(all(7));
    b.commit();
    assert_eq!(b.stored(id).attempts[0].outcome, None, "that state is older than the grant");
    b.step(all(8));
    b.commit();
    assert_eq!(b.stored(id).attempts[0].outcome, Some(AttemptOutcome::InfraFail));
}

#[test]
fn leases_nobody_knows_are_ended_and_then_forgotten() {
    let mut b = Bench::new();
    let seen = LeaseSeen { lives: true, broken: false, why: None };
    let leases = BTreeMap::from([(lease(5), Some(seen))]);
    b.step(Event::News(Box::new(News { index: 1, leases, ..News::default() })));
    assert_eq!(b.ended(), [lease(5)]);
    b.lease_over(2, lease(6));
    assert_eq!(b.forgotten(), [lease(6)]);
}

#[test]
fn a_removed_pool_ends_those_who_wait_for_it() {
    let mut b = Bench::new();
    b.clean(1, 0);
    let id = b.task(json!({}));
    b.request(1, 1);
    let pools = BTreeMap::from([("p".to_owned(), None)]);
    b.step(Event::News(Box::new(News { index: 2, pools, ..News::default() })));
    b.commit();
    assert_eq!(b.stored(id).state, TaskState::Unknown);
    assert_eq!(b.stored(id).why.as_deref(), Some("pool p was removed"));
    assert_eq!(b.stored_request(1).unwrap().state, RequestState::Over);
}

#[test]
fn a_request_nobody_asks_about_is_withdrawn_and_later_forgotten() {
    let mut b = Bench::new();
    b.clean(1, 0);
    b.request(1, 1);
    b.request(2, 1);
    let waits = b.ask(Request::WaitLease { lease: lease(2), rev: 1 });
    b.now += REQUEST_IDLE_S;
    b.step(Event::Tick);
    b.commit();
    let first = b.stored_request(1).unwrap();
    assert_eq!(first.state, RequestState::Over);
    assert!(first.why.unwrap().contains("nobody asked"));
    assert_eq!(b.stored_request(2).unwrap().state, RequestState::Waiting, "somebody waits for it");
    b.step(Event::Forget(waits));
    b.now += REQUEST_KEPT_S;
    b.step(Event::Tick);
    b.commit();
    assert_eq!(b.stored_request(1), None);
    b.step(Event::LeaseEnded(lease(1)));
    assert_eq!(b.forgotten(), [lease(1)]);
}

#[test]
fn a_restart_keeps_attempts_requests_and_keys() {
    let mut b = Bench::new();
    b.clean(1, 2);
    let working = b.task(json!({}));
    let asking = b.task(json!({"key": "k"}));
    b.begin(working, 2);
    b.request(1, 1);
    let stored = b.stored(asking);
    b.restart(1, 2);
    let adopts = b.actions.iter().filter(|a| matches!(a, Action::Adopt { class: Class::Attempt, .. }));
    assert_eq!(adopts.count(), 1);
    b.clean(3, 2);
    b.commit();
    assert_eq!(b.stored(asking), stored, "same attempt, same lease");
    assert_eq!(b.grabs(), [stored.attempts[0].lease, lease(1)]);
    assert_eq!(b.task(json!({"key": "k"})), asking);
}

#[test]
fn a_new_master_ends_the_attempts_of_the_old_one() {
    let mut b = Bench::new();
    b.clean(1, 1);
    let id = b.task(json!({}));
    b.begin(id, 2);
    let lease = b.grabs()[0];
    b.restart(2, 1);
    b.commit();
    let task = b.stored(id);
    assert_eq!(
        (task.state, task.attempts[0].outcome),
        (TaskState::Retrying, Some(AttemptOutcome::InfraFail))
    );
    assert_eq!(b.ended(), [lease]);
}

#[test]
fn attempts_need_no_place_among_users_jobs() {
    let mut b = Bench::new();
    b.step(Event::MaxRunning(1));
    b.clean(1, 3);
    b.submit(one_op(json!({})));
    let waits = b.submit(one_op(json!({})));
    for index in 0..3 {
        let id = b.task(json!({}));
        b.begin(id, 2 + index);
    }
    assert!(!b.is_spawned(waits));
}

#[test]
fn reconcilers_have_places_by_nodes() {
    let mut b = Bench::new();
    b.step(Event::VmNodes(2));
    let keyed = |n: u32| KeyedJob { keys: vec![format!("k:{n}")], job: one_op(json!({})) };
    let Ok(Answer::KeyedSubmitted(made)) = b.asked(Request::SubmitKeyed((0..9).map(keyed).collect())) else {
        panic!("not submitted");
    };
    let ids: Vec<JobId> = made.into_iter().map(|answer| answer.unwrap().0).collect();
    let spawned = |b: &Bench| ids.iter().filter(|id| b.is_spawned(**id)).count();
    assert_eq!(spawned(&b), 2 * RECONCILE_PER_NODE);
    b.run(ids[0], &[Status::Error]);
    b.commit();
    assert!(b.archived.contains_key(&ids[0]), "a failed one too");
    assert_eq!(spawned(&b), 2 * RECONCILE_PER_NODE + 1);
    b.step(Event::VmNodes(1000));
    assert_eq!(spawned(&b), 9);
}

#[test]
fn what_is_kept_of_ended_work_is_bounded() {
    let mut b = Bench::new();
    b.clean(1, 1);
    let many = ARCHIVED_OWN_MAX + 5;
    for number in 0..many as u64 {
        let id = b.task(json!({"key": format!("k{number}")}));
        let owner = b.begin(id, 1);
        b.end_well(owner, TaskState::Success);
    }
    let rows = |kind: &str| b.rows.keys().filter(|(k, _)| k == kind).count();
    assert_eq!((rows(kind::ARCHIVE), rows(kind::JOB), rows(kind::TASK)), (ARCHIVED_OWN_MAX, 0, many));
    assert_eq!(b.archived.len(), ARCHIVED_OWN_MAX);
}

#[test]
fn the_oldest_final_tasks_go_and_their_keys_with_them() {
    let mut b = Bench::new();
    let first = b.task(json!({"key": "first"}));
    assert!(b.told(Request::CancelTask(first)).0);
    for _ in 0..FINAL_TASKS_MAX {
        let id = b.task(json!({}));
        assert!(b.told(Request::CancelTask(id)).0);
    }
    let kept = b.rows.keys().filter(|(k, _)| k == kind::TASK).count();
    assert_eq!(kept, FINAL_TASKS_MAX);
    assert_ne!(b.task(json!({"key": "first"})), first);
}
