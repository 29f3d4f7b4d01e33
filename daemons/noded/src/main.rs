//! `gantry-noded`: arguments, then [`gantry_noded::run`].

use clap::Parser;
use gantry_model::root::Root;
use gantry_noded::config::Args;
use gantry_rt::{Options, run_with};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    let options =
        Options { name: "noded", root: Root::new(args.root.clone()), log_file: args.log_file.clone() };
    run_with(options, |daemon| gantry_noded::run(daemon, args))
}
