//! The birth of a log. What makes it exist is one rename: before it there is nothing, after it everything
//! else can be made from the log.

use super::copy::EmptyCopy;
use super::files::{FileSpec, LogKind};
use super::flushed;
use super::lock;
use super::log;
use super::objects::{self, Applied};
use super::sql::{Db, failed};
use crate::core::compact::Base;
use crate::core::copy::{Refusal, Vote};
use crate::core::list::{List, Member};
use crate::core::row::{Batch, Index, Position, Row, RowKind, Term};
use crate::error::StoreError;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// What a new log starts with.
#[derive(Debug, Clone)]
pub struct Birth {
    /// The cluster.
    pub cluster: Uuid,
    /// This history of it; a new random one.
    pub history: Uuid,
    /// The first epoch.
    pub epoch: u64,
    /// The ballot of the first epoch; random.
    pub ballot: [u8; 16],
    /// The first list. Its first member is the copy made here.
    pub members: Vec<Member>,
    /// The first objects.
    pub first: Batch,
}

/// That none of a log's files is in `dir`.
///
/// # Errors
/// [`StoreError::Exists`] names the first that is.
pub fn refuse_existing(dir: &Path, log: LogKind) -> Result<(), StoreError> {
    for file in std::iter::once(log.log_file()).chain(log.projections()) {
        let path = file.path(dir);
        if path.try_exists().map_err(io("look for", &path))? {
            return Err(StoreError::Exists { path });
        }
    }
    Ok(())
}

/// Makes the files of one log in `dir`, which is made too if needed. Durable when this returns. Blocks.
///
/// A crash in the middle leaves either nothing that a later `create` minds, or a complete log.
///
/// # Errors
/// [`StoreError::Exists`] when any of the files is there; nothing is changed then.
pub fn create(dir: &Path, log: LogKind, birth: &Birth) -> Result<(), StoreError> {
    std::fs::create_dir_all(dir).map_err(io("make", dir))?;
    let _lock = lock::take(dir, log)?;
    refuse_existing(dir, log)?;
    let spec = log.log_file();
    let rows = first_rows(birth)?;
    let vote = first_vote(birth)?;
    build(dir, spec, |db| fill_log(db, &vote, &rows))?;
    for projection in log.projections() {
        create_projection(dir, projection, birth.history)?;
    }
    Ok(())
}

/// Makes the files of a copy that has no rows and has promised nothing; the log last, since it makes the copy
/// exist. Durable when this returns.
pub fn create_empty(dir: &Path, log: LogKind, empty: &EmptyCopy) -> Result<(), StoreError> {
    for projection in log.projections() {
        create_projection(dir, projection, empty.history)?;
    }
    let &EmptyCopy { cluster, history, copy_id } = empty;
    let (promised, ballot, nonce) = (Term::default(), [0; 16], [0; 16]);
    let vote = Vote { promised, ballot, nonce, cluster, history, copy_id, token: None };
    build(dir, log.log_file(), |db| fill_log(db, &vote, &[]))
}

/// Makes an empty projection; durable when this returns.
pub fn create_projection(dir: &Path, spec: &FileSpec, history: Uuid) -> Result<(), StoreError> {
    build(dir, spec, |db| objects::set_applied(&db.conn, spec, &unapplied(history)))
}

fn unapplied(history: Uuid) -> Applied {
    Applied { idx: Index(0), gen_no: 0, history }
}

/// The list and the first batch, under run 0 of the epoch: no writer has started yet.
fn first_rows(birth: &Birth) -> Result<[Row; 2], StoreError> {
    let term = Term { epoch: birth.epoch, run: 0 };
    let list = serde_json::to_vec(&List::first(birth.members.clone())).expect("a list is plain data");
    let row = |idx, kind, body| Row { idx: Index(idx), term, kind, body };
    Ok([row(1, RowKind::List, list), row(2, RowKind::Batch, birth.first.encode()?)])
}

fn first_vote(birth: &Birth) -> Result<Vote, StoreError> {
    let promised = Term { epoch: birth.epoch, run: 0 };
    if i64::try_from(birth.epoch).is_err() {
        return Err(StoreError::Refused { term: promised, why: Refusal::Malformed });
    }
    let me = birth.members.first().ok_or(StoreError::NotMember)?;
    Ok(Vote {
        promised,
        ballot: birth.ballot,
        nonce: [0; 16],
        cluster: birth.cluster,
        history: birth.history,
        copy_id: me.copy_id,
        token: None,
    })
}

fn fill_log(db: &mut Db, vote: &Vote, rows: &[Row]) -> Result<(), StoreError> {
    let spec = db.spec;
    let base = Base { at: Position::default(), list: List { n: 0, prev: 0, members: Vec::new() }, gen_no: 0 };
    let tx = db.begin()?;
    log::put_vote(&tx, spec.name, vote)?;
    log::put_base(&tx, spec.name, &base)?;
    for row in rows {
        log::insert(&tx, spec.name, row)?;
    }
    if spec.objects {
        objects::set_applied(&tx, &spec, &unapplied(vote.history))?;
    }
    tx.commit().map_err(failed(spec.name, "commit"))
}

/// Makes a file under another name, flushes it, and gives it its name.
pub(super) fn build(
    dir: &Path,
    spec: &FileSpec,
    fill: impl FnOnce(&mut Db) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let path = spec.path(dir);
    let temp = dir.join(format!("{}.new", spec.name));
    // The -wal of a file that was removed would be taken for that of the new one.
    let of_old = [beside(&path, "-wal"), beside(&path, "-shm")];
    for left in [temp.clone(), beside(&temp, "-wal"), beside(&temp, "-shm")].into_iter().chain(of_old) {
        match std::fs::remove_file(&left) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io("remove", &left)(e)),
            Ok(()) | Err(_) => {}
        }
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(spec.mode).open(&temp).map_err(io("make", &temp))?;
    let mut db = Db::make(spec, &temp)?;
    fill(&mut db)?;
    db.checkpoint()?;
    db.conn.close().map_err(|(_, source)| failed(spec.name, "close")(source))?;
    let file = File::open(&temp).map_err(io("open", &temp))?;
    file.sync_all().map_err(io("flush", &temp))?;
    if spec.log {
        flushed::forget(&path)?;
    }
    std::fs::rename(&temp, &path).map_err(io("rename", &path))?;
    File::open(dir).and_then(|d| d.sync_all()).map_err(io("flush", dir))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { what, path, source }
}
