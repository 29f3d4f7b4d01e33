//! Backups: both logs' objects at one moment, as snapshot files; and logs that are born again from such files, in a new
//! history of which the new copy is the only member.
//!
//! A backup of a living pair of logs is a cut that keeps what P1.13 promises: whatever a row of one log rests on in the
//! other is in the backup too. Rows that are in a log and not applied are taken as well: a writer that has stopped may
//! have told that they are done.

use super::create::{build, refuse_existing};
use super::files::LogKind;
use super::lock;
use super::log;
use super::look::SnapshotFile;
use super::objects::{self, Applied};
use super::snapshot::{self, Head, Moment, Overlay};
use super::sql::failed;
use crate::core::compact::Base;
use crate::core::copy::{Ballot, Refusal, Vote};
use crate::core::list::{List, Member};
use crate::core::row::{Batch, Index, Object, Position, Row, RowKind, Term};
use crate::error::StoreError;
use std::path::Path;
use std::time::Duration;
use uuid::Uuid;

/// How often a moment is looked for in which one log stands still while the other is opened: some 0.1 ms.
const TRIES_MAX: u32 = 1_000;
/// And how long between.
const TRY_EVERY: Duration = Duration::from_millis(3);
/// Rows not applied yet that are read at once.
const TAIL_ROWS: u64 = 1_000;
/// And their bytes.
const TAIL_BYTES: usize = 16 << 20;

/// How a log begins again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rebirth {
    /// The cluster.
    pub cluster: Uuid,
    /// The new history.
    pub history: Uuid,
    /// An epoch above all that any node may know.
    pub epoch: u64,
    /// Its ballot.
    pub ballot: Ballot,
    /// The copy that is made: the only member.
    pub member: Member,
    /// The number of its list: above that of the snapshot, and the same in both logs.
    pub list_n: u64,
}

/// Writes W and Q of `dir`, at one moment, as snapshots into `into`, through connections of its own; flushed when this
/// returns. The writers may work on, or be gone. Blocks.
///
/// # Errors
/// [`StoreError::Unsteady`] when no such moment is found; what is damaged; the disk's.
pub fn backup(dir: &Path, into: &Path) -> Result<[SnapshotFile; 2], StoreError> {
    for _ in 0..TRIES_MAX {
        if let Some((w, q)) = pair(dir)? {
            let of = |moment: &Moment, log| {
                let (last, overlay) = tail(moment, log)?;
                moment.write(&into.join(snapshot::names(log).0), last, &overlay)
            };
            return Ok([of(&w, LogKind::W)?, of(&q, LogKind::Q)?]);
        }
        std::thread::sleep(TRY_EVERY);
    }
    Err(StoreError::Unsteady)
}

/// A moment of each log: W did not grow while Q's was taken.
fn pair(dir: &Path) -> Result<Option<(Moment, Moment)>, StoreError> {
    let Some(w) = Moment::open(dir, LogKind::W)? else { return Ok(None) };
    let before = end(&w, LogKind::W)?;
    let Some(q) = Moment::open(dir, LogKind::Q)? else { return Ok(None) };
    let Some(after) = Moment::open(dir, LogKind::W)? else { return Ok(None) };
    let still = end(&after, LogKind::W)? == before;
    Ok(still.then_some((w, q)))
}

fn end(moment: &Moment, log: LogKind) -> Result<Position, StoreError> {
    log::last(&moment.dbs[0].conn, log.log_file().name, &moment.base)
}

/// The end of the log, and what the rows that are not applied make of objects.
fn tail(moment: &Moment, log: LogKind) -> Result<(Position, Overlay), StoreError> {
    let (conn, file) = (&moment.dbs[0].conn, log.log_file().name);
    let (last, mut from, mut overlay) = (end(moment, log)?, moment.applied, Overlay::new());
    while from < last.idx {
        let rows = log::rows(conn, file, from, TAIL_ROWS, TAIL_BYTES)?;
        let Some(end) = rows.last() else { break };
        from = end.idx;
        for row in rows.iter().filter(|row| row.kind == RowKind::Batch) {
            for change in Batch::decode(&row.body)?.changes {
                overlay.insert((change.kind, change.key), (change.rev, change.body));
            }
        }
    }
    Ok((last, overlay))
}

/// Reads the snapshot of one log in `path`: its head, and each object. Nothing it hands out counts unless it returns
/// without an error.
///
/// # Errors
/// It is not intact, of another log or of another format.
pub fn snapshot_objects(path: &Path, log: LogKind, mut each: impl FnMut(Object)) -> Result<Head, StoreError> {
    snapshot::read(path, log, |object| {
        each(object);
        Ok(())
    })
}

