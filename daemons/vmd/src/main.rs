//! `gantry-vmd`: arguments, the stage, then [`gantry_vmd::run`].

use clap::Parser;
use gantry_model::root::Root;
use gantry_rt::{Options, run_alone};
use gantry_vmd::io::stage;
use gantry_vmd::{Args, PATIENCE, init_program, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    let root = std::fs::canonicalize(&args.root).unwrap_or_else(|_| args.root.clone());
    // Before there is a second thread, which would stay in the host's namespace.
    let layout = match init_program()
        .map_err(Into::into)
        .and_then(|init| stage::enter(&init, &[root]).map_err(anyhow::Error::from))
    {
        Ok(layout) => layout,
        Err(error) => {
            eprintln!("gantry-vmd: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let options = Options { name: "vmd", root: Root::new(args.root), log_file: args.log_file };
    run_alone(options, PATIENCE, |daemon| run(daemon, layout, args.runtime))
}
