//! `gantry` and `gnt-*`: runs one command and turns its end into text and exit code.

use gantry_cli::error::CliError;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(gantry_cli::args::run(std::env::args_os().collect())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !matches!(error, CliError::Told(_) | CliError::OutputGone) {
                // A terminal that is gone is no reason to panic.
                let _ = writeln!(std::io::stderr(), "{error}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}
