use super::*;
use crate::core::row::Term;
use uuid::Uuid;

fn term(epoch: u64) -> Term {
    Term { epoch, run: 1 }
}

fn vote(epoch: u64) -> Vote {
    let id = Uuid::nil();
    let (ballot, nonce) = ([1; 16], [1; 16]);
    Vote { promised: term(epoch), ballot, nonce, cluster: id, history: id, copy_id: id, token: Some([3; 16]) }
}

/// A snapshot at row `idx` of epoch `row`, by a writer of `epoch`.
fn head(epoch: u64, row: u64, idx: u64) -> Head {
    let id = Uuid::nil();
    let claim = Claim { cluster: id, history: id, term: term(epoch), ballot: [1; 16], nonce: [1; 16] };
    Head {
        claim,
        at: Position { term: term(row), idx: Index(idx) },
        list: List { n: 4, prev: 3, members: vec![] },
    }
}

/// Rows 1 to `len`, all of epoch 1.
struct Log {
    len: u64,
    applied: u64,
}

impl LogView for Log {
    fn base(&self) -> Position {
        Position::default()
    }
    fn last(&self) -> Position {
        Position { term: term(1), idx: Index(self.len) }
    }
    fn applied(&self) -> Index {
        Index(self.applied)
    }
    fn term_at(&self, idx: Index) -> Option<Term> {
        (1..=self.len).contains(&idx.0).then(|| term(1))
    }
}

fn plan(log: &Log, head: &Head, rules: Rules) -> Plan {
    match take_over(&vote(2), log, 6, head, rules) {
        Ok(TakeOver::Take(plan)) => plan,
        other => panic!("{other:?}"),
    }
}

#[test]
fn rows_after_it_stay_when_its_last_row_is_there() {
    let log = Log { len: 9, applied: 3 };
    let same = plan(&log, &head(2, 1, 5), Rules::ALL);
    assert!(same.keep_after);
    assert_eq!((same.base.at.idx, same.base.list.n, same.base.gen_no), (Index(5), 4, 7));
    assert!(!plan(&log, &head(2, 2, 5), Rules::ALL).keep_after, "another row stands there");
    assert!(!plan(&log, &head(2, 1, 12), Rules::ALL).keep_after, "the log ends before");
    assert!(!plan(&log, &head(2, 1, 5), Rules::ALL.without(Rule::SnapshotKeepsSuffix)).keep_after);
}

#[test]
fn what_is_applied_is_not_taken_again() {
    let log = Log { len: 9, applied: 5 };
    assert_eq!(take_over(&vote(2), &log, 6, &head(2, 1, 5), Rules::ALL), Ok(TakeOver::Have(log.last())));
}

#[test]
fn the_vote_is_checked_and_only_the_promise_changes() {
    let log = Log { len: 9, applied: 3 };
    let refused = take_over(&vote(3), &log, 6, &head(2, 1, 5), Rules::ALL);
    assert_eq!(refused, Err(Refusal::Promised(term(3))));
    let weak = Rules::ALL.without(Rule::SnapshotChecksVote);
    assert!(matches!(take_over(&vote(3), &log, 6, &head(2, 1, 5), weak), Ok(TakeOver::Take(_))));
    assert_eq!(plan(&log, &head(2, 1, 5), Rules::ALL).vote, None);
    let raised = plan(&log, &head(4, 1, 5), Rules::ALL).vote.unwrap();
    assert_eq!((raised.promised, raised.token, raised.copy_id), (term(4), Some([3; 16]), Uuid::nil()));
}

#[test]
fn a_copy_before_the_base_gets_a_snapshot() {
    let of = |last, tried, base| feed(Index(last), Index(tried), Index(base));
    assert_eq!(of(3, 9, 5), Feed::Snapshot);
    assert_eq!(of(5, 9, 5), Feed::After(Index(5)));
    assert_eq!(of(12, 9, 5), Feed::After(Index(8)), "another row stands at 9");
    assert_eq!(of(12, 5, 5), Feed::Snapshot, "another row stands at the base");
    assert_eq!(of(0, 1, 0), Feed::After(Index(0)));
}

#[test]
fn a_start_carries_on() {
    assert_eq!(carry_on(7, 7, None), CarryOn::Done);
    assert_eq!(carry_on(7, 6, Some(7)), CarryOn::Fill);
    assert_eq!(carry_on(7, 6, Some(8)), CarryOn::Lost);
    assert_eq!(carry_on(7, 6, None), CarryOn::Lost);
    assert!(stale_side(7, 8) && stale_side(7, 6) && !stale_side(7, 7));
}
