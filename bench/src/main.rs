//! `cargo xtask bench`: measures the figures of docs/SPECIFICATION.md against real processes built with optimisation,
//! beside what this machine can do at best in the same minute. Prints; judges nothing.

mod bare;
mod confd;
mod copies;
mod cost;
mod echo;
mod figure;
mod floor;
mod jobs;
mod leases;
mod link;
mod mond;
mod programs;
mod runs;
mod scale;
mod seed;
mod size;

use anyhow::{Result, bail};
use figure::Figure;

type Bench = (&'static str, fn() -> Result<Vec<Figure>>);

/// All benches, in the order they run. Each starts clusters of its own.
const BENCHES: [Bench; 9] = [
    ("floor", floor::measure),
    ("jobs", jobs::measure),
    ("copies", copies::measure),
    ("leases", leases::measure),
    ("runs", runs::measure),
    ("scale", scale::measure),
    ("mond", mond::measure),
    ("size", size::measure),
    ("confd", confd::measure),
];

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|first| first == bare::ARGUMENT) {
        return bare::process(&args[1..]);
    }
    let (options, names): (Vec<_>, Vec<_>) = args.iter().partition(|arg| arg.starts_with("--"));
    if let Some(unknown) = options.iter().find(|option| **option != programs::DEBUG_TOO) {
        bail!("unknown option {unknown}; usage: gantry-bench [FILTER] [{}]", programs::DEBUG_TOO);
    }
    let filter = names.first().map_or("", |name| name.as_str());
    programs::check(!options.is_empty())?;
    figure::print_machine();
    for (name, bench) in BENCHES.iter().filter(|(name, _)| name.contains(filter)) {
        eprintln!("measuring: {name}");
        for figure in bench()? {
            println!("{figure}");
        }
    }
    Ok(())
}
