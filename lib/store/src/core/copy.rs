//! One copy of a log: what it has promised, and which rows it takes (P1.1, P1.2, P1.4).
//!
//! Decisions only. The caller reads the [`Vote`] and the [`LogView`] and does what [`promise`] or [`admit`]
//! answered **in one transaction**, and answers the asker after the flush.

use super::row::{Index, Position, Row, Term};
use super::rules::{Rule, Rules};
use uuid::Uuid;

/// The 128 random bits drawn by each attempt to win an epoch.
pub type Ballot = [u8; 16];
/// The 128 random bits drawn by each start of a writer.
pub type Nonce = [u8; 16];

/// What a copy has promised and which copy it is. One row of the log file, never part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Vote {
    /// Nothing of a lower term is accepted any more.
    pub promised: Term,
    /// The ballot of the promised epoch.
    pub ballot: Ballot,
    /// The start nonce of the promised run.
    pub nonce: Nonce,
    /// The cluster the copy belongs to.
    pub cluster: Uuid,
    /// The history it continues; `--no-voting` starts another (P1.12).
    pub history: Uuid,
    /// The copy itself.
    pub copy_id: Uuid,
    /// The token the writer last gave to this copy (P1.11).
    pub token: Option<[u8; 16]>,
}

impl Vote {
    /// What stands for a vote that can't be read: of no copy, and nothing is promised.
    #[must_use]
    pub fn nobodys() -> Vote {
        let (promised, ballot, nonce) = (Term::default(), [0; 16], [0; 16]);
        let (cluster, history, copy_id) = (Uuid::nil(), Uuid::nil(), Uuid::nil());
        Vote { promised, ballot, nonce, cluster, history, copy_id, token: None }
    }
}

/// Who wants to write, as every promise and every append says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The cluster meant.
    pub cluster: Uuid,
    /// The history meant.
    pub history: Uuid,
    /// The term wanted, or written under.
    pub term: Term,
    /// The ballot that won, or shall win, the epoch.
    pub ballot: Ballot,
    /// The start of the writer.
    pub nonce: Nonce,
}

/// Rows for a copy, to stand directly after `prev`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Append {
    /// The writer.
    pub claim: Claim,
    /// The row before the first of `rows`.
    pub prev: Position,
    /// Rows with rising indices from `prev.idx + 1`.
    pub rows: Vec<Row>,
    /// What the writer knows to be committed.
    pub commit: Index,
}

/// Why a copy refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another cluster or another history.
    #[error("the log belongs to another cluster or history")]
    Stranger,
    /// A higher term is promised.
    #[error("term {0} is promised")]
    Promised(Term),
    /// The epoch is promised to another ballot.
    #[error("epoch {0} is promised to another ballot")]
    OtherBallot(u64),
    /// The term belongs to another start of the writer.
    #[error("term {0} belongs to another start of the writer")]
    OtherStart(Term),
    /// The row before is missing or is of another term.
    #[error("the row before is missing; the log ends at {} of term {}", .0.idx, .0.term)]
    Gap(Position),
    /// The writer contradicts what was applied here: one of the two is broken.
    #[error("row {0} was applied here and differs from the writer's")]
    Broken(Index),
    /// The rows are no run of rows of this term or older ones, or the term is beyond what files can hold.
    #[error("the rows do not follow each other, or the term is out of range")]
    Malformed,
}

/// What is known of a copy's log.
pub trait LogView {
    /// The end of what was compacted away; term of that row.
    fn base(&self) -> Position;
    /// The last row, or the base when there is none.
    fn last(&self) -> Position;
    /// Up to here rows are applied to objects.
    fn applied(&self) -> Index;
    /// The term of a row above the base, if it is there.
    fn term_at(&self, idx: Index) -> Option<Term>;
}

/// What to write, in one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Plan {
    /// The vote row to store, when it changes.
    pub vote: Option<Vote>,
    /// Delete all rows from here on.
    pub delete_from: Option<Index>,
    /// Then insert `rows[skip..]`.
    pub skip: usize,
    /// Then confirm this far, under the claim's term only.
    pub matched: Index,
    /// Then rows up to here may be applied.
    pub commit: Index,
}

/// The vote row after a promise to `claim`. The same promise may be given again.
///
/// # Errors
/// A higher or another promise stands against it.
pub fn promise(vote: &Vote, claim: &Claim, rules: Rules) -> Result<Vote, Refusal> {
    standing(vote, claim, rules)?;
    Ok(Vote { promised: claim.term, ballot: claim.ballot, nonce: claim.nonce, ..vote.clone() })
}

/// Whether the copy may take rows of `append`, and what to write.
///
/// A term above the promised one is taken and becomes the promised one: rows of a newer writer must not be
/// deleted by an older one that comes late.
///
/// # Errors
/// The writer is too old, or the rows do not fit the log.
pub fn admit(vote: &Vote, log: &impl LogView, append: &Append, rules: Rules) -> Result<Plan, Refusal> {
    let raised = promise(vote, &append.claim, rules)?;
    let plan = fit(log, append)?;
    Ok(Plan { vote: (raised != *vote).then_some(raised), ..plan })
}

