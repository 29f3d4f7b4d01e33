//! The laws of the table on reachable states. Those that Ganeti's own tests name for its lock
//! allocation and waiting bear the same names.

use super::super::*;
use super::model::{Model, Who};
use super::random::*;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use std::collections::{BTreeMap, BTreeSet};

/// An owner that no history uses: it holds nothing.
const FRESH: Who = OWNERS;

/// The table with a request of [`FRESH`] pending, and its blockers; rejected if nobody is in the way.
fn blocked(
    ops: &[Op],
    prio: i32,
    wants: &[(LockName, Want)],
) -> Result<(LockTable<Who>, BTreeSet<Who>), TestCaseError> {
    let mut table = reach(ops);
    match table.update_waiting(&FRESH, prio, wants.to_vec()).map(|answer| answer.outcome) {
        Ok(Outcome::Blocked(blockers)) => Ok((table, blockers)),
        Ok(Outcome::Granted) | Err(_) => Err(TestCaseError::reject("not blocked")),
    }
}

/// Whether `who` holds what `wants` says.
fn fulfilled(table: &LockTable<Who>, who: Who, wants: &Wants) -> bool {
    let held: BTreeMap<_, _> = table.held(&who).collect();
    wants.as_slice().iter().all(|(lock, want)| held.get(lock).copied() == want.mode())
}

/// Frees all locks of some owners in turn; who was granted meanwhile.
fn release(table: &mut LockTable<Who>, owners: &BTreeSet<Who>) -> BTreeSet<Who> {
    owners.iter().flat_map(|who| table.free_all(who).granted).collect()
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, max_global_rejects: cases * 50, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(512))]

    /// The table does what the model does: answers, blockers, order of grants, held locks, rows.
    /// The changes it reports are exactly the changes.
    #[test]
    fn model_agrees(ops in history()) {
        let mut table = LockTable::new();
        let mut model = Model::default();
        let mut written = BTreeMap::new();
        for op in &ops {
            let mut changes = Vec::new();
            prop_assert_eq!(run(&mut table, op, &mut changes), run_model(&mut model, op));
            table.check();
            let distinct: BTreeSet<_> = changes.iter().map(|c| (c.owner, &c.lock)).collect();
            prop_assert_eq!(distinct.len(), changes.len(), "each change is told once");
            for HeldChange { owner, lock, mode } in changes {
                let before = match mode {
                    Some(mode) => written.insert((owner, lock), mode),
                    None => written.remove(&(owner, lock)),
                };
                prop_assert_ne!(before, mode, "only changes are told");
            }
            prop_assert_eq!(&written, &model.held);
            prop_assert_eq!(table.rows(), model.rows());
            for (who, (prio, wants)) in &model.pending {
                prop_assert_eq!(table.blockers(who), model.blockers(*who, wants));
                prop_assert_eq!(table.pending(who).map(|p| (p.priority, p.wants)), Some((*prio, wants)));
            }
            prop_assert_eq!(waiting(&table), model.pending.keys().copied().collect());
        }
    }
}

