//! Snapshots: who needs one, whether it is taken over, what of the log stays, and what a start finds half done
//! (P3.2, P3.3).
//!
//! ```text
//!  side file received, checked ─▶ one transaction in the log file: take_over ─▶ base, gen + 1
//!                              ─▶ each object file: one transaction that sets (gen, applied = S)
//!                              ─▶ side file removed
//! ```
//!
//! A crash before the first transaction leaves the old copy. After it the copy is the new one, and [`carry_on`]
//! says at start which object files are still to be filled.

use super::compact::Base;
use super::copy::{Claim, LogView, Refusal, Vote, promise};
use super::list::List;
use super::row::{Index, Position};
use super::rules::{Rule, Rules};

/// What a snapshot says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Head {
    /// The writer that feeds it, or that recovers with it.
    pub claim: Claim,
    /// S, and the term of row S: the last row its objects hold. Committed.
    pub at: Position,
    /// The list in force at S.
    pub list: List,
}

/// What to do with a snapshot that has arrived whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TakeOver {
    /// Nothing: all it says is applied here. Answer the position.
    Have(Position),
    /// Carry out this plan in one transaction, then copy the objects.
    Take(Plan),
}

/// What to write into the log file, in one transaction, beside the records of tokens, which become the
/// snapshot's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The vote row to store, when it changes: the claim's promise. Nothing of it comes from the snapshot.
    pub vote: Option<Vote>,
    /// Rows after S stay (their token records too); else all rows are deleted.
    pub keep_after: bool,
    /// The new base, `gen_no` raised. Rows up to it are deleted.
    pub base: Base,
}

/// How a writer goes on with a copy that refused rows after `tried`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feed {
    /// Send rows after this one.
    After(Index),
    /// The copy lacks rows that the writer has no more: send a snapshot.
    Snapshot,
}

/// Whether the snapshot is taken over, and how. Called in the transaction that does it: a promise given while
/// the snapshot travelled counts.
///
/// # Errors
/// The writer that sent it is too old, or of another cluster or history.
pub fn take_over(
    vote: &Vote,
    log: &impl LogView,
    gen_no: u64,
    head: &Head,
    rules: Rules,
) -> Result<TakeOver, Refusal> {
    let raised = match promise(vote, &head.claim, rules) {
        Ok(raised) => raised,
        Err(why) if rules.has(Rule::SnapshotChecksVote) => return Err(why),
        Err(_) => vote.clone(),
    };
    if head.at.idx <= log.applied() {
        return Ok(TakeOver::Have(log.last()));
    }
    let same = log.term_at(head.at.idx) == Some(head.at.term);
    Ok(TakeOver::Take(Plan {
        vote: (raised != *vote).then_some(raised),
        keep_after: same && rules.has(Rule::SnapshotKeepsSuffix),
        base: Base { at: head.at, list: head.list.clone(), gen_no: gen_no + 1 },
    }))
}

/// How to go on with a copy that ends at `last` and refused rows after `tried` ([`Refusal::Gap`]), or with one
/// just connected (`tried` is then the writer's own last row plus one). `base` is the writer's.
#[must_use]
pub fn feed(last: Index, tried: Index, base: Index) -> Feed {
    let before = last.min(Index(tried.0.saturating_sub(1)));
    if before < base || tried <= base { Feed::Snapshot } else { Feed::After(before) }
}

/// What a start does with an object file and a side file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CarryOn {
    /// The file is of the log's generation: nothing. A side file may be removed when all files are.
    Done,
    /// Copy the objects from the side file.
    Fill,
    /// The file is behind and no side file of the log's generation is there: the copy is damaged.
    Lost,
}

/// Whether an object file of generation `file` is still to be filled, when the log's base is of `base` and a
/// side file of `side` is there (a side file is written for the generation that its take-over sets).
#[must_use]
pub fn carry_on(base: u64, file: u64, side: Option<u64>) -> CarryOn {
    if file >= base {
        CarryOn::Done
    } else if side == Some(base) {
        CarryOn::Fill
    } else {
        CarryOn::Lost
    }
}

/// Whether a start removes a side file: it was never taken over, or an older one.
#[must_use]
pub fn stale_side(base: u64, side: u64) -> bool {
    side != base
}

#[cfg(test)]
mod tests;
