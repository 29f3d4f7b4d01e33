//! The real program, with this test in luxid's place (P4.1 to P4.4).

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod bed;
mod crash;
mod guest;
mod luxid;
mod master;
mod nursery;
mod pool;
mod slot;
mod task;
mod turn_over;

use gantry_model::ids::{JobId, JobOwner, StartNo};
use gantry_model::job::{Outcome, Report, Status};
use gantry_proto::envelope::Code;
use gantry_proto::job::{Attach, Cancel, Confirm, ConfirmRequest, Go, SetPriority};
use gantry_rpc::{CallError, Event, Stream};
use luxid::{Luxid, delay, go, last_of};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

fn start(counter: u64) -> JobOwner {
    JobOwner { job: JobId(7), start: StartNo { epoch: 1, run: 2, counter } }
}

/// The next report that satisfies `wanted`.
async fn report<V>(stream: &mut Stream<V>, wanted: impl Fn(&Report) -> bool) -> Report
where
    V: gantry_proto::verb::Verb<Item = gantry_proto::codec::Json<Report>, Reply = ()>,
{
    let next = async {
        loop {
            match stream.next().await.expect("the job lives") {
                Event::Item(item) => {
                    let report = item.read().expect("a report");
                    if wanted(&report) {
                        return report;
                    }
                }
                Event::End(()) => panic!("ended before the report came"),
            }
        }
    };
    tokio::time::timeout(SOON, next).await.expect("the report comes")
}

#[tokio::test]
async fn a_job_runs_reports_and_leaves_when_its_outcome_is_known() {
    let mut luxid = Luxid::new();
    let mut job = luxid.spawn(start(1)).await;
    let client = luxid.connect(start(1)).await;
    let mut stream = client.open::<Go>(&go(start(1), &[delay(0.0), delay(0.01)])).await.unwrap();
    let last = report(&mut stream, |report| report.outcome == Outcome::Ended).await;
    assert_eq!(last.ops.iter().map(|op| op.status).collect::<Vec<_>>(), [Status::Success; 2]);
    assert!(job.child.try_wait().unwrap().is_none(), "it stays until its outcome is confirmed");
    let confirm = ConfirmRequest { number: last.number, log_serial: 0 };
    client.call::<Confirm>(&confirm, SOON).await.unwrap();
    assert!(matches!(stream.next().await, Ok(Event::End(()))));
    drop((stream, client));
    assert!(job.exit().await.success());
    assert!(!luxid.root.job_socket(start(1)).exists(), "its socket is gone");
    assert!(last_of(&luxid.root, start(1)).is_none(), "nothing was spooled");
}

#[tokio::test]
async fn luxid_gone_before_go_means_nothing_was_done() {
    let mut luxid = Luxid::new();
    let mut job = luxid.spawn(start(1)).await;
    drop(job.line.take());
    assert!(!job.exit().await.success());
    let spooled = last_of(&luxid.root, start(1)).expect("a spool file");
    assert_eq!((spooled.outcome, spooled.owner), (Outcome::NeverBegan, start(1)));
}

#[tokio::test]
async fn luxid_gone_while_the_job_waits_for_go_on_a_connection() {
    let mut luxid = Luxid::new();
    let mut job = luxid.spawn(start(1)).await;
    let client = luxid.connect(start(1)).await;
    let early = client.call::<Cancel>(&(), SOON).await;
    assert!(matches!(early, Err(CallError::Fail(fail)) if fail.code == Code::NotReady));
    drop((client, job.line.take()));
    job.exit().await;
    assert_eq!(last_of(&luxid.root, start(1)).expect("a spool file").outcome, Outcome::NeverBegan);
}

#[tokio::test]
async fn a_job_that_ends_while_luxid_is_away_leaves_its_report() {
    let mut luxid = Luxid::new();
    let mut job = luxid.spawn(start(1)).await;
    let client = luxid.connect(start(1)).await;
    let mut stream = client.open::<Go>(&go(start(1), &[delay(0.3)])).await.unwrap();
    report(&mut stream, |report| report.ops[0].status == Status::Running).await;
    drop((stream, job.line.take()));
    client.close();
    assert!(job.exit().await.success());
    let spooled = last_of(&luxid.root, start(1)).expect("a spool file");
    assert_eq!((spooled.outcome, spooled.ops[0].status), (Outcome::Ended, Status::Success));
}

#[tokio::test]
async fn a_restarted_luxid_attaches_and_gets_the_whole_report() {
    let mut luxid = Luxid::new();
    let mut job = luxid.spawn(start(1)).await;
    let client = luxid.connect(start(1)).await;
    let mut stream = client.open::<Go>(&go(start(1), &[delay(1.0)])).await.unwrap();
    report(&mut stream, |report| report.ops[0].status == Status::Running).await;
    drop((stream, job.line.take()));
    client.close();
    let client = luxid.connect(start(1)).await;
    let wrong = client.open::<Attach>(&start(9)).await.unwrap().next().await;
    assert!(matches!(wrong, Err(CallError::Fail(fail)) if fail.code == Code::Stale));
    let mut stream = client.open::<Attach>(&start(1)).await.unwrap();
    let last = report(&mut stream, |report| report.outcome == Outcome::Ended).await;
    let confirm = ConfirmRequest { number: last.number, log_serial: 0 };
    client.call::<Confirm>(&confirm, SOON).await.unwrap();
    drop((stream, client));
    assert!(job.exit().await.success());
    assert!(last_of(&luxid.root, start(1)).is_none());
}

