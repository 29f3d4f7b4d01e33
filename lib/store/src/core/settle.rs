//! Settling a change of the members across both logs (P2.1 to P2.6): what the writer of W, and of Q, does next.
//!
//! ```text
//!  W: list n+1 appended ─ committed ─▶ object {n+1, unsettled} ────────────────▶ object {n+1, settled}
//!                                           │ (mirror)                        ▲
//!  Q:                                       └─▶ list n+1 appended ─ committed ┘ ListInQ(n+1)
//! ```
//!
//! Level-triggered: each function takes what is there now and names one step; doing it twice is harmless, and a
//! new master, or a restarted writer, goes on from whatever it finds. Q's list is at most one change behind
//! W's, so that majorities of the two meet.

use super::list::{List, ListRefusal, Member, Standing};
use super::row::Index;
use super::rules::{Rule, Rules};
use serde::{Deserialize, Serialize};

/// Rows a learner may lack in each log when it becomes a member: a moment's work, so that commits which need it
/// do not stall.
pub const LEARNER_LACKS_MAX: u64 = 1_000;

/// The members as an object of W.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Members {
    /// The number of the list.
    pub n: u64,
    /// The copies that count from it on.
    pub members: Vec<Member>,
    /// The list is committed in both logs.
    pub settled: bool,
}

/// What the writer of W sees.
#[derive(Debug, Clone, Copy)]
pub struct SeenW<'a> {
    /// The newest list of W.
    pub newest: &'a List,
    /// Its row is committed.
    pub list_committed: bool,
    /// A row of the writer's own term is committed.
    pub serving: bool,
    /// The object, as committed. `None` in a W that has none yet.
    pub object: Option<&'a Members>,
    /// What luxid's newest connection to this writer said is committed in Q under its own term. `None` until it
    /// has said so.
    pub in_q: Option<u64>,
}

/// The next step of W's writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextW {
    /// Nothing to do: the newest list is settled.
    Settled,
    /// Wait until the list row (or the first row of the own term) is committed.
    AwaitCommit,
    /// Write this object; it says unsettled.
    Publish(Members),
    /// Wait until luxid says that Q has this list.
    AwaitQ(u64),
    /// Write this object; it says settled. The change is done, its job may answer.
    Settle(Members),
}

/// What W's writer does next.
#[must_use]
pub fn next_w(seen: &SeenW<'_>) -> NextW {
    let n = seen.newest.n;
    if !seen.serving || !seen.list_committed {
        return NextW::AwaitCommit;
    }
    let object = |settled| Members { n, members: seen.newest.members.clone(), settled };
    match seen.object {
        Some(at) if at.n == n && at.settled => NextW::Settled,
        Some(at) if at.n == n && seen.in_q >= Some(n) => NextW::Settle(object(true)),
        Some(at) if at.n == n => NextW::AwaitQ(n),
        Some(_) | None => NextW::Publish(object(false)),
    }
}

/// What the writer of Q sees.
#[derive(Debug, Clone, Copy)]
pub struct SeenQ<'a> {
    /// The newest list of Q.
    pub newest: &'a List,
    /// Its row is committed.
    pub list_committed: bool,
    /// A row of the writer's own term is committed.
    pub serving: bool,
    /// The object of W as wconfd said it is committed, under the same epoch.
    pub object: &'a Members,
}

/// The next step of Q's writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextQ {
    /// Wait until the newest list row (or the first row of the own term) is committed.
    AwaitCommit,
    /// The object known is older than Q's list: wait for a newer one.
    AwaitW,
    /// Append this list.
    Append(List),
    /// Tell wconfd that Q has this list: once on each connection, and again when it changes.
    Tell(u64),
    /// W is more than one change ahead, which settling excludes: the files contradict each other. Stop.
    Apart {
        /// The number of Q's list.
        q: u64,
        /// The number of W's.
        w: u64,
    },
}

/// What Q's writer does next.
#[must_use]
pub fn next_q(seen: &SeenQ<'_>) -> NextQ {
    let (q, w) = (seen.newest.n, seen.object.n);
    if !seen.serving || !seen.list_committed {
        return NextQ::AwaitCommit;
    }
    match w.checked_sub(q) {
        None => NextQ::AwaitW,
        Some(0) => NextQ::Tell(q),
        Some(1) => NextQ::Append(List { n: w, prev: q, members: seen.object.members.clone() }),
        Some(_) => NextQ::Apart { q, w },
    }
}

/// The list that W's writer may append when `members` shall count from now on. Both logs have a row of their
/// writers' own terms committed, and the change before is settled: luxid's word [`SeenW::in_q`] is needed for
/// both, so after each start W's writer waits for it.
///
/// # Errors
/// The change must wait or can never be made.
pub fn change(seen: &SeenW<'_>, members: Vec<Member>, me: Member, rules: Rules) -> Result<List, ListRefusal> {
    let own_term_committed = seen.serving && seen.in_q.is_some();
    let settled = next_w(seen) == NextW::Settled;
    seen.newest.follow(members, &Standing { me, own_term_committed, settled }, rules)
}

/// Whether a learner that has confirmed `has` of a log that ends at `last` lacks little enough to be a member.
/// To be asked of both logs.
#[must_use]
pub fn fed(has: Index, last: Index) -> bool {
    last.0.saturating_sub(has.0) < LEARNER_LACKS_MAX
}

/// Whether a row may be sent (P1.13): the writer's `other` log is committed to `committed`, and the row rests on
/// its row `rests_on` (0 for nothing). Within one log a batch is one row and needs no such care.
#[must_use]
pub fn may_send(rests_on: Index, committed: Index, rules: Rules) -> bool {
    rests_on <= committed || !rules.has(Rule::CauseFirst)
}

#[cfg(test)]
mod tests;
