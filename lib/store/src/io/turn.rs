//! One turn of the writer's thread: what was queued goes to the log in one transaction, is flushed, and is
//! then applied. Runs on that thread alone.

use super::lock::WriterLock;
use super::log;
use super::objects::{self, Applied};
use super::sql::{Db, failed};
use super::writer::{LocalChange, LocalSeq};
use crate::core::Rules;
use crate::core::commit::Tally;
use crate::core::copy::{Append, Claim};
use crate::core::row::{Batch, Index, Position, Row};
use crate::error::StoreError;
use std::collections::VecDeque;
use uuid::Uuid;

/// What may be queued.
pub enum Op {
    /// A batch, as a row and as it was given.
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

/// The files of a log, and where they stand.
pub struct Files {
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
    /// Frees the directory when the thread ends.
    pub lock: WriterLock,
}

impl Files {
    /// Writes all rows in one transaction of the log, then applies them. Q applies in the same transaction:
    /// its only member is this copy, so what is flushed is committed.
    fn write(&mut self, rows: Vec<Row>, batches: &[&Batch]) -> Result<Index, StoreError> {
        let Some(end) = rows.last().map(Row::position) else { return Ok(self.tally.committed()) };
        let append = Append { claim: self.claim, prev: self.last, rows, commit: self.tally.committed() };
        let (spec, mark) = (self.log.spec, self.mark(end.idx));
        let matched = log::append(&mut self.log, &append, self.last.idx, self.rules, |tx, _| {
            if spec.objects { log::apply_here(tx, &spec, batches.iter().copied(), &mark) } else { Ok(()) }
        })?;
        self.last = end;
        Ok(self.tally.confirm(self.copy_id, self.claim.term, matched))
    }

    /// Brings the files of objects to the mark, with local changes for the one that keeps them.
    fn apply(
        &mut self,
        batches: &[&Batch],
        to: Option<Index>,
        local: &[&[LocalChange]],
    ) -> Result<(), StoreError> {
        let mark = to.map(|idx| self.mark(idx));
        for db in &mut self.projections {
            let spec = db.spec;
            if mark.is_none() && (local.is_empty() || !spec.local) {
                continue;
            }
            let tx = db.begin()?;
            for batch in batches {
                objects::apply(&tx, &spec, batch)?;
            }
            if let Some(mark) = &mark {
                objects::set_applied(&tx, &spec, mark)?;
            }
            for changes in local.iter().filter(|_| spec.local) {
                objects::change_local(&tx, &spec, changes)?;
            }
            tx.commit().map_err(failed(spec.name, "commit"))?;
        }
        Ok(())
    }

    fn mark(&self, idx: Index) -> Applied {
        Applied { idx, gen_no: self.gen_no, history: self.history }
    }

    /// One turn: everything that was queued. Returns what to show.
    pub fn turn(&mut self, ops: VecDeque<Op>) -> Result<(Option<Index>, Option<LocalSeq>), StoreError> {
        let (mut rows, mut batches, mut local, mut seq) = (Vec::new(), Vec::new(), Vec::new(), None);
        for op in ops {
            match op {
                Op::Append { row, batch } => {
                    rows.push(row);
                    batches.push(batch);
                }
                Op::Local { seq: at, changes } => {
                    seq = Some(at);
                    local.push(changes);
                }
            }
        }
        let batches: Vec<&Batch> = batches.iter().collect();
        let committed = if rows.is_empty() { None } else { Some(self.write(rows, &batches)?) };
        let local: Vec<&[LocalChange]> = local.iter().map(Vec::as_slice).collect();
        self.apply(&batches, committed, &local)?;
        Ok((committed, seq))
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
