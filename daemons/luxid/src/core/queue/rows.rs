//! How the queue's objects stand in queue.data.

use super::entry::Entry;
use super::event::{Change, Process};
use super::kind;
use super::merge::{self, Part};
use gantry_model::job::Job;
use gantry_model::task::Task;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fmt::Display;

/// Largest body of a job, in bytes. A row of the log takes 3 MiB; the rest is for what surrounds the body.
pub(super) const ROW_BYTES_MAX: usize = (3 << 20) - (128 << 10);

/// Body of a job object: the job, and where its process is.
#[derive(Serialize)]
struct JobRow<'a> {
    #[serde(flatten)]
    job: &'a Job,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<&'a Process>,
}

/// The part of a job's body that is not the job. The job itself ignores it.
#[derive(Deserialize)]
struct ProcessPart {
    #[serde(default)]
    process: Option<Process>,
}

/// The change that stores a live job as it stands. What does not fit a row of the log is dropped from the job:
/// first its oldest messages, then its results.
pub(super) fn job(entry: &mut Entry) -> Change {
    let mut body = job_body(entry);
    for part in [Part::Log, Part::Results] {
        if body.len() > ROW_BYTES_MAX {
            entry.log_bytes = merge::shrink(entry.job_mut(), part);
            body = job_body(entry);
        }
    }
    Change {
        kind: kind::JOB,
        key: entry.job.id.to_string(),
        rev: entry.rev,
        bodies: Vec::new(),
        body: Some(body),
    }
}

fn job_body(entry: &Entry) -> Vec<u8> {
    json_of(&JobRow { job: &entry.job, process: entry.process.as_ref() })
}

/// The changes that move a job into the archive.
pub(super) fn archive(job: &Job, rev: u64) -> [Change; 2] {
    let key = job.id.to_string();
    let body = json_of(&JobRow { job, process: None });
    [
        Change { kind: kind::ARCHIVE, key: key.clone(), rev, bodies: Vec::new(), body: Some(body) },
        Change { kind: kind::JOB, key, rev, bodies: Vec::new(), body: None },
    ]
}

/// The change that stores the last id given out, of jobs or of tasks.
pub(super) fn serial(of: &str, last: u64, rev: u64) -> Change {
    Change {
        kind: kind::SERIAL,
        key: of.to_owned(),
        rev,
        bodies: Vec::new(),
        body: Some(last.to_string().into_bytes()),
    }
}

/// The change that stores a task, with the bodies it names.
pub(super) fn task(rev: u64, task: &Task) -> Change {
    let bodies = bodies_of(task).map(str::to_owned).collect();
    Change { bodies, ..object(kind::TASK, &task.id, rev, task) }
}

/// The digests of the bodies that a task names.
pub fn bodies_of(task: &Task) -> impl Iterator<Item = &str> {
    task.bodies()
}

/// The change that stores a lease request.
pub(super) fn object(kind: &'static str, key: &impl Display, rev: u64, value: &impl Serialize) -> Change {
    let body = serde_json::to_vec(value).expect("it has a JSON form: its maps have text keys");
    Change { kind, key: key.to_string(), rev, bodies: Vec::new(), body: Some(body) }
}

/// The change that removes an object.
pub(super) fn remove(kind: &'static str, key: &impl Display, rev: u64) -> Change {
    Change { kind, key: key.to_string(), rev, bodies: Vec::new(), body: None }
}

/// The change that stores a setting.
pub(super) fn setting(key: &str, value: &serde_json::Value, rev: u64) -> Change {
    Change {
        kind: kind::SETTING,
        key: key.to_owned(),
        rev,
        bodies: Vec::new(),
        body: Some(json!(value).to_string().into_bytes()),
    }
}

/// Reads a job's body back.
pub(super) fn read_job(body: &[u8]) -> serde_json::Result<(Job, Option<Process>)> {
    let job = serde_json::from_slice(body)?;
    let part: ProcessPart = serde_json::from_slice(body)?;
    Ok((job, part.process))
}

fn json_of(row: &JobRow<'_>) -> Vec<u8> {
    serde_json::to_vec(row).expect("a job has a JSON form: its maps have text keys")
}
