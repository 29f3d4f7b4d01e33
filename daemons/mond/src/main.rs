//! `gantry-mond`: arguments, then [`gantry_mond::run`].

use clap::Parser;
use gantry_model::root::Root;
use gantry_mond::config::{Args, manual};
use gantry_mond::io::confd::Confd;
use gantry_rt::{Options, run_with};
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(dir) = &args.man {
        return match manual(dir) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("gantry-mond: {}: {error}", dir.display());
                ExitCode::FAILURE
            }
        };
    }
    let options = Options { name: "mond", root: Root::new(&args.root), log_file: args.log_file.clone() };
    run_with(options, |daemon| {
        let cluster = Arc::new(Confd::new(daemon.root.clone()));
        gantry_mond::run(daemon, args, cluster)
    })
}
