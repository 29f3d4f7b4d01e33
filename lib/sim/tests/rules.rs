//! The rules that only whole worlds show, each taken away: some history breaks a promise, and the same history
//! is harmless with the rule. (The rules of one log by itself have theirs beside `gantry_store::core`.)

use gantry_sim::chance::{History, Profile};
use gantry_sim::watch::Broken;
use gantry_sim::world::{Body, Config, Msg, Op, W, World};
use gantry_store::core::row::Index;
use gantry_store::core::rules::{Rule, Rules};

/// Histories tried at most until a missing rule shows. Several times what is needed.
const WEAK_SEEDS: u64 = 60_000;
/// Histories of each profile tried with all rules.
const SOUND_SEEDS: u64 = 100;

/// Rows are forgotten, so late copies get snapshots.
const SNAPSHOTS: Profile = Profile { compact: 20, ..Profile::single(3, 3, 400) };
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
fn a_snapshot_must_check_the_vote() {
    breaks_without(Rule::SnapshotChecksVote, SNAPSHOTS);
}

#[test]
fn a_cause_must_be_committed_before_its_effect_is_sent() {
    breaks_without(Rule::CauseFirst, BOTH);
}

/// A world whose messages arrive when the test says so.
struct Script(World);

impl Script {
    /// Node 0 leads; its first row is everywhere, committed and known to be.
    fn new(members: usize, rules: Rules) -> Result<Script, Broken> {
        let config =
            Config { nodes: 3, members, logs: 1, coarse: true, elect: false, tokens: false, stale: true };
        let mut script = Script(World::new(config, rules));
        script.0.campaign(0, &[0, 1, 2])?;
        script.settle(0)?;
        Ok(script)
    }

    fn settle(&mut self, by: usize) -> Result<(), Broken> {
        for _ in 0..4 {
            self.arrive(|_| true)?;
            (0..3).for_each(|to| self.0.send(by, W, to, usize::MAX));
        }
        self.arrive(|_| true)
    }

    /// All messages that `which` picks arrive, and what comes of them; a node hears itself at once.
    fn arrive(&mut self, which: impl Fn(&Msg) -> bool) -> Result<(), Broken> {
        while let Some(k) = self.0.net.iter().position(|m| m.from == m.to || which(m)) {
            let msg = self.0.net.swap_remove(k).msg();
            self.0.handle(msg)?;
        }
        Ok(())
    }

    fn send(&mut self, from: usize, to: usize) -> Result<(), Broken> {
        self.0.send(from, W, to, usize::MAX);
        self.arrive(|_| false)
    }
}

fn from_to(from: usize, to: usize) -> impl Fn(&Msg) -> bool {
    move |m| (m.from, m.to) == (from, to)
}

/// A copy has confirmed two rows when a snapshot of the first arrives.
fn late_snapshot(rules: Rules) -> Result<(), Broken> {
    let mut s = Script::new(3, rules)?;
    s.0.write(0, W, false);
    s.send(0, 2)?;
    s.arrive(from_to(0, 2))?;
    s.0.write(0, W, false);
    s.send(0, 1)?;
    s.arrive(from_to(2, 0))?;
    s.send(0, 0)?;
    s.0.submit(0, W, Op::Compact(Index(2)))?;
    s.send(0, 1)?;
    s.arrive(|m| m.to == 1 && matches!(m.body, Body::Append(..)))?;
    s.arrive(|m| m.to == 1 && matches!(m.body, Body::Snapshot(..)))?;
    s.arrive(from_to(1, 0))?;
    s.0.campaign(2, &[0, 1, 2])?;
    let two = |m: &Msg| m.from != 0 && m.to != 0;
    s.arrive(two)?;
    s.send(2, 1)?;
    s.arrive(two)
}

#[test]
fn a_snapshot_must_keep_the_rows_after_it() {
    let weak = late_snapshot(Rules::ALL.without(Rule::SnapshotKeepsSuffix));
    println!("{weak:?}");
    assert!(weak.is_err(), "nothing breaks");
    assert_eq!(late_snapshot(Rules::ALL), Ok(()));
}

/// The master forgets the rows of two changes of the list and starts again.
fn forgotten_list(rules: Rules) -> Result<(), Broken> {
    let mut s = Script::new(1, rules)?;
    for other in [1, 2] {
        s.0.change(0, other, None);
        s.settle(0)?;
    }
    s.0.submit(0, W, Op::Compact(Index(3)))?;
    s.0.net.clear();
    s.0.start(0, W)?;
    s.arrive(|_| false)?;
    s.0.write(0, W, false);
    s.send(0, 0)?;
    s.0.campaign(1, &[0, 1, 2])?;
    let two = |m: &Msg| m.from != 0 && m.to != 0;
    s.arrive(two)?;
    s.send(1, 2)?;
    s.arrive(two)
}

#[test]
fn compaction_must_keep_the_list() {
    let weak = forgotten_list(Rules::ALL.without(Rule::CompactionKeepsList));
    println!("{weak:?}");
    assert!(weak.is_err(), "nothing breaks");
    assert_eq!(forgotten_list(Rules::ALL), Ok(()));
}
