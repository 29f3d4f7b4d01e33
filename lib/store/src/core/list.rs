//! Lists of members: who counts for a majority, and which list may follow which (P2).

use super::rules::{Rule, Rules};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The most candidates a cluster may have: a failover asks all of them.
pub const MEMBERS_MAX: usize = 10;

/// One copy that counts. The copy's own id is part of it: a node that comes back with an empty disk gets
/// another one and is not taken for the copy that once confirmed rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member {
    /// The node that holds the copy.
    pub node: Uuid,
    /// The copy.
    pub copy_id: Uuid,
}

/// The members from one row of the log on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct List {
    /// The list's number; each change is one more.
    pub n: u64,
    /// The number of the list before.
    pub prev: u64,
    /// The copies that count.
    pub members: Vec<Member>,
}

/// Why a list may not follow now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListRefusal {
    /// Not exactly one member comes or goes.
    #[error("not exactly one member comes or goes")]
    NotOne,
    /// The master cannot take itself out.
    #[error("the master cannot take itself out")]
    Oneself,
    /// The change before is not finished.
    #[error("the change before is not finished")]
    Unsettled,
    /// The writer has no committed row of its own term yet.
    #[error("the writer has not committed a row of its own yet")]
    NoOwnTerm,
    /// A node would be in the list twice, or the list is too long.
    #[error("a node is listed twice, or there are more than {MEMBERS_MAX} members")]
    Malformed,
}

/// What a writer knows when it is asked for a change of the list.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// The writer's own copy.
    pub me: Member,
    /// A row of the writer's own term is committed, in both logs.
    pub own_term_committed: bool,
    /// The newest list row is committed in both logs and marked settled.
    pub settled: bool,
}

impl List {
    /// The first list of a log.
    #[must_use]
    pub fn first(members: Vec<Member>) -> List {
        List { n: 1, prev: 0, members }
    }

    /// How many members make a majority.
    #[must_use]
    pub fn majority(&self) -> usize {
        self.members.len() / 2 + 1
    }

    /// Whether exactly this copy counts.
    #[must_use]
    pub fn has(&self, member: &Member) -> bool {
        self.members.contains(member)
    }

    /// The list that follows when `members` shall count from now on.
    ///
    /// # Errors
    /// The change must wait or can never be made.
    pub fn follow(
        &self,
        members: Vec<Member>,
        standing: &Standing,
        rules: Rules,
    ) -> Result<List, ListRefusal> {
        if !well_formed(&members) {
            return Err(ListRefusal::Malformed);
        }
        if !members.contains(&standing.me) {
            return Err(ListRefusal::Oneself);
        }
        if rules.has(Rule::OneMember) && self.distance(&members) != 1 {
            return Err(ListRefusal::NotOne);
        }
        if rules.has(Rule::ListCommitted) && !standing.settled {
            return Err(ListRefusal::Unsettled);
        }
        if rules.has(Rule::OwnTermBeforeList) && !standing.own_term_committed {
            return Err(ListRefusal::NoOwnTerm);
        }
        Ok(List { n: self.n + 1, prev: self.n, members })
    }

    /// How many members come or go between this list and `members`.
    fn distance(&self, members: &[Member]) -> usize {
        let gone = self.members.iter().filter(|m| !members.contains(m)).count();
        let come = members.iter().filter(|m| !self.has(m)).count();
        gone + come
    }
}

fn well_formed(members: &[Member]) -> bool {
    let twice = |i: usize, m: &Member| members[..i].iter().any(|o| o.node == m.node);
    members.len() <= MEMBERS_MAX && !members.iter().enumerate().any(|(i, m)| twice(i, m))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(n: u128) -> Member {
        Member { node: Uuid::from_u128(n), copy_id: Uuid::from_u128(100 + n) }
    }

    fn ready() -> Standing {
        Standing { me: member(1), own_term_committed: true, settled: true }
    }

    #[test]
    fn one_member_comes_or_goes() {
        let list = List::first(vec![member(1), member(2)]);
        let grown = list.follow(vec![member(1), member(2), member(3)], &ready(), Rules::ALL).unwrap();
        assert_eq!((grown.n, grown.prev, grown.majority()), (2, 1, 2));
        let shrunk = grown.follow(vec![member(1), member(3)], &ready(), Rules::ALL).unwrap();
        assert!(!shrunk.has(&member(2)));
        let two = vec![member(1), member(2), member(3), member(4)];
        assert_eq!(list.follow(two, &ready(), Rules::ALL), Err(ListRefusal::NotOne));
        assert_eq!(list.follow(list.members.clone(), &ready(), Rules::ALL), Err(ListRefusal::NotOne));
    }

    #[test]
    fn the_master_stays() {
        let list = List::first(vec![member(1), member(2)]);
        assert_eq!(list.follow(vec![member(2)], &ready(), Rules::ALL), Err(ListRefusal::Oneself));
    }

    #[test]
    fn an_emptied_copy_is_another_member() {
        let list = List::first(vec![member(1), member(2)]);
        let emptied = Member { copy_id: Uuid::from_u128(999), ..member(2) };
        assert!(!list.has(&emptied));
        let swapped = vec![member(1), emptied];
        assert_eq!(list.follow(swapped, &ready(), Rules::ALL), Err(ListRefusal::NotOne));
        let twice = vec![member(1), member(2), emptied];
        assert_eq!(list.follow(twice, &ready(), Rules::ALL), Err(ListRefusal::Malformed));
    }

    #[test]
    fn a_change_waits_for_the_one_before_and_for_an_own_row() {
        let list = List::first(vec![member(1)]);
        let grown = vec![member(1), member(2)];
        let unsettled = Standing { settled: false, ..ready() };
        assert_eq!(list.follow(grown.clone(), &unsettled, Rules::ALL), Err(ListRefusal::Unsettled));
        let fresh = Standing { own_term_committed: false, ..ready() };
        assert_eq!(list.follow(grown, &fresh, Rules::ALL), Err(ListRefusal::NoOwnTerm));
    }
}
