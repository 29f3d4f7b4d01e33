//! The doors of the project: `cargo xtask quickstart|build|test|fuzz|soak|ci|dev-cluster|bench|man|tidy`. What people and CI run is the same.

mod build;
mod dev_cluster;
mod foreign;
mod fuzz;
mod quickstart;
mod run;
mod soak;
mod test;
mod tidy;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, test and try Gantry")]
struct Args {
    #[command(subcommand)]
    door: Door,
}

#[derive(Subcommand)]
enum Door {
    /// See it work: three nodes, a pool of VMs, every example run; prints a table, leaves nothing
    Quickstart {
        /// Leave the cluster up and say what to try on it
        #[arg(long)]
        keep: bool,
        /// Stop the cluster that an earlier run kept
        #[arg(long, conflicts_with = "keep")]
        stop: bool,
    },
    /// Build all programs into target/gantry/bin (gantry-job static and small)
    Build {
        /// With optimisation, into target/gantry/release
        #[arg(long)]
        release: bool,
    },
    /// Install what the tests need, build, run every test
    Test {
        /// Only tests whose names contain this
        filter: Option<String>,
    },
    /// Feed what reads strangers' bytes with made-up ones; prints a table, ends with 1 when a target crashed
    Fuzz {
        /// Only this target
        target: Option<String>,
        /// How long each, in seconds
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
        seconds: u32,
    },
    /// The tests of copies, failover and storms with larger numbers, round after round
    Soak {
        /// No round begins after so many minutes
        #[arg(long, default_value_t = 60)]
        minutes: u32,
        /// Seed of the first round
        #[arg(long)]
        seed: Option<u64>,
    },
    /// All that CI runs: format, lints, tidy, tests
    Ci,
    /// Start three virtual nodes, print what to try, stop them on Ctrl-C
    DevCluster {
        /// How many nodes
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
        nodes: u8,
    },
    /// Measure, with this machine's own floor in the same minute
    Bench {
        /// Only figures whose names contain this
        filter: Option<String>,
    },
    /// Write the manual pages of all commands
    Man {
        /// Where to
        #[arg(default_value = "target/man")]
        dir: PathBuf,
    },
    /// Check the rules of the house that no compiler knows
    Tidy,
}

fn main() -> ExitCode {
    match open(Args::parse().door) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why:#}");
            ExitCode::FAILURE
        }
    }
}

fn open(door: Door) -> Result<()> {
    match door {
        Door::Quickstart { stop: true, .. } => quickstart::stop(),
        Door::Quickstart { keep, .. } => quickstart::run(keep),
        Door::Build { release } => build::all(release).map(|_| ()),
        Door::Test { filter } => test::all(filter.as_deref()),
        Door::Fuzz { target, seconds } => fuzz::run_for(target.as_deref(), seconds),
        Door::Soak { minutes, seed } => soak::run_for(minutes, seed),
        Door::Ci => test::ci(),
        Door::DevCluster { nodes } => dev_cluster::run(nodes),
        Door::Bench { filter } => build::bench(filter.as_deref()),
        Door::Man { dir } => build::man(&dir),
        Door::Tidy => tidy::check(),
    }
}
