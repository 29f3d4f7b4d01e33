use super::*;
use crate::core::row::RowKind;
use proptest::prelude::*;

fn term(epoch: u64, run: u64) -> Term {
    Term { epoch, run }
}

fn vote(promised: Term) -> Vote {
    let (cluster, history, copy_id) = (Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3));
    Vote { promised, ballot: [1; 16], nonce: [1; 16], cluster, history, copy_id, token: None }
}

fn claim(term: Term, ballot: u8, nonce: u8) -> Claim {
    let (cluster, history) = (Uuid::from_u128(1), Uuid::from_u128(2));
    Claim { cluster, history, term, ballot: [ballot; 16], nonce: [nonce; 16] }
}

/// A log given by the epochs of its rows.
struct Log {
    base: u64,
    epochs: Vec<u64>,
    applied: u64,
}

impl LogView for Log {
    fn base(&self) -> Position {
        Position { term: term(u64::from(self.base > 0), 0), idx: Index(self.base) }
    }
    fn last(&self) -> Position {
        let idx = Index(self.base + self.epochs.len() as u64);
        self.term_at(idx).map_or(self.base(), |term| Position { term, idx })
    }
    fn applied(&self) -> Index {
        Index(self.applied)
    }
    fn term_at(&self, idx: Index) -> Option<Term> {
        let nth = usize::try_from(idx.0.checked_sub(self.base + 1)?).ok()?;
        self.epochs.get(nth).map(|e| term(*e, 0))
    }
}

fn append(by: Term, prev: (u64, u64), epochs: &[u64], commit: u64) -> Append {
    let row = |(i, e): (usize, &u64)| Row {
        idx: Index(prev.1 + 1 + i as u64),
        term: term(*e, 0),
        kind: RowKind::Empty,
        body: vec![],
    };
    let prev_at = Position { term: term(prev.0, 0), idx: Index(prev.1) };
    let rows = epochs.iter().enumerate().map(row).collect();
    Append { claim: claim(by, 1, 1), prev: prev_at, rows, commit: Index(commit) }
}

#[test]
fn a_promise_is_kept() {
    let v = vote(term(3, 2));
    let ask = |t, b, n| promise(&v, &claim(t, b, n), Rules::ALL);
    assert_eq!(ask(term(2, 9), 1, 1), Err(Refusal::Promised(term(3, 2))));
    assert_eq!(ask(term(3, 1), 1, 1), Err(Refusal::Promised(term(3, 2))));
    assert_eq!(ask(term(3, 2), 2, 1), Err(Refusal::OtherBallot(3)));
    assert_eq!(ask(term(3, 9), 2, 1), Err(Refusal::OtherBallot(3)));
    assert_eq!(ask(term(3, 2), 1, 2), Err(Refusal::OtherStart(term(3, 2))));
    assert_eq!(ask(term(3, 2), 1, 1), Ok(v.clone()));
    let next = ask(term(3, 3), 1, 5).unwrap();
    assert_eq!((next.promised, next.nonce), (term(3, 3), [5; 16]));
    assert_eq!(ask(term(4, 0), 7, 5).unwrap().ballot, [7; 16]);
}

#[test]
fn strangers_are_refused() {
    let mut other = claim(term(9, 0), 1, 1);
    other.history = Uuid::from_u128(77);
    assert_eq!(promise(&vote(term(1, 1)), &other, Rules::ALL), Err(Refusal::Stranger));
}

#[test]
fn rows_that_match_stay_and_the_first_that_differs_goes_with_its_tail() {
    let log = Log { base: 0, epochs: vec![1, 1, 2, 2], applied: 1 };
    let plan = fit(&log, &append(term(3, 0), (1, 1), &[1, 3], 9)).unwrap();
    assert_eq!(plan.delete_from, Some(Index(3)));
    assert_eq!((plan.skip, plan.matched, plan.commit), (1, Index(3), Index(3)));
    let again = fit(&log, &append(term(2, 0), (1, 2), &[2], 0)).unwrap();
    assert_eq!((again.delete_from, again.skip, again.matched), (None, 1, Index(3)));
    let beyond = fit(&log, &append(term(2, 0), (2, 4), &[2], 0)).unwrap();
    assert_eq!((beyond.delete_from, beyond.skip, beyond.matched), (None, 0, Index(5)));
}

