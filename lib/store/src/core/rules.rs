//! Which rules are in force. A running system obeys all of them; a test may take one away to show what it
//! prevents.

/// The rules in force. The only value a production program can make is [`Rules::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rules(u32);

/// The name of one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// P1.2: the writer's own copy obeys the promise in its file like every other copy.
    OwnCopyObeys,
    /// P1.2: an append reads the vote in the transaction that writes the rows.
    VoteInTransaction,
    /// P1.4, P1.7d: a tail that differs is deleted and replaced in one transaction.
    TailInOneTransaction,
    /// P1.5: only rows of the writer's own term are committed by count.
    OwnTermCommits,
    /// P1.1: an epoch is promised together with one ballot.
    Ballot,
    /// P1.3: each start of a writer has a run (and nonce) of its own.
    FreshRun,
    /// P1.11: a copy that lost what it once confirmed does not count.
    SuspectsOut,
    /// P2.1: one member in or out at a time.
    OneMember,
    /// P2.1: the next change waits until the list before it is committed.
    ListCommitted,
    /// P1.7c: the majority is one of the list in the best log heard, not of the elector's own.
    ListOfBest,
    /// P2.1: a row of the own term is committed before the list changes.
    OwnTermBeforeList,
    /// P3.1: compaction keeps the list that was in force at the new base.
    CompactionKeepsList,
    /// P3.2: a snapshot is taken over by a transaction that reads the vote again.
    SnapshotChecksVote,
    /// P3.2: a snapshot keeps the rows after it when the copy has its last row.
    SnapshotKeepsSuffix,
    /// P1.13: a row is sent only when all it rests on in the other log is committed.
    CauseFirst,
}

impl Rules {
    /// Every rule.
    pub const ALL: Rules = Rules(u32::MAX);

    /// Whether `rule` is in force.
    #[must_use]
    pub const fn has(self, rule: Rule) -> bool {
        self.0 & rule.bit() != 0
    }

    /// These rules less one. For tests alone: without any of them acknowledged data can be lost.
    #[cfg(any(test, feature = "weaken"))]
    #[must_use]
    pub const fn without(self, rule: Rule) -> Rules {
        Rules(self.0 & !rule.bit())
    }
}

impl Rule {
    const fn bit(self) -> u32 {
        1 << self as u32
    }
}
