//! The start of a writer: recovery of the log under a term of its own (P1.3, P1.7), for a list of one.
//!
//! Order: lock, checkpoint (so that nothing read rests on a page cache), promise of the next run in the own
//! file, choice of the best log, an `empty` row of the new term, replay of what the projections lack, load.

use super::files::{FileSpec, LogKind};
use super::log::{self, Base};
use super::objects::{self, Applied};
use super::sql::{Db, damaged};
use super::turn::Files;
use super::writer::{LocalRow, Writer};
use super::{create, lock, writer};
use crate::core::Rules;
use crate::core::commit::Tally;
use crate::core::copy::{Append, Claim, Vote};
use crate::core::list::{List, Member};
use crate::core::recover::{Answer, Choice, CopyState, choose, next_run};
use crate::core::row::{Index, Object, Position, Row, RowKind, Term};
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
    let spec = opts.log.log_file();
    let path = spec.path(dir);
    if !path.try_exists().map_err(|source| StoreError::Io { what: "look for", path: path.clone(), source })? {
        return Err(StoreError::Missing { path });
    }
    let lock = lock::take(dir, opts.log)?;
    let mut db = Db::open(spec, &path)?;
    db.checkpoint()?;
    let own = Own::read(&db, opts.cluster)?;
    let claim = promise(&mut db, &own, opts.rules)?;
    own.settle(opts.rules)?;
    let projections = open_projections(dir, &opts, &own)?;
    let mut files = own.files(db, projections, claim, opts.rules, lock);
    let committed = begin_term(&mut files)?;
    replay(&mut files, committed)?;
    let (objects, local) = load(&files)?;
    let (vote, members) = (own.vote, own.list.1.members);
    let writer = writer::spawn(opts.log, files, opts.queue).map_err(|source| StoreError::Io {
        what: "start the writer of",
        path,
        source,
    })?;
    tracing::info!(log = ?opts.log, term = %claim.term, %committed, objects = objects.len(), "log recovered");
    let Vote { ballot, cluster, history, .. } = vote;
    Ok(Started { writer, objects, local, term: claim.term, ballot, cluster, history, members, committed })
}

/// What the own copy says of itself.
struct Own {
    vote: Vote,
    base: Base,
    last: Position,
    list: (Index, List),
    me: Member,
}

impl Own {
    fn read(db: &Db, cluster: Option<Uuid>) -> Result<Own, StoreError> {
        let file = db.spec.name;
        let vote = log::vote(&db.conn, file)?;
        if let Some(wanted) = cluster.filter(|wanted| *wanted != vote.cluster) {
            return Err(StoreError::Cluster { found: vote.cluster, wanted });
        }
        let base = log::base(&db.conn, file)?;
        let last = log::last(&db.conn, file, &base)?;
        let list = log::newest_list(&db.conn, file, &base)?;
        let me = list.1.members.iter().find(|m| m.copy_id == vote.copy_id);
        let me = *me.ok_or(StoreError::NotMember)?;
        Ok(Own { vote, base, last, list, me })
    }

    /// Whether the own answer is enough to go on with the own log.
    fn settle(&self, rules: Rules) -> Result<(), StoreError> {
        let answer = Answer {
            member: self.me,
            last: self.last,
            list: self.list.1.clone(),
            commit: Index(0),
            state: CopyState::Sound,
        };
        match choose(&self.me, &[answer], rules) {
            Choice::Ready { .. } if self.list.1.members.len() == 1 => Ok(()),
            Choice::Ready { .. } | Choice::Short { .. } => {
                Err(StoreError::NeedsOthers { members: self.list.1.members.len() })
            }
            Choice::NotMember | Choice::Suspect => Err(StoreError::NotMember),
        }
    }

    fn files(
        &self,
        log: Db,
        projections: Vec<Db>,
        claim: Claim,
        rules: Rules,
        lock: lock::WriterLock,
    ) -> Files {
        let newest = self.list.clone();
        let tally = Tally::new(self.me, claim.term, self.last.idx.next(), newest, Index(0), rules);
        Files {
            log,
            projections,
            claim,
            rules,
            history: self.vote.history,
            gen_no: self.base.gen_no,
            copy_id: self.me.copy_id,
            last: self.last,
            tally,
            lock,
        }
    }
}

/// Promises the next run in the own file.
fn promise(db: &mut Db, own: &Own, rules: Rules) -> Result<Claim, StoreError> {
    let vote = &own.vote;
    let term = next_run(vote.promised.epoch, [vote.promised, own.last.term], rules);
    let nonce = Uuid::new_v4().into_bytes();
    let claim = Claim { cluster: vote.cluster, history: vote.history, term, ballot: vote.ballot, nonce };
    log::give_promise(db, &claim, rules)?;
    Ok(claim)
}

/// Opens the projections, making those that are missing while the log still has all rows.
fn open_projections(dir: &Path, opts: &StartOptions, own: &Own) -> Result<Vec<Db>, StoreError> {
    let open = |spec: &FileSpec| {
        let path = spec.path(dir);
        let found = path.try_exists();
        if !found.map_err(|source| StoreError::Io { what: "look for", path: path.clone(), source })? {
            if own.base.at.idx > Index(0) {
                return Err(StoreError::Missing { path });
            }
            tracing::warn!(file = spec.name, local = spec.local, "missing; made again from the log");
            create::create_projection(dir, spec, own.vote.history)?;
        }
        let db = Db::open(spec, &path)?;
        db.checkpoint()?;
        Ok(db)
    };
    opts.log.projections().iter().map(open).collect()
}

/// Appends the empty row of the new term; with it all older rows are committed.
///
/// In Q the mark must not pass rows that are not applied yet, so the row goes in without it.
fn begin_term(files: &mut Files) -> Result<Index, StoreError> {
    let row =
        Row { idx: files.last.idx.next(), term: files.claim.term, kind: RowKind::Empty, body: Vec::new() };
    let position = row.position();
    let append = Append { claim: files.claim, prev: files.last, rows: vec![row], commit: Index(0) };
    let matched = log::append(&mut files.log, &append, Index(0), files.rules, |_, _| Ok(()))?;
    files.last = position;
    Ok(files.tally.confirm(files.copy_id, files.claim.term, matched))
}

/// Applies what the projections lack of the committed rows.
fn replay(files: &mut Files, committed: Index) -> Result<(), StoreError> {
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
            let rows = log::rows(&files.log.conn, file, at.idx, REPLAY_ROWS, REPLAY_BYTES)?;
            let end = rows.last().map(|r| r.idx).filter(|end| *end <= committed);
            at = marks(end.ok_or_else(|| damaged(file, "rows to be replayed are missing"))?);
            let db = place.map_or(&mut files.log, |n| &mut files.projections[n]);
            objects::replay(db, &rows, &at)?;
        }
    }
    Ok(())
}

fn load(files: &Files) -> Result<(Vec<Object>, Vec<LocalRow>), StoreError> {
    let (mut found, mut local) = (Vec::new(), Vec::new());
    for db in std::iter::once(&files.log).chain(&files.projections) {
        if db.spec.objects {
            objects::load(&db.conn, &db.spec, &mut found)?;
        }
        if db.spec.local {
            local = objects::load_local(&db.conn, &db.spec)?;
        }
    }
    Ok((found, local))
}