proptest! {
    #![proptest_config(config(192))]

    #[test]
    fn no_action_with_pending_requests(ops in history(), wants in request(), prio in -1..2) {
        let mut table = reach(&ops);
        let waiting = waiting(&table);
        prop_assume!(!waiting.is_empty());
        let before = held(&table);
        for who in waiting {
            prop_assert!(table.update(&who, wants.clone()).is_err());
            let same = table.pending(&who).is_some_and(|pending| {
                Ok(pending.wants) == Wants::new(wants.clone()).as_ref() && pending.priority == prio
            });
            prop_assert_eq!(table.update_waiting(&who, prio, wants.clone()).is_ok(), same);
        }
        prop_assert_eq!(held(&table), before);
    }

    #[test]
    fn waiting_requests_get_pending(ops in history(), wants in request(), prio in -1..2) {
        let (table, blockers) = blocked(&ops, prio, &wants)?;
        prop_assert!(table.pending(&FRESH).is_some());
        prop_assert_eq!(table.blockers(&FRESH), blockers);
        prop_assert_eq!(table.held(&FRESH).count(), 0);
    }

    #[test]
    fn pending_get_fulfilled_and_notified(ops in history(), wants in request(), prio in -1..2) {
        let (mut table, blockers) = blocked(&ops, prio, &wants)?;
        let mut others = waiting(&table);
        others.extend(blockers);
        others.remove(&FRESH);
        let notified = release(&mut table, &others);
        prop_assert!(notified.contains(&FRESH));
        prop_assert!(table.pending(&FRESH).is_none());
        let wants = Wants::new(wants).expect("it was accepted");
        prop_assert!(fulfilled(&table, FRESH, &wants));
    }

    #[test]
    fn progress_and_its_soundness(ops in history(), wants in request(), prio in -1..2) {
        let (mut table, blockers) = blocked(&ops, prio, &wants)?;
        let asked: BTreeMap<Who, Wants> = waiting(&table)
            .into_iter()
            .filter_map(|who| Some((who, table.pending(&who)?.wants.clone())))
            .collect();
        let notified = release(&mut table, &blockers);
        let moved: Vec<Who> = notified.difference(&blockers).copied().collect();
        prop_assert!(!moved.is_empty(), "somebody goes on once all blockers are gone");
        for who in moved {
            prop_assert!(fulfilled(&table, who, &asked[&who]));
        }
    }

    /// Nobody waits for ever while owners that do not wait end in time: behind each waiter there is
    /// an owner that does not wait.
    #[test]
    fn no_deadlock(ops in history()) {
        let mut table = reach(&ops);
        while !waiting(&table).is_empty() {
            let running: BTreeSet<Who> = table.owners().difference(&waiting(&table)).copied().collect();
            prop_assert!(!running.is_empty(), "all owners wait");
            let granted = release(&mut table, &running);
            prop_assert!(!granted.is_empty(), "nobody goes on though all who ran are gone");
        }
    }

    #[test]
    fn pending_justified(ops in history()) {
        let table = reach(&ops);
        let waiting = waiting(&table);
        prop_assume!(!waiting.is_empty());
        for who in waiting {
            let wants = table.pending(&who).map(|p| p.wants.as_slice().to_vec()).unwrap_or_default();
            let blockers = table.blockers(&who);
            prop_assert!(!blockers.is_empty() && !blockers.contains(&who));
            prop_assert!(blockers.iter().all(|blocker| table.held(blocker).next().is_some()));
            // Without the request itself in the way, the table says the same of it.
            let mut bare = table.clone();
            prop_assert!(bare.withdraw(&who));
            let answer = bare.update(&who, wants).map(|answer| answer.outcome);
            prop_assert_eq!(answer, Ok(Outcome::Blocked(blockers)));
        }
        table.check();
    }

    #[test]
    fn repeating_a_request_changes_nothing(ops in history(), who in 0..=FRESH, wants in request()) {
        let mut table = reach(&ops);
        let Ok(first) = table.update_waiting(&who, 0, wants.clone()) else {
            return Err(TestCaseError::reject("refused"));
        };
        let rows = table.rows();
        let mut turned = wants;
        turned.reverse();
        let again = table.update_waiting(&who, 0, turned);
        let same = again.as_ref().is_ok_and(|again| again.step.is_empty());
        prop_assert!(same, "{:?}", again);
        prop_assert_eq!(again.map(|again| again.outcome), Ok(first.outcome));
        prop_assert_eq!(table.rows(), rows);
    }

    /// Mutual exclusion, with group locks standing for all their members.
    #[test]
    fn locks_disjoint_with_implications(ops in history()) {
        let held = held(&reach(&ops));
        for (a, lock_a, mode_a) in &held {
            for (b, lock_b, mode_b) in &held {
                let exclusive = Mode::Exclusive;
                if a == b || (*mode_a != exclusive && *mode_b != exclusive) {
                    continue;
                }
                prop_assert_ne!(lock_a, lock_b);
                prop_assert_ne!(lock_a.group(), Some(lock_b.clone()));
                prop_assert_ne!(Some(lock_a.clone()), lock_b.group());
            }
        }
    }

    #[test]
    fn locks_stable(ops in history(), who in 0..OWNERS, wants in request()) {
        let mut table = reach(&ops);
        let others = waiting(&table);
        let before = held(&table);
        drop(table.update(&who, wants));
        let untouched = |list: Vec<(Who, LockName, Mode)>| -> Vec<_> {
            list.into_iter().filter(|(o, _, _)| *o != who && !others.contains(o)).collect()
        };
        prop_assert_eq!(untouched(held(&table)), untouched(before));
    }

    #[test]
    fn update_atomic(ops in history(), who in 0..=FRESH, wants in request()) {
        let mut table = reach(&ops);
        let before = table.rows();
        let outcome = table.update(&who, wants.clone()).map(|answer| answer.outcome);
        if outcome == Ok(Outcome::Granted) {
            prop_assert!(fulfilled(&table, who, &Wants::new(wants).expect("it was accepted")));
        } else {
            prop_assert_eq!(table.rows(), before);
        }
    }

    #[test]
    fn release_succeeds(ops in history(), who in 0..OWNERS, lock in lock()) {
        let mut table = reach(&ops);
        prop_assume!(table.pending(&who).is_none());
        let outcome = table.update(&who, vec![(lock, Want::Release)]).map(|answer| answer.outcome);
        prop_assert_eq!(outcome, Ok(Outcome::Granted));
    }

    /// Each blocker is named with reason (alone it still blocks), and all of them together suffice.
    #[test]
    fn blockers_sufficient_and_necessary(ops in history(), wants in request()) {
        let mut table = reach(&ops);
        for who in waiting(&table) {
            table.withdraw(&who);
        }
        let Ok(Outcome::Blocked(blockers)) =
            table.update(&FRESH, wants.clone()).map(|answer| answer.outcome)
        else {
            return Err(TestCaseError::reject("not blocked"));
        };
        for blocker in &blockers {
            let mut alone = table.clone();
            release(&mut alone, &blockers.iter().copied().filter(|who| who != blocker).collect());
            let answer = alone.update(&FRESH, wants.clone()).map(|answer| answer.outcome);
            prop_assert_eq!(answer, Ok(Outcome::Blocked(BTreeSet::from([*blocker]))));
        }
        release(&mut table, &blockers);
        let answer = table.update(&FRESH, wants).map(|answer| answer.outcome);
        prop_assert_eq!(answer, Ok(Outcome::Granted));
    }

    /// An owner acquires upwards only, unless what it holds covers the wish.
    #[test]
    fn order_rule(ops in history(), who in 0..OWNERS, lock in lock(), exclusive in any::<bool>()) {
        let mut table = reach(&ops);
        prop_assume!(table.pending(&who).is_none());
        let mode = if exclusive { Mode::Exclusive } else { Mode::Shared };
        let mine: BTreeMap<LockName, Mode> =
            table.held(&who).map(|(lock, mode)| (lock.clone(), mode)).collect();
        prop_assume!(mine.last_key_value().is_some_and(|(highest, _)| lock < *highest));
        let covers = |lock: &LockName| mine.get(lock).is_some_and(|held| *held >= mode);
        let covered = covers(&lock) || lock.group().is_some_and(|group| covers(&group));
        let repeated = mine.get(&lock) == Some(&mode);
        let under_shared = exclusive
            && lock.group().is_some_and(|group| mine.get(&group) == Some(&Mode::Shared));
        let answer = table.update(&who, vec![(lock, mode.into())]);
        prop_assert_eq!(answer.is_ok(), repeated || (covered && !under_shared));
    }

    #[test]
    fn restore_preserves_what_is_held(ops in history(), op in op()) {
        let mut table = reach(&ops);
        let mut restored = LockTable::restore(held(&table)).expect("what was held fits together");
        restored.check();
        prop_assert_eq!(held(&restored), held(&table));
        // From then on both behave alike.
        for who in waiting(&table) {
            table.withdraw(&who);
        }
        prop_assert_eq!(restored.rows(), table.rows());
        let mut changes = (Vec::new(), Vec::new());
        prop_assert_eq!(run(&mut restored, &op, &mut changes.0), run(&mut table, &op, &mut changes.1));
        prop_assert_eq!(changes.0, changes.1);
        prop_assert_eq!(restored.rows(), table.rows());
    }

    #[test]
    fn owners_complete_and_sound(ops in history()) {
        let mut table = reach(&ops);
        for who in table.owners() {
            prop_assert!(table.held(&who).next().is_some() || table.pending(&who).is_some());
        }
        let owners = table.owners();
        release(&mut table, &owners);
        // Who was granted while others left holds something still.
        let owners = table.owners();
        release(&mut table, &owners);
        prop_assert!(table.owners().is_empty());
        prop_assert_eq!(table.rows(), Vec::new());
    }

    /// Names come back as they were written, and their order is that of level and name.
    #[test]
    fn names_round_trip(a in lock(), b in lock()) {
        prop_assert_eq!(a.to_string().parse::<LockName>(), Ok(a.clone()));
        prop_assert_eq!(a.cmp(&b), (a.level(), a.name()).cmp(&(b.level(), b.name())));
        prop_assert_eq!(a == b, a.to_string() == b.to_string());
    }
}
