//! Random histories: the promises hold with all rules, and each rule is needed.

use super::super::rules::Rule;
use super::world::{Weak, World};

const LENGTH: usize = 250;
const LENGTH_WITH_POOL: usize = 400;
const SEEDS_WITH_POOL: u64 = 100;
const SEEDS: u64 = 500;

#[test]
fn every_acknowledged_job_ends_exactly_once() {
    for seed in 0..SEEDS {
        if let Some(promise) = World::new(seed, Weak::Nothing).play(LENGTH) {
            panic!("seed {seed}: {promise}");
        }
    }
}

/// Without the rule some history breaks a promise; says which and after how many histories.
fn is_needed(weak: Weak) {
    let broken = (0..SEEDS * 10).find_map(|seed| World::new(seed, weak).play(LENGTH));
    assert!(broken.is_some(), "nothing breaks without {weak:?}");
    println!("without {weak:?}: {broken:?}");
}

#[test]
fn every_acknowledged_task_ends_with_one_result_and_no_lease() {
    for seed in 0..SEEDS_WITH_POOL {
        if let Some(promise) = World::with_pool(seed, Weak::Nothing).play(LENGTH_WITH_POOL) {
            panic!("seed {seed}: {promise}");
        }
    }
}

fn is_needed_with_pool(weak: Weak) {
    let broken =
        (0..SEEDS_WITH_POOL * 10).find_map(|seed| World::with_pool(seed, weak).play(LENGTH_WITH_POOL));
    assert!(broken.is_some(), "nothing breaks without {weak:?}");
    println!("without {weak:?}: {broken:?}");
}

#[test]
fn a_lease_must_be_stored_before_it_is_asked_for() {
    is_needed_with_pool(Weak::Core(Rule::GrabAfterStored));
}

#[test]
fn a_lease_may_end_only_after_the_result_is_stored() {
    is_needed_with_pool(Weak::Core(Rule::EndLeaseAfterStored));
}

#[test]
fn a_job_may_go_on_only_after_its_result_is_stored() {
    is_needed_with_pool(Weak::Core(Rule::ConfirmAfterStored));
}

#[test]
fn only_the_current_attempt_may_store_a_result() {
    is_needed_with_pool(Weak::Core(Rule::CurrentAttemptOnly));
}

#[test]
fn go_must_wait_for_the_commit_of_running() {
    is_needed(Weak::Core(Rule::GoAfterStored));
}

#[test]
fn only_the_current_start_may_have_a_say() {
    is_needed(Weak::Core(Rule::CurrentStartOnly));
}

#[test]
fn a_spool_file_must_stay_until_it_is_stored() {
    is_needed(Weak::Core(Rule::CleanAfterStored));
}

#[test]
fn nothing_uncommitted_may_be_shown() {
    is_needed(Weak::Core(Rule::ShowCommittedOnly));
}

#[test]
fn each_start_needs_its_own_socket_path() {
    is_needed(Weak::OneSocketPath);
}

#[test]
fn a_spool_file_must_name_its_start() {
    is_needed(Weak::SpoolWithoutStart);
}
