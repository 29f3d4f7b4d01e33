//! One job's process: executes the opcodes of one start of one job, one after the other, and leaves.
//!
//! Started by luxid as `gantry-job --root DIR ID E-R-C CLUSTER` with one end of a socketpair as stdin (P4).
//! It is lean on purpose: no clap, no storage engine, no regular expressions, one thread; a few
//! hundred may live at once and a few hundred are started each second.
//!
//! Rooms: [`core`] (the report, pure), [`io`] (socket, spool, connections), [`ops`] (a module per opcode family).

mod core;
mod error;
mod io;
mod ops;
mod run;

use gantry_model::ids::{ClusterUuid, JobOwner};
use gantry_model::root::Root;
use std::process::ExitCode;

/// What luxid says on the command line.
struct Args {
    root: Root,
    owner: JobOwner,
    cluster: ClusterUuid,
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Args, String> {
    let usage = "usage: gantry-job --root DIR ID E-R-C CLUSTER (started by gantry-luxid, not by hand)";
    let mut next = || args.next().ok_or_else(|| usage.to_owned());
    if next()? != "--root" {
        return Err(usage.to_owned());
    }
    let root = Root::new(next()?);
    let job = next()?.parse().map_err(|why| format!("{why}; {usage}"))?;
    let start = next()?.parse().map_err(|why| format!("{why}; {usage}"))?;
    let cluster = next()?.parse().map_err(|why| format!("{why}; {usage}"))?;
    Ok(Args { root, owner: JobOwner { job, start }, cluster })
}

fn main() -> ExitCode {
    let args = match parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(why) => {
            eprintln!("gantry-job: {why}");
            return ExitCode::from(2);
        }
    };
    // Out of luxid's session: signals to its group, and the hang-up at its death, are not for this job.
    if let Err(why) = nix::unistd::setsid() {
        eprintln!("gantry-job {}: stays in the session of luxid: {why}", args.owner);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(why) => {
            eprintln!("gantry-job {}: can't start: {why}", args.owner);
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run::job(args.root, args.owner, args.cluster)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("gantry-job {}: {why}", args.owner);
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    fn words(text: &str) -> impl Iterator<Item = String> + '_ {
        text.split_whitespace().map(str::to_owned)
    }

    #[test]
    fn the_command_line_of_luxid_is_understood() {
        let uuid = "6f1d4b44-0e53-4bb4-9c2a-6d4a3f0f5a11";
        let args = parse(words(&format!("--root /x 12 1-2-3 {uuid}"))).expect("good");
        assert_eq!(args.owner.to_string(), "12.1-2-3");
        for bad in ["", "--root /x", "--root /x 0 1-2-3 u", "--root /x 12 1-2 u", "12 1-2-3 u"] {
            assert!(parse(words(bad)).is_err(), "{bad}");
        }
    }
}
