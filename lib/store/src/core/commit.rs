//! What is committed: the count of the copies that have flushed a row (P1.5).

use super::list::{List, Member};
use super::row::{Index, Term};
use super::rules::{Rule, Rules};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// A writer's tally of what its copies have confirmed in its term.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tally {
    me: Member,
    term: Term,
    own_first: Index,
    newest: (Index, List),
    confirmed: BTreeMap<Uuid, Index>,
    suspects: BTreeSet<Uuid>,
    committed: Index,
    rules: Rules,
}

impl Tally {
    /// A tally for a writer of `term` whose first own row is (or will be) at `own_first`, with the newest
    /// list of its log. `committed` is what its own copy had applied already.
    #[must_use]
    pub fn new(
        me: Member,
        term: Term,
        own_first: Index,
        newest: (Index, List),
        committed: Index,
        rules: Rules,
    ) -> Tally {
        let (confirmed, suspects) = (BTreeMap::new(), BTreeSet::new());
        Tally { me, term, own_first, newest, confirmed, suspects, committed, rules }
    }

    /// A list row was appended; it counts at once, committed or not.
    pub fn listed(&mut self, idx: Index, list: List) {
        debug_assert!(self.newest.0 < idx, "lists are appended in order");
        self.newest = (idx, list);
    }

    /// The newest list of the log and its row.
    #[must_use]
    pub const fn newest(&self) -> &(Index, List) {
        &self.newest
    }

    /// A copy was found suspect (P1.11). It counts no more, whatever it confirms or is judged later: what it
    /// said meanwhile may rest on a promise it has forgotten. The cure is a copy with another id.
    pub fn suspect(&mut self, copy: Uuid) {
        self.suspects.insert(copy);
    }

    /// `copy` says it has flushed all rows up to `idx` that this writer has under `term`. Answers for
    /// another term say nothing and are dropped. Returns what is committed now.
    pub fn confirm(&mut self, copy: Uuid, term: Term, idx: Index) -> Index {
        if term == self.term {
            let known = self.confirmed.entry(copy).or_default();
            *known = idx.max(*known);
        }
        self.committed = self.committed.max(self.count());
        self.committed
    }

    /// Up to here the log is committed.
    #[must_use]
    pub const fn committed(&self) -> Index {
        self.committed
    }

    /// Whether a row of the writer's own term is committed: before that it may not serve (P1.7f).
    #[must_use]
    pub fn serving(&self) -> bool {
        self.committed >= self.own_first
    }

    /// Whether the newest list row is committed.
    #[must_use]
    pub fn list_committed(&self) -> bool {
        self.newest.0 <= self.committed
    }

    /// The highest row of the own term on a majority of the newest list, the own copy included.
    fn count(&self) -> Index {
        let list = &self.newest.1;
        let mut at: Vec<Index> = list.members.iter().map(|m| self.of(m.copy_id)).collect();
        at.sort_unstable_by(|a, b| b.cmp(a));
        let majority = at.get(list.majority() - 1).copied().unwrap_or_default();
        let idx = majority.min(self.of(self.me.copy_id));
        if idx < self.own_first && self.rules.has(Rule::OwnTermCommits) { Index(0) } else { idx }
    }

    fn of(&self, copy: Uuid) -> Index {
        if self.suspects.contains(&copy) && self.rules.has(Rule::SuspectsOut) {
            return Index(0);
        }
        self.confirmed.get(&copy).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(n: u128) -> Member {
        Member { node: Uuid::from_u128(n), copy_id: Uuid::from_u128(n) }
    }

    fn tally(members: u128) -> Tally {
        let list = List::first((1..=members).map(member).collect());
        let term = Term { epoch: 2, run: 1 };
        Tally::new(member(1), term, Index(5), (Index(1), list), Index(2), Rules::ALL)
    }

    fn confirm(t: &mut Tally, copy: u128, idx: u64) -> u64 {
        t.confirm(Uuid::from_u128(copy), Term { epoch: 2, run: 1 }, Index(idx)).0
    }

    #[test]
    fn one_copy_commits_what_it_flushed() {
        let mut t = tally(1);
        assert_eq!(confirm(&mut t, 1, 5), 5);
        assert!(t.serving());
        assert_eq!(confirm(&mut t, 1, 9), 9);
    }

    #[test]
    fn older_rows_commit_only_with_an_own_one() {
        let mut t = tally(3);
        confirm(&mut t, 1, 6);
        assert_eq!(confirm(&mut t, 2, 4), 2);
        assert!(!t.serving());
        assert_eq!(confirm(&mut t, 2, 5), 5);
    }

    #[test]
    fn the_own_copy_is_included() {
        let mut t = tally(3);
        confirm(&mut t, 2, 7);
        assert_eq!(confirm(&mut t, 3, 7), 2);
        assert_eq!(confirm(&mut t, 1, 6), 6);
    }

    #[test]
    fn another_terms_answer_and_a_strangers_copy_say_nothing() {
        let mut t = tally(3);
        confirm(&mut t, 1, 7);
        assert_eq!(t.confirm(Uuid::from_u128(2), Term { epoch: 2, run: 0 }, Index(7)).0, 2);
        assert_eq!(confirm(&mut t, 99, 7), 2);
    }

    #[test]
    fn a_suspect_copy_does_not_count() {
        let mut t = tally(3);
        confirm(&mut t, 2, 4);
        t.suspect(Uuid::from_u128(2));
        confirm(&mut t, 1, 7);
        assert_eq!(confirm(&mut t, 2, 7), 2);
        assert_eq!(confirm(&mut t, 3, 6), 6);
    }

    #[test]
    fn a_new_list_counts_at_once() {
        let mut t = tally(1);
        confirm(&mut t, 1, 5);
        t.listed(Index(6), List { n: 2, prev: 1, members: vec![member(1), member(2)] });
        assert_eq!(confirm(&mut t, 1, 6), 5);
        assert!(!t.list_committed());
        assert_eq!(confirm(&mut t, 2, 6), 6);
        assert!(t.list_committed());
    }
}
