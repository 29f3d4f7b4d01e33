//! Random histories of a few copies, driving the core alone: elections, restarts, crashes, appends, changes
//! of the list, with messages lost, doubled and out of order. A seed gives the same history again.
//!
//! What must hold in all of them: a committed row is never lost or changed; two rows with one term and index
//! are equal and stand after equal rows; one start of one writer commits under a term. With one rule taken
//! away some history breaks it.

mod node;
mod world;

use super::rules::{Rule, Rules};
use world::{Profile, World};

/// Histories tried with all rules in force, for each profile.
const SOUND_SEEDS: u64 = 1_500;
/// Histories tried at most until a missing rule shows. Several times what is needed.
const WEAK_SEEDS: u64 = 60_000;

/// Three copies of a fixed list.
const FIXED: Profile = Profile::new(3, 3, 220);

/// The first seed whose history breaks a promise.
fn first_violation(rules: Rules, profile: Profile, seeds: u64) -> Option<(u64, String)> {
    (0..seeds).find_map(|seed| World::new(seed, rules, profile).run().err().map(|what| (seed, what)))
}

fn holds(profile: Profile) {
    if let Some((seed, what)) = first_violation(Rules::ALL, profile, SOUND_SEEDS) {
        panic!("seed {seed}: {what}");
    }
}

fn breaks_without(rule: Rule, profile: Profile) {
    let found = first_violation(Rules::ALL.without(rule), profile, WEAK_SEEDS);
    let (seed, what) = found.unwrap_or_else(|| panic!("nothing breaks without {rule:?}"));
    println!("without {rule:?}, seed {seed}: {what}");
    assert_eq!(
        World::new(seed, Rules::ALL, profile).run(),
        Ok(()),
        "with the rule the same seed is harmless"
    );
}

/// With all rules each profile that shows a missing one holds, and work gets done in it.
#[test]
fn the_rules_hold() {
    for profile in [FIXED, RESTARTS, TAILS, AMNESIA, LISTS, SHRINK, FOUR, TERMS] {
        holds(profile);
        let done: u64 = (0..SOUND_SEEDS / 10)
            .map(|seed| {
                let mut world = World::new(seed, Rules::ALL, profile);
                assert_eq!(world.run(), Ok(()));
                world.committed()
            })
            .sum();
        assert!(done > SOUND_SEEDS / 10, "{done} rows committed by {profile:?}: it shows nothing");
    }
}

/// A confirmation sent before a copy lost its disk, and heard after one sent later, must not make the copy
/// count again.
#[test]
fn a_suspect_copy_stays_one() {
    assert_eq!(World::new(22_850, Rules::ALL, AMNESIA).run(), Ok(()));
}

#[test]
fn the_own_copy_must_obey_its_promise() {
    breaks_without(Rule::OwnCopyObeys, FIXED);
}

#[test]
fn the_vote_must_be_read_in_the_transaction() {
    breaks_without(Rule::VoteInTransaction, FIXED);
}

#[test]
fn a_tail_must_be_replaced_in_one_transaction() {
    breaks_without(Rule::TailInOneTransaction, TAILS);
}

#[test]
fn rows_of_older_terms_must_not_be_counted() {
    breaks_without(Rule::OwnTermCommits, TERMS);
}

#[test]
fn an_epoch_must_be_promised_to_one_ballot() {
    breaks_without(Rule::Ballot, FIXED);
}

#[test]
fn a_restart_must_take_a_new_run() {
    breaks_without(Rule::FreshRun, RESTARTS);
}

#[test]
fn an_amnesiac_copy_must_not_count() {
    breaks_without(Rule::SuspectsOut, AMNESIA);
}

#[test]
fn one_member_at_a_time() {
    breaks_without(Rule::OneMember, LISTS);
}

#[test]
fn a_list_must_be_committed_before_the_next() {
    breaks_without(Rule::ListCommitted, LISTS);
}

#[test]
fn the_majority_must_be_one_of_the_best_logs_list() {
    breaks_without(Rule::ListOfBest, SHRINK);
}

#[test]
fn an_own_row_must_be_committed_before_the_list_changes() {
    breaks_without(Rule::OwnTermBeforeList, FOUR);
}

/// A writer that dies and comes back often.
const RESTARTS: Profile = Profile { restart: 8, crash: 4, ..FIXED };
/// Short logs that differ.
const TAILS: Profile = Profile { failover: 8, crash: 6, writes: 8, ..FIXED };
/// One copy loses its disk.
const AMNESIA: Profile = Profile { wipes: 1, ..FIXED };
/// Members come and go.
const LISTS: Profile = Profile { change: 10, two: 5, ..Profile::new(4, 3, 260) };
/// Members go until one is left.
const SHRINK: Profile = Profile { change: 10, ..Profile::new(3, 3, 260) };
/// Four of five count: two writers that each change the list have majorities without a common member.
const FOUR: Profile =
    Profile { change: 20, write: 0, failover: 2, restart: 0, crash: 0, send: 30, ..Profile::new(5, 4, 300) };
/// Writers that come after each other, each with a row that only it has.
const TERMS: Profile = Profile {
    write: 0,
    settled: false,
    restart: 0,
    crash: 0,
    failover: 6,
    send: 10,
    ..Profile::new(3, 3, 150)
};
