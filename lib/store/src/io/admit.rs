//! What a log file takes: promise, append and adoption each read the vote in the transaction that writes, and
//! return after the flush (P1.2).

use super::aside;
use super::files::FileSpec;
use super::flushed::{Flushed, Mark};
use super::log::{base, insert, last, put_vote, rows, terms, vote};
use super::objects::{self, Applied};
use super::sql::{Db, failed, int};
use crate::core::Rules;
use crate::core::compact::Base;
use crate::core::copy::{Append, Claim, LogView, Plan, Vote, admit_own, fit, promise};
use crate::core::row::{Batch, Index, Position, Row, Term};
use crate::core::rules::Rule;
use crate::error::StoreError;
use rusqlite::{Connection, Transaction};
use std::cmp::Ordering;
use std::path::Path;

/// What decides over an append, read in its transaction.
pub struct View {
    base: Position,
    last: Position,
    applied: Index,
    from: Index,
    terms: Vec<Term>,
}

impl View {
    /// With the terms of `count` rows from `from` on.
    pub fn read(
        conn: &Connection,
        file: &'static str,
        base: &Base,
        applied: Index,
        from: Index,
        count: u64,
    ) -> Result<View, StoreError> {
        let from = from.max(base.at.idx.next());
        let last = last(conn, file, base)?;
        // Rows that follow the own end, which is the rule, meet at most the last one.
        let terms = match from.cmp(&last.idx) {
            Ordering::Greater => Vec::new(),
            Ordering::Equal => vec![last.term],
            Ordering::Less => terms(conn, file, from, count)?,
        };
        Ok(View { base: base.at, last, applied, from, terms })
    }
}

impl LogView for View {
    fn base(&self) -> Position {
        self.base
    }
    fn last(&self) -> Position {
        self.last
    }
    fn applied(&self) -> Index {
        self.applied
    }
    fn term_at(&self, idx: Index) -> Option<Term> {
        let nth = idx.0.checked_sub(self.from.0)?;
        self.terms.get(usize::try_from(nth).ok()?).copied()
    }
}

/// Promises `claim` in a transaction of its own; durable when this returns.
pub fn give_promise(db: &mut Db, claim: &Claim, rules: Rules) -> Result<Vote, StoreError> {
    let file = db.spec.name;
    let (tx, mark) = db.begin_marked()?;
    let refuse = |why| StoreError::Refused { term: claim.term, why };
    let raised = promise(&vote(&tx, file)?, claim, rules).map_err(refuse)?;
    put_vote(&tx, file, &raised)?;
    let last = last(&tx, file, &base(&tx, file)?)?.idx;
    tx.commit().map_err(failed(file, "commit"))?;
    mark.note(Flushed { promised: raised.promised, last });
    Ok(raised)
}

/// Takes rows into the own copy in one transaction, with what `also` adds to it; durable when this returns.
/// Answers how far the copy matches the writer's log.
///
/// Rows that must go are first saved in `dir`'s `aside/` (P1.9). `applied` is what the copy's projections have applied: rows up to there are never replaced.
pub fn append(
    db: &mut Db,
    dir: &Path,
    append: &Append,
    applied: Index,
    rules: Rules,
    also: impl FnOnce(&Connection, &Plan) -> Result<(), StoreError>,
) -> Result<Index, StoreError> {
    let (db_spec, file) = (db.spec, db.spec.name);
    let early = early_vote(db, rules)?;
    let (tx, mark) = db.begin_marked()?;
    let base = base(&tx, file)?;
    let count = append.rows.len() as u64 + 1;
    let view = View::read(&tx, file, &base, applied, append.prev.idx, count)?;
    let refuse = |why| StoreError::Refused { term: append.claim.term, why };
    let before = early.map_or_else(|| vote(&tx, file), Ok)?;
    let plan = admit_own(&before, &view, append, rules).map_err(refuse)?;
    if !rules.has(Rule::TailInOneTransaction) && plan.delete_from.is_some() {
        drop(tx);
        return row_by_row(db, &plan, &append.rows);
    }
    if let Some(vote) = &plan.vote {
        put_vote(&tx, file, vote)?;
    }
    write(&tx, mark, db_spec, dir, &plan, &append.rows)?;
    also(&tx, &plan)?;
    gantry_crash::point("append-to-commit");
    tx.commit().map_err(failed(file, "commit"))?;
    let promised = plan.vote.as_ref().unwrap_or(&before).promised;
    mark.note(Flushed { promised, last: end(&plan, &append.rows, view.last.idx) });
    Ok(plan.matched)
}

/// The vote as a store would read it that lacks the rule: before the transaction that writes. None, but in a test.
fn early_vote(db: &Db, rules: Rules) -> Result<Option<Vote>, StoreError> {
    if rules.has(Rule::VoteInTransaction) {
        return Ok(None);
    }
    vote(&db.conn, db.spec.name).map(Some)
}

/// Replaces a tail as a store would that lacks the rule: each row by itself, what is left over last. Only in a test.
fn row_by_row(db: &mut Db, plan: &Plan, rows: &[Row]) -> Result<Index, StoreError> {
    let file = db.spec.name;
    for row in &rows[plan.skip..] {
        let tx = db.begin()?;
        tx.execute("DELETE FROM log WHERE idx = ?", [int(row.idx.0)]).map_err(failed(file, "cut the log"))?;
        insert(&tx, file, row)?;
        tx.commit().map_err(failed(file, "commit"))?;
        gantry_crash::point("append-row-by-row");
    }
    let rest = [int(plan.matched.next().0)];
    db.conn.execute("DELETE FROM log WHERE idx >= ?", rest).map_err(failed(file, "cut the log"))?;
    Ok(plan.matched)
}

