use super::*;
use crate::core::recover::CopyState;
use crate::core::row::Position;
use uuid::Uuid;

fn member(n: u128) -> Member {
    Member { node: Uuid::from_u128(n), copy_id: Uuid::from_u128(n) }
}

/// Node `n` ends at row `idx`, has promised `epoch`, and lists `members`, in both logs.
fn heard(n: u128, epoch: u64, idx: u64, members: &[u128]) -> Heard {
    let list = List { n: 3, prev: 2, members: members.iter().copied().map(member).collect() };
    let last = Position { term: Term { epoch: 1, run: 1 }, idx: Index(idx) };
    let answer = Answer { member: member(n), last, list, commit: Index(2), state: CopyState::Sound };
    let part = Part { promised: Term { epoch, run: 1 }, ballot: [u8::try_from(epoch).unwrap(); 16], answer };
    Heard { master: None, w: part.clone(), q: part }
}

fn leads(mut h: Heard) -> Heard {
    h.master = Some((h.w.promised.epoch, h.w.ballot));
    h
}

fn of(me: u128, all: &[Heard]) -> Decision {
    decide(&member(me), all, &[], Rules::ALL)
}

const ALL: [u128; 3] = [1, 2, 3];

#[test]
fn a_ballot_takes_one_more_than_the_highest_heard() {
    let all = [heard(1, 4, 5, &ALL), heard(2, 9, 5, &ALL)];
    let ask = ALL.map(member).into();
    assert_eq!(of(1, &all), Decision::Ballot { epoch: 10, ask });
    let mut rows = heard(2, 9, 5, &ALL);
    rows.q.answer.last.term.epoch = 20;
    assert!(matches!(of(2, &[heard(1, 4, 5, &ALL), rows]), Decision::Ballot { epoch: 21, .. }));
}

#[test]
fn too_few_are_named() {
    let silent = vec![member(2), member(3)];
    let few = Refused::TooFew { log: LogName::W, have: 1, need: 2, silent };
    assert_eq!(of(1, &[heard(1, 4, 5, &ALL)]), Decision::Refused(few));
    let mut suspect = heard(2, 4, 4, &ALL);
    suspect.q.answer.state = CopyState::Suspect;
    let all = [heard(1, 4, 5, &ALL), suspect];
    assert!(matches!(of(1, &all), Decision::Refused(Refused::TooFew { log: LogName::Q, have: 1, .. })));
    assert_eq!(of(2, &all), Decision::Refused(Refused::Suspect(LogName::Q)));
}

#[test]
fn who_is_not_in_the_newest_list_of_either_log_is_refused() {
    let mut newer = heard(2, 4, 6, &ALL);
    newer.q.answer.list = heard(2, 4, 6, &[2, 3]).q.answer.list;
    assert_eq!(of(1, &[heard(1, 4, 5, &ALL), newer]), Decision::Refused(Refused::NotMember(LogName::Q)));
}

#[test]
fn a_master_that_answers_steps_down_first_and_is_asked_once() {
    let all = [heard(1, 4, 5, &ALL), leads(heard(2, 4, 5, &ALL))];
    assert_eq!(of(1, &all), Decision::StepDown { member: member(2), epoch: 4 });
    let again = decide(&member(1), &all, &[member(2)], Rules::ALL);
    assert!(matches!(again, Decision::Ballot { epoch: 5, .. }));
}

#[test]
fn already_master_needs_a_majority_that_stands_by_the_epoch() {
    let own = || leads(heard(1, 4, 5, &ALL));
    assert_eq!(of(1, &[own(), heard(2, 4, 5, &ALL)]), Decision::AlreadyMaster { epoch: 4 });
    // A ballot that failed half-way: the command is repeated on the old master.
    assert!(matches!(of(1, &[own(), heard(2, 5, 5, &ALL)]), Decision::Ballot { epoch: 6, .. }));
    let mut half = heard(2, 4, 5, &ALL);
    half.q.promised.epoch = 5;
    assert!(matches!(of(1, &[own(), half]), Decision::Ballot { epoch: 6, .. }));
}

