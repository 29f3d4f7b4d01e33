//! One turn of the writer's thread: what was queued goes to the log in one transaction and is flushed; what is
//! committed is applied. Runs on that thread alone.
//!
//! ```text
//!  queued ─▶ log, flushed ─▶ pending ─ committed? ─▶ objects (not flushed), local rows ─▶ progress
//! ```
//!
//! With this copy alone in the list everything flushed is committed, so nothing stays pending. Q then writes log
//! and objects in one transaction.

use super::admit;
use super::lock::WriterLock;
use super::objects::{self, Applied};
use super::sql::{Db, failed};
use super::writer::{LocalChange, LocalSeq};
use super::{compact, start};
use crate::core::Rules;
use crate::core::commit::Tally;
use crate::core::compact::of_writer;
use crate::core::copy::{Append, Claim};
use crate::core::list::List;
use crate::core::row::{Batch, Index, Position, Row, RowKind};
use crate::error::StoreError;
use std::collections::VecDeque;
use std::path::PathBuf;
use uuid::Uuid;

/// What may be queued.
pub enum Op {
    /// A row, and the batch in it as it was given (empty for rows of other kinds).
    Append {
        /// The row.
        row: Row,
        /// What it says.
        batch: Batch,
    },
    /// Changes of local rows.
    Local {
        /// Its number.
        seq: LocalSeq,
        /// The changes.
        changes: Vec<LocalChange>,
    },
}

impl Op {
    /// How much memory it holds, near enough.
    pub fn bytes(&self) -> usize {
        match self {
            Op::Append { row, .. } => row.body.len(),
            Op::Local { changes, .. } => changes.iter().filter_map(|c| c.body.as_ref()).map(Vec::len).sum(),
        }
    }
}

/// Everything that waits for the thread.
#[derive(Default)]
pub struct Work {
    /// In the order of the queue.
    pub ops: VecDeque<Op>,
    /// What other copies have flushed.
    pub confirms: Vec<(Uuid, Index)>,
    /// Copies that count no more.
    pub suspects: Vec<Uuid>,
    /// Rows may be forgotten that a copy at this place does not need.
    pub compact: Option<Index>,
}

/// What a turn has brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Committed and applied up to here, when that has moved.
    pub committed: Option<Index>,
    /// Local changes written up to here.
    pub local: Option<LocalSeq>,
    /// The last row flushed here.
    pub flushed: Index,
    /// Operations that wait until they are committed, and their bytes.
    pub pending: (usize, usize),
}

/// Flushed, but not applied.
enum Pending {
    Batch(Index, Batch, usize),
    Local(LocalSeq, Vec<LocalChange>, usize),
}

/// The files of a log, and where they stand.
pub struct Files {
    /// Their directory.
    pub dir: PathBuf,
    /// The log.
    pub log: Db,
    /// The files of objects beside it.
    pub projections: Vec<Db>,
    /// The writer's standing.
    pub claim: Claim,
    /// The rules in force.
    pub rules: Rules,
    /// The history, for the marks.
    pub history: Uuid,
    /// The base's generation, for the marks.
    pub gen_no: u64,
    /// The own copy.
    pub copy_id: Uuid,
    /// The end of the log.
    pub last: Position,
    /// What is committed.
    pub tally: Tally,
    /// How far the objects are applied; `None` until the first row of the own term is committed and all
    /// before it is applied.
    pub applied: Option<Index>,
    /// What is flushed and waits to be committed.
    pub pending: Waiting,
    /// Frees the directory when the thread ends.
    pub lock: WriterLock,
}

/// What waits to be committed, in the order of the queue.
#[derive(Default)]
pub struct Waiting {
    queue: VecDeque<Pending>,
    bytes: usize,
}

impl Files {
    /// That no file was removed or replaced since they were opened.
    fn in_place(&self) -> Result<(), StoreError> {
        std::iter::once(&self.log).chain(&self.projections).try_for_each(Db::in_place)
    }

