use super::*;
use crate::core::list::Member;
use crate::core::row::Term;
use uuid::Uuid;

fn extent(base: u64, applied: u64, flushed: u64, heavy: u64) -> Extent {
    Extent { base: Index(base), applied: Index(applied), flushed: Index(flushed), heavy: Index(heavy) }
}

#[test]
fn the_writer_keeps_rows_behind_the_slowest_that_answers() {
    let e = extent(0, 50_000, 50_000, 0);
    assert_eq!(of_writer(&e, Index(50_000)), Some(Index(40_000)));
    assert_eq!(of_writer(&e, Index(20_000)), Some(Index(10_000)));
    assert_eq!(of_writer(&e, Index(10_999)), None);
    assert_eq!(of_copy(&e), Some(Index(40_000)));
}

#[test]
fn large_rows_are_kept_by_their_weight() {
    let e = extent(0, 50_000, 50_000, 49_000);
    assert_eq!(of_writer(&e, Index(50_000)), Some(Index(49_000)));
    assert_eq!(of_writer(&e, Index(30_000)), Some(Index(30_000)), "never beyond the slowest");
}

#[test]
fn what_is_not_applied_and_flushed_stays() {
    assert_eq!(of_writer(&extent(0, 5_000, 50_000, 45_000), Index(50_000)), Some(Index(5_000)));
    assert_eq!(of_writer(&extent(0, 50_000, 3_000, 45_000), Index(50_000)), Some(Index(3_000)));
    assert_eq!(of_writer(&extent(2_500, 50_000, 3_000, 45_000), Index(50_000)), None);
}

#[test]
fn the_base_has_the_list_in_force_there() {
    let list = |n: u64| List {
        n,
        prev: n - 1,
        members: vec![Member { node: Uuid::from_u128(u128::from(n)), copy_id: Uuid::nil() }],
    };
    let term = Term { epoch: 1, run: 1 };
    let row = |idx, kind, body| Row { idx: Index(idx), term, kind, body };
    let of = |idx, n| row(idx, RowKind::List, serde_json::to_vec(&list(n)).unwrap());
    let rows = [of(3, 2), row(4, RowKind::Empty, Vec::new()), of(6, 3)];
    let base = Base { at: Position::default(), list: list(1), gen_no: 5 };
    let after = |idx| {
        let at = Position { term, idx: Index(idx) };
        base_after(&base, at, &rows, Rules::ALL).unwrap()
    };
    assert_eq!(
        (after(2).list, after(3).list, after(5).list, after(6).list),
        (list(1), list(2), list(2), list(3))
    );
    assert_eq!((after(5).at.idx, after(5).gen_no), (Index(5), 5));
    let weak = Rules::ALL.without(Rule::CompactionKeepsList);
    assert_eq!(base_after(&base, after(6).at, &rows, weak).unwrap().list, list(1));
    let broken = [row(3, RowKind::List, b"x".to_vec())];
    assert_eq!(base_after(&base, after(6).at, &broken, Rules::ALL), Err(Index(3)));
}
