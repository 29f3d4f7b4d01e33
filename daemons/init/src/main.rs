//! `gantry-init`: PID 1 of a VM, or a command about to begin.

use gantry_init::{command, serve};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|word| word == command::WORD) {
        let (text, code) = command::become_it(&args);
        eprintln!("{text}");
        return ExitCode::from(code);
    }
    if !args.is_empty() {
        eprintln!("usage: gantry-init (PID 1 of a VM, started by a container runtime for gantry-vmd)");
        return ExitCode::from(2);
    }
    match serve::serve(None) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gantry-init: {error}");
            ExitCode::FAILURE
        }
    }
}
