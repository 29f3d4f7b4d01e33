//! What clients ask, and what they are told.

use super::*;

fn cancel(job: JobId, kill: bool) -> Request {
    Request::Cancel { job, kill }
}

#[test]
fn a_submission_is_acknowledged_when_it_is_stored() {
    let mut b = Bench::new();
    let ask = b.ask(Request::Submit { job: one_op(json!({})), into_drained: false });
    assert!(b.replies.is_empty() && b.shown.is_empty());
    b.commit();
    assert_eq!(b.replies[&ask], Ok(Answer::Submitted(JobId(1))));
    let trail = &b.op(JobId(1), 0).input["reason"];
    assert_eq!(trail[0][0], "gnt:opcode:test_delay");
    assert_eq!(trail[0][1], "job=1;index=0");
}

#[test]
fn ids_rise_across_restarts() {
    let mut b = Bench::new();
    let jobs = vec![one_op(json!({})), new_job(&[])];
    let Ok(Answer::SubmittedMany(answers)) = b.asked(Request::SubmitMany(jobs)) else { panic!("refused") };
    assert_eq!(answers[0], Ok(JobId(1)));
    assert!(answers[1].is_err(), "the empty job is refused");
    b.restart(1, 2);
    assert_eq!(b.submit(one_op(json!({}))), JobId(3));
}

#[test]
fn no_jobs_are_no_error() {
    assert_eq!(Bench::new().asked(Request::SubmitMany(Vec::new())), Ok(Answer::SubmittedMany(Vec::new())));
}

#[test]
fn a_drained_queue_refuses_but_for_those_who_insist() {
    let mut b = Bench::new();
    assert_eq!(b.asked(Request::SetDrained(true)), Ok(Answer::Set));
    b.restart(1, 2);
    for request in [
        Request::Submit { job: one_op(json!({})), into_drained: false },
        Request::SubmitMany(vec![one_op(json!({}))]),
    ] {
        assert_eq!(b.asked(request).unwrap_err().class, "JobQueueDrainError");
    }
    assert!(b.asked(Request::Submit { job: one_op(json!({})), into_drained: true }).is_ok());
    b.asked(Request::SetDrained(false)).unwrap();
    b.submit(one_op(json!({})));
}

#[test]
fn a_full_queue_refuses() {
    let mut b = Bench::new();
    b.step(Event::MaxRunning(0));
    let jobs = vec![one_op(json!({})); LIVE_JOBS_MAX];
    let Ok(Answer::SubmittedMany(answers)) = b.asked(Request::SubmitMany(jobs)) else { panic!("refused") };
    assert!(answers.iter().all(Result::is_ok));
    let refusal = b.asked(Request::Submit { job: one_op(json!({})), into_drained: false }).unwrap_err();
    assert_eq!(refusal.to_value(), json!(["JobQueueFull", []]));
}

#[test]
fn a_full_queue_puts_its_oldest_finished_jobs_away() {
    let mut b = Bench::new();
    let done = b.submit(one_op(json!({})));
    b.run(done, &[Status::Success]);
    b.step(Event::MaxRunning(0));
    let jobs = vec![one_op(json!({})); LIVE_JOBS_MAX - 1];
    let Ok(Answer::SubmittedMany(_)) = b.asked(Request::SubmitMany(jobs)) else { panic!("refused") };
    let more = b.submit(one_op(json!({})));
    assert_eq!(b.asked(Request::Archive(done)).unwrap(), Answer::Archived(false), "it is in the archive");
    assert_eq!(b.status(more), Status::Queued);
    let refusal = b.asked(Request::Submit { job: one_op(json!({})), into_drained: false }).unwrap_err();
    assert_eq!(refusal.class, "JobQueueFull", "jobs that are not finished stay");
}