/// Makes the files of a log in `dir`, holding the objects of a snapshot as `change` leaves them. The file of the log is
/// the last. Durable when it returns. Blocks.
///
/// # Errors
/// [`StoreError::Exists`] when any of the files is there; a snapshot that is not intact; the disk's.
pub fn rebirth(
    dir: &Path,
    log: LogKind,
    from: &Path,
    how: &Rebirth,
    mut change: impl FnMut(&mut Object),
) -> Result<(), StoreError> {
    let _lock = lock::take(dir, log)?;
    refuse_existing(dir, log)?;
    let spec = log.log_file();
    let promised = Term { epoch: how.epoch, run: 0 };
    let head = snapshot::read(from, log, |_| Ok(()))?;
    if head.cluster != how.cluster {
        return Err(StoreError::Cluster { found: head.cluster, wanted: how.cluster });
    }
    if how.epoch <= head.at.term.epoch || how.list_n <= head.list.n || i64::try_from(how.epoch).is_err() {
        return Err(StoreError::Refused { term: promised, why: Refusal::Malformed });
    }
    let mark = Applied { idx: head.at.idx, gen_no: 0, history: how.history };
    let mut fill = |conn: &rusqlite::Connection, spec: &super::files::FileSpec| {
        snapshot::read(from, log, |mut object| {
            change(&mut object);
            if spec.holds(&object.kind) { objects::put(conn, spec, object) } else { Ok(()) }
        })?;
        objects::set_applied(conn, spec, &mark)
    };
    for projection in log.projections() {
        build(dir, projection, |db| {
            let spec = db.spec;
            let tx = db.begin()?;
            fill(&tx, &spec)?;
            tx.commit().map_err(failed(spec.name, "commit"))
        })?;
    }
    build(dir, spec, |db| {
        let spec = db.spec;
        let tx = db.begin()?;
        if spec.objects {
            fill(&tx, &spec)?;
        }
        begin(&tx, spec.name, &head, how)?;
        tx.commit().map_err(failed(spec.name, "commit"))
    })
}

/// The log itself: what the snapshot holds is its base, and its one row is the new list.
fn begin(
    conn: &rusqlite::Connection,
    file: &'static str,
    head: &Head,
    how: &Rebirth,
) -> Result<(), StoreError> {
    let term = Term { epoch: how.epoch, run: 0 };
    log::put_vote(
        conn,
        file,
        &Vote {
            promised: term,
            ballot: how.ballot,
            nonce: [0; 16],
            cluster: how.cluster,
            history: how.history,
            copy_id: how.member.copy_id,
            token: None,
        },
    )?;
    log::put_base(conn, file, &Base { at: head.at, list: head.list.clone(), gen_no: 0 })?;
    let list = List { n: how.list_n, prev: head.list.n, members: vec![how.member] };
    let body = serde_json::to_vec(&list).expect("a list is plain data");
    let idx: Index = head.at.idx.next();
    log::insert(conn, file, &Row { idx, term, kind: RowKind::List, body })
}

/// Whether a writer of this log runs in `dir`, and its pid if it has said. Nothing is left behind but the lock's file.
///
/// # Errors
/// The disk's.
pub fn writer_runs(dir: &Path, log: LogKind) -> Result<Option<Option<u32>>, StoreError> {
    if !dir.join(log.lock_name()).exists() {
        return Ok(None);
    }
    match lock::take(dir, log) {
        Ok(_free) => Ok(None),
        Err(StoreError::Busy { pid, .. }) => Ok(Some(pid)),
        Err(why) => Err(why),
    }
}

/// Where a log's file stands, for who has no part in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Its cluster.
    pub cluster: Uuid,
    /// Its last row.
    pub last: Position,
    /// The epoch it has promised.
    pub promised: u64,
}

/// Where the log in `dir` stands; None: there is none.
///
/// # Errors
/// It cannot be read: nobody can go on with it.
pub fn end_of(dir: &Path, log: LogKind) -> Result<Option<End>, StoreError> {
    let spec = log.log_file();
    let path = spec.path(dir);
    if !path.exists() {
        return Ok(None);
    }
    let db = super::sql::Db::open_read(spec, &path)?;
    let base = log::base(&db.conn, spec.name)?;
    log::verify(&db.conn, spec.name, &base)?;
    let vote = log::vote(&db.conn, spec.name)?;
    let last = log::last(&db.conn, spec.name, &base)?;
    Ok(Some(End { cluster: vote.cluster, last, promised: vote.promised.epoch }))
}
