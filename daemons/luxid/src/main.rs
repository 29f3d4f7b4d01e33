//! gantry-luxid: see the library.

use clap::Parser;
use gantry_luxid::config::Args;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    let options = gantry_rt::Options { name: "luxid", root: args.root(), log_file: args.log_file.clone() };
    gantry_rt::run_with(options, |daemon| async move {
        let job_program = args.job_program()?;
        gantry_luxid::serve(daemon, job_program).await
    })
}
