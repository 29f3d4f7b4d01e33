//! Recovery of a log under a new term: whom to ask, which answer is the best, when it is enough (P1.7).
//! Whether a copy may be believed is judged by [`super::token`].

use super::list::{List, Member};
use super::row::{Index, Position, Term};
use super::rules::{Rule, Rules};
use std::collections::BTreeSet;

/// What a copy answered, after it promised the term.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Answer {
    /// The copy.
    pub member: Member,
    /// The end of its log.
    pub last: Position,
    /// The newest list in its log.
    pub list: List,
    /// What it knows to be committed.
    pub commit: Index,
    /// Whether it may be believed.
    pub state: CopyState,
}

impl Answer {
    /// Whether it counts.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.state == CopyState::Sound
    }
}

/// Whether a copy may be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CopyState {
    /// It has what it once confirmed, as far as can be told.
    Sound,
    /// An old image, a clone, or damaged: it counts for nothing.
    Suspect,
}

/// What the answers so far allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Go on with the log of `answers[best]`.
    Ready {
        /// Whose rows to take over.
        best: usize,
    },
    /// Wait for more promises.
    Short {
        /// Promises that count.
        have: usize,
        /// Promises needed.
        need: usize,
    },
    /// The best log's list does not name this copy: it must not be master.
    NotMember,
    /// This copy is itself not to be believed: it must not be master.
    Suspect,
}

/// The run a starting writer takes: one more than the highest heard of in its epoch, its own file included.
#[must_use]
pub fn next_run(epoch: u64, heard: impl IntoIterator<Item = Term>, rules: Rules) -> Term {
    let runs = heard.into_iter().filter(|t| t.epoch == epoch).map(|t| t.run);
    let highest = runs.max().unwrap_or_default();
    let run = if rules.has(Rule::FreshRun) { highest + 1 } else { highest.max(1) };
    Term { epoch, run }
}

/// Everyone to ask: the members of every list heard of.
#[must_use]
pub fn to_ask<'a>(lists: impl IntoIterator<Item = &'a List>) -> BTreeSet<Member> {
    lists.into_iter().flat_map(|list| list.members.iter().copied()).collect()
}

/// Whose log to go on with. `answers` are those that promised the term; the own one is among them.
#[must_use]
pub fn choose(me: &Member, answers: &[Answer], rules: Rules) -> Choice {
    let counts = |a: &Answer| a.state == CopyState::Sound || !rules.has(Rule::SuspectsOut);
    let heard = answers.iter().enumerate().filter(|(_, a)| counts(a));
    let rank = |a: &Answer| (a.last, a.member == *me);
    let Some((best, answer)) = heard.max_by_key(|(_, a)| rank(a)) else {
        return Choice::Short { have: 0, need: 1 };
    };
    // By its node: a copy of which nothing can be read does not know its id.
    let own = answers.iter().find(|a| a.member.node == me.node);
    if own.is_some_and(|own| !counts(own)) {
        return Choice::Suspect;
    }
    let list = match own {
        Some(own) if !rules.has(Rule::ListOfBest) => &own.list,
        Some(_) | None => &answer.list,
    };
    if !list.has(me) {
        return Choice::NotMember;
    }
    let promised: BTreeSet<Member> =
        answers.iter().filter(|a| counts(a) && list.has(&a.member)).map(|a| a.member).collect();
    if promised.len() < list.majority() {
        return Choice::Short { have: promised.len(), need: list.majority() };
    }
    Choice::Ready { best }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn member(n: u128) -> Member {
        Member { node: Uuid::from_u128(n), copy_id: Uuid::from_u128(n) }
    }

    fn answer(n: u128, epoch: u64, idx: u64, members: &[u128]) -> Answer {
        let list = List { n: 1, prev: 0, members: members.iter().copied().map(member).collect() };
        let last = Position { term: Term { epoch, run: 1 }, idx: Index(idx) };
        Answer { member: member(n), last, list, commit: Index(0), state: CopyState::Sound }
    }

    #[test]
    fn the_later_term_wins_over_the_longer_log() {
        let answers = [answer(1, 1, 9, &[1, 2, 3]), answer(2, 2, 4, &[1, 2, 3])];
        assert_eq!(choose(&member(1), &answers, Rules::ALL), Choice::Ready { best: 1 });
    }

    #[test]
    fn between_equals_the_own_log_is_kept() {
        for me in [1, 2] {
            let answers = [answer(1, 2, 4, &[1, 2, 3]), answer(2, 2, 4, &[1, 2, 3])];
            let best = usize::try_from(me - 1).unwrap();
            assert_eq!(choose(&member(me), &answers, Rules::ALL), Choice::Ready { best });
        }
    }

    #[test]
    fn the_majority_is_one_of_the_best_logs_list() {
        let answers = [answer(1, 1, 3, &[1, 2]), answer(2, 2, 4, &[1, 2, 3, 4])];
        assert_eq!(choose(&member(1), &answers, Rules::ALL), Choice::Short { have: 2, need: 3 });
        let weak = Rules::ALL.without(Rule::ListOfBest);
        assert_eq!(choose(&member(1), &answers, weak), Choice::Ready { best: 1 });
    }

    #[test]
    fn who_is_not_listed_may_not_lead() {
        let answers = [answer(1, 1, 3, &[1, 2]), answer(2, 2, 4, &[2, 3])];
        assert_eq!(choose(&member(1), &answers, Rules::ALL), Choice::NotMember);
    }

    #[test]
    fn a_suspect_counts_for_nothing() {
        let mut answers = [answer(1, 1, 3, &[1, 2, 3]), answer(2, 2, 4, &[1, 2, 3])];
        answers[1].state = CopyState::Suspect;
        assert_eq!(choose(&member(1), &answers, Rules::ALL), Choice::Short { have: 1, need: 2 });
        assert_eq!(choose(&member(2), &answers, Rules::ALL), Choice::Suspect);
        let none: [Answer; 0] = [];
        assert_eq!(choose(&member(1), &none, Rules::ALL), Choice::Short { have: 0, need: 1 });
    }

    #[test]
    fn a_run_is_never_used_twice() {
        let t = |epoch, run| Term { epoch, run };
        assert_eq!(next_run(3, [t(3, 4), t(2, 9), t(3, 2)], Rules::ALL), t(3, 5));
        assert_eq!(next_run(3, [], Rules::ALL), t(3, 1));
    }

    #[test]
    fn all_lists_heard_are_asked() {
        let (a, b) = (answer(1, 1, 1, &[1, 2]), answer(2, 1, 1, &[2, 3]));
        let asked: Vec<Member> = to_ask([&a.list, &b.list]).into_iter().collect();
        assert_eq!(asked, [member(1), member(2), member(3)]);
    }
}