#[test]
fn a_job_over_a_mebibyte_is_refused() {
    let op = delay_op(json!({"comment": "x".repeat(400_000)}));
    let job = new_job(&[op.clone(), op.clone(), op]);
    let refusal = Bench::new().asked(Request::Submit { job, into_drained: false }).unwrap_err();
    assert_eq!(refusal.ecode(), Some("wrong_input"));
}

#[test]
fn jobs_start_by_priority_then_number() {
    let mut b = Bench::new();
    b.step(Event::MaxRunning(0));
    let low = b.submit(one_op(json!({"priority": 10})));
    let normal = b.submit(one_op(json!({})));
    let later = b.submit(one_op(json!({})));
    let high = b.submit(one_op(json!({"priority": -10})));
    b.step(Event::MaxRunning(4));
    let order: Vec<JobId> = b
        .actions
        .iter()
        .filter_map(|a| match a {
            Action::Spawn { owner, .. } => Some(owner.job),
            _ => None,
        })
        .collect();
    assert_eq!(order, [high, normal, later, low]);
}

#[test]
fn no_more_jobs_run_than_allowed() {
    let mut b = Bench::new();
    b.step(Event::MaxRunning(1));
    let first = b.submit(one_op(json!({})));
    let second = b.submit(one_op(json!({})));
    assert!(b.is_spawned(first) && !b.is_spawned(second));
    b.run(first, &[Status::Success]);
    assert!(b.is_spawned(second));
}

#[test]
fn a_rate_limit_in_the_reason_holds() {
    let mut b = Bench::new();
    let reason = json!({"reason": [["gnt:user", "rate-limit:1:backup", 1]]});
    let first = b.submit(one_op(reason.clone()));
    let second = b.submit(one_op(reason));
    let other = b.submit(one_op(json!({"reason": [["gnt:user", "rate-limit:1:other", 1]]})));
    assert!(b.is_spawned(first) && !b.is_spawned(second) && b.is_spawned(other));
    b.run(first, &[Status::Success]);
    assert!(b.is_spawned(second));
}

#[test]
fn a_dependent_job_waits() {
    let mut b = Bench::new();
    let first = b.submit(one_op(json!({})));
    let second = b.submit(one_op(json!({"depends": [[-1, ["success"]]]})));
    assert_eq!(b.op(second, 0).input["depends"], json!([[first.0, ["success"]]]), "made absolute");
    assert!(!b.is_spawned(second));
    b.run(first, &[Status::Success]);
    b.run(second, &[Status::Success]);
    assert_eq!(b.status(second), Status::Success);
}

#[test]
fn an_unmet_dependency_ends_the_job_without_a_process() {
    let mut b = Bench::new();
    let first = b.submit(one_op(json!({})));
    let second = b.submit(one_op(json!({"depends": [[-1, ["success"]]]})));
    let third = b.submit(one_op(json!({"depends": [[999, []]]})));
    b.run(first, &[Status::Error]);
    assert_eq!(b.status(second), Status::Error);
    assert!(b.op(second, 0).result[1][0].as_str().unwrap().contains("ended as error"));
    assert_eq!(b.status(third), Status::Error);
    assert!(!b.is_spawned(second) && !b.is_spawned(third));
}

#[test]
fn a_canceled_dependency_cancels_unless_it_is_wanted() {
    let mut b = Bench::new();
    b.step(Event::MaxRunning(0));
    let first = b.submit(one_op(json!({})));
    let second = b.submit(one_op(json!({"depends": [[1, ["success"]]]})));
    let third = b.submit(one_op(json!({"depends": [[1, ["canceled"]]]})));
    b.step(Event::MaxRunning(5));
    assert!(b.told(cancel(first, false)).0);
    assert_eq!(b.status(second), Status::Canceled);
    assert!(b.is_spawned(third));
}

