//! `gantry-wconfd`: see the library.

use clap::Parser;
use gantry_wconfd::args::{Args, Command};
use gantry_wconfd::{backup, elect, init, serve};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    match args.command {
        None | Some(Command::Serve) => gantry_rt::run("wconfd", args.root(), serve::serve),
        Some(Command::Init(ref options)) => match init::init(&args.root(), options) {
            Ok(made) => {
                println!("{made}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("gantry-wconfd init: {error}");
                ExitCode::FAILURE
            }
        },
        Some(Command::Elect(ref options)) => match elect::run(&args.root(), options) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                elect::broken(&error);
                ExitCode::FAILURE
            }
        },
        Some(Command::Backup { ref dir }) => {
            said(backup::make::backup(&args.root(), dir).map(|made| backup::make::tell(&made, dir)))
        }
        Some(Command::Restore(ref options)) => said(backup::restore::restore(&args.root(), options)),
    }
}

/// An error goes to its caller as it is: it is told there.
fn said(done: Result<(), backup::BackupError>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
