//! What nobody waits for is stored with the next batch.

use super::*;
use gantry_model::ids::{LeaseUuid, TaskId};
use gantry_model::task::{RunReport, TaskResult, TaskState};

impl Bench {
    /// Something happens at once after what was before.
    fn at_once(&mut self, event: Event) {
        let effects = self.queue.step(Ts(self.now, 0), [event]);
        self.perform(effects);
    }

    /// A task whose lease was just granted: its start, its lease.
    fn granted(&mut self) -> (TaskId, JobOwner, LeaseUuid) {
        self.clean(1, 2);
        let id = self.task(json!({}));
        let lease = self.stored(id).attempts[0].lease;
        self.at_once(Event::Granted { lease, index: 2, grant: tasks::grant(1) });
        (id, self.spawned(JobId(1)), lease)
    }

    /// The same, run; its result is stored.
    fn ran(&mut self) -> (TaskId, JobOwner, LeaseUuid) {
        let (id, owner, lease) = self.granted();
        self.go(owner.job);
        self.reported(self.says(owner, 4, [Status::Success, Status::Queued]));
        assert_eq!(self.stored(id).state, TaskState::Success);
        (id, owner, lease)
    }

    fn says(&self, owner: JobOwner, number: u64, words: [Status; 2]) -> Report {
        let mut said = report(owner, number, &words);
        let ran = RunReport { state: TaskState::Success, why: None, result: TaskResult::default() };
        said.ops[0].result = json!(ran);
        said
    }

    fn last_word(&mut self, owner: JobOwner) {
        let word = self.says(owner, 9, [Status::Success; 2]);
        self.at_once(Event::Reported(Box::new(word)));
    }

    fn is_stored(&self, kind: &str, job: JobId) -> bool {
        self.rows.contains_key(&(kind.to_owned(), job.to_string()))
    }
}

#[test]
fn a_new_attempt_is_stored_with_the_row_that_says_it_runs() {
    let mut b = Bench::new();
    let (id, owner, _) = b.granted();
    assert!(b.tickets.is_empty() && b.stored(id).attempts[0].job.is_none(), "its process starts meanwhile");
    b.at_once(Event::Ready(owner, process(100)));
    assert_eq!(b.tickets.len(), 1);
    assert_eq!(b.stored(id).attempts[0].job, Some(owner.job));
    assert!(b.is_stored(kind::JOB, owner.job) && !b.went(owner));
    b.commit();
    assert!(b.went(owner));
    assert!(!b.queue.waits_for_batch(), "nothing is left to be stored");
}

#[test]
fn a_crash_before_that_leaves_the_attempt_with_its_lease() {
    let mut b = Bench::new();
    let (id, owner, lease) = b.granted();
    b.restart(1, 2);
    b.clean(3, 1);
    assert!(b.actions.iter().any(|a| matches!(a, Action::Grab { lease: l, .. } if *l == lease)));
    b.at_once(Event::Granted { lease, index: 2, grant: tasks::grant(1) });
    let again = b.spawned(owner.job);
    assert_ne!(
        again.start, owner.start,
        "a number that nobody was told of is given out again, a start never"
    );
    b.go(again.job);
    assert_eq!((b.stored(id).attempts.len(), b.stored(id).attempts[0].lease), (1, lease));
}

#[test]
fn a_task_that_is_stored_takes_its_job_along() {
    let mut b = Bench::new();
    let (id, owner, _) = b.granted();
    let ask = Ask(1_000);
    b.at_once(Event::Asked(ask, Request::CancelTask(id)));
    assert_eq!(b.stored(id).attempts[0].job, Some(owner.job));
    b.commit();
    b.restart(1, 2);
    assert_eq!(b.submit(one_op(json!({}))), JobId(2), "the number is given out");
}

#[test]
fn a_job_that_somebody_is_told_of_is_stored_first() {
    let mut b = Bench::new();
    let (id, owner, _) = b.granted();
    let key = crate::core::queue::turn_over::key(&tasks::grant(1).vms[0]);
    let job = KeyedJob { keys: vec![key], job: one_op(json!({})) };
    b.at_once(Event::Asked(Ask(1_000), Request::SubmitKeyed(vec![job])));
    assert!(b.is_stored(kind::JOB, owner.job), "before the answer");
    assert_eq!(b.stored(id).attempts[0].job, Some(owner.job));
    b.commit();
    b.restart(1, 2);
    assert_eq!(b.submit(one_op(json!({}))), JobId(2), "the number is given out");
}

#[test]
fn what_no_batch_comes_for_has_one_of_its_own() {
    let mut b = Bench::new();
    let (id, owner, _) = b.granted();
    assert!(b.queue.waits_for_batch());
    b.at_once(Event::NoBatch);
    assert_eq!((b.tickets.len(), b.stored(id).attempts[0].job), (1, Some(owner.job)));
    b.commit();
    assert!(!b.queue.waits_for_batch());
}

#[test]
fn a_clock_that_is_set_back_holds_nothing_up() {
    let mut b = Bench::new();
    let (id, owner, _) = b.granted();
    b.now -= 5;
    assert!(b.queue.waits_for_batch() && b.queue.due().is_none(), "no time of that clock is waited for");
    b.at_once(Event::NoBatch);
    assert_eq!((b.tickets.len(), b.stored(id).attempts[0].job), (1, Some(owner.job)));
}

#[test]
fn the_last_word_of_a_turn_over_is_stored_with_what_comes_next() {
    let mut b = Bench::new();
    let (_, owner, _) = b.ran();
    b.last_word(owner);
    assert!(b.tickets.is_empty() && b.queue.keeps_reports());
    let ask = Ask(1_000);
    b.at_once(Event::Asked(ask, Request::SubmitTask { spec: tasks::boxed_spec(), refusal: None }));
    assert_eq!(b.tickets.len(), 1);
    assert!(b.is_stored(kind::ARCHIVE, owner.job) && !b.is_stored(kind::JOB, owner.job));
    let confirmed = |b: &Bench| {
        b.actions.iter().any(|a| matches!(a, Action::Confirm { owner: o, number: 9, .. } if *o == owner))
    };
    assert!(!confirmed(&b));
    b.commit();
    assert!(confirmed(&b));
}

#[test]
fn a_last_word_is_heard_before_the_death_after_it() {
    let mut b = Bench::new();
    let (_, owner, lease) = b.ran();
    b.last_word(owner);
    b.at_once(Event::Dead(owner, None));
    b.commit();
    let job = &b.archived[&owner.job];
    assert_eq!(job.ops[1].status, Status::Success, "it is not taken for lost");
    assert_eq!(b.ended(), [lease]);
}
