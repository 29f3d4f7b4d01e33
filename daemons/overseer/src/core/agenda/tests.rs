//! Examples, and random histories against the one law: nothing that was told is forgotten.

use super::*;
use proptest::prelude::*;

const HOUR: u64 = 3_600_000;

fn slot(number: u128) -> InstanceUuid {
    InstanceUuid(Uuid::from_u128(number))
}

fn change<'a>(key: &'a str, state: &'a str) -> Change<'a> {
    Change { kind: kind::SLOT, key, state }
}

/// All that was due at the start is done.
fn quiet() -> Agenda {
    let mut agenda = Agenda::new(0, |_| HOUR);
    agenda.take(0);
    agenda.take(FIRST_MS);
    agenda
}

#[test]
fn quick_passes_run_at_the_start_and_all_by_their_periods() {
    let mut agenda = Agenda::new(0, |pass| if pass == Pass::HealthCheck { 300_000 } else { HOUR });
    let (work, _) = agenda.take(0);
    assert!(work.nodes);
    assert_eq!(work.passes, Pass::ALL.into_iter().filter(|p| p.is_quick()).collect::<Vec<_>>());
    assert_eq!(agenda.next_due(), FIRST_MS);
    assert_eq!(agenda.take(FIRST_MS).0.passes, [Pass::HealthCheck, Pass::AuditNodes]);
    assert_eq!(agenda.next_due(), FIRST_MS + 300_000);
    assert_eq!(
        agenda.take(FIRST_MS + 300_000).0,
        Work { passes: vec![Pass::HealthCheck], ..Work::default() }
    );
}

#[test]
fn a_dirty_slot_is_looked_at_alone_and_at_once_unless_it_moved_on() {
    let mut agenda = quiet();
    let (one, two) = (slot(1).to_string(), slot(2).to_string());
    agenda.heard(100_000, change(&one, "DIRTY"));
    agenda.heard(100_000, change(&two, "DIRTY"));
    agenda.heard(100_000, change(&two, "DESTROYING"));
    assert_eq!(agenda.next_due(), 100_000 + DEBOUNCE_MS);
    assert!(agenda.take(100_000).0.dirty.is_empty());
    let (work, pauses) = agenda.take(100_000 + DEBOUNCE_MS);
    assert_eq!(work, Work { dirty: vec![slot(1)], ..Work::default() });
    assert_eq!(pauses[&slot(1)], AGAIN_MS);
    assert_eq!(agenda.next_due(), HOUR, "told once, looked at once");
}

#[test]
fn slots_that_become_dirty_in_a_row_are_looked_at_in_lots() {
    let mut agenda = quiet();
    let keys: Vec<String> = (1..=3).map(|number| slot(number).to_string()).collect();
    agenda.heard(100_000, change(&keys[0], "DIRTY"));
    let first = agenda.next_due();
    assert_eq!(agenda.take(first).0.dirty, [slot(1)]);
    agenda.heard(first + 1, change(&keys[1], "DIRTY"));
    agenda.heard(first + GATHER_MS - DEBOUNCE_MS, change(&keys[2], "DIRTY"));
    assert_eq!(agenda.next_due(), first + GATHER_MS);
    assert_eq!(agenda.take(first + GATHER_MS).0.dirty, [slot(2), slot(3)]);
}

