//! The start of a writer: recovery of the log under a term of its own (P1.3, P1.7). [`start`] is for a list of
//! one; with others the steps between are taken by who can reach them ([`Opened`]).
//!
//! Order: lock, checkpoint (so that nothing read rests on a page cache), promise of the next run in the own
//! file, choice of the best log, an `empty` row of the new term, replay of what the projections lack, load.

use super::files::LogKind;
use super::log;
use super::objects::{self, Applied};
use super::opened::Opened;
use super::sql::damaged;
use super::turn::Files;
use super::writer::{LocalRow, Writer};
use crate::core::Rules;
use crate::core::list::Member;
use crate::core::recover::{Answer, Choice, CopyState, choose};
use crate::core::row::{Index, Object, Term};
use crate::error::StoreError;
use std::path::Path;
use uuid::Uuid;

/// How many rows are replayed in one transaction.
const REPLAY_ROWS: u64 = 1_000;
/// And how many bytes of rows: memory held while replaying.
const REPLAY_BYTES: usize = 16 * 1024 * 1024;
/// The usual bound of a writer's queue, in batches and local changes: five for each live job there may be.
const QUEUE_USUAL: usize = 25_000;

/// How to start.
#[derive(Debug, Clone)]
pub struct StartOptions {
    /// Which log.
    pub log: LogKind,
    /// The cluster it must belong to, when the caller knows.
    pub cluster: Option<Uuid>,
    /// The rules in force: [`Rules::ALL`] but in tests.
    pub rules: Rules,
    /// The most batches and local changes that may wait; more are refused.
    pub queue: usize,
}

impl StartOptions {
    /// The usual options.
    #[must_use]
    pub fn new(log: LogKind) -> StartOptions {
        StartOptions { log, cluster: None, rules: Rules::ALL, queue: QUEUE_USUAL }
    }
}

/// A started log.
#[derive(Debug)]
pub struct Started {
    /// The way to change it.
    pub writer: Writer,
    /// All objects, in no promised order.
    pub objects: Vec<Object>,
    /// All local rows (W), by key.
    pub local: Vec<LocalRow>,
    /// The term of this start.
    pub term: Term,
    /// The ballot that won the epoch.
    pub ballot: [u8; 16],
    /// The cluster.
    pub cluster: Uuid,
    /// The history.
    pub history: Uuid,
    /// The copies that count.
    pub members: Vec<Member>,
    /// Up to here the log is committed and the objects above are applied.
    pub committed: Index,
}

/// Recovers a log, loads it and starts its writer. Blocks; durable when it returns is the new term.
///
/// # Errors
/// [`StoreError::Busy`] when another process writes it; [`StoreError::Damaged`] when any row read is not
/// what was written; [`StoreError::NeedsOthers`] when the log has other members too. A missing or late
/// projection is no error: it is rebuilt (local rows in it are gone then, which is logged).
pub fn start(dir: &Path, opts: StartOptions) -> Result<Started, StoreError> {
    let rules = opts.rules;
    let mut opened = Opened::open(dir, opts)?;
    let me = opened.me()?;
    let claim = opened.claim(&[])?;
    let look = opened.promise(&claim)?.map_err(|why| StoreError::Refused { term: claim.term, why })?;
    if let Some(what) = look.damaged {
        return Err(StoreError::Damaged { file: "the log", what });
    }
    let list = look.list.1;
    let members = list.members.len();
    let answer = Answer { member: me, last: look.last, list, commit: Index(0), state: CopyState::Sound };
    match choose(&me, &[answer], rules) {
        Choice::Ready { .. } if members == 1 => opened.lead(&claim)?.loaded(),
        Choice::Ready { .. } | Choice::Short { .. } => Err(StoreError::NeedsOthers { members }),
        Choice::NotMember | Choice::Suspect => Err(StoreError::NotMember),
    }
}

/// Applies what the objects lack of the committed rows, from the log.
pub fn replay(files: &mut Files, committed: Index) -> Result<(), StoreError> {
    let (history, gen_no, file) = (files.history, files.gen_no, files.log.spec.name);
    let marks = |idx| Applied { idx, gen_no, history };
    let own = files.log.spec.objects;
    let places = if own { vec![None] } else { (0..files.projections.len()).map(Some).collect() };
    for place in places {
        let spec = place.map_or(files.log.spec, |n| files.projections[n].spec);
        let mut at = objects::applied(place.map_or(&files.log.conn, |n| &files.projections[n].conn), &spec)?;
        if at.history != history || at.gen_no != gen_no {
            return Err(damaged(spec.name, "it belongs to another history or generation"));
        }
        if at.idx > committed {
            return Err(StoreError::Ahead { file: spec.name, applied: at.idx, last: committed });
        }
        while at.idx < committed {
            let limit = REPLAY_ROWS.min(committed.0 - at.idx.0);
            let rows = log::rows(&files.log.conn, file, at.idx, limit, REPLAY_BYTES)?;
            let end = rows.last().map(|r| r.idx).filter(|end| *end <= committed);
            at = marks(end.ok_or_else(|| damaged(file, "rows to be replayed are missing"))?);
            let db = place.map_or(&mut files.log, |n| &mut files.projections[n]);
            let left = objects::applied(&db.conn, &spec)?;
            db.unflushed(|db| {
                let tx = db.begin()?;
                super::turn::unmoved(&tx, &spec, &left)?;
                objects::replay(&tx, &spec, &rows, &at)?;
                tx.commit().map_err(super::sql::failed(spec.name, "commit"))
            })?;
        }
    }
    Ok(())
}
