//! The second opcode of an attempt's job: it begins when the result is stored, and whatever becomes of it the result stays.

use super::*;
use crate::core::queue::kind;
use gantry_model::ids::{LeaseUuid, TaskId};
use gantry_model::task::{AttemptOutcome, RunReport, TaskResult, TaskState};

impl Bench {
    /// A task whose attempt was told to go: its start, its lease, the key of its turn-over.
    fn runs(&mut self) -> (TaskId, JobOwner, LeaseUuid, String) {
        self.clean(1, 1);
        let id = self.task(json!({}));
        let owner = self.begin(id, 2);
        let attempt = self.stored(id).attempts[0].clone();
        let vm = attempt.vm.unwrap();
        (id, owner, attempt.lease, format!("slot-destroy:{}:{}", vm.slot, vm.generation))
    }

    /// The job that has a key: asked as the overseer does.
    fn holder_of(&mut self, key: &str) -> (JobId, bool) {
        let job = KeyedJob { keys: vec![key.to_owned()], job: one_op(json!({})) };
        match self.asked(Request::SubmitKeyed(vec![job])) {
            Ok(Answer::KeyedSubmitted(made)) => made.into_iter().next().unwrap().unwrap(),
            other => panic!("not submitted: {other:?}"),
        }
    }

    fn confirmed(&self, owner: JobOwner) -> Vec<u64> {
        let confirm = |action: &Action| match action {
            Action::Confirm { owner: o, number, .. } if *o == owner => Some(*number),
            _ => None,
        };
        self.actions.iter().filter_map(confirm).collect()
    }

    fn killed(&self, owner: JobOwner) -> bool {
        self.actions.iter().any(|a| matches!(a, Action::Kill { owner: o, .. } if *o == owner))
    }

    fn lease_shown(&mut self, index: u64, lease: LeaseUuid, lives: bool) {
        let leases = BTreeMap::from([(lease, Some(LeaseSeen { lives, broken: false, why: None }))]);
        self.step(Event::News(Box::new(News { index, leases, ..News::default() })));
    }
}

fn brings(owner: JobOwner, number: u64, words: &[Status], result: Value) -> Report {
    let mut said = report(owner, number, words);
    said.ops[0].result = result;
    said
}

fn success() -> Value {
    json!(RunReport { state: TaskState::Success, why: None, result: TaskResult::default() })
}

const RAN: [Status; 2] = [Status::Success, Status::Queued];

#[test]
fn the_result_is_stored_before_the_job_goes_on() {
    let mut b = Bench::new();
    let (id, owner, lease, key) = b.runs();
    assert_eq!(b.job(owner.job).ops[1].input["OP_ID"], "OP_SLOT_DESTROY");
    assert_eq!(b.job(owner.job).key.as_ref(), Some(&key));
    b.step(Event::Reported(Box::new(brings(owner, 4, &RAN, success()))));
    assert_eq!((b.confirmed(owner), b.tickets.len()), (vec![], 1), "one batch, and nobody knows of it yet");
    b.commit();
    assert_eq!(b.confirmed(owner), [4]);
    let task = b.stored(id);
    assert_eq!((task.state, task.attempts[0].outcome), (TaskState::Success, Some(AttemptOutcome::UserOk)));
    assert_eq!(b.status(owner.job), Status::Queued, "between its opcodes");
    assert_eq!(b.op(owner.job, 0).result, json!({"task": id}), "the task has the result");
    assert_eq!(b.ended(), [], "its job ends the lease");
    assert_eq!(b.holder_of(&key), (owner.job, false));
    b.lease_shown(5, lease, false);
    b.reported(brings(owner, 7, &[Status::Success; 2], success()));
    assert!(b.archived.contains_key(&owner.job));
    assert_eq!((b.ended(), b.forgotten()), (vec![], vec![lease]), "it is known to have ended");
    assert_eq!(b.stored(id), task);
    assert!(b.holder_of(&key).1, "the key is free");
}

#[test]
fn what_becomes_of_a_turn_over_does_not_change_the_result() {
    for dies in [true, false] {
        let mut b = Bench::new();
        let (id, owner, lease, key) = b.runs();
        b.reported(brings(owner, 4, &RAN, success()));
        let task = b.stored(id);
        if dies {
            b.step(Event::Dead(owner, None));
            b.commit();
        } else {
            b.reported(brings(owner, 5, &[Status::Success, Status::Error], success()));
        }
        assert_eq!(b.stored(id), task, "dies: {dies}");
        assert_eq!(b.ended(), [lease]);
        let job = &b.archived[&owner.job];
        assert_eq!((job.ops[0].status, job.ops[1].status), (Status::Success, Status::Error));
        assert!(b.holder_of(&key).1, "the overseer may go on");
    }
}

