//! `gnt-task info`: everything that is known of tasks.

use super::file::DRAWN;
use super::query;
use crate::error::{CliError, EXIT_FAILURE};
use crate::output::info::Info;
use crate::output::text::safe;
use crate::output::time::from_ts;
use crate::session::Session;
use gantry_model::task::{Attempt, Step, StepResult, Task, TaskResult};
use gantry_model::time::Ts;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

/// Shows tasks; those that do not exist are told and make the command fail.
///
/// # Errors
/// The server's; a task that does not exist.
pub async fn run(session: &mut Session, tasks: &[u64], json: bool) -> Result<(), CliError> {
    let (mut found, mut missing): (Vec<(Task, Value)>, bool) = (Vec::new(), false);
    for task in tasks {
        match query(session, *task).await? {
            Some((record, _, raw)) => found.push((record, raw)),
            None => {
                missing = true;
                session.screen.note(&format!("Task {task} not found"));
            }
        }
    }
    if json {
        let all: Vec<&Value> = found.iter().map(|(_, raw)| raw).collect();
        session.screen.line(&json!(all).to_string())?;
    } else if !found.is_empty() {
        let all = found.iter().map(|(task, _)| task_info(task, &session.zone)).collect();
        session.screen.raw(&Info::List(all).render())?;
    }
    if missing { Err(CliError::Told(EXIT_FAILURE)) } else { Ok(()) }
}

fn text(text: &str) -> Info {
    Info::text(if text.is_empty() { "-".to_owned() } else { safe(text) })
}

fn at(ts: Option<Ts>, zone: &TimeZone) -> Info {
    Info::text(ts.map_or_else(|| "-".to_owned(), |ts| from_ts(&json!(ts), zone)))
}

#[allow(clippy::cast_precision_loss, reason = "shown with a few digits")]
fn seconds(count: u64, per_second: f64) -> String {
    format!("{:.3} s", count as f64 / per_second)
}

/// Bytes in the units of the limits beside them.
#[allow(clippy::cast_precision_loss, reason = "shown with a few digits")]
fn size(bytes: u64) -> String {
    let kib = bytes as f64 / 1024.0;
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{kib:.1} KiB"),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", kib / 1024.0),
        _ => format!("{:.1} GiB", kib / 1_048_576.0),
    }
}

fn task_info(task: &Task, zone: &TimeZone) -> Info {
    let spec = &task.spec;
    let limits = &spec.limits;
    let mut pieces = vec![
        ("Task", Info::text(task.id.to_string())),
        ("Name", text(&spec.name)),
        ("Status", Info::text(task.state.as_str())),
        ("Why", text(task.why.as_deref().unwrap_or_default())),
        ("Pool", text(&spec.pool)),
        ("User", text(&spec.user)),
        ("Key", text(spec.key.as_deref().filter(|key| !key.starts_with(DRAWN)).unwrap_or_default())),
        ("Labels", text(&spec.labels.iter().cloned().collect::<Vec<_>>().join(","))),
        ("Priority", Info::text(spec.priority.to_string())),
        ("Received", at(Some(task.received), zone)),
        ("Started", at(task.start, zone)),
        ("Ended", at(task.end, zone)),
        (
            "Input",
            Info::text(
                spec.input
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), |b| format!("{}, sha256 {}", size(b.bytes), b.digest)),
            ),
        ),
        (
            "Limits",
            Info::text(format!(
                "wall {} s, cpu {} s, memory {} MiB, {} processes, disk {} MiB, output {} KiB",
                limits.wall_s,
                limits.cpu_s,
                limits.memory_mib,
                limits.pids,
                limits.disk_mib,
                limits.output_kib
            )),
        ),
        ("Commands", Info::List(spec.compile.iter().chain(&spec.execute).map(step_asked).collect())),
        (
            "Attempts",
            Info::List(task.attempts.iter().map(|a| attempt_info(a, spec.max_attempts, zone)).collect()),
        ),
    ];
    if let Some(of) = task.rerun_of {
        pieces.insert(2, ("Runs again", Info::text(format!("task {of}"))));
    }
    if let Some(result) = &task.result {
        pieces.extend(result_info(result, spec.compile.is_some()));
    }
    Info::Named(pieces.into_iter().map(|(name, info)| (name.to_owned(), info)).collect())
}

fn step_asked(step: &Step) -> Info {
    let name = if step.name.is_empty() { String::new() } else { format!("{}: ", step.name) };
    Info::text(safe(&format!("{name}{}", step.command)))
}

fn attempt_info(attempt: &Attempt, max: u32, zone: &TimeZone) -> Info {
    let outcome = attempt.outcome.map_or("under way", |outcome| outcome.as_str());
    Info::named([
        ("Attempt", Info::text(format!("{} of {max}", attempt.number))),
        ("Outcome", Info::text(outcome)),
        ("Why", text(attempt.why.as_deref().unwrap_or_default())),
        ("Slot", text(&attempt.slot_name)),
        ("Lease", Info::text(attempt.lease.to_string())),
        ("Job", Info::text(attempt.job.map_or_else(|| "-".to_owned(), |job| job.to_string()))),
        ("Started", at(attempt.start, zone)),
        ("Ended", at(attempt.end, zone)),
    ])
}

fn result_info(result: &TaskResult, compiled: bool) -> Vec<(&'static str, Info)> {
    let first = usize::from(!compiled);
    let steps = result.steps.iter().enumerate().map(|(i, step)| step_info(step, i + first)).collect();
    let artifacts =
        result.artifacts.iter().map(|a| Info::text(safe(&format!("{} ({})", a.path, size(a.bytes)))));
    let mut pieces = vec![
        ("Steps", Info::List(steps)),
        (
            "Use",
            Info::text(format!(
                "wall {}, cpu {}, memory {}, i/o {}",
                seconds(result.wall_ms, 1e3),
                seconds(result.cpu_us, 1e6),
                size(result.memory_peak_bytes),
                size(result.io_bytes)
            )),
        ),
    ];
    if artifacts.len() > 0 {
        pieces.push(("Artifacts", Info::List(artifacts.collect())));
    }
    if result.unnamed > 0 {
        pieces.push(("Artifacts not listed", Info::text(result.unnamed.to_string())));
    }
    if result.refused > 0 {
        pieces.push(("Artifacts left out", Info::text(result.refused.to_string())));
    }
    pieces
}

fn step_info(step: &StepResult, number: usize) -> Info {
    let why = match (step.exit, step.signal) {
        (Some(code), _) => format!("{} ({code})", step.why.as_str()),
        (None, Some(signal)) => format!("{} ({signal})", step.why.as_str()),
        (None, None) => step.why.as_str().to_owned(),
    };
    let number = number.to_string();
    let named = if step.name == number { number } else { format!("{number} {}", step.name) };
    let cut = if step.truncated { ", cut" } else { "" };
    Info::named([
        ("Step", Info::text(safe(&named))),
        ("End", Info::text(why)),
        (
            "Use",
            Info::text(format!(
                "wall {}, cpu {}, memory {}",
                seconds(step.wall_ms, 1e3),
                seconds(step.cpu_us, 1e6),
                size(step.memory_peak_bytes)
            )),
        ),
        ("Output", Info::text(format!("{} out, {} err{cut}", size(step.out.bytes), size(step.err.bytes)))),
    ])
}