#[test]
fn a_missing_or_other_row_before_is_a_gap() {
    let log = Log { base: 0, epochs: vec![1, 1], applied: 0 };
    let end = Position { term: term(1, 0), idx: Index(2) };
    assert_eq!(fit(&log, &append(term(3, 0), (1, 3), &[3], 0)), Err(Refusal::Gap(end)));
    assert_eq!(fit(&log, &append(term(3, 0), (2, 2), &[3], 0)), Err(Refusal::Gap(end)));
}

#[test]
fn compacted_rows_match() {
    let compacted = Log { base: 5, epochs: vec![1], applied: 5 };
    let plan = fit(&compacted, &append(term(3, 0), (1, 5), &[1, 1], 0)).unwrap();
    assert_eq!((plan.delete_from, plan.skip, plan.matched), (None, 1, Index(7)));
    let earlier = fit(&compacted, &append(term(3, 0), (1, 3), &[1, 1, 2], 9)).unwrap();
    assert_eq!((earlier.delete_from, earlier.skip, earlier.matched), (Some(Index(6)), 2, Index(6)));
    let all = fit(&compacted, &append(term(3, 0), (1, 2), &[1], 9)).unwrap();
    assert_eq!((all.delete_from, all.skip, all.matched, all.commit), (None, 1, Index(3), Index(3)));
    let other = fit(&compacted, &append(term(3, 0), (1, 3), &[1, 2], 9));
    assert_eq!(other, Err(Refusal::Broken(Index(5))));
}

#[test]
fn what_is_applied_is_never_undone() {
    let log = Log { base: 0, epochs: vec![1, 1], applied: 2 };
    assert_eq!(fit(&log, &append(term(3, 0), (1, 1), &[3], 0)), Err(Refusal::Broken(Index(2))));
}

#[test]
fn rows_must_follow_each_other() {
    let log = Log { base: 0, epochs: vec![1], applied: 0 };
    let mut holes = append(term(3, 0), (1, 1), &[3, 3], 0);
    holes.rows.remove(0);
    assert_eq!(fit(&log, &holes), Err(Refusal::Malformed));
    assert_eq!(fit(&log, &append(term(3, 0), (1, 1), &[3, 2], 0)), Err(Refusal::Malformed));
    assert_eq!(fit(&log, &append(term(3, 0), (1, 1), &[4], 0)), Err(Refusal::Malformed));
}

#[test]
fn an_append_of_a_newer_term_raises_the_promise() {
    let log = Log { base: 0, epochs: vec![], applied: 0 };
    let plan = admit(&vote(term(1, 1)), &log, &append(term(2, 1), (0, 0), &[2], 0), Rules::ALL).unwrap();
    assert_eq!(plan.vote.map(|v| v.promised), Some(term(2, 1)));
    let same = admit(&vote(term(2, 1)), &log, &append(term(2, 1), (0, 0), &[2], 0), Rules::ALL).unwrap();
    assert_eq!(same.vote, None);
    let late = admit(&vote(term(2, 2)), &log, &append(term(2, 1), (0, 0), &[2], 0), Rules::ALL);
    assert_eq!(late, Err(Refusal::Promised(term(2, 2))));
}

/// A writer's log and a copy that shares its beginning, by epochs that never fall.
fn two_logs() -> impl Strategy<Value = (Vec<u64>, Vec<u64>)> {
    let rising = |max| {
        proptest::collection::vec(0..3_u64, 0..max).prop_map(|steps| {
            let mut epoch = 1;
            let next = |step: u64| {
                epoch += step;
                epoch
            };
            steps.into_iter().map(next).collect::<Vec<u64>>()
        })
    };
    (rising(8), rising(8), 0..8_usize).prop_map(|(ours, other, shared)| {
        let shared = shared.min(ours.len());
        let last = ours[..shared].last().copied().unwrap_or(1);
        // Odd epochs above the shared part are the copy's, even ones the writer's: never the same row.
        let tail = other.iter().map(|e| (last + e) * 2 + 1);
        let copy = ours[..shared].iter().map(|e| e * 2).chain(tail).collect();
        (ours.iter().map(|e| e * 2).collect(), copy)
    })
}

