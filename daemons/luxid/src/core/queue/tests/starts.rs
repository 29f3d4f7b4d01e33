//! Starts, one rule of P4 at a time.

use super::*;
use gantry_model::job::{LogEntry, Phase};

#[test]
fn go_is_said_after_running_is_stored() {
    let mut b = Bench::new();
    let id = b.submit(one_op(json!({})));
    let owner = b.spawned(id);
    b.step(Event::Ready(owner, process(9)));
    assert!(!b.went(owner), "before the commit");
    assert_eq!(b.job(id).phase, Phase::Queued, "nor is it shown");
    b.commit();
    assert!(b.went(owner));
    assert_eq!(b.job(id).phase, Phase::Running { start: owner.start });
    assert_eq!(b.job(id).process_id, Some(9));
}

#[test]
fn an_outcome_ends_the_job_and_is_confirmed_after_the_commit() {
    let mut b = Bench::new();
    let id = b.submit(one_op(json!({})));
    let owner = b.go(id);
    b.step(Event::Reported(Box::new(report(owner, 1, &[Status::Success]))));
    let confirmed = |b: &Bench| b.actions.iter().any(|a| matches!(a, Action::Confirm { .. }));
    assert!(!confirmed(&b) && b.status(id) == Status::Queued);
    b.commit();
    assert!(confirmed(&b) && b.status(id) == Status::Success);
    assert_eq!(b.op(id, 0).result, json!(owner.to_string()));
    assert!(b.job(id).end_timestamp.is_some());
    assert!(b.actions.iter().any(|a| matches!(a, Action::Clean(o) if *o == owner)));
}

#[test]
fn the_same_outcome_again_is_answered_alike() {
    let mut b = Bench::new();
    let id = b.submit(one_op(json!({})));
    let owner = b.go(id);
    let confirmed = |b: &Bench, wanted: u64| {
        b.actions.iter().any(|a| matches!(a, Action::Confirm { number, .. } if *number == wanted))
    };
    b.step(Event::Reported(Box::new(report(owner, 1, &[Status::Success]))));
    b.step(Event::Reported(Box::new(report(owner, 2, &[Status::Success]))));
    assert!(!confirmed(&b, 2), "not before the first is stored");
    b.commit();
    assert!(confirmed(&b, 1) && confirmed(&b, 2));
    let end = b.job(id).clone();
    assert_eq!(b.asked(Request::Archive(id)), Ok(Answer::Archived(true)));
    b.reported(report(owner, 3, &[Status::Error]));
    assert!(confirmed(&b, 3), "also when it is in the archive");
    assert_eq!(b.archived[&id].ops, end.ops, "and changes nothing");
}

#[test]
fn a_final_job_is_shown_when_the_mirror_has_what_it_saw() {
    let mut b = Bench::new();
    let id = b.submit(one_op(json!({})));
    let owner = b.go(id);
    b.reported(Report { seen_w: 40, ..report(owner, 1, &[Status::Success]) });
    assert_eq!(b.status(id), Status::Queued);
    b.step(Event::MirrorAt(39));
    assert_eq!(b.status(id), Status::Queued);
    b.step(Event::MirrorAt(40));
    assert_eq!(b.status(id), Status::Success);
}

#[test]
fn death_without_a_word_is_an_error_and_wconfd_hears_of_it_at_once() {
    let mut b = Bench::new();
    let id = b.submit(new_job(&[delay_op(json!({})), delay_op(json!({})), delay_op(json!({}))]));
    let owner = b.go(id);
    b.reported(report(owner, 1, &[Status::Success, Status::Running, Status::Queued]));
    b.step(Event::Dead(owner, None));
    assert!(b.actions.iter().any(|a| matches!(a, Action::OwnerGone(o) if *o == owner)), "before the commit");
    b.commit();
    assert_eq!(b.status(id), Status::Error);
    assert_eq!(b.op(id, 0).status, Status::Success, "what was finished stays");
    for index in [1, 2] {
        assert_eq!(b.op(id, index).result, json!(format!("detected death of job {id}")));
        let trail = b.op(id, index).input["reason"].as_array().unwrap();
        assert_eq!(trail.last().unwrap()[0], "gnt:daemon:luxid:deathdetection");
    }
}

