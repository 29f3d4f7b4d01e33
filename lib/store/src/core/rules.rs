//! Which rules are in force. A running system obeys all of them; a test may take one away to show what it
//! prevents.

/// The rules in force. The only value a production program can make is [`Rules::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    own_copy_obeys: bool,
    vote_in_transaction: bool,
    tail_in_one: bool,
    own_term_commits: bool,
    ballot: bool,
    fresh_run: bool,
    suspects_out: bool,
    one_member: bool,
    list_committed: bool,
    list_of_best: bool,
    own_term_before_list: bool,
}

/// The name of one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
}

impl Rules {
    /// Every rule.
    pub const ALL: Rules = Rules {
        own_copy_obeys: true,
        vote_in_transaction: true,
        tail_in_one: true,
        own_term_commits: true,
        ballot: true,
        fresh_run: true,
        suspects_out: true,
        one_member: true,
        list_committed: true,
        list_of_best: true,
        own_term_before_list: true,
    };

    /// Whether `rule` is in force.
    #[must_use]
    pub const fn has(self, rule: Rule) -> bool {
        match rule {
            Rule::OwnCopyObeys => self.own_copy_obeys,
            Rule::VoteInTransaction => self.vote_in_transaction,
            Rule::TailInOneTransaction => self.tail_in_one,
            Rule::OwnTermCommits => self.own_term_commits,
            Rule::Ballot => self.ballot,
            Rule::FreshRun => self.fresh_run,
            Rule::SuspectsOut => self.suspects_out,
            Rule::OneMember => self.one_member,
            Rule::ListCommitted => self.list_committed,
            Rule::ListOfBest => self.list_of_best,
            Rule::OwnTermBeforeList => self.own_term_before_list,
        }
    }

    /// These rules less one. For tests alone: without any of them acknowledged data can be lost.
    #[cfg(any(test, feature = "weaken"))]
    #[must_use]
    pub fn without(mut self, rule: Rule) -> Rules {
        let field = match rule {
            Rule::OwnCopyObeys => &mut self.own_copy_obeys,
            Rule::VoteInTransaction => &mut self.vote_in_transaction,
            Rule::TailInOneTransaction => &mut self.tail_in_one,
            Rule::OwnTermCommits => &mut self.own_term_commits,
            Rule::Ballot => &mut self.ballot,
            Rule::FreshRun => &mut self.fresh_run,
            Rule::SuspectsOut => &mut self.suspects_out,
            Rule::OneMember => &mut self.one_member,
            Rule::ListCommitted => &mut self.list_committed,
            Rule::ListOfBest => &mut self.list_of_best,
            Rule::OwnTermBeforeList => &mut self.own_term_before_list,
        };
        *field = false;
        self
    }
}
