//! Tasks and keyed jobs over LUXI (ADR 0007).

use super::{Api, Result, strange, told};
use crate::core::admission;
use crate::core::queue::{self, Answer, KeyedJob};
use crate::io::blob::Held;
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::ids::{JobId, TaskId};
use gantry_model::pool::DISK_BYTES_PER_ENTRY;
use gantry_model::task::{BodyRef, Task, TaskSpec};
use serde_json::{Map, Value, json};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Most tasks of one `RerunTasks`.
const RERUN_MAX: usize = 1_000;
/// Most entries of one `SubmitKeyedJob`: a reconciler sends what it found in rounds.
const KEYED_MAX: usize = 1_000;

/// Directories that a machine has of its own, and some for those that an archive does not name.
const OWN_ENTRIES: u64 = 16;

/// `SubmitTask`.
pub(super) async fn submit(api: &Api, spec: Value) -> Result<TaskId> {
    let spec: TaskSpec = serde_json::from_value(spec)
        .map_err(|why| GanetiError::prereq(format!("the task can't be read: {why}"), Ecode::WrongInput))?;
    let refusal = admit(api, &spec).await.err();
    match api.inbox.ask(queue::Request::SubmitTask { spec: Box::new(spec), refusal }).await? {
        Answer::TaskSubmitted(id) => Ok(id),
        other => Err(strange(&other)),
    }
}

async fn admit(api: &Api, spec: &TaskSpec) -> Result<()> {
    admission::task(&api.config.snapshot(), spec)?;
    match &spec.input {
        Some(input) => input_fits(api, input, spec.limits.disk_mib << 20).await,
        None => Ok(()),
    }
}

/// The input must be in the body store before a record names it (P4.4), and be of use to a machine with so much room.
async fn input_fits(api: &Api, input: &BodyRef, room: u64) -> Result<()> {
    let broken = |error: std::io::Error| {
        let text = format!("can't look into the body store: {error}; look at the disk of the master");
        GanetiError::generic(text)
    };
    let BodyRef { digest, bytes } = input;
    // It stays long enough for the record to name it, however old it is.
    if api.store.keep(digest).await.map_err(broken)? != Some(*bytes) {
        let text = format!(
            "input {digest} of {bytes} bytes is not in the body store; upload it first, then submit the task again"
        );
        return Err(GanetiError::prereq(text, Ecode::UnknownEntity));
    }
    let why = match api.store.inspect(digest).await.map_err(broken)? {
        Ok(held) => match unfit(&held, room) {
            None => return Ok(()),
            Some(why) => why,
        },
        Err(why) => format!("{why}; it is to be a plain tar archive of regular files and directories"),
    };
    Err(GanetiError::prereq(format!("input {digest}: {why}"), Ecode::WrongInput))
}

/// Why a machine with so much room can't take what an archive holds.
fn unfit(held: &Held, room: u64) -> Option<String> {
    // A few are the machine's own.
    let entries = (room / DISK_BYTES_PER_ENTRY).saturating_sub(OWN_ENTRIES);
    if held.bytes > room {
        let files = held.bytes;
        return Some(format!("its files have {files} bytes, a machine has room for {room}: leave some out"));
    }
    if held.entries > entries {
        return Some(format!(
            "it has {} files and directories, limits.disk_mib of {} has room for {entries}: leave some out, or ask for more",
            held.entries,
            room >> 20
        ));
    }
    held.out_is_file
        .then(|| "'out' is a file, but artifacts are collected there: it must be a directory".to_owned())
}

/// `CancelTask`.
pub(super) async fn cancel(api: &Api, id: TaskId) -> Result<(bool, String)> {
    told(api.inbox.ask(queue::Request::CancelTask(id)).await?)
}