    /// Whether this copy is all there is to count.
    fn alone(&self) -> bool {
        let members = &self.tally.newest().1.members;
        members.len() == 1 && members.iter().all(|m| m.copy_id == self.copy_id)
    }

    /// Writes all rows in one transaction of the log. When `here` is set their batches are applied in it too:
    /// Q with this copy alone, where what is flushed is committed.
    fn write(&mut self, rows: Vec<Row>, here: Option<&[&Batch]>) -> Result<(), StoreError> {
        let Some(end) = rows.last().map(Row::position) else { return Ok(()) };
        for row in rows.iter().filter(|r| r.kind == RowKind::List) {
            let list: List = serde_json::from_slice(&row.body).expect("a list of ours is plain data");
            self.tally.listed(row.idx, list);
        }
        let append = Append { claim: self.claim, prev: self.last, rows, commit: self.tally.committed() };
        let (spec, mark) = (self.log.spec, self.mark(end.idx));
        let applied = self.last.idx;
        let matched =
            admit::append(&mut self.log, &self.dir, &append, applied, self.rules, |tx, _| match here {
                Some(batches) => admit::apply_here(tx, &spec, batches.iter().copied(), &mark),
                None => Ok(()),
            })?;
        // After the flush, before it counts: what went into removed files is nobody's.
        self.in_place()?;
        self.last = end;
        if here.is_some() {
            self.applied = Some(end.idx);
        }
        self.tally.confirm(self.copy_id, self.claim.term, matched);
        Ok(())
    }

    /// Brings the files of objects to the mark, with local changes for the one that keeps them.
    fn apply(
        &mut self,
        batches: &[&Batch],
        to: Option<Index>,
        local: &[&[LocalChange]],
    ) -> Result<(), StoreError> {
        let mark = to.map(|idx| self.mark(idx));
        // Alone there is no newer writer whose rows might have been applied meanwhile.
        let left = if self.alone() { None } else { self.applied.map(|idx| self.mark(idx)) };
        let own = self.log.spec.objects.then_some(&mut self.log);
        for db in own.into_iter().chain(&mut self.projections) {
            let spec = db.spec;
            if mark.is_none() && (local.is_empty() || !spec.local) {
                continue;
            }
            db.unflushed(|db| {
                let tx = db.begin()?;
                if let (Some(left), Some(_)) = (&left, &mark) {
                    unmoved(&tx, &spec, left)?;
                }
                for batch in batches {
                    objects::apply(&tx, &spec, batch)?;
                }
                if let Some(mark) = &mark {
                    objects::set_applied(&tx, &spec, mark)?;
                }
                for changes in local.iter().filter(|_| spec.local) {
                    objects::change_local(&tx, &spec, changes)?;
                }
                tx.commit().map_err(failed(spec.name, "commit"))
            })?;
        }
        if let Some(to) = to {
            self.applied = Some(to);
        }
        Ok(())
    }

    fn mark(&self, idx: Index) -> Applied {
        Applied { idx, gen_no: self.gen_no, history: self.history }
    }

    /// One turn: everything that waited. Returns what to show.
    pub fn turn(&mut self, work: Work) -> Result<Done, StoreError> {
        work.suspects.into_iter().for_each(|copy| self.tally.suspect(copy));
        for (copy, idx) in work.confirms {
            self.tally.confirm(copy, self.claim.term, idx);
        }
        let before = self.applied;
        let mut rows = Vec::new();
        let mut pending = VecDeque::new();
        for op in work.ops {
            let bytes = op.bytes();
            self.pending.bytes += bytes;
            match op {
                Op::Append { row, batch } => {
                    pending.push_back(Pending::Batch(row.idx, batch, bytes));
                    rows.push(row);
                }
                Op::Local { seq, changes } => pending.push_back(Pending::Local(seq, changes, bytes)),
            }
        }
        let listed = rows.iter().any(|r| r.kind == RowKind::List);
        let here = self.log.spec.objects && self.alone() && !listed && self.pending.queue.is_empty();
        if here && self.applied.is_some() {
            let batches: Vec<&Batch> = pending.iter().filter_map(Pending::batch).collect();
            self.write(rows, Some(&batches))?;
            self.pending.bytes = 0;
        } else {
            self.write(rows, None)?;
            self.pending.queue.append(&mut pending);
        }
        let local = self.settle()?;
        if let Some(slowest) = work.compact {
            match self.compact(slowest) {
                // Nothing rests on it; who writes next hears of the disk.
                Err(why) if why.is_full() => tracing::warn!(log = self.log.spec.name, "no room to compact"),
                done => done?,
            }
        }
        let committed = self.applied.filter(|_| self.applied != before);
        let pending = (self.pending.queue.len(), self.pending.bytes);
        Ok(Done { committed, local, flushed: self.last.idx, pending })
    }

