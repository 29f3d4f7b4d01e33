//! Real files in temporary directories.

mod backup;
mod cluster;
mod compaction;
mod crash;
mod crash_follow;
mod crash_steps;
mod damage;
mod flips;
mod flushed;
mod follow;
mod place;
mod reader;
mod rules;
mod writing;

use crate::core::list::Member;
use crate::core::row::{Batch, Change, Index, Object};
use crate::error::StoreError;
use crate::io::create::{Birth, create};
use crate::io::files::LogKind;
use crate::io::start::{StartOptions, Started, start};
use std::path::Path;
use tempfile::TempDir;
use uuid::Uuid;

const BOTH: [LogKind; 2] = [LogKind::W, LogKind::Q];

fn member(n: u128) -> Member {
    Member { node: Uuid::from_u128(n), copy_id: Uuid::from_u128(100 + n) }
}

fn birth() -> Birth {
    Birth {
        cluster: Uuid::from_u128(1),
        history: Uuid::from_u128(2),
        epoch: 1,
        ballot: [9; 16],
        members: vec![member(1)],
        first: Batch::of(vec![put("cluster", "c", 1, "{\"name\":\"first\"}")]),
    }
}

fn put(kind: &str, key: &str, rev: u64, body: &str) -> Change {
    Change { kind: kind.into(), key: key.into(), rev, body: Some(body.as_bytes().to_vec()) }
}

fn cut(kind: &str, key: &str) -> Change {
    Change { kind: kind.into(), key: key.into(), rev: 0, body: None }
}

fn one(change: Change) -> Batch {
    Batch::of(vec![change])
}

/// A directory with a new log in it.
fn born(log: LogKind) -> TempDir {
    let dir = TempDir::new().unwrap();
    create(dir.path(), log, &birth()).unwrap();
    dir
}

fn begin(dir: &Path, log: LogKind) -> Started {
    start(dir, StartOptions::new(log)).unwrap()
}

fn refused(dir: &Path, log: LogKind) -> StoreError {
    start(dir, StartOptions::new(log)).unwrap_err()
}

/// What a fresh start finds, by kind and key.
fn found(dir: &Path, log: LogKind) -> Vec<Object> {
    let started = begin(dir, log);
    started.writer.stop();
    let mut objects = started.objects;
    objects.sort_by(|a, b| (&a.kind, &a.key).cmp(&(&b.kind, &b.key)));
    objects
}

fn names(objects: &[Object]) -> Vec<String> {
    objects.iter().map(|o| format!("{}/{}@{}", o.kind, o.key, o.rev)).collect()
}

/// Opens a file beside the writer, as a stranger's program would.
fn sqlite(dir: &Path, file: &str) -> rusqlite::Connection {
    let conn = rusqlite::Connection::open(dir.join(file)).unwrap();
    conn.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    conn
}

fn append_and_wait(started: &Started, batch: Batch) -> Index {
    let idx = started.writer.append(batch).unwrap();
    started.writer.wait(idx).unwrap();
    idx
}
