use super::*;
use crate::core::row::Term;
use proptest::prelude::*;

fn at(epoch: u64, idx: u64) -> Position {
    Position { term: Term { epoch, run: 1 }, idx: Index(idx) }
}

fn record(old: Option<u8>, new: u8, at: Position) -> TokenRecord {
    TokenRecord { old: old.map(|t| [t; 16]), new: [new; 16], at }
}

fn shown(token: Option<u8>, last: u64) -> Shown {
    Shown { copy_id: Uuid::from_u128(7), token: token.map(|t| [t; 16]), last: Index(last), intact: true }
}

#[test]
fn a_copy_is_judged_by_the_newest_record() {
    let known = record(Some(1), 2, at(1, 7));
    let of = |token, last| judge(&shown(token, last), Some(&known), Index(0));
    assert_eq!(of(Some(1), 3), Ok(()));
    assert_eq!(of(Some(2), 7), Ok(()));
    assert_eq!(of(Some(2), 6), Err(Suspicion::Short { last: Index(6), confirmed: Index(7) }));
    assert_eq!(of(Some(3), 9), Err(Suspicion::Token));
    assert_eq!(of(None, 9), Err(Suspicion::Token));
    assert_eq!(judge(&shown(None, 0), None, Index(0)), Ok(()));
    let short = judge(&shown(Some(1), 3), Some(&known), Index(4));
    assert_eq!(short, Err(Suspicion::Short { last: Index(3), confirmed: Index(4) }));
    let damaged = Shown { intact: false, ..shown(Some(2), 9) };
    assert_eq!(judge(&damaged, Some(&known), Index(0)), Err(Suspicion::Damaged));
}

#[test]
fn the_newest_record_is_the_one_of_the_later_writer() {
    let mut records = Records::default();
    let id = Uuid::from_u128(7);
    records.note(id, record(Some(1), 2, at(2, 5)));
    records.note(id, record(Some(1), 3, at(1, 9)));
    assert_eq!(records.of(&id).unwrap().new, [2; 16]);
    let mut others = Records::default();
    others.note(id, record(Some(2), 4, at(2, 6)));
    records.merge(&others);
    assert_eq!(records.of(&id).unwrap().new, [4; 16]);
}

#[test]
fn rows_are_noted_and_others_passed_over() {
    let mut records = Records::default();
    let row = TokenRow { copy_id: Uuid::from_u128(7), old: None, new: [9; 16] };
    let of = |kind, body| Row { idx: Index(4), term: Term { epoch: 1, run: 1 }, kind, body };
    assert!(records.note_row(&of(RowKind::Batch, b"x".to_vec())));
    assert!(!records.note_row(&of(RowKind::Token, b"x".to_vec())));
    assert!(records.note_row(&of(RowKind::Token, row.encode())));
    assert_eq!(records.of(&row.copy_id), Some(&record(None, 9, at(1, 4))));
}

#[test]
fn strangers_are_dropped_oldest_first_and_members_never() {
    let mut records = Records::default();
    let id = |n: usize| Uuid::from_u128(n as u128);
    for n in 0..STRANGERS_MAX + 3 {
        records.note(id(n), record(None, 1, at(1, n as u64 + 1)));
    }
    let member = super::super::list::Member { node: id(0), copy_id: id(0) };
    records.prune(&List::first(vec![member]));
    assert!(records.of(&id(0)).is_some());
    assert!(records.of(&id(1)).is_none() && records.of(&id(2)).is_none());
    assert_eq!(records.iter().count(), STRANGERS_MAX + 1);
}

proptest! {
    /// A copy that is connected, given tokens or not, late or twice, is never taken for another: whatever it
    /// shows is in the newest record. An image of it taken before the record's older token is never believed.
    #[test]
    fn a_sound_copy_is_never_suspect(events in proptest::collection::vec(0..4_u8, 1..60)) {
        let (mut token, mut known) = (None, None);
        let (mut gifts, mut history) = (Vec::new(), vec![None]);
        for (n, event) in events.into_iter().enumerate() {
            let n = n as u64 + 1;
            let show = Shown { token, ..shown(None, n) };
            match event {
                0 | 1 => {
                    let drawn = Uuid::from_u128(u128::from(n)).into_bytes();
                    match connect(&show, known.as_ref(), Index(0), drawn).unwrap() {
                        Connect::Record(row) => {
                            known = Some(TokenRecord { old: row.old, new: row.new, at: at(1, n) });
                        }
                        Connect::Give(record) => prop_assert_eq!(Some(record), known),
                    }
                }
                2 => gifts.extend(known.map(|r| (r.old, r.new))),
                _ => {
                    for (old, new) in &gifts {
                        if let Some(stored) = accept(token, *old, *new) {
                            token = Some(stored);
                            history.push(token);
                        }
                    }
                }
            }
            prop_assert_eq!(judge(&Shown { token, ..show }, known.as_ref(), Index(0)), Ok(()));
            for old in history.iter().rev().skip(2) {
                let image = Shown { token: *old, ..show };
                prop_assert_eq!(judge(&image, known.as_ref(), Index(0)), Err(Suspicion::Token));
            }
        }
    }
}

#[test]
fn a_token_is_given_when_it_cannot_be_lost() {
    assert!(may_give(Index(4), Index(4), Index(5)));
    assert!(!may_give(Index(4), Index(3), Index(5)));
    assert!(!may_give(Index(4), Index(5), Index(3)));
}