/// Applies batches and moves the mark inside the log's own file (Q), in the caller's transaction.
pub fn apply_here<'a>(
    conn: &Connection,
    db_spec: &super::files::FileSpec,
    batches: impl Iterator<Item = &'a Batch>,
    mark: &Applied,
) -> Result<(), StoreError> {
    for batch in batches {
        objects::apply(conn, db_spec, batch)?;
    }
    objects::set_applied(conn, db_spec, mark)
}

/// The last row of a log that ended at `before`, once a plan is carried out.
fn end(plan: &Plan, rows: &[Row], before: Index) -> Index {
    match (rows[plan.skip..].last(), plan.delete_from) {
        (Some(row), _) => row.idx,
        (None, Some(from)) => Index(from.0 - 1),
        (None, None) => before,
    }
}

/// Carries out a plan in the caller's transaction: rows that differ go aside, then the new ones come.
fn write(
    tx: &Transaction<'_>,
    mark: &mut Mark,
    spec: FileSpec,
    dir: &Path,
    plan: &Plan,
    rows: &[Row],
) -> Result<(), StoreError> {
    if let Some(from) = plan.delete_from {
        cut(tx, mark, spec, dir, from)?;
    }
    rows[plan.skip..].iter().try_for_each(|row| insert(tx, spec.name, row))
}

/// Deletes all rows from `from` on, after they are saved.
pub fn cut(
    tx: &Transaction<'_>,
    mark: &mut Mark,
    spec: FileSpec,
    dir: &Path,
    from: Index,
) -> Result<(), StoreError> {
    let last = Index(from.0 - 1);
    aside::save_rows(tx, spec, dir, last)?;
    mark.lower(last)?;
    tx.execute("DELETE FROM log WHERE idx >= ?", [int(from.0)]).map_err(failed(spec.name, "cut the log"))?;
    Ok(())
}

/// Rows of the spool looked at at once.
const SPOOL_ROWS: u64 = 1_000;
/// And their bytes.
const SPOOL_BYTES: usize = 16 * 1024 * 1024;

/// Where fetched rows wait for [`adopt`]: a temporary table, which ends with the connection. What was
/// spooled before goes.
pub fn clear_spool(db: &Db) -> Result<(), StoreError> {
    let sql = "CREATE TEMP TABLE IF NOT EXISTS spool(
        idx INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, run INTEGER NOT NULL, kind TEXT NOT NULL,
        crc INTEGER NOT NULL, body TEXT NOT NULL);
        DELETE FROM temp.spool;";
    db.conn.execute_batch(sql).map_err(failed(db.spec.name, "make room for fetched rows"))
}

/// Puts what was spooled after row `after`, terms unchanged, in one transaction; what differs goes aside. With
/// nothing spooled, what follows `after` goes (the best log ends there).
pub fn adopt(
    db: &mut Db,
    dir: &Path,
    claim: &Claim,
    after: Position,
    applied: Index,
    rules: Rules,
) -> Result<Position, StoreError> {
    let spec = db.spec;
    let file = spec.name;
    let (tx, mark) = db.begin_marked()?;
    let refuse = |why| StoreError::Refused { term: claim.term, why };
    let raised = promise(&vote(&tx, file)?, claim, rules).map_err(refuse)?;
    put_vote(&tx, file, &raised)?;
    let base = base(&tx, file)?;
    let mut prev = after;
    loop {
        let piece = super::log::rows_in(&tx, file, "temp.spool", prev.idx, SPOOL_ROWS, SPOOL_BYTES)?;
        let append = Append { claim: *claim, prev, rows: piece, commit: Index(0) };
        let view = View::read(&tx, file, &base, applied, prev.idx, append.rows.len() as u64 + 1)?;
        let plan = fit(&view, &append).map_err(refuse)?;
        write(&tx, mark, spec, dir, &plan, &append.rows)?;
        let Some(end) = append.rows.last() else { break };
        prev = end.position();
    }
    if last(&tx, file, &base)?.idx > prev.idx {
        if prev.idx < applied {
            return Err(refuse(crate::core::copy::Refusal::Broken(prev.idx.next())));
        }
        cut(&tx, mark, spec, dir, prev.idx.next())?;
    }
    tx.commit().map_err(failed(file, "commit"))?;
    mark.note(Flushed { promised: raised.promised, last: prev.idx });
    clear_spool(db)?;
    Ok(prev)
}

/// Keeps rows for [`adopt`].
pub fn spool(db: &mut Db, rows: &[Row]) -> Result<(), StoreError> {
    let file = db.spec.name;
    let tx = db.conn.transaction().map_err(failed(file, "keep fetched rows"))?;
    for row in rows {
        super::log::insert_in(&tx, file, "temp.spool", row)?;
    }
    tx.commit().map_err(failed(file, "keep fetched rows"))
}

/// Rows after `from` for a copy or a recovering writer: at most `limit`, and at most `bytes` of bodies unless
/// the first alone is longer.
pub fn some_rows(
    conn: &Connection,
    file: &'static str,
    from: Index,
    limit: u64,
    bytes: usize,
) -> Result<Vec<Row>, StoreError> {
    let mut found = rows(conn, file, from, limit, bytes)?;
    let held: usize = found.iter().map(|r| r.body.len()).sum();
    if found.len() > 1 && held > bytes {
        found.pop();
    }
    Ok(found)
}