/// As [`admit`], for the writer's own copy. It obeys the promise in its file like any other: a writer that
/// was deposed through its own copy must not count that copy any more.
///
/// # Errors
/// As [`admit`].
pub fn admit_own(vote: &Vote, log: &impl LogView, append: &Append, rules: Rules) -> Result<Plan, Refusal> {
    if rules.has(Rule::OwnCopyObeys) { admit(vote, log, append, rules) } else { fit(log, append) }
}

/// Whether the rows of `append` fit the log, whoever sends them.
///
/// What the copy has compacted away was committed, so every writer that may send has the same rows there: they
/// match, and a writer that knows little of the copy finds its place without walking back.
///
/// # Errors
/// They do not.
pub fn fit(log: &impl LogView, append: &Append) -> Result<Plan, Refusal> {
    if !well_formed(append) {
        return Err(Refusal::Malformed);
    }
    let (prev, base) = (append.prev, log.base());
    let known = if prev.idx == base.idx { Some(base.term) } else { log.term_at(prev.idx) };
    if prev.idx >= base.idx && known != Some(prev.term) {
        return Err(Refusal::Gap(log.last()));
    }
    if let Some(row) = append.rows.iter().find(|r| r.idx == base.idx)
        && row.term != base.term
    {
        return Err(Refusal::Broken(row.idx));
    }
    let stays = |r: &&Row| r.idx <= base.idx || log.term_at(r.idx) == Some(r.term);
    let skip = append.rows.iter().take_while(stays).count();
    let matched = append.rows.last().map_or(prev.idx, |r| r.idx);
    let delete_from = append.rows.get(skip).map(|r| r.idx).filter(|&idx| idx <= log.last().idx);
    if let Some(idx) = delete_from
        && idx <= log.applied()
    {
        return Err(Refusal::Broken(idx));
    }
    Ok(Plan { vote: None, delete_from, skip, matched, commit: append.commit.min(matched) })
}

/// Why an empty copy is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MakeRefusal {
    /// Another copy is here than the one to be replaced: the request came late.
    #[error("copy {0:?} is here now")]
    OtherCopy(Option<Uuid>),
    /// The writer that asks is too old.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// The vote of an empty copy `copy_id`, made instead of the copy `instead_of` (`None`: there is none). For a
/// node that is in neither log's list (P2.2); what was here is put aside. Repeating the request changes nothing,
/// and one that comes late finds another copy than it names: it must not empty a copy that has joined since.
/// That the caller is of the node's own cluster is for the node to know; a disk of another one may have been put into it.
///
/// # Errors
/// Another copy is here, or the one here has promised a newer writer of the same history.
pub fn make(
    here: Option<&Vote>,
    claim: &Claim,
    instead_of: Option<Uuid>,
    copy_id: Uuid,
    rules: Rules,
) -> Result<Vote, MakeRefusal> {
    let found = here.map(|vote| vote.copy_id);
    if let Some(vote) = here {
        // What is of another history or another cluster has promised nothing to this one.
        if (vote.cluster, vote.history) == (claim.cluster, claim.history) {
            standing(vote, claim, rules)?;
            if vote.copy_id == copy_id {
                return Ok(vote.clone());
            }
        }
    }
    if found != instead_of {
        return Err(MakeRefusal::OtherCopy(found));
    }
    let Claim { cluster, history, term, ballot, nonce } = *claim;
    Ok(Vote { promised: term, ballot, nonce, cluster, history, copy_id, token: None })
}

/// Whether `claim` may still write here.
fn standing(vote: &Vote, claim: &Claim, rules: Rules) -> Result<(), Refusal> {
    if (vote.cluster, vote.history) != (claim.cluster, claim.history) {
        return Err(Refusal::Stranger);
    }
    if i64::try_from(claim.term.epoch.max(claim.term.run)).is_err() {
        return Err(Refusal::Malformed);
    }
    if claim.term.epoch == vote.promised.epoch && claim.ballot != vote.ballot && rules.has(Rule::Ballot) {
        return Err(Refusal::OtherBallot(vote.promised.epoch));
    }
    if claim.term < vote.promised {
        return Err(Refusal::Promised(vote.promised));
    }
    let another = claim.nonce != vote.nonce;
    if claim.term == vote.promised && another && rules.has(Rule::FreshRun) && rules.has(Rule::Ballot) {
        return Err(Refusal::OtherStart(claim.term));
    }
    Ok(())
}

fn well_formed(append: &Append) -> bool {
    let mut before = append.prev;
    append.rows.iter().all(|row| {
        let follows = row.idx == before.idx.next() && row.term >= before.term;
        before = row.position();
        follows && row.term <= append.claim.term
    })
}

#[cfg(test)]
mod tests;
