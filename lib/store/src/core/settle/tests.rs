use super::*;
use proptest::prelude::*;
use uuid::Uuid;

fn member(n: u128) -> Member {
    Member { node: Uuid::from_u128(n), copy_id: Uuid::from_u128(n) }
}

fn list(n: u64, members: &[u128]) -> List {
    List { n, prev: n - 1, members: members.iter().copied().map(member).collect() }
}

fn object(list: &List, settled: bool) -> Members {
    Members { n: list.n, members: list.members.clone(), settled }
}

#[test]
fn w_goes_from_the_row_to_the_settled_object() {
    let (old, new) = (list(1, &[1]), list(2, &[1, 2]));
    let before = object(&old, true);
    let unsettled = object(&new, false);
    let done = object(&new, true);
    let seen =
        |list_committed, object, in_q| SeenW { newest: &new, list_committed, serving: true, object, in_q };
    assert_eq!(next_w(&seen(false, Some(&before), Some(1))), NextW::AwaitCommit);
    assert_eq!(next_w(&seen(true, Some(&before), Some(1))), NextW::Publish(unsettled.clone()));
    assert_eq!(next_w(&seen(true, None, None)), NextW::Publish(unsettled.clone()));
    assert_eq!(next_w(&seen(true, Some(&unsettled), Some(1))), NextW::AwaitQ(2));
    assert_eq!(next_w(&seen(true, Some(&unsettled), None)), NextW::AwaitQ(2));
    assert_eq!(next_w(&seen(true, Some(&unsettled), Some(2))), NextW::Settle(done.clone()));
    assert_eq!(next_w(&seen(true, Some(&done), None)), NextW::Settled);
    assert_eq!(next_w(&SeenW { serving: false, ..seen(true, Some(&done), None) }), NextW::AwaitCommit);
}

#[test]
fn q_follows_by_one() {
    let (one, two) = (list(1, &[1]), list(2, &[1, 2]));
    let members = object(&two, false);
    let seen = |newest, list_committed| SeenQ { newest, list_committed, serving: true, object: &members };
    assert_eq!(next_q(&seen(&one, true)), NextQ::Append(two.clone()));
    assert_eq!(next_q(&seen(&one, false)), NextQ::AwaitCommit);
    assert_eq!(next_q(&seen(&two, true)), NextQ::Tell(2));
    assert_eq!(next_q(&seen(&two, false)), NextQ::AwaitCommit);
    let ahead = list(3, &[1]);
    assert_eq!(next_q(&seen(&ahead, true)), NextQ::AwaitW);
    let far = object(&list(3, &[1]), false);
    assert_eq!(next_q(&SeenQ { object: &far, ..seen(&one, true) }), NextQ::Apart { q: 1, w: 3 });
}

#[test]
fn a_change_waits_until_the_one_before_is_settled_and_both_logs_serve() {
    let newest = list(2, &[1, 2]);
    let done = object(&newest, true);
    let open = object(&newest, false);
    let wanted = || vec![member(1), member(2), member(3)];
    let seen =
        SeenW { newest: &newest, list_committed: true, serving: true, object: Some(&done), in_q: Some(2) };
    assert_eq!(change(&seen, wanted(), member(1), Rules::ALL).unwrap().n, 3);
    let unsettled = SeenW { object: Some(&open), ..seen };
    assert_eq!(change(&unsettled, wanted(), member(1), Rules::ALL), Err(ListRefusal::Unsettled));
    let silent = SeenW { in_q: None, ..seen };
    assert_eq!(change(&silent, wanted(), member(1), Rules::ALL), Err(ListRefusal::NoOwnTerm));
}

#[test]
fn a_learner_is_fed_when_it_lacks_little() {
    assert!(fed(Index(9_001), Index(10_000)));
    assert!(!fed(Index(9_000), Index(10_000)));
    assert!(fed(Index(7), Index(3)));
}

proptest! {
    /// Whatever order things happen in, with restarts between: a change settles, and Q is never more than one
    /// list behind W.
    #[test]
    fn every_change_settles(events in proptest::collection::vec(0..6_u8, 0..80)) {
        let (mut w, mut q) = (list(1, &[1]), list(1, &[1]));
        let (mut known, mut mirror, mut in_q): (Option<Members>, Option<Members>, Option<u64>) = (None, None, None);
        let steps = events.into_iter().chain((0..40).map(|n| [2, 3, 4][n % 3]));
        let mut changed = 0;
        for event in steps {
            let seen = SeenW { newest: &w, list_committed: true, serving: true, object: known.as_ref(), in_q };
            match event {
                0 => in_q = None,
                1 => {
                    let other = if w.members.len() == 1 { vec![member(1), member(2)] } else { vec![member(1)] };
                    if let Ok(next) = change(&seen, other, member(1), Rules::ALL) {
                        (w, changed) = (next, changed + 1);
                    }
                }
                2 => match next_w(&seen) {
                    NextW::Publish(m) | NextW::Settle(m) => known = Some(m),
                    NextW::Settled | NextW::AwaitCommit | NextW::AwaitQ(_) => {}
                },
                3 => mirror = known.clone(),
                _ => if let Some(object) = &mirror {
                    match next_q(&SeenQ { newest: &q, list_committed: true, serving: true, object }) {
                        NextQ::Append(next) => q = next,
                        NextQ::Tell(n) => in_q = Some(n),
                        NextQ::AwaitCommit | NextQ::AwaitW => {}
                        NextQ::Apart { q, w } => prop_assert!(false, "{q} {w}"),
                    }
                },
            }
            prop_assert!(w.n - q.n <= 1);
        }
        prop_assert_eq!(w.n, 1 + changed);
        prop_assert_eq!((q, known), (w.clone(), Some(object(&w, true))));
    }
}
