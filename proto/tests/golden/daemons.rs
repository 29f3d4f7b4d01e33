//! The small services: admin, boot, job.

use crate::sheet::{Sheet, ids};
use gantry_model::ids::JobOwner;
use gantry_model::job::{LogEntry, OpReport, Outcome, Report, Status};
use gantry_model::time::Ts;
use gantry_proto::codec::Json;
use gantry_proto::{admin, boot, job};
use serde_json::{Map, Value, json};

#[test]
fn admin_keeps_its_bytes() {
    let health = admin::HealthReply {
        name: "luxid".to_owned(),
        ready: false,
        why: "wconfd".to_owned(),
        release: "0.1.0".to_owned(),
        pid: 4_000_000,
        uptime_ms: 12,
    };
    let mut sheet = Sheet::new("admin");
    sheet.verb::<admin::Health>(&[()], &[], &[health]);
    sheet.verb::<admin::Metrics>(&[()], &[], &["# EOF\n".to_owned()]);
    sheet.verb::<admin::LogLevel>(&["info".to_owned()], &[], &[()]);
    sheet.covers(admin::VERBS);
    sheet.check();
}

#[test]
fn boot_keeps_its_bytes() {
    use boot::DaemonState::{Off, Ready, Starting, Stopped, Waiting};
    let statuses = [Off, Stopped, Starting, Ready, Waiting].map(|state| boot::DaemonStatus {
        name: "noded".to_owned(),
        state,
        held: state == Waiting,
        pid: (state == Ready).then_some(7),
        starts: 300,
        why: String::new(),
    });
    let names = || [vec![], vec!["luxid".to_owned(), "wconfd".to_owned()]];
    let mut sheet = Sheet::new("boot");
    sheet.verb::<boot::Status>(&[()], &[], &[statuses.to_vec()]);
    sheet.verb::<boot::Start>(&names(), &[], &[()]);
    sheet.verb::<boot::Stop>(&names(), &[], &[()]);
    sheet.verb::<boot::Shutdown>(&[()], &[], &[()]);
    sheet.verb::<boot::Hold>(&names(), &[], &[()]);
    let failover = boot::FailoverRequest {
        look: true,
        no_voting: false,
        ignore_offline: true,
        patience_ms: Some(1_500),
    };
    let lines = [boot::FailoverLine { text: "node2 answers".to_owned() }];
    let ends = [None, Some(70_000)].map(|epoch| boot::FailoverReply { epoch });
    sheet.verb::<boot::Failover>(&[failover], &lines, &ends);
    sheet.covers(boot::VERBS);
    sheet.check();
}

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("no object: {other}"),
    }
}

fn report(outcome: Outcome) -> Json<Report> {
    let op = OpReport {
        status: Status::Running,
        result: Value::Null,
        priority: -5,
        input: Some(map(json!({"OP_ID": "OP_TEST_DELAY"}))),
        start: Some(Ts(1, 2)),
        exec: Some(Ts(3, 4)),
        end: None,
        log: vec![LogEntry(1, Ts(5, 6), "message".to_owned(), json!("text"))],
    };
    Json::of(&Report {
        owner: ids::OWNER,
        number: 9,
        outcome,
        ops: vec![op],
        seen_w: 10,
        stage: Some(gantry_model::task::TaskState::Running),
    })
    .expect("JSON")
}

#[test]
fn job_keeps_its_bytes() {
    let statuses = [
        Status::Queued,
        Status::Waiting,
        Status::Canceling,
        Status::Running,
        Status::Canceled,
        Status::Success,
        Status::Error,
    ];
    let op = |status| job::GoOp {
        input: map(json!({"OP_ID": "OP_TEST_DELAY"})),
        priority: -5,
        status,
        result: json!([1, null]),
    };
    let go = job::GoRequest {
        owner: ids::OWNER,
        cluster: ids::CLUSTER,
        master: ids::NODE,
        fence: ids::FENCE,
        ops: Json::of(&statuses.map(op).to_vec()).expect("JSON"),
        next_serial: 3,
    };
    let reports = || [report(Outcome::Underway), report(Outcome::Ended), report(Outcome::NeverBegan)];
    let mut sheet = Sheet::new("job");
    sheet.verb::<job::Go>(&[go], &reports(), &[()]);
    sheet.verb::<job::Attach>(&[ids::OWNER], &reports(), &[()]);
    sheet.verb::<job::Confirm>(&[job::ConfirmRequest { number: 9, log_serial: 1 }], &[], &[()]);
    sheet.verb::<job::Cancel>(&[()], &[], &[()]);
    sheet.verb::<job::SetPriority>(&[-20, 19], &[], &[()]);
    sheet.verb::<job::Ping>(&[()], &[], &[ids::OWNER]);
    sheet.covers(job::VERBS);
    sheet.check();
}

#[test]
fn the_ready_line_keeps_its_text() {
    let line = serde_json::to_string(&job::Ready { pid: 7 }).expect("JSON");
    assert_eq!(line, r#"{"pid":7}"#);
    let owner: JobOwner = ids::OWNER;
    assert_eq!(owner.to_string(), "300.7-70000-5000000000");
}
