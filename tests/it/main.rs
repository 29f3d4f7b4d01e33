//! Whole clusters of real processes, as their users meet them. Each module is a theme; a test of a theme starts one cluster
//! and walks through steps on it, since starting one costs seconds. A failed step names itself, and the nodes' logs follow.

mod architecture;
mod backup;
mod bad_input;
mod chaos;
mod commands;
mod compat;
mod confd;
mod disk;
mod effects;
mod failover;
mod mond;
mod proofs;
mod runs;
mod stock_confd;
mod survival;

use gantry_tests::{Options, VirtualCluster, bounded};
use std::time::Duration;

/// No step takes so long, but in a soak, which sets more (seconds).
const STEP_S: u64 = 1_200;
const STEP_ENV: &str = "GANTRY_STEP_S";

/// A running cluster of so many nodes.
fn cluster(nodes: u8) -> VirtualCluster {
    VirtualCluster::start(&Options::new(nodes)).expect("the cluster starts")
}

/// One step of a theme: says its name and how long it took; fails the test with it.
fn step(name: &str, work: impl FnOnce() -> anyhow::Result<()>) {
    let begun = std::time::Instant::now();
    let most = std::env::var(STEP_ENV).ok().and_then(|text| text.parse().ok()).unwrap_or(STEP_S);
    if let Err(why) = bounded::watched(name, Duration::from_secs(most), work) {
        panic!("{name}: {why:#}");
    }
    eprintln!("  {name}: {:.1?}", begun.elapsed());
}
