//! Each rule taken away: some history breaks a promise, and the same history is harmless with the rule.

use gantry_sim::chance::{History, Profile};
use gantry_store::core::rules::{Rule, Rules};

/// Histories tried at most until a missing rule shows. Several times what is needed.
const WEAK_SEEDS: u64 = 60_000;
/// Histories of each profile tried with all rules.
const SOUND_SEEDS: u64 = 200;

/// Three copies of a fixed list, one log.
const FIXED: Profile = Profile::single(3, 3, 400);
/// A writer that dies and comes back often.
const RESTARTS: Profile = Profile { restart: 12, crash: 4, ..FIXED };
/// Short logs that differ.
const TAILS: Profile = Profile { failover: 8, crash: 6, writes_max: 8, ..FIXED };
/// One copy loses its disk.
const AMNESIA: Profile = Profile { lose: 2, ..FIXED };
/// Members come and go.
const LISTS: Profile = Profile { change: 10, two: 5, ..Profile::single(4, 3, 400) };
/// Members go until one is left.
const SHRINK: Profile = Profile { change: 10, ..FIXED };
/// Four of five count: two writers that each change the list have majorities without a common member.
const FOUR: Profile = Profile {
    change: 20,
    write: 0,
    failover: 2,
    restart: 0,
    crash: 0,
    send: 30,
    ..Profile::single(5, 4, 500)
};
/// Writers that come after each other, each with a row that only it has.
const TERMS: Profile = Profile {
    write: 0,
    settled: false,
    restart: 0,
    crash: 0,
    failover: 6,
    send: 10,
    ..Profile::single(3, 3, 200)
};
/// Rows are forgotten while members come and go.
const FORGETFUL_LISTS: Profile = Profile { change: 20, compact: 20, ..Profile::single(4, 2, 400) };
/// Rows are forgotten, so late copies get snapshots.
const SNAPSHOTS: Profile = Profile { compact: 20, ..FIXED };
/// Both logs, many failovers.
const BOTH: Profile = Profile { steps: 1_500, failover: 4, change: 0, ..Profile::whole(3, 3) };

fn breaks_without(rule: Rule, profile: Profile) {
    let weak = Rules::ALL.without(rule);
    let first = (0..WEAK_SEEDS).find_map(|seed| {
        let what = History::new(seed, weak, profile).run().err()?;
        Some((seed, what))
    });
    let (seed, what) = first.unwrap_or_else(|| panic!("nothing breaks without {rule:?}"));
    println!("without {rule:?}, seed {seed}, {what}");
    for seed in (0..SOUND_SEEDS).chain([seed]) {
        if let Err(what) = History::new(seed, Rules::ALL, profile).run() {
            panic!("with all rules seed {seed} of {profile:?}: {what}");
        }
    }
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

/// The same by tokens: an image of a disk is put back.
#[test]
fn a_copy_put_back_from_an_image_must_not_count() {
    breaks_without(Rule::SuspectsOut, Profile { lose: 20, failover: 2, crash: 4, ..BOTH });
}

#[test]
fn one_member_at_a_time() {
    breaks_without(Rule::OneMember, LISTS);
}

#[test]
fn a_list_must_be_committed_before_the_next() {
    breaks_without(Rule::ListCommitted, Profile { two: 0, ..LISTS });
}

#[test]
fn the_majority_must_be_one_of_the_best_logs_list() {
    breaks_without(Rule::ListOfBest, SHRINK);
}

#[test]
fn an_own_row_must_be_committed_before_the_list_changes() {
    breaks_without(Rule::OwnTermBeforeList, FOUR);
}

#[test]
fn compaction_must_keep_the_list() {
    breaks_without(Rule::CompactionKeepsList, FORGETFUL_LISTS);
}

#[test]
fn a_snapshot_must_check_the_vote() {
    breaks_without(Rule::SnapshotChecksVote, SNAPSHOTS);
}

#[test]
fn a_snapshot_must_keep_the_rows_after_it() {
    breaks_without(Rule::SnapshotKeepsSuffix, SNAPSHOTS);
}

#[test]
fn a_cause_must_be_committed_before_its_effect_is_sent() {
    breaks_without(Rule::CauseFirst, BOTH);
}