#[test]
fn what_a_live_job_has_is_looked_at_later_and_later() {
    let mut agenda = quiet();
    let (mut now, mut pause, mut waits) = (100_000, AGAIN_MS, Vec::new());
    for _ in 0..9 {
        agenda.again(now, slot(1), pause);
        waits.push(agenda.next_due() - now);
        now = agenda.next_due();
        pause = agenda.take(now).1[&slot(1)];
    }
    assert_eq!(waits, [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
}

#[test]
fn an_absent_slot_is_its_jobs_affair_for_a_moment() {
    let mut agenda = quiet();
    let (one, two) = (slot(1).to_string(), slot(2).to_string());
    agenda.heard(100_000, change(&one, "ABSENT"));
    agenda.heard(100_010, change(&one, "CREATING"));
    assert_eq!(agenda.next_due(), HOUR, "the same job went on");
    agenda.heard(100_020, change(&two, "ABSENT"));
    assert_eq!(agenda.next_due(), 100_020 + ABSENT_MS);
    let (work, _) = agenda.take(100_020 + ABSENT_MS);
    assert_eq!(work.passes, [Pass::CreateSlots, Pass::DrainSlots]);
}

#[test]
fn news_bring_passes_forward_but_not_too_often() {
    let mut agenda = quiet();
    let one = slot(1).to_string();
    agenda.heard(100_000, change(&one, "LEASED"));
    assert_eq!(agenda.take(100_000).0, Work::default(), "no pool has spare VMs");
    agenda.spare = true;
    agenda.heard(100_000, change(&one, "LEASED"));
    assert_eq!(agenda.take(100_000).0.passes, [Pass::ExpandPools]);
    agenda.heard(100_001, change(&one, "LEASED"));
    assert_eq!(agenda.next_due(), 100_000 + SPACING_MS);
    let pool = Change { kind: kind::POOL, key: "x", state: "" };
    agenda.heard(100_002, pool);
    assert_eq!(agenda.take(100_002).0.passes, [Pass::CreateSlots, Pass::DrainSlots]);
    assert_eq!(agenda.take(100_000 + SPACING_MS).0.passes, [Pass::ExpandPools]);
    agenda.heard(200_000, Change { kind: kind::NODE, key: "x", state: "" });
    assert!(agenda.take(200_000).0.nodes);
    agenda.heard(300_000, change(&one, "CLEAN"));
    assert_eq!(agenda.take(300_000).0, Work::default());
    agenda.rolling = true;
    agenda.heard(300_000, change(&one, "CLEAN"));
    assert_eq!(agenda.take(300_000).0.passes, [Pass::DrainSlots]);
}

#[test]
fn lost_news_make_everything_be_looked_at() {
    let mut agenda = quiet();
    agenda.lost(100_000);
    let (work, _) = agenda.take(100_000);
    assert!(work.nodes && work.passes.len() == 5);
}

#[test]
fn too_many_slots_become_one_pass() {
    let mut agenda = quiet();
    for number in 0..=SLOTS_MAX as u128 {
        agenda.heard(100_000, change(&slot(number).to_string(), "DIRTY"));
    }
    let (work, _) = agenda.take(100_000 + DEBOUNCE_MS);
    assert_eq!((work.passes, work.dirty.len()), (vec![Pass::DestroyDirty], 0));
}

proptest! {
    #[test]
    fn whoever_stays_dirty_or_absent_is_looked_at_in_time(
        steps in prop::collection::vec((0u128..6, 0usize..5, 0u64..60), 1..200)
    ) {
        let words = ["ABSENT", "CREATING", "CLEAN", "DIRTY", "DESTROYING"];
        let mut agenda = quiet();
        let mut now = 100_000;
        // What stands unlooked at: since when, by a slow and obvious account.
        let mut dirty: BTreeMap<InstanceUuid, u64> = BTreeMap::new();
        let mut absent: BTreeMap<InstanceUuid, u64> = BTreeMap::new();
        for (number, word, passed) in steps {
            let (id, word) = (slot(number), words[word]);
            agenda.heard(now, change(&id.to_string(), word));
            dirty.remove(&id);
            absent.remove(&id);
            match word {
                "DIRTY" => drop(dirty.insert(id, now)),
                "ABSENT" => drop(absent.insert(id, now)),
                _ => {}
            }
            now += passed;
            while agenda.next_due() <= now {
                let at = agenda.next_due();
                let (work, _) = agenda.take(at);
                prop_assert!(work != Work::default() || agenda.next_due() > at, "it never spins");
                for id in work.dirty {
                    prop_assert!(dirty.remove(&id).is_some(), "only what is dirty");
                }
                if work.passes.contains(&Pass::CreateSlots) {
                    absent.clear();
                }
            }
            prop_assert!(dirty.values().all(|since| now <= since + GATHER_MS));
            prop_assert!(absent.values().all(|since| now <= since + ABSENT_MS + SPACING_MS));
        }
    }
}