#[test]
fn a_dependency_of_a_later_opcode_stops_the_job_there() {
    let mut b = Bench::new();
    let first = b.submit(one_op(json!({})));
    let ops = [delay_op(json!({})), delay_op(json!({"depends": [[-1, ["success"]]]})), delay_op(json!({}))];
    let second = b.submit(new_job(&ops));
    b.run(first, &[Status::Error]);
    let owner = b.go(second);
    let Some(Action::Go { ops, .. }) =
        b.actions.iter().find(|a| matches!(a, Action::Go { owner: o, .. } if *o == owner))
    else {
        panic!("no go")
    };
    let words: Vec<Status> = ops.iter().map(|op| op.status).collect();
    assert_eq!(words, [Status::Queued, Status::Error, Status::Error]);
    b.reported(report(owner, 1, &[Status::Running, Status::Error, Status::Error]));
    assert_eq!(b.status(second), Status::Running, "what lies ahead is not shown yet");
    b.reported(report(owner, 2, &[Status::Success, Status::Error, Status::Error]));
    assert_eq!(b.status(second), Status::Error);
}

#[test]
fn dependencies_on_itself_or_on_nothing_are_refused() {
    let mut b = Bench::new();
    for depends in [json!([[1, []]]), json!([[-1, []]]), json!([[0, []]])] {
        let job = one_op(json!({"depends": depends}));
        assert!(b.asked(Request::Submit { job, into_drained: false }).is_err());
    }
}

#[test]
fn a_queued_job_is_cancelled_at_once() {
    let mut b = Bench::new();
    b.step(Event::MaxRunning(0));
    let id = b.submit(one_op(json!({})));
    assert_eq!(b.told(cancel(id, false)), (true, format!("Dequeued job {id}")));
    assert_eq!(b.status(id), Status::Canceled);
    assert_eq!(b.op(id, 0).result, json!("Job canceled by request"));
    assert_eq!(b.told(cancel(id, false)), (false, format!("Job {id} not found in queue")));
    assert_eq!(b.told(cancel(JobId(77), true)), (false, "Job 77 not found in queue".to_owned()));
}

#[test]
fn a_start_that_is_cancelled_never_goes() {
    for ready in [false, true] {
        let mut b = Bench::new();
        let id = b.submit(one_op(json!({})));
        let owner = b.spawned(id);
        if ready {
            b.step(Event::Ready(owner, process(1)));
        }
        assert!(b.told(cancel(id, false)).0);
        assert!(!b.went(owner));
        assert!(b.actions.iter().any(|a| matches!(a, Action::Abandon(o) if *o == owner)));
        b.step(Event::Ready(owner, process(1)));
        b.commit();
        assert!(!b.went(owner) && b.status(id) == Status::Canceled);
    }
}

#[test]
fn a_job_that_waits_is_asked_and_its_end_is_the_answer() {
    for (end, want) in [
        (Status::Canceled, (true, "Job successfully cancelled".to_owned())),
        (
            Status::Success,
            (false, "Job exited before it could have been canceled, status success".to_owned()),
        ),
    ] {
        let mut b = Bench::new();
        let id = b.submit(one_op(json!({})));
        let owner = b.go(id);
        b.reported(report(owner, 1, &[Status::Waiting]));
        let ask = b.ask(cancel(id, false));
        b.commit();
        assert!(b.actions.iter().any(|a| matches!(a, Action::Cancel(o) if *o == owner)));
        assert!(!b.replies.contains_key(&ask));
        b.reported(report(owner, 2, &[end]));
        assert_eq!(b.replies[&ask], Ok(Answer::Told(want.0, want.1)));
    }
}

#[test]
fn a_job_at_work_is_told_and_so_is_the_caller() {
    let mut b = Bench::new();
    let id = b.submit(one_op(json!({})));
    let owner = b.go(id);
    b.reported(report(owner, 1, &[Status::Running]));
    let (done, text) = b.told(cancel(id, false));
    assert!(!done && text == "Job no longer waiting, can't cancel (informed it anyway)");
    let ask = b.ask(cancel(id, true));
    assert!(b.actions.iter().any(|a| matches!(a, Action::Kill { owner: o, .. } if *o == owner)));
    b.step(Event::Killed(ask, owner, KillResult::Sent));
    assert_eq!(b.replies[&ask], Ok(Answer::Told(true, "SIGKILL send to the process".to_owned())));
    b.step(Event::Dead(owner, None));
    b.commit();
    assert_eq!(b.status(id), Status::Error);
}

