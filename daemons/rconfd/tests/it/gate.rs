//! The gate beside a slow model of it, and each of its promises.

use gantry_rconfd::core::gate::{Gate, Limits, Now, REMEMBER_S, Rate, Replays, START_S, Shut};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

const LOTS: Rate = Rate { per_s: 1_000_000, burst: 1_000_000 };
const START: u64 = 10_000;

fn limits(replays: usize) -> Limits {
    Limits { replays, requests: LOTS, bytes: LOTS }
}

fn now(s: u64) -> Now {
    Now { ms: s * 1_000, s }
}

fn from(number: u32) -> IpAddr {
    Ipv4Addr::from(0x7f00_0000 + number).into()
}

#[test]
fn nothing_is_answered_twice_in_one_form_and_forms_are_apart() {
    let mut gate = Gate::new(limits(100), now(START));
    assert_eq!(gate.pass(true, START, 1, from(1), now(START)), Ok(()));
    assert_eq!(gate.pass(true, START, 1, from(2), now(START + 299)), Err(Shut::Replay));
    assert_eq!(gate.pass(false, START, 1, from(1), now(START)), Ok(()));
    assert_eq!(gate.pass(true, START, 2, from(1), now(START)), Ok(()));
    assert_eq!(gate.remembered(), 3);
}

#[test]
fn a_start_does_not_open_the_window_again() {
    let mut gate = Gate::new(limits(100), now(START));
    for (salt, answer) in
        [(START - 300, false), (START - START_S, false), (START - START_S + 1, true), (START + 300, true)]
    {
        let passed = gate.pass(true, salt, u128::from(salt), from(1), now(START)).is_ok();
        assert_eq!(passed, answer, "{salt}");
    }
}

#[test]
fn how_long_a_clock_that_was_set_back_silences_is_told() {
    let mut gate = Gate::new(limits(2), now(START));
    assert_eq!(gate.silent_s(START), 0);
    assert_eq!(gate.silent_s(START - 3_600), 3_600 - START_S);
    // Room for two: the floor rises to what is forgotten.
    for (salt, mac) in [(START + 5, 1), (START + 6, 2), (START + 7, 3)] {
        assert_eq!(gate.pass(true, salt, mac, from(1), now(START + 5)), Ok(()));
    }
    assert_eq!(gate.silent_s(START), 5);
    assert_eq!(gate.pass(true, START + 5, 4, from(1), now(START)), Err(Shut::Replay));
}

#[test]
fn a_clock_set_back_by_the_window_opens_nothing() {
    let mut all = Replays::new(100, START);
    all.note(START + 10, 7, START + 10);
    // Its own window is over, and other requests come.
    all.note(START + 400, 8, START + 400);
    assert!(all.is_old(START + 10, 7), "the clock may go back to {}", START + 100);
    all.note(START + 10 + REMEMBER_S + 1, 9, START + 10 + REMEMBER_S + 1);
    assert_eq!(all.len(), 2, "in the end it is forgotten");
}

#[test]
fn a_source_has_its_share_and_what_it_lacks_is_nobody_elses() {
    let rate = Rate { per_s: 2, burst: 3 };
    let mut gate = Gate::new(Limits { requests: rate, ..limits(1_000) }, now(START));
    let mut mac = 0;
    let mut ask = |source: u32, ms: u64| {
        mac += 1;
        gate.pass(true, START, mac, from(source), Now { ms, s: START })
    };
    let base = START * 1_000;
    let first: Vec<bool> = (0..5).map(|_| ask(1, base).is_ok()).collect();
    assert_eq!(first, [true, true, true, false, false]);
    assert_eq!(ask(2, base), Ok(()));
    assert_eq!(
        (ask(1, base + 499), ask(1, base + 500), ask(1, base + 500)),
        (Err(Shut::Rate), Ok(()), Err(Shut::Rate))
    );
    let later: Vec<bool> = (0..4).map(|_| ask(1, base + 60_000).is_ok()).collect();
    assert_eq!(later, [true, true, true, false], "no more than the burst is saved up");
}

#[test]
fn what_is_refused_for_its_rate_is_not_remembered() {
    let rate = Rate { per_s: 1, burst: 1 };
    let mut gate = Gate::new(Limits { requests: rate, ..limits(10) }, now(START));
    assert_eq!(gate.pass(true, START, 1, from(1), now(START)), Ok(()));
    assert_eq!(gate.pass(true, START, 2, from(1), now(START)), Err(Shut::Rate));
    assert_eq!(gate.pass(true, START, 2, from(1), now(START + 5)), Ok(()), "it was not answered before");
}

#[test]
fn all_answers_together_have_a_bound() {
    let bytes = Rate { per_s: 1_000, burst: 1_000 };
    let mut gate = Gate::new(Limits { bytes, ..limits(100) }, now(START));
    assert_eq!(gate.pass(true, START, 1, from(1), now(START)), Ok(()));
    gate.sent(60_000);
    assert_eq!(gate.pass(true, START, 2, from(2), now(START)), Err(Shut::Bytes));
    assert_eq!(gate.pass(true, START, 2, from(2), now(START + 1)), Ok(()));
}

#[test]
fn more_sources_than_are_counted_push_out_the_quietest_alone() {
    let rate = Rate { per_s: 1, burst: 1 };
    let mut gate = Gate::new(Limits { requests: rate, ..limits(100_000) }, now(START));
    for source in 0..10_000 {
        let at = Now { ms: START * 1_000 + u64::from(source) / 100, s: START };
        assert_eq!(gate.pass(true, START, u128::from(source), from(source), at), Ok(()));
    }
    let last = Now { ms: START * 1_000 + 100, s: START };
    assert_eq!(gate.pass(true, START, 99_999, from(9_999), last), Err(Shut::Rate), "the last ones are known");
}

/// What must never be answered: what was. The model remembers all for ever.
#[derive(Debug, Default)]
struct Model(BTreeMap<(u64, u128), u32>);

proptest! {
    #[test]
    fn no_mac_passes_twice_whatever_the_room(
        most in 1..20usize,
        steps in prop::collection::vec((0..40u64, 0..30u128, 0..8u64), 1..200),
    ) {
        let mut all = Replays::new(most, START);
        let mut model = Model::default();
        let mut clock = START + 20;
        for (salt, mac, later) in steps {
            clock += later;
            let salt = clock.saturating_sub(20) + salt;
            if !all.is_old(salt, mac) {
                all.note(salt, mac, clock);
                let count = model.0.entry((salt, mac)).or_default();
                *count += 1;
                prop_assert_eq!(*count, 1, "answered twice");
            }
            prop_assert!(all.len() <= most);
            prop_assert!(all.is_old(salt, mac));
        }
    }

    #[test]
    fn with_room_nothing_new_is_refused(macs in prop::collection::vec((0..300u64, any::<u128>()), 1..100)) {
        let mut all = Replays::new(1_000, START);
        let mut seen = std::collections::BTreeSet::new();
        for (ahead, mac) in macs {
            let fresh = seen.insert((ahead, mac));
            prop_assert_eq!(all.is_old(START + ahead, mac), !fresh);
            all.note(START + ahead, mac, START);
        }
    }
}