#[test]
fn a_spool_file_outranks_the_death() {
    let mut b = Bench::new();
    let id = b.submit(one_op(json!({})));
    let owner = b.go(id);
    b.step(Event::Dead(owner, Some(Box::new(report(owner, 1, &[Status::Success])))));
    let cleaned = |b: &Bench| b.actions.iter().any(|a| matches!(a, Action::Clean(_)));
    assert!(!cleaned(&b), "the file stays until what it says is stored");
    b.commit();
    assert!(cleaned(&b) && b.status(id) == Status::Success);
}

#[test]
fn never_began_means_queued_again_under_a_new_start() {
    let mut b = Bench::new();
    let id = b.submit(one_op(json!({})));
    let first = b.go(id);
    let spool = Report { outcome: Outcome::NeverBegan, ..report(first, 1, &[Status::Queued]) };
    b.step(Event::Dead(first, Some(Box::new(spool))));
    b.commit();
    let second = b.spawned(id);
    assert!(second.start > first.start);
    b.reported(report(first, 9, &[Status::Error]));
    assert_eq!(b.status(id), Status::Queued, "the old start has no say");
    b.run(id, &[Status::Success]);
    assert_eq!(b.status(id), Status::Success);
}

#[test]
fn a_process_lost_before_go_costs_nothing() {
    let mut b = Bench::new();
    let id = b.submit(one_op(json!({})));
    let first = b.spawned(id);
    b.step(Event::StartFailed(first, "killed".to_owned()));
    let second = b.spawned(id);
    assert_ne!(first, second);
    b.step(Event::Ready(second, process(1)));
    b.step(Event::StartFailed(second, "killed".to_owned()));
    b.commit();
    let third = b.spawned(id);
    assert!(!b.went(second) && third != second, "a start that fell out while storing hears no go");
    b.run(id, &[Status::Success]);
    assert_eq!(b.status(id), Status::Success);
}

#[test]
fn a_job_that_cant_start_ends_in_error() {
    let mut b = Bench::new();
    let id = b.submit(one_op(json!({})));
    for _ in 0..STARTS_FAILED_MAX {
        let owner = b.spawned(id);
        b.step(Event::StartFailed(owner, "no such file".to_owned()));
        b.commit();
    }
    assert_eq!(b.status(id), Status::Error);
    assert_eq!(b.op(id, 0).result, json!(format!("can't start the process of job {id}: no such file")));
}

#[test]
fn reports_add_up() {
    let mut b = Bench::new();
    let id = b.submit(new_job(&[delay_op(json!({})), delay_op(json!({}))]));
    let owner = b.go(id);
    let line = |serial| LogEntry(serial, Ts(1, 1), "message".to_owned(), json!(format!("m{serial}")));
    let mut first = report(owner, 1, &[Status::Running, Status::Queued]);
    first.ops[0].log = vec![line(1), line(2)];
    b.reported(first);
    assert_eq!(b.status(id), Status::Running);
    let mut second = report(owner, 2, &[Status::Success, Status::Waiting]);
    second.ops[0].log = vec![line(2), line(3)];
    b.reported(second);
    let serials: Vec<u64> = b.op(id, 0).log.iter().map(|l| l.0).collect();
    assert_eq!(serials, [1, 2, 3]);
    assert_eq!(b.status(id), Status::Waiting);
    b.reported(report(owner, 1, &[Status::Running, Status::Queued]));
    assert_eq!(b.status(id), Status::Waiting, "an older report says nothing new");
    let confirms: Vec<_> = b
        .actions
        .iter()
        .filter_map(|a| match a {
            Action::Confirm { number, log_serial, .. } => Some((*number, *log_serial)),
            _ => None,
        })
        .collect();
    assert_eq!(confirms, [(1, 2), (2, 3)]);
}

#[test]
fn a_log_keeps_a_mebibyte_and_says_what_is_missing() {
    let mut b = Bench::new();
    let id = b.submit(one_op(json!({})));
    let owner = b.go(id);
    for number in 1..=30 {
        let mut part = report(owner, number, &[Status::Running]);
        let text = "x".repeat(100_000);
        part.ops[0].log = vec![LogEntry(number, Ts(1, 1), "message".to_owned(), json!(text))];
        b.reported(part);
    }
    let log = &b.op(id, 0).log;
    assert!(log[0].3.as_str().unwrap().contains("dropped"));
    assert_eq!(log.last().unwrap().0, 30);
    assert!(log.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0), "no gap behind the note");
    assert!(log.iter().map(|l| l.3.as_str().unwrap().len()).sum::<usize>() <= 1 << 20);
}

