//! Forgetting rows: those that the objects hold, flushed, and no copy is likely to ask for (P3.1).

use super::log;
use super::objects;
use super::sql::{Db, failed, int, uint};
use crate::core::Rules;
use crate::core::compact::{Extent, KEEP_BYTES, KEEP_ROWS, base_after};
use crate::core::row::{Index, RowKind};
use crate::error::StoreError;

/// Rows deleted in one transaction: a few milliseconds in which nobody else can write.
const ROWS_AT_ONCE: u64 = 5_000;

/// What is known of the log now. The object files are flushed for it, as far as that waits for nobody.
pub fn extent(log: &Db, projections: &[Db], slowest: Index) -> Result<Extent, StoreError> {
    let base = log::base(&log.conn, log.spec.name)?;
    let (mut applied, mut flushed) = (None::<Index>, true);
    for db in std::iter::once(log).chain(projections).filter(|db| db.spec.objects) {
        let mark = objects::applied(&db.conn, &db.spec)?.idx;
        applied = Some(applied.map_or(mark, |a| a.min(mark)));
        // Objects in the log's own file are flushed by the very transaction that deletes rows.
        flushed &= db.spec.log || db.checkpoint_passive()?;
    }
    let applied = applied.unwrap_or_default();
    let flushed = if flushed { applied } else { Index(0) };
    Ok(Extent { base: base.at.idx, applied, flushed, heavy: heavy(log, slowest)? })
}

/// The last row such that the rows after it, up to `slowest`, weigh [`KEEP_BYTES`] or more.
fn heavy(log: &Db, slowest: Index) -> Result<Index, StoreError> {
    let err = failed(log.spec.name, "weigh rows");
    let sql = "SELECT idx, length(body) FROM log WHERE idx <= ? ORDER BY idx DESC LIMIT ?";
    let mut query = log.conn.prepare_cached(sql).map_err(&err)?;
    let mut rows = query.query([int(slowest.0), int(KEEP_ROWS)]).map_err(&err)?;
    let mut held: u64 = 0;
    while let Some(r) = rows.next().map_err(&err)? {
        let (idx, bytes): (i64, i64) = (r.get(0).map_err(&err)?, r.get(1).map_err(&err)?);
        held += uint(log.spec.name, bytes)?;
        if held >= KEEP_BYTES {
            return Ok(Index(uint(log.spec.name, idx)?.saturating_sub(1)));
        }
    }
    Ok(Index(0))
}

/// Forgets rows up to `to`, a bounded number in each transaction. What must outlive them goes along: the list
/// in force and the records of tokens.
pub fn forget(log: &mut Db, to: Index, rules: Rules) -> Result<(), StoreError> {
    while step(log, to, rules)? < to {}
    Ok(())
}

fn step(db: &mut Db, to: Index, rules: Rules) -> Result<Index, StoreError> {
    let file = db.spec.name;
    let tx = db.begin()?;
    let base = log::base(&tx, file)?;
    if base.at.idx >= to {
        return Ok(base.at.idx);
    }
    let to = to.min(Index(base.at.idx.0 + ROWS_AT_ONCE));
    let missing = || super::sql::damaged(file, format!("row {to} is missing"));
    let at = log::position(&tx, file, &base, to)?.ok_or_else(missing)?;
    let lists = log::rows_of(&tx, file, RowKind::List, to)?;
    let bad = |idx| super::sql::damaged(file, format!("row {idx} holds no list"));
    let next = base_after(&base, at, &lists, rules).map_err(bad)?;
    let mut records = log::tokens(&tx, file, to)?;
    records.prune(&next.list);
    log::put_tokens(&tx, file, &records)?;
    tx.execute("DELETE FROM log WHERE idx <= ?", [int(to.0)]).map_err(failed(file, "forget rows"))?;
    log::put_base(&tx, file, &next)?;
    tx.commit().map_err(failed(file, "commit"))?;
    Ok(to)
}
