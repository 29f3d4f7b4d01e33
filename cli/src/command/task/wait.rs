//! `gnt-task wait`: until tasks have ended.

use super::{failed, not_found, query, read, state_line};
use crate::error::{CliError, EXIT_FAILURE};
use crate::progress::Progress;
use crate::session::Session;
use gantry_model::task::{Task, TaskState};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// How long luxid waits for news of one task before the others are looked at, s.
const WAIT_S: u64 = 2;
/// The same when there are no others: LUXI's bound.
const WAIT_ALONE_S: u64 = 89;

/// A task as last seen.
struct Seen {
    task: Task,
    rev: u64,
    raw: Value,
}

/// Waits for tasks and says how they ended.
///
/// # Errors
/// A task that does not exist or did not succeed; Ctrl-C, which ends only the waiting.
pub async fn run(session: &mut Session, tasks: &[u64]) -> Result<(), CliError> {
    let seen = until_final(session, tasks).await?;
    for task in tasks {
        session.screen.line(&state_line(&seen[task].task))?;
    }
    judge(&seen)
}

/// As [`run`] for one task; with `json` the task is printed.
///
/// # Errors
/// As [`run`].
pub async fn one(session: &mut Session, task: u64, json: bool) -> Result<(), CliError> {
    let seen = until_final(session, &[task]).await?;
    if json {
        session.screen.line(&seen[&task].raw.to_string())?;
    } else {
        session.screen.line(&state_line(&seen[&task].task))?;
    }
    judge(&seen)
}

fn judge(seen: &BTreeMap<u64, Seen>) -> Result<(), CliError> {
    if seen.values().any(|seen| failed(seen.task.state)) { Err(CliError::Told(EXIT_FAILURE)) } else { Ok(()) }
}

async fn until_final(session: &mut Session, tasks: &[u64]) -> Result<BTreeMap<u64, Seen>, CliError> {
    let list = tasks.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
    let text = format!(
        "Aborted. The tasks go on in the background.\nWait for them with \"{}\", end them with \"{}\".",
        session.typed("task", &format!("wait {list}")),
        session.typed("task", &format!("cancel {list}"))
    );
    tokio::select! {
        done = poll(session, tasks) => done,
        _ = tokio::signal::ctrl_c() => Err(CliError::Interrupted(text)),
    }
}

async fn poll(session: &mut Session, tasks: &[u64]) -> Result<BTreeMap<u64, Seen>, CliError> {
    let mut progress = Progress::new(&session.screen);
    let mut seen = BTreeMap::new();
    for task in tasks {
        let (record, rev, raw) = query(session, *task).await?.ok_or_else(|| not_found(session, *task))?;
        seen.insert(*task, Seen { task: record, rev, raw });
    }
    loop {
        let open: Vec<u64> =
            seen.iter().filter(|(_, s)| !s.task.state.is_final()).map(|(id, _)| *id).collect();
        let Some(first) = open.first() else { return Ok(seen) };
        progress.say(&standing(&seen, &seen[first].task));
        let wait = if open.len() == 1 { WAIT_ALONE_S } else { WAIT_S };
        let answer = session.call("WaitForTaskChange", json!([first, seen[first].rev, wait])).await?;
        if let Some((task, rev, raw)) = read(answer)? {
            seen.insert(*first, Seen { task, rev, raw });
        }
        for id in &open[1..] {
            let (task, rev, raw) = query(session, *id).await?.ok_or_else(|| not_found(session, *id))?;
            seen.insert(*id, Seen { task, rev, raw });
        }
    }
}

/// One line of how all stand, and why the first open one does not go on.
fn standing(seen: &BTreeMap<u64, Seen>, first: &Task) -> String {
    if seen.len() == 1 {
        return state_line(first);
    }
    let mut counts: BTreeMap<TaskState, usize> = BTreeMap::new();
    for seen in seen.values() {
        *counts.entry(seen.task.state).or_default() += 1;
    }
    let counts: Vec<String> = counts.iter().map(|(state, n)| format!("{n} {}", state.as_str())).collect();
    format!("{} tasks: {}; {}", seen.len(), counts.join(", "), state_line(first))
}