#[test]
fn a_ballot_is_won_in_both_logs() {
    let answers = |n: &[u128]| n.iter().map(|n| heard(*n, 9, 5, &ALL).w.answer).collect::<Vec<_>>();
    let me = member(1);
    assert_eq!(won(&me, &answers(&[1, 2]), &answers(&[1, 3]), Rules::ALL), Ok(()));
    let short = won(&me, &answers(&[1, 2]), &answers(&[1]), Rules::ALL);
    assert!(matches!(short, Err(Refused::TooFew { log: LogName::Q, have: 1, need: 2, .. })));
    assert!(won(&me, &answers(&[1]), &answers(&[1, 2]), Rules::ALL).is_err());
}

#[test]
fn going_alone_says_what_may_be_lost() {
    let own = heard(1, 4, 5, &ALL);
    let lone = alone(&member(1), &own, std::slice::from_ref(&own));
    assert_eq!(lone.epoch, 1_004);
    assert_eq!(
        (lone.w.idx, lone.w.term, lone.w.kind),
        (Index(6), Term { epoch: 1_004, run: 0 }, RowKind::List)
    );
    let list: List = serde_json::from_slice(&lone.w.body).unwrap();
    assert_eq!((list.n, list.prev, list.members), (4, 3, vec![member(1)]));
    let risk = AtRisk { log: LogName::W, from: Index(3), to: None };
    assert_eq!(lone.at_risk[0], risk, "the silent may have other rows from 3 on");
    let ahead = alone(&member(1), &own, &[own.clone(), heard(2, 4, 8, &ALL), heard(3, 4, 5, &ALL)]);
    assert_eq!(ahead.at_risk[0], AtRisk { to: Some(Index(8)), ..risk });
    let everyone = alone(&member(1), &own, &[own.clone(), heard(2, 4, 5, &ALL), heard(3, 4, 5, &ALL)]);
    assert_eq!(everyone.at_risk[0], AtRisk { from: Index(6), ..risk });
}

/// A node in the midst of a change of the members, or whose copy of Q was never fed.
#[test]
fn going_alone_gives_both_logs_a_list_of_one_number() {
    for (w, q) in [(3, 3), (4, 3), (7, 0)] {
        let mut own = heard(1, 4, 5, &ALL);
        (own.w.answer.list.n, own.q.answer.list.n) = (w, q);
        let lone = alone(&member(1), &own, std::slice::from_ref(&own));
        let n = |row: &Row| serde_json::from_slice::<List>(&row.body).unwrap().n;
        assert_eq!((lone.list_n, n(&lone.w), n(&lone.q)), (w + 1, w + 1, w + 1));
    }
}

/// Whatever became of its role: a failover that was given again, a node that has just started.
#[test]
fn who_is_alone_in_its_lists_loses_nothing() {
    let own = heard(1, 4, 5, &[1]);
    assert!(alone(&member(1), &own, &[own.clone(), heard(2, 4, 8, &ALL)]).at_risk.is_empty());
    let mut later = heard(2, 4, 8, &ALL);
    later.q.answer.list.n = 4;
    let old_image = alone(&member(1), &own, &[own.clone(), later]);
    assert!(!old_image.at_risk.is_empty(), "somebody knows a later list");
    for other in [heard(1, 4, 5, &[2]), heard(1, 4, 5, &[1, 2])] {
        let half = Heard { q: other.q.clone(), ..own.clone() };
        assert!(!alone(&member(1), &half, std::slice::from_ref(&half)).at_risk.is_empty());
    }
}

/// P2.6: the last master of two members, whose promise nobody else has had.
#[test]
fn the_last_master_of_two_loses_nothing() {
    let own = leads(heard(1, 4, 5, &[1, 2]));
    assert!(alone(&member(1), &own, std::slice::from_ref(&own)).at_risk.is_empty());
    let mut promised = own.clone();
    promised.q.promised.epoch = 5;
    assert!(!alone(&member(1), &promised, std::slice::from_ref(&promised)).at_risk.is_empty());
    let three = leads(heard(1, 4, 5, &ALL));
    assert!(!alone(&member(1), &three, std::slice::from_ref(&three)).at_risk.is_empty());
}
