//! One job's process: executes the opcodes of one start of one job, one after the other, and leaves.
//!
//! Born in a nursery, which luxid starts as `gantry-job --root DIR --nursery CLUSTER` ([`nursery`]), or started by luxid as
//! `gantry-job --root DIR ID E-R-C CLUSTER`; either way one end of a socketpair is its stdin (P4).
//! It is lean on purpose: no clap, no storage engine, no regular expressions, one thread; a few
//! hundred may live at once and a few hundred are started each second.
//!
//! Rooms: [`core`] (the report, pure), [`io`] (socket, spool, connections), [`ops`] (a module per opcode family).

mod core;
mod error;
mod io;
mod nursery;
mod ops;
mod run;

use gantry_model::ids::{ClusterUuid, JobOwner};
use gantry_model::root::Root;
use std::ffi::CString;
use std::process::ExitCode;

/// What luxid says on the command line.
struct Args {
    root: Root,
    /// None: of a nursery.
    owner: Option<JobOwner>,
    cluster: ClusterUuid,
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Args, String> {
    let usage =
        "usage: gantry-job --root DIR (--nursery | ID E-R-C) CLUSTER (started by gantry-luxid, not by hand)";
    let mut next = || args.next().ok_or_else(|| usage.to_owned());
    if next()? != "--root" {
        return Err(usage.to_owned());
    }
    let root = Root::new(next()?);
    let first = next()?;
    let owner = if first == "--nursery" {
        None
    } else {
        let job = first.parse().map_err(|why| format!("{why}; {usage}"))?;
        let start = next()?.parse().map_err(|why| format!("{why}; {usage}"))?;
        Some(JobOwner { job, start })
    };
    let cluster = next()?.parse().map_err(|why| format!("{why}; {usage}"))?;
    Ok(Args { root, owner, cluster })
}

fn main() -> ExitCode {
    let args = match parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(why) => {
            eprintln!("gantry-job: {why}");
            return ExitCode::from(2);
        }
    };
    match args.owner {
        Some(owner) => job(args.root, owner, args.cluster),
        None => nursery(args.root, args.cluster),
    }
}

fn nursery(root: Root, cluster: ClusterUuid) -> ExitCode {
    // Out of luxid's session: a signal to its group must not end what it needs for its next job.
    let _ = nix::unistd::setsid();
    match nursery::serve() {
        Ok(nursery::Born::Job(owner)) => job(root, owner, cluster),
        Ok(nursery::Born::Nobody) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("gantry-job: the nursery ends: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Who looks at processes sees which job one is; where it was born it has the nursery's command line.
fn take_name(owner: JobOwner) {
    let name = CString::new(format!("job {}", owner.job)).unwrap_or_default();
    let _ = rustix::thread::set_name(&name);
}

fn job(root: Root, owner: JobOwner, cluster: ClusterUuid) -> ExitCode {
    take_name(owner);
    // Out of luxid's session: signals to its group, and the hang-up at its death, are not for this job.
    if let Err(why) = nix::unistd::setsid() {
        eprintln!("gantry-job {owner}: stays in the session of luxid: {why}");
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(why) => {
            eprintln!("gantry-job {owner}: can't start: {why}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run::job(root, owner, cluster)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("gantry-job {owner}: {why}");
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
        assert_eq!(args.owner.expect("a job").to_string(), "12.1-2-3");
        let args = parse(words(&format!("--root /x --nursery {uuid}"))).expect("good");
        assert!(args.owner.is_none());
        for bad in [
            "",
            "--root /x --nursery",
            "--root /x",
            "--root /x 0 1-2-3 u",
            "--root /x 12 1-2 u",
            "12 1-2-3 u",
        ] {
            assert!(parse(words(bad)).is_err(), "{bad}");
        }
    }
}
