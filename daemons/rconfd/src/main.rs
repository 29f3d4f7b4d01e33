//! `gantry-rconfd`: arguments, then [`gantry_rconfd::run`].

use clap::Parser;
use gantry_model::root::Root;
use gantry_rconfd::config::Args;
use gantry_rt::{JOIN_MS, Options, run_alone};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let args = Args::parse();
    let options = Options { name: "rconfd", root: Root::new(&args.root), log_file: args.log_file.clone() };
    run_alone(options, Duration::from_millis(JOIN_MS), |daemon| gantry_rconfd::run(daemon, args))
}
