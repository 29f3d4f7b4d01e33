//! Taking a job's cumulative report into what is stored (P4.4): statuses, results, times, the log with its
//! bound. What has ended does not change, whatever a report says.

use super::entry::Entry;
use gantry_model::job::{
    JOB_JSON_BYTES_MAX, Job, LogEntry, OpReport, OpState, PRIORITY_MAX, PRIORITY_MIN, Report,
};
use gantry_model::opcode::redact;
use gantry_model::time::Ts;
use serde_json::{Value, json};

/// What is counted for a log entry beside its message: serial, time, type, punctuation.
const ENTRY_BYTES: usize = 64;
/// What is left of a log that became too large: less than it may take, so that not every further entry
/// trims again.
const LOG_BYTES_TRIMMED: usize = JOB_JSON_BYTES_MAX / 4 * 3;

/// What is left of the log of a job that does not fit a row.
const LOG_BYTES_SHRUNK: usize = 64 << 10;
/// Results that stay in a job that does not fit a row even so: small ones.
const RESULT_BYTES_SHRUNK: usize = 256;

/// Takes a report in. Returns the highest serial when it brought log entries.
pub(super) fn take(entry: &mut Entry, report: &Report, now: Ts) -> Option<u64> {
    let known = last_serial(&entry.job);
    let mut bytes = entry.log_bytes;
    let job = entry.job_mut();
    job.seen_w = job.seen_w.max(report.seen_w);
    let mut done_before = true;
    for (op, part) in job.ops.iter_mut().zip(&report.ops) {
        for line in part.log.iter().filter(|line| line.0 > known) {
            bytes += size(line);
            op.log.push(line.clone());
        }
        // Opcodes run one after the other: behind the first that is not over nothing has happened yet.
        if done_before && !op.status.is_final() {
            take_op(op, part, now);
        }
        done_before &= part.status.is_final();
        if job.start_timestamp.is_none() {
            job.start_timestamp = op.start_timestamp;
        }
    }
    let newest = last_serial(job);
    if bytes > JOB_JSON_BYTES_MAX {
        bytes = trim(job, bytes, LOG_BYTES_TRIMMED);
    }
    entry.log_bytes = bytes;
    (newest > known).then_some(newest)
}

fn take_op(op: &mut OpState, part: &OpReport, now: Ts) {
    op.status = part.status;
    op.priority = part.priority.clamp(PRIORITY_MIN, PRIORITY_MAX);
    op.start_timestamp = part.start.or(op.start_timestamp);
    op.exec_timestamp = part.exec.or(op.exec_timestamp);
    if let Some(input) = &part.input {
        let mut input = input.clone();
        // The job knows the secrets; what is stored does not.
        drop(redact(&mut input));
        op.input = input;
    }
    if part.status.is_final() {
        op.end_timestamp = Some(part.end.unwrap_or(now));
        op.result = bounded(&part.result);
    }
}

/// The result, or a note in its place when it is larger than a row may be.
fn bounded(result: &Value) -> Value {
    let bytes = result.to_string().len();
    if bytes <= JOB_JSON_BYTES_MAX {
        return result.clone();
    }
    json!(format!(
        "the result was {bytes} bytes of JSON; only {JOB_JSON_BYTES_MAX} are kept, so it was dropped"
    ))
}

/// What to drop of a job that does not fit a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Log,
    Results,
}

/// Makes a job smaller that does not fit a row. Returns the size of its log.
pub(super) fn shrink(job: &mut Job, part: Part) -> usize {
    match part {
        Part::Log => trim(job, log_bytes(job), LOG_BYTES_SHRUNK),
        Part::Results => {
            for op in job.ops.iter_mut().filter(|op| op.result.to_string().len() > RESULT_BYTES_SHRUNK) {
                op.result =
                    json!("the result was dropped: the job's results took more than a row of the log");
            }
            log_bytes(job)
        }
    }
}

/// Drops the oldest log entries until the log takes `keep` bytes, and leaves a note in the place of the last one
/// dropped. Returns the new size.
fn trim(job: &mut Job, mut bytes: usize, keep: usize) -> usize {
    let mut last = None;
    for (index, op) in job.ops.iter_mut().enumerate() {
        let over = |line: &LogEntry| {
            let drop = bytes > keep;
            if drop {
                bytes -= size(line);
            }
            drop
        };
        let cut = op.log.iter().map(over).take_while(|drop| *drop).count();
        if let Some(line) = op.log.drain(..cut).next_back() {
            last = Some((index, line.0, line.1));
        }
    }
    let Some((index, serial, at)) = last else { return bytes };
    let text = format!("(older messages were dropped: a job keeps {JOB_JSON_BYTES_MAX} bytes of them)");
    let marker = LogEntry(serial, at, "message".to_owned(), json!(text));
    bytes += size(&marker);
    job.ops[index].log.insert(0, marker);
    bytes
}

fn size(line: &LogEntry) -> usize {
    let message = match &line.3 {
        Value::String(text) => text.len(),
        other => other.to_string().len(),
    };
    message + ENTRY_BYTES
}

/// Size of a job's log, for its bound.
pub(super) fn log_bytes(job: &Job) -> usize {
    job.ops.iter().flat_map(|op| &op.log).map(size).sum()
}

/// Highest serial in a job's log; 0 when there is none.
pub(super) fn last_serial(job: &Job) -> u64 {
    job.ops.iter().flat_map(|op| &op.log).map(|line| line.0).max().unwrap_or(0)
}