#[test]
fn a_report_never_stores_a_secret() {
    let mut b = Bench::new();
    let op = json!({"OP_ID": "OP_NODE_ADD", "node_name": "n1", "join_secret": "hush", "reason": []});
    let id = b.submit(new_job(&[op]));
    let owner = b.go(id);
    let Some(Action::Go { ops, .. }) = b.actions.iter().find(|a| matches!(a, Action::Go { .. })) else {
        panic!("no go")
    };
    assert_eq!(ops[0].input["join_secret"], "hush", "the job gets it");
    let mut part = report(owner, 1, &[Status::Running]);
    part.ops[0].input = Some(ops[0].input.clone());
    b.reported(part);
    for (_, body) in b.rows.values() {
        assert!(!String::from_utf8_lossy(body).contains("hush"));
    }
}

#[test]
fn a_queued_job_whose_secrets_are_gone_ends_in_error() {
    let mut b = Bench::new();
    b.step(Event::MaxRunning(0));
    let op = json!({"OP_ID": "OP_NODE_ADD", "node_name": "n1", "join_secret": "hush", "reason": []});
    let id = b.submit(new_job(&[op, delay_op(json!({}))]));
    b.restart(1, 2);
    b.commit();
    assert_eq!(b.status(id), Status::Error);
    assert!(b.op(id, 0).result[1][0].as_str().unwrap().contains("submit it again"));
    assert_eq!(b.op(id, 1).result, json!(["OpExecError", ["Preceding opcode failed"]]));
}

#[test]
fn a_new_run_adopts_what_runs_and_queues_the_rest() {
    let mut b = Bench::new();
    let running = b.submit(one_op(json!({})));
    let owner = b.go(running);
    b.step(Event::MaxRunning(1));
    let queued = b.submit(one_op(json!({})));
    b.restart(1, 2);
    assert!(b.actions.iter().any(|a| matches!(a, Action::Adopt { owner: o, .. } if *o == owner)));
    assert_eq!(b.queue.owners(), [owner]);
    assert!(b.is_spawned(queued) && !b.is_spawned(running));
    assert_eq!(b.spawned(queued).start.run, 2, "a new run never repeats a start number");
    b.reported(report(owner, 5, &[Status::Success]));
    assert_eq!(b.status(running), Status::Success);
}

#[test]
fn a_new_epoch_ends_what_ran() {
    let mut b = Bench::new();
    let id = b.submit(one_op(json!({})));
    let owner = b.go(id);
    b.restart(2, 1);
    assert_eq!(b.status(id), Status::Error);
    assert!(b.queue.owners().is_empty());
    assert!(b.actions.iter().any(|a| matches!(a, Action::OwnerGone(o) if *o == owner)));
}

#[test]
fn a_killed_start_is_not_begun_again() {
    let mut b = Bench::new();
    let id = b.submit(one_op(json!({})));
    let owner = b.go(id);
    b.ask(Request::Cancel { job: id, kill: true });
    b.step(Event::StartFailed(owner, "killed".to_owned()));
    b.commit();
    assert_eq!(b.op(id, 0).result, json!(format!("detected death of job {id}")));
}

#[test]
fn every_job_fits_a_row_of_the_log() {
    let mut b = Bench::new();
    let wide = || delay_op(json!({"comment": "x".repeat(250_000)}));
    let id = b.submit(new_job(&[wide(), wide(), wide(), wide()]));
    let owner = b.go(id);
    for number in 1..=9 {
        let mut part = report(owner, number, &[Status::Running; 4]);
        part.ops[0].log = vec![LogEntry(number, Ts(1, 1), "message".to_owned(), json!("y".repeat(100_000)))];
        b.reported(part);
    }
    let mut part = report(owner, 10, &[Status::Success; 4]);
    for op in &mut part.ops {
        op.result = json!("z".repeat(1_000_000));
    }
    b.reported(part);
    assert_eq!(b.status(id), Status::Success);
    assert!(b.rows.values().all(|(_, body)| body.len() < 3 << 20));
}
