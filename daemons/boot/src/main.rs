//! `gantry-boot`: arguments, then [`gantry_boot::run`].

use clap::Parser;
use gantry_boot::config::Args;
use gantry_rt::{Options, run_patiently};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = match Args::parse().resolved() {
        Ok(args) => args,
        Err(error) => {
            eprintln!("gantry-boot: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    if args.daemonize {
        return gantry_boot::detach(&args);
    }
    if args.detached {
        gantry_boot::leave_session();
    }
    let held = match gantry_boot::hold(&args.root()) {
        Ok(held) => held,
        Err(error) => {
            eprintln!("gantry-boot: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let options = Options { name: "boot", root: args.root(), log_file: None };
    run_patiently(options, gantry_boot::config::STOP_ALL, |daemon| gantry_boot::run(daemon, args, held))
}