/// `RerunTasks`.
pub(super) async fn rerun(api: &Api, ids: Vec<TaskId>) -> Result<Vec<Value>> {
    if ids.len() > RERUN_MAX {
        let text = format!("{} tasks are too many for one call; at most {RERUN_MAX}", ids.len());
        return Err(GanetiError::prereq(text, Ecode::WrongInput));
    }
    let mut answers = vec![Value::Null; ids.len()];
    let mut good = Vec::new();
    for (at, id) in ids.into_iter().enumerate() {
        match may_rerun(api, id).await {
            Ok(()) => good.push((at, id)),
            Err(error) => answers[at] = json!([false, error.to_string()]),
        }
    }
    let ids = good.iter().map(|(_, id)| *id).collect();
    let Answer::TasksSubmitted(made) = api.inbox.ask(queue::Request::RerunTasks(ids)).await? else {
        return Err(strange(&Answer::Changed));
    };
    for ((at, _), made) in good.into_iter().zip(made) {
        answers[at] = match made {
            Ok(id) => json!([true, id]),
            Err(error) => json!([false, error.to_string()]),
        };
    }
    Ok(answers)
}

/// What was possible once may not be any more: pools change, and bodies are deleted in the end.
async fn may_rerun(api: &Api, id: TaskId) -> Result<()> {
    let Some((_, task)) = api.view.task(id) else {
        return Err(GanetiError::prereq(format!("there is no task {id}"), Ecode::UnknownEntity));
    };
    admit(api, &task.spec).await
}

/// `QueryTask`.
pub(super) fn query(api: &Api, id: TaskId) -> Value {
    api.view.task(id).map_or(Value::Null, |(rev, task)| shown(api, rev, &task))
}

/// A task as clients see it: why it waits is worked out now.
fn shown(api: &Api, rev: u64, task: &Task) -> Value {
    let mut value = json!(task);
    value["rev"] = json!(rev);
    let why = api.view.why_waiting(task.id);
    if !why.is_empty() {
        value["why"] = json!(why);
    }
    value
}

/// `WaitForTaskChange`.
pub(super) async fn wait(api: &Api, id: TaskId, known: u64, seconds: u64) -> Result<Value> {
    let until = Instant::now() + Duration::from_secs(seconds.min(super::WAIT_S_MAX));
    loop {
        let Some((rev, task)) = api.view.task(id) else {
            return Err(GanetiError::prereq(format!("there is no task {id}"), Ecode::UnknownEntity));
        };
        if rev != known {
            return Ok(shown(api, rev, &task));
        }
        match timeout_at(until, api.inbox.ask(queue::Request::WaitTask { task: id, rev })).await {
            Ok(changed) => drop(changed?),
            Err(_) => return Ok(Value::Null),
        }
    }
}

/// One entry of `SubmitKeyedJob`.
pub type KeyedEntry = (Vec<String>, Vec<Map<String, Value>>);

/// `SubmitKeyedJob`.
pub(super) async fn submit_keyed(api: &Api, entries: Vec<KeyedEntry>) -> Result<Vec<Value>> {
    if entries.len() > KEYED_MAX {
        let text = format!("{} keyed jobs are too many for one call; at most {KEYED_MAX}", entries.len());
        return Err(GanetiError::prereq(text, Ecode::WrongInput));
    }
    let mut answers = vec![Value::Null; entries.len()];
    let mut good = Vec::new();
    for (at, (keys, ops)) in entries.into_iter().enumerate() {
        match prepare(ops) {
            Ok(job) => good.push((at, KeyedJob { keys, job })),
            Err(text) => answers[at] = json!([false, text]),
        }
    }
    let places: Vec<usize> = good.iter().map(|(at, _)| *at).collect();
    let jobs = good.into_iter().map(|(_, job)| job).collect();
    let Answer::KeyedSubmitted(made) = api.inbox.ask(queue::Request::SubmitKeyed(jobs)).await? else {
        return Err(strange(&Answer::Changed));
    };
    for (at, made) in places.into_iter().zip(made) {
        answers[at] = match made {
            Ok((id, new)) => keyed(id, new),
            Err(error) => json!([false, super::refusal(&error)]),
        };
    }
    Ok(answers)
}

fn keyed(id: JobId, new: bool) -> Value {
    json!([true, id, new])
}

fn prepare(ops: Vec<Map<String, Value>>) -> std::result::Result<queue::NewJob, String> {
    super::not_ours(&ops).map_err(|error| error.to_string())?;
    queue::prepare(ops).map_err(|error| error.to_string())
}
