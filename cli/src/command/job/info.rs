//! `gnt-job info`: everything that is known of jobs.

use crate::error::{CliError, EXIT_FAILURE};
use crate::output::info::Info;
use crate::output::text::plain;
use crate::output::time::{between, from_ts};
use crate::session::Session;
use gantry_model::opcode::OP_ID;
use serde_json::{Value, json};

const INFO_FIELDS: [&str; 12] = [
    "id",
    "status",
    "ops",
    "opresult",
    "opstatus",
    "oplog",
    "opstart",
    "opexec",
    "opend",
    "received_ts",
    "start_ts",
    "end_ts",
];

/// Shows jobs; those that do not exist are told and make the command fail.
///
/// # Errors
/// The server's; a job that does not exist.
pub async fn run(session: &mut Session, jobs: &[u64], json: bool) -> Result<(), CliError> {
    let by_id: Vec<Value> = jobs.iter().map(|job| json!(["==", "id", job])).collect();
    let filter: Value = [json!("|")].into_iter().chain(by_id).collect();
    let answer = session.call("Query", json!(["job", INFO_FIELDS, filter])).await?;
    let rows = answer["data"].as_array().cloned().unwrap_or_default();
    let mut missing = false;
    let mut shown = Vec::new();
    for row in rows {
        let values: Vec<Value> = row.as_array().into_iter().flatten().map(|cell| cell[1].clone()).collect();
        if row[1][0] == 0 {
            shown.push(Value::Array(values));
        } else {
            missing = true;
            session.screen.note(&format!("Job ID {} not found", plain(&row[0][1])));
        }
    }
    if json {
        session.screen.line(&crate::command::node::named_rows(&INFO_FIELDS, &shown).to_string())?;
    } else if !shown.is_empty() {
        let all = shown.iter().map(|job| job_info(job, &session.zone)).collect();
        session.screen.raw(&Info::List(all).render())?;
    }
    if missing { Err(CliError::Told(EXIT_FAILURE)) } else { Ok(()) }
}

fn job_info(row: &Value, zone: &jiff::tz::TimeZone) -> Info {
    let (received, start, end) = (&row[9], &row[10], &row[11]);
    let delta = |from: &Value, to: &Value| {
        between(from, to).map_or_else(String::new, |d| format!(" (delta {d:.6}s)"))
    };
    let stage = |at: &Value, from: &Value| match at {
        Value::Null => Info::text("unknown (None)"),
        at => Info::text(format!("{}{}", from_ts(at, zone), delta(from, at))),
    };
    let total = between(received, end).map_or_else(|| "N/A".to_owned(), |d| format!("{d:.6} seconds"));
    let count = row[2].as_array().map_or(0, Vec::len);
    Info::named([
        ("Job ID", Info::text(plain(&row[0]))),
        ("Status", Info::text(plain(&row[1]))),
        ("Received", Info::text(from_ts(received, zone))),
        ("Processing start", stage(start, received)),
        ("Processing end", stage(end, start)),
        ("Total processing time", Info::text(total)),
        ("Opcodes", Info::List((0..count).map(|at| opcode_info(row, at, zone)).collect())),
    ])
}

fn opcode_info(row: &Value, at: usize, zone: &jiff::tz::TimeZone) -> Info {
    let mut input = row[2][at].as_object().cloned().unwrap_or_default();
    let id = input.remove(OP_ID).unwrap_or(Value::Null);
    let time = |field: usize| Info::text(from_ts(&row[field][at], zone));
    let log = row[5][at].as_array().into_iter().flatten();
    Info::named([
        ("Opcode", Info::text(plain(&id))),
        ("Status", Info::text(plain(&row[4][at]))),
        ("Processing start", time(6)),
        ("Execution start", time(7)),
        ("Processing end", time(8)),
        ("Input fields", Info::from(&input)),
        ("Result", Info::from(&row[3][at])),
        ("Execution log", Info::List(log.map(|entry| log_info(entry, zone)).collect())),
    ])
}

fn log_info(entry: &Value, zone: &jiff::tz::TimeZone) -> Info {
    let content = format!("{}: {} {}", plain(&entry[0]), plain(&entry[2]), plain(&entry[3]));
    Info::named([("Time", Info::text(from_ts(&entry[1], zone))), ("Content", Info::text(content))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_shown_in_full() {
        let row = json!([
            7, "success", [{"OP_ID": "OP_TEST_DELAY", "duration": 1.5, "on_nodes": []}], [null], ["success"],
            [[[1, [10, 5], "message", "hello"]]], [[10, 0]], [[10, 1]], [[12, 0]], [9, 0], [10, 0], [12, 250_000]
        ]);
        let want = "\
- Job ID: 7
  Status: success
  Received: 1970-01-01 00:00:09.000000
  Processing start: 1970-01-01 00:00:10.000000 (delta 1.000000s)
  Processing end: 1970-01-01 00:00:12.250000 (delta 2.250000s)
  Total processing time: 3.250000 seconds
  Opcodes: 
    - Opcode: OP_TEST_DELAY
      Status: success
      Processing start: 1970-01-01 00:00:10.000000
      Execution start: 1970-01-01 00:00:10.000001
      Processing end: 1970-01-01 00:00:12.000000
      Input fields: 
        duration: 1.5
        on_nodes: 
      Result: None
      Execution log: 
        - Time: 1970-01-01 00:00:10.000005
          Content: 1: message hello
";
        assert_eq!(Info::List(vec![job_info(&row, &jiff::tz::TimeZone::UTC)]).render(), want);
    }

    #[test]
    fn a_queued_job_has_no_times_yet() {
        let row = json!([7, "queued", [{"OP_ID": "X"}], [null], ["queued"], [[]], [null], [null], [null], [9, 0], null, null]);
        let text = Info::List(vec![job_info(&row, &jiff::tz::TimeZone::UTC)]).render();
        assert!(
            text.contains("Processing start: unknown (None)\n") && text.contains("time: N/A\n"),
            "{text}"
        );
    }
}
