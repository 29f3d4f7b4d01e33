//! `gantry-overseer`: arguments, then [`gantry_overseer::run`] or [`gantry_overseer::once`].

use clap::Parser;
use gantry_model::root::Root;
use gantry_overseer::config::Args;
use gantry_rt::{Options, run_with};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    let root = Root::new(&args.root);
    if args.once {
        return match gantry_overseer::once(&root, args.only) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("gantry-overseer: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let options = Options { name: "overseer", root, log_file: args.log_file };
    run_with(options, gantry_overseer::run)
}
