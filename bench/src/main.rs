//! `cargo xtask bench`: measures the figures of docs/SPECIFICATION.md against real processes built with optimisation,
//! beside what this machine can do at best in the same minute. Prints; judges nothing.

mod figure;
mod floor;
mod jobs;
mod scale;
mod seed;
mod size;

use anyhow::Result;
use figure::Figure;

type Bench = (&'static str, fn() -> Result<Vec<Figure>>);

/// All benches, in the order they run. Each starts clusters of its own.
const BENCHES: [Bench; 4] =
    [("floor", floor::measure), ("jobs", jobs::measure), ("scale", scale::measure), ("size", size::measure)];

fn main() -> Result<()> {
    let filter = std::env::args().nth(1).unwrap_or_default();
    figure::print_machine();
    for (name, bench) in BENCHES.iter().filter(|(name, _)| name.contains(&filter)) {
        eprintln!("measuring: {name}");
        for figure in bench()? {
            println!("{figure}");
        }
    }
    Ok(())
}
