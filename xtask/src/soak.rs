//! The same tests with larger numbers, round after round, each with a seed of its own, until the time is over. The first
//! failure ends it; the round's line says how to play that round again.

use crate::run::{cargo, run};
use crate::{build, foreign};
use anyhow::{Context, Result};
use gantry_tests::Random;
use std::path::Path;
use std::time::{Duration, Instant};

/// Histories of each profile of the simulation: a hundred times those of `cargo xtask test`.
const SIM_SEEDS: &str = "20000";
/// Deaths and failovers of one round.
const FAILOVERS: &str = "30";
/// Seconds of the storm over the pool.
const STORM_S: &str = "180";
/// Seconds that one step may take, of which one has all failovers.
const STEP_S: &str = "7200";

/// Tests of one round: package, kind and name of the target, filter.
const ROUND: [(&str, &str, &str); 4] = [
    ("gantry-copies", "it", "storm"),
    ("gantry-store", "", "cluster"),
    ("gantry-tests", "it", "failover"),
    ("gantry-tests", "it", "storm"),
];

/// Runs rounds for so long; the last one is finished.
pub fn run_for(minutes: u32, seed: Option<u64>) -> Result<()> {
    foreign::install()?;
    let programs = build::all(false)?;
    let end = Instant::now() + Duration::from_secs(u64::from(minutes) * 60);
    let first = seed.unwrap_or_else(|| Random::from_env("soak").seed());
    eprintln!("soak: the simulation, {SIM_SEEDS} seeds of each profile");
    let mut sim = cargo(&["test", "--release", "--package", "gantry-sim", "--test", "seeds"]);
    run(sim.env("GANTRY_SEEDS", SIM_SEEDS))?;
    for round in 0.. {
        let seed = first.wrapping_add(round);
        eprintln!("soak: round {}, again by `cargo xtask soak --minutes 0 --seed {seed}`", round + 1);
        self::round(&programs, seed).with_context(|| format!("round {} with seed {seed}", round + 1))?;
        if Instant::now() >= end {
            eprintln!("soak: {} rounds passed", round + 1);
            return Ok(());
        }
    }
    Ok(())
}

fn round(programs: &Path, seed: u64) -> Result<()> {
    for (package, target, filter) in ROUND {
        let mut args = vec!["test", "--quiet", "--package", package];
        match target {
            "" => args.push("--lib"),
            name => args.extend(["--test", name]),
        }
        args.push(filter);
        let mut command = cargo(&args);
        command.env("GANTRY_BIN_DIR", programs).env("GANTRY_SEED", seed.to_string());
        command.env("GANTRY_FAILOVER_ROUNDS", FAILOVERS).env("GANTRY_STORM_S", STORM_S);
        run(command.env("GANTRY_STEP_S", STEP_S))?;
    }
    Ok(())
}
