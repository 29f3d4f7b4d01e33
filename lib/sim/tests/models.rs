//! Searches of small worlds, breadth first: all states of them hold with every rule, and without one the
//! shortest way to a broken promise is found.

mod search;

use gantry_store::core::rules::{Rule, Rules};
use search::{Bounds, Search};

/// Longer than any of these takes on a slow machine; a search that is not done by then has shown nothing.
const SECONDS_MAX: u64 = 300;

fn holds(name: &str, bounds: Bounds) {
    let found = Search::run(bounds, Rules::ALL, SECONDS_MAX);
    println!("{name}: {} states, nothing breaks", found.states);
    assert!(found.broken.is_none(), "{name}: {:#?}", found.broken);
    assert!(found.done, "{name}: not all states were seen in {SECONDS_MAX} s");
}

fn breaks_without(rule: Rule, bounds: Bounds) {
    let found = Search::run(bounds, Rules::ALL.without(rule), SECONDS_MAX);
    let (events, what) = found.broken.unwrap_or_else(|| panic!("nothing breaks without {rule:?}"));
    println!("without {rule:?}: {what}, after {} events, {} states seen", events.len(), found.states);
    events.iter().for_each(|event| println!("    {event}"));
}

#[test]
fn three_copies_two_writes() {
    holds("2 writes", Bounds { writes: 2, ..Bounds::NONE });
}

#[test]
fn three_copies_a_failover() {
    holds("1 failover", Bounds { failovers: 1, ..Bounds::NONE });
}

#[test]
fn two_copies_a_write_and_a_failover() {
    holds(
        "2 copies, 1 write, 1 failover",
        Bounds { nodes: 2, members: 2, writes: 1, failovers: 1, ..Bounds::NONE },
    );
}

#[test]
fn two_copies_two_failovers() {
    holds("2 copies, 2 failovers", Bounds { nodes: 2, members: 2, failovers: 2, ..Bounds::NONE });
}

#[test]
fn from_one_to_two_members() {
    let bounds = Bounds { nodes: 2, members: 1, writes: 1, changes: 1, restarts: 1, ..Bounds::NONE };
    holds("1 to 2 members, 1 write, 1 restart", bounds);
}

#[test]
fn the_own_copy_must_obey_its_promise() {
    breaks_without(Rule::OwnCopyObeys, Bounds { writes: 1, failovers: 1, ..Bounds::NONE });
}

#[test]
fn an_epoch_must_be_promised_to_one_ballot() {
    breaks_without(Rule::Ballot, Bounds { failovers: 2, blind: true, settled: false, ..Bounds::NONE });
}

#[test]
fn a_restart_must_take_a_new_run() {
    breaks_without(Rule::FreshRun, Bounds { writes: 1, restarts: 1, ..Bounds::NONE });
}

#[test]
fn an_amnesiac_copy_must_not_count() {
    breaks_without(Rule::SuspectsOut, Bounds { writes: 1, failovers: 1, losses: 1, ..Bounds::NONE });
}

#[test]
fn a_list_must_be_committed_before_the_next() {
    breaks_without(Rule::ListCommitted, Bounds { changes: 2, failovers: 1, ..Bounds::NONE });
}