#[tokio::test]
async fn an_old_start_does_not_take_the_place_of_a_new_one() {
    let mut luxid = Luxid::new();
    let (old, new) = (luxid.spawn(start(1)).await, luxid.spawn(start(2)).await);
    assert!(luxid.root.job_socket(start(1)).exists() && luxid.root.job_socket(start(2)).exists());
    let client = luxid.connect(start(1)).await;
    let answer = client.open::<Go>(&go(start(2), &[delay(0.0)])).await.unwrap().next().await;
    assert!(matches!(answer, Err(CallError::Fail(fail)) if fail.code == Code::Stale));
    drop((old, new));
}

#[tokio::test]
async fn no_child_of_a_job_can_keep_its_socket() {
    let mut luxid = Luxid::new();
    let job = luxid.spawn(start(1)).await;
    let pid = job.child.id().unwrap();
    let mut sockets = 0;
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let entry = entry.unwrap();
        let number: u32 = entry.file_name().to_str().unwrap().parse().unwrap();
        // 0 is luxid's end of the pair; 1 and 2 are where words go.
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        if number <= 2 || !target.to_string_lossy().starts_with("socket:") {
            continue;
        }
        let facts = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap();
        let flags = facts.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        let flags = i32::from_str_radix(flags, 8).unwrap();
        assert_ne!(flags & nix::libc::O_CLOEXEC, 0, "descriptor {number} outlives an exec");
        sockets += 1;
    }
    assert!(sockets > 0, "the listening socket was looked at");
}

#[tokio::test]
async fn the_last_report_is_confirmed_also_when_a_priority_comes_after_it() {
    let mut luxid = Luxid::new();
    let mut job = luxid.spawn(start(1)).await;
    let client = luxid.connect(start(1)).await;
    let mut stream = client.open::<Go>(&go(start(1), &[delay(0.0)])).await.unwrap();
    let last = report(&mut stream, |report| report.outcome == Outcome::Ended).await;
    client.call::<SetPriority>(&5, SOON).await.unwrap();
    let confirm = ConfirmRequest { number: last.number, log_serial: 0 };
    client.call::<Confirm>(&confirm, SOON).await.unwrap();
    assert!(matches!(stream.next().await, Ok(Event::End(()))));
    drop((stream, client));
    assert!(job.exit().await.success());
}

#[tokio::test]
async fn cancel_ends_a_job_before_its_next_opcode() {
    let mut luxid = Luxid::new();
    let _job = luxid.spawn(start(1)).await;
    let client = luxid.connect(start(1)).await;
    let mut stream = client.open::<Go>(&go(start(1), &[delay(0.5), delay(600.0)])).await.unwrap();
    report(&mut stream, |report| report.ops[0].status == Status::Running).await;
    client.call::<Cancel>(&(), SOON).await.unwrap();
    let last = report(&mut stream, |report| report.outcome == Outcome::Ended).await;
    assert_eq!(last.ops[0].status, Status::Success);
    assert_eq!(last.ops[1].status, Status::Canceled);
    assert_eq!(last.ops[1].result, serde_json::json!("Job canceled by request"));
}

#[tokio::test]
async fn priorities_change_for_what_has_not_begun() {
    let mut luxid = Luxid::new();
    let _job = luxid.spawn(start(1)).await;
    let client = luxid.connect(start(1)).await;
    let mut stream = client.open::<Go>(&go(start(1), &[delay(0.3), delay(0.0)])).await.unwrap();
    report(&mut stream, |report| report.ops[0].status == Status::Running).await;
    client.call::<SetPriority>(&-10, SOON).await.unwrap();
    let last = report(&mut stream, |report| report.outcome == Outcome::Ended).await;
    assert_eq!((last.ops[0].priority, last.ops[1].priority), (0, -10));
}

#[tokio::test]
async fn an_opcode_that_is_not_there_yet_is_an_error_that_says_so() {
    let mut luxid = Luxid::new();
    let _job = luxid.spawn(start(1)).await;
    let client = luxid.connect(start(1)).await;
    let op = serde_json::json!({"OP_ID": "OP_BACKUP_EXPORT"});
    let mut stream = client.open::<Go>(&go(start(1), &[op, delay(0.0)])).await.unwrap();
    let last = report(&mut stream, |report| report.outcome == Outcome::Ended).await;
    assert_eq!(last.ops[0].result[0], "OpPrereqError");
    assert_eq!(last.ops[1].result, serde_json::json!(["OpExecError", ["Preceding opcode failed"]]));
}

#[tokio::test]
async fn started_by_hand_it_says_who_starts_it() {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_gantry-job")).output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("started by gantry-luxid"));
}