#[test]
fn priorities_of_queued_jobs_change_here_others_by_the_job() {
    let mut b = Bench::new();
    b.step(Event::MaxRunning(0));
    let first = b.submit(one_op(json!({})));
    let second = b.submit(one_op(json!({})));
    let request = Request::SetPriority { job: second, priority: -5 };
    let text = format!("Priorities of pending opcodes for job {second} have been changed to -5");
    assert_eq!(b.told(request), (true, text));
    b.step(Event::MaxRunning(1));
    assert!(b.is_spawned(second) && !b.is_spawned(first));
    b.go(second);
    let text = format!("Job {second} with pid 100 signaled");
    assert_eq!(b.told(Request::SetPriority { job: second, priority: 3 }), (true, text));
}

#[test]
fn only_finished_jobs_are_archived() {
    let mut b = Bench::new();
    let id = b.submit(one_op(json!({})));
    assert_eq!(b.asked(Request::Archive(id)), Ok(Answer::Archived(false)));
    b.run(id, &[Status::Success]);
    assert_eq!(b.asked(Request::Archive(id)), Ok(Answer::Archived(true)));
    assert!(b.archived[&id].archived && b.shown.is_empty());
    assert_eq!(b.asked(Request::Archive(id)), Ok(Answer::Archived(false)));
    b.restart(1, 2);
    assert!(b.archived.contains_key(&id));
    assert!(b.submit(one_op(json!({}))) > id);
}

#[test]
fn old_jobs_are_archived_in_stretches() {
    let mut b = Bench::new();
    b.step(Event::MaxRunning(0));
    let jobs = vec![one_op(json!({})); 150];
    b.asked(Request::SubmitMany(jobs)).unwrap();
    for id in 1..=140 {
        b.told(cancel(JobId(id), false));
    }
    let first = b.asked(Request::ArchiveOld { before: None, after: JobId(0) });
    assert_eq!(first, Ok(Answer::ArchivedOld { archived: 100, next: Some(JobId(100)), left: 50 }));
    let rest = b.asked(Request::ArchiveOld { before: None, after: JobId(100) });
    assert_eq!(rest, Ok(Answer::ArchivedOld { archived: 40, next: None, left: 0 }));
    let none = b.asked(Request::ArchiveOld { before: Some(Ts(1, 0)), after: JobId(0) });
    assert_eq!(none, Ok(Answer::ArchivedOld { archived: 0, next: None, left: 0 }));
}

#[test]
fn who_waits_hears_of_a_change_once_it_is_committed() {
    let mut b = Bench::new();
    let id = b.submit(one_op(json!({})));
    let rev = b.shown[&id].0;
    let ask = b.ask(Request::Wait { job: id, rev });
    let owner = b.spawned(id);
    b.step(Event::Ready(owner, process(1)));
    assert!(!b.replies.contains_key(&ask));
    b.commit();
    assert_eq!(b.replies[&ask], Ok(Answer::Changed));
    let late = b.ask(Request::Wait { job: id, rev });
    assert_eq!(b.replies[&late], Ok(Answer::Changed), "at once when there is something new");
    let gone = b.ask(Request::Wait { job: JobId(99), rev: 1 });
    assert_eq!(b.replies[&gone], Ok(Answer::Changed));
    let rev = b.shown[&id].0;
    let tired = b.ask(Request::Wait { job: id, rev });
    b.step(Event::Forget(tired));
    b.reported(report(owner, 1, &[Status::Success]));
    assert!(!b.replies.contains_key(&tired));
}
