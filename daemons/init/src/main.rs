//! `gantry-init`: PID 1 of a VM.

use gantry_init::serve::serve;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().count() > 1 {
        eprintln!("usage: gantry-init (PID 1 of a VM, started by a container runtime for gantry-vmd)");
        return ExitCode::from(2);
    }
    match serve() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("gantry-init: {error}");
            ExitCode::FAILURE
        }
    }
}
