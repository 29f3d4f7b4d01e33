//! Compaction: how far a copy may forget rows, and what remains of them (P3.1).
//!
//! What is forgotten is in the objects, flushed. What remains besides is the base (the last row forgotten, and
//! the list in force there) and the newest record of each copy's token ([`super::token::Records`]), which the
//! caller moves into table `token` in the same transaction.

use super::list::List;
use super::row::{Index, Position, Row, RowKind};
use super::rules::{Rule, Rules};

/// Rows a log keeps behind the slowest copy that answers: a copy that was away a short while is fed rows, not
/// a snapshot.
pub const KEEP_ROWS: u64 = 10_000;
/// The same in bytes of bodies; whichever keeps fewer rows decides, so a log of large rows stays bounded too.
pub const KEEP_BYTES: u64 = 64 * 1024 * 1024;
/// Fewer rows than these are not worth a transaction.
pub const WORTH_ROWS: u64 = 1_000;

/// Where the kept rows begin: everything up to here was compacted away.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Base {
    /// The last row compacted away; index 0 when none was.
    pub at: Position,
    /// The list in force there.
    pub list: List,
    /// Raised by each snapshot taken over (P3.2).
    pub gen_no: u64,
}

/// What is known of a log when it is asked how far it may be compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The base as it stands.
    pub base: Index,
    /// Applied to the objects.
    pub applied: Index,
    /// Every object file of the log is flushed at least this far.
    pub flushed: Index,
    /// The last row such that the rows after it, up to the slowest copy's place, weigh [`KEEP_BYTES`] or more;
    /// 0 when they weigh less.
    pub heavy: Index,
}

/// How far the writer's copy may be compacted now, when that is worth it. `slowest` is the least that a member
/// which answers has confirmed; silent members are not waited for, they get a snapshot.
#[must_use]
pub fn of_writer(extent: &Extent, slowest: Index) -> Option<Index> {
    let by_rows = Index(slowest.0.saturating_sub(KEEP_ROWS));
    worth(extent, by_rows.max(extent.heavy.min(slowest)))
}

/// The same for a copy that follows. It keeps as much behind what it has applied, since it may be the master
/// tomorrow.
#[must_use]
pub fn of_copy(extent: &Extent) -> Option<Index> {
    of_writer(extent, extent.applied)
}

/// The new base when rows up to `at` are forgotten. `lists` are the list rows among them, in order (others are
/// passed over).
///
/// # Errors
/// The body of a list row holds no list; its index.
pub fn base_after<'a>(
    base: &Base,
    at: Position,
    lists: impl IntoIterator<Item = &'a Row>,
    rules: Rules,
) -> Result<Base, Index> {
    let of = |row: &Row| row.kind == RowKind::List && row.idx > base.at.idx && row.idx <= at.idx;
    let newest = lists.into_iter().filter(|row| of(row)).max_by_key(|row| row.idx);
    let list = match newest {
        Some(row) if rules.has(Rule::CompactionKeepsList) => {
            serde_json::from_slice(&row.body).map_err(|_| row.idx)?
        }
        Some(_) | None => base.list.clone(),
    };
    Ok(Base { at, list, gen_no: base.gen_no })
}

fn worth(extent: &Extent, wanted: Index) -> Option<Index> {
    let to = wanted.min(extent.applied).min(extent.flushed);
    (to.0 >= extent.base.0 + WORTH_ROWS).then_some(to)
}

#[cfg(test)]
mod tests;