proptest! {
    /// Whatever part of its log a writer sends: the copy refuses, or matches the writer's log as far as it
    /// says, keeps what it shared beyond the part sent, and never touches what stands before.
    #[test]
    fn a_copy_follows_the_writer((ours, mut copy) in two_logs(), from in 0..8_usize, count in 0..8_usize) {
        let from = from.min(ours.len());
        let sent = &ours[from..(from + count).min(ours.len())];
        let prev = if from == 0 { (0, 0) } else { (ours[from - 1], from as u64) };
        let log = Log { base: 0, epochs: copy.clone(), applied: 0 };
        let fits = copy.len() >= from && copy[..from] == ours[..from];
        match fit(&log, &append(term(99, 0), prev, sent, 0)) {
            Ok(plan) => {
                prop_assert!(fits);
                let matched = usize::try_from(plan.matched.0).unwrap();
                prop_assert_eq!(matched, from + sent.len());
                if let Some(at) = plan.delete_from {
                    copy.truncate(usize::try_from(at.0).unwrap() - 1);
                }
                copy.extend(&sent[plan.skip..]);
                prop_assert_eq!(&copy[..matched], &ours[..matched]);
                if plan.delete_from.is_none() && plan.skip == sent.len() {
                    prop_assert_eq!(copy, log.epochs);
                }
            }
            Err(why) => {
                prop_assert_eq!(why, Refusal::Gap(log.last()));
                prop_assert!(!fits);
            }
        }
    }

    /// After any promises asked in any order, the copy stands by the highest it gave, and gave no term and no
    /// epoch to two.
    #[test]
    fn promises_only_rise(asks in proptest::collection::vec((0..4_u64, 0..3_u64, 0..3_u8, 0..3_u8), 0..30)) {
        let mut at = vote(term(0, 0));
        let mut given: Vec<Claim> = Vec::new();
        for (epoch, run, ballot, nonce) in asks {
            let ask = claim(term(epoch, run), ballot, nonce);
            if let Ok(next) = promise(&at, &ask, Rules::ALL) {
                prop_assert!(next.promised >= at.promised);
                for old in given.iter().filter(|old| old.term.epoch == epoch) {
                    prop_assert_eq!(old.ballot, ask.ballot);
                    prop_assert!(old.term != ask.term || old.nonce == ask.nonce);
                }
                given.push(ask);
                at = next;
            }
        }
    }
}

#[test]
fn an_empty_copy_is_made_instead_of_the_one_named() {
    let here = vote(term(3, 2));
    let id = |n| Uuid::from_u128(n);
    let ask = |by: Claim, instead, new| make(Some(&here), &by, instead, new, Rules::ALL);
    let made = ask(claim(term(3, 2), 1, 1), Some(id(3)), id(9)).unwrap();
    assert_eq!((made.copy_id, made.promised, made.token), (id(9), term(3, 2), None));
    let late = ask(claim(term(3, 2), 1, 1), Some(id(4)), id(9));
    assert_eq!(late, Err(MakeRefusal::OtherCopy(Some(id(3)))));
    assert_eq!(ask(claim(term(3, 2), 1, 1), Some(id(4)), id(3)), Ok(here.clone()), "it is made already");
    let older = ask(claim(term(2, 9), 1, 1), Some(id(3)), id(9));
    assert_eq!(older, Err(MakeRefusal::Refused(Refusal::Promised(term(3, 2)))));
    let other = Claim { history: id(77), ..claim(term(2, 9), 1, 1) };
    assert_eq!(ask(other, Some(id(3)), id(9)).unwrap().history, id(77), "it joins another history");
    let foreign = Claim { cluster: id(78), ..claim(term(2, 9), 1, 1) };
    assert_eq!(ask(foreign, Some(id(3)), id(9)).unwrap().cluster, id(78), "a disk of another cluster");
    assert_eq!(ask(foreign, None, id(9)), Err(MakeRefusal::OtherCopy(Some(id(3)))));
    assert!(make(None, &claim(term(1, 1), 1, 1), None, id(9), Rules::ALL).is_ok());
}