    /// Applies what is committed of what waits.
    fn settle(&mut self) -> Result<Option<LocalSeq>, StoreError> {
        let committed = self.tally.committed();
        if self.applied.is_none() {
            if !self.tally.serving() {
                return Ok(None);
            }
            // What this start found in the log is applied from there; it may be much.
            start::replay(self, committed)?;
            self.applied = Some(committed);
            while matches!(self.pending.queue.front(), Some(Pending::Batch(idx, ..)) if *idx <= committed) {
                self.pending.pop();
            }
        }
        let (mut ready, mut local) = (Vec::new(), None);
        while let Some(next) = self.pending.queue.front() {
            match next {
                Pending::Batch(idx, ..) if *idx > committed => break,
                Pending::Local(seq, ..) => local = Some(*seq),
                Pending::Batch(..) => {}
            }
            ready.extend(self.pending.pop());
        }
        let batches: Vec<&Batch> = ready.iter().filter_map(Pending::batch).collect();
        let changes: Vec<&[LocalChange]> = ready.iter().filter_map(Pending::local).collect();
        let to = Some(committed).filter(|_| self.applied.is_some_and(|a| a < committed));
        self.apply(&batches, to, &changes)?;
        Ok(local)
    }

    /// Forgets rows, if that is worth it.
    fn compact(&mut self, slowest: Index) -> Result<(), StoreError> {
        let extent = compact::extent(&self.log, &self.projections, slowest)?;
        match of_writer(&extent, slowest) {
            Some(to) => compact::forget(&mut self.log, to, self.rules),
            None => Ok(()),
        }
    }

    /// Checkpoints and closes the files, then frees the directory.
    pub fn close(self) -> Result<(), StoreError> {
        let Files { log, projections, lock, .. } = self;
        let closed = std::iter::once(log).chain(projections).try_for_each(|db| {
            if let Err(e) = db.checkpoint() {
                tracing::debug!(file = db.spec.name, error = e.chain(), "left to the next start");
            }
            db.conn.close().map_err(|(_, e)| failed(db.spec.name, "close")(e))
        });
        drop(lock);
        closed
    }
}

impl Pending {
    fn batch(&self) -> Option<&Batch> {
        match self {
            Pending::Batch(_, batch, _) => Some(batch),
            Pending::Local(..) => None,
        }
    }

    fn local(&self) -> Option<&[LocalChange]> {
        match self {
            Pending::Local(_, changes, _) => Some(changes),
            Pending::Batch(..) => None,
        }
    }
}

impl Waiting {
    fn pop(&mut self) -> Option<Pending> {
        let next = self.queue.pop_front();
        if let Some(Pending::Batch(_, _, bytes) | Pending::Local(_, _, bytes)) = &next {
            self.bytes = self.bytes.saturating_sub(*bytes);
        }
        if self.queue.is_empty() {
            self.bytes = 0;
        }
        next
    }
}

/// Checks that the mark is where this writer left it: a writer that is stale must not undo what a copy under a
/// newer one has applied.
pub fn unmoved(
    tx: &rusqlite::Connection,
    spec: &super::files::FileSpec,
    left: &Applied,
) -> Result<(), StoreError> {
    let found = objects::applied(tx, spec)?;
    if found == *left {
        return Ok(());
    }
    Err(StoreError::Moved { file: spec.name, found: found.idx, left: left.idx })
}