#[test]
fn a_job_may_end_with_its_result_and_without_its_turn_over() {
    let mut b = Bench::new();
    let (id, owner, lease, _) = b.runs();
    let spooled = brings(owner, 5, &[Status::Success; 2], success());
    b.step(Event::Dead(owner, Some(Box::new(spooled))));
    b.commit();
    assert_eq!(b.stored(id).state, TaskState::Success);
    assert_eq!(b.ended(), [lease]);
}

#[test]
fn a_restart_lets_a_turn_over_go_on() {
    let mut b = Bench::new();
    let (id, owner, lease, key) = b.runs();
    b.reported(brings(owner, 4, &RAN, success()));
    let task = b.stored(id);
    b.restart(1, 2);
    assert!(b.actions.iter().any(|a| matches!(a, Action::Adopt { owner: o, .. } if *o == owner)));
    assert!(!b.killed(owner), "it is past its attempt");
    b.lease_shown(6, lease, true);
    assert_eq!(b.ended(), [], "its job ends it");
    b.reported(brings(owner, 4, &RAN, success()));
    assert_eq!(b.confirmed(owner), [4], "it may not have heard it");
    assert_eq!(b.holder_of(&key), (owner.job, false));
    b.reported(brings(owner, 6, &[Status::Success; 2], success()));
    assert_eq!((b.stored(id), b.ended()), (task, vec![lease]));
}

#[test]
fn a_new_master_ends_the_lease_of_a_turn_over_of_the_old_one() {
    let mut b = Bench::new();
    let (id, owner, lease, key) = b.runs();
    b.reported(brings(owner, 4, &RAN, success()));
    let task = b.stored(id);
    b.restart(2, 1);
    b.commit();
    assert!(b.killed(owner));
    assert_eq!((b.stored(id), b.ended()), (task, vec![lease]));
    assert!(b.holder_of(&key).1);
}

#[test]
fn a_result_that_is_none_ends_the_job_and_the_task_runs_again() {
    for (word, result) in [
        (Status::Error, json!("the result names a body that is not in the store")),
        (Status::Success, json!({"state": 3})),
    ] {
        let mut b = Bench::new();
        let (id, owner, lease, _) = b.runs();
        b.reported(brings(owner, 4, &[word, Status::Queued], result));
        assert_eq!((b.confirmed(owner), b.ended()), (vec![], vec![]));
        assert!(b.killed(owner), "it waits in vain");
        b.step(Event::Dead(owner, None));
        b.commit();
        let task = b.stored(id);
        assert_eq!((task.state, task.result), (TaskState::Retrying, None));
        assert_eq!(task.attempts[0].outcome, Some(AttemptOutcome::InfraFail));
        assert_eq!(b.ended(), [lease]);
    }
}

#[test]
fn a_result_after_the_cancel_does_not_let_the_job_go_on() {
    let mut b = Bench::new();
    let (id, owner, lease, key) = b.runs();
    assert!(b.told(Request::CancelTask(id)).0);
    b.reported(brings(owner, 4, &RAN, success()));
    assert_eq!((b.confirmed(owner), b.ended()), (vec![], vec![]));
    b.restart(1, 2);
    assert!(b.killed(owner), "also when the first kill was lost");
    b.step(Event::Dead(owner, None));
    b.commit();
    assert_eq!((b.stored(id).state, b.ended()), (TaskState::Cancelled, vec![lease]));
    assert!(b.holder_of(&key).1);
}

#[test]
fn a_job_without_a_turn_over_ends_with_its_result() {
    let mut b = Bench::new();
    let (id, owner, lease, key) = b.runs();
    // As an older luxid made it.
    let row = b.rows.get_mut(&(kind::JOB.to_owned(), owner.job.to_string())).unwrap();
    let mut job: Value = serde_json::from_slice(&row.1).unwrap();
    job["ops"].as_array_mut().unwrap().truncate(1);
    job.as_object_mut().unwrap().remove("key");
    row.1 = serde_json::to_vec(&job).unwrap();
    b.restart(1, 2);
    assert!(!b.killed(owner));
    b.reported(brings(owner, 4, &[Status::Success], success()));
    assert_eq!((b.stored(id).state, b.ended()), (TaskState::Success, vec![lease]));
    assert!(b.holder_of(&key).1);
}

#[test]
fn a_turn_over_that_another_job_has_is_left_to_it() {
    let mut b = Bench::new();
    b.clean(1, 1);
    let (slot, generation) =
        { (super::tasks::grant(1).vms[0].slot, super::tasks::grant(1).vms[0].generation) };
    let other = b.holder_of(&format!("slot-destroy:{slot}:{generation}")).0;
    let id = b.task(json!({}));
    let owner = b.begin(id, 2);
    let job = b.job(owner.job);
    assert_eq!((job.ops.len(), job.key.as_ref()), (1, None));
    assert_ne!(owner.job, other);
    b.reported(brings(owner, 4, &[Status::Success], success()));
    assert_eq!((b.stored(id).state, b.ended().len()), (TaskState::Success, 1));
    assert_eq!(b.holder_of(&format!("slot-destroy:{slot}:{generation}")), (other, false));
}
