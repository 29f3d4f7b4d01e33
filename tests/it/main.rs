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

use gantry_tests::{Options, VirtualCluster};

/// A running cluster of so many nodes.
fn cluster(nodes: u8) -> VirtualCluster {
    VirtualCluster::start(&Options::new(nodes)).expect("the cluster starts")
}

/// One step of a theme: says its name and how long it took; fails the test with it.
fn step(name: &str, work: impl FnOnce() -> anyhow::Result<()>) {
    let begun = std::time::Instant::now();
    if let Err(why) = work() {
        panic!("{name}: {why:#}");
    }
    eprintln!("  {name}: {:.1?}", begun.elapsed());
}
