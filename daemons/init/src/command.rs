//! Starting a command. PID 1 spawns this program again with its own words ([`line`]); the new process becomes the
//! user it shall be ([`become_it`]) and turns into the command. So nothing has to happen between fork and exec, which
//! safe Rust can't do.

use crate::wire::Exec;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::signal::SigSet;
use nix::unistd::{Gid, Uid, chdir, setgid, setgroups, setsid, setuid};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// First argument of the new process.
pub const WORD: &str = "--become";
/// Arguments before the command's own.
const ARGS: usize = 5;
/// OOM score of commands: they go before PID 1, whose death would be the VM's.
const OOM_SCORE: &str = "1000";
/// Exit codes as a shell's: there, but can't be run; not found.
const EXIT_NOT_RUN: u8 = 126;
const EXIT_NOT_FOUND: u8 = 127;

/// The arguments with which PID 1 starts itself for `exec`.
#[must_use]
pub fn line(exec: &Exec) -> Vec<String> {
    let own = [
        WORD.to_owned(),
        exec.uid.to_string(),
        exec.files_max.to_string(),
        exec.file_bytes_max.to_string(),
        exec.cwd.clone(),
    ];
    own.into_iter().chain(exec.argv.iter().cloned()).collect()
}

/// Turns this process into the command; returns only if that fails: what to say on standard error, and the exit code.
#[must_use]
pub fn become_it(args: &[String]) -> (String, u8) {
    let Some((own, argv)) = args.split_at_checked(ARGS).filter(|(_, argv)| !argv.is_empty()) else {
        return ("gantry-init: not enough arguments".to_owned(), EXIT_NOT_RUN);
    };
    if let Err(why) = settle(own) {
        return (format!("gantry-init: can't prepare {}: {why}", argv[0]), EXIT_NOT_RUN);
    }
    let error = Command::new(&argv[0]).args(&argv[1..]).exec();
    let code = if error.kind() == std::io::ErrorKind::NotFound { EXIT_NOT_FOUND } else { EXIT_NOT_RUN };
    (format!("{}: {error}", argv[0]), code)
}

fn settle(own: &[String]) -> Result<(), String> {
    let number = |text: &String| text.parse::<u64>().map_err(|why| why.to_string());
    let uid = u32::try_from(number(&own[1])?).map_err(|why| why.to_string())?;
    std::fs::write("/proc/self/oom_score_adj", OOM_SCORE).map_err(|why| format!("oom score: {why}"))?;
    limit(Resource::RLIMIT_NOFILE, number(&own[2])?)?;
    limit(Resource::RLIMIT_FSIZE, number(&own[3])?)?;
    limit(Resource::RLIMIT_CORE, 0)?;
    for capability in CapabilitySet::all().iter() {
        // Those the kernel does not know, or that are gone already, are no loss.
        let _ = remove_capability_from_bounding_set(capability);
    }
    setsid().map_err(|why| format!("session: {why}"))?;
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    setgroups(&[group]).map_err(|why| format!("groups: {why}"))?;
    setgid(group).map_err(|why| format!("group {uid}: {why}"))?;
    setuid(user).map_err(|why| format!("user {uid}: {why}"))?;
    chdir(own[4].as_str()).map_err(|why| format!("directory {}: {why}", own[4]))?;
    SigSet::empty().thread_set_mask().map_err(|why| format!("signals: {why}"))
}

/// Sets a limit, but never above the hard one in force: raising needs a capability that hosts may lack.
fn limit(which: Resource, wanted: u64) -> Result<(), String> {
    let (_, hard) = getrlimit(which).map_err(|why| why.to_string())?;
    let value = rlim_t::min(wanted, hard);
    setrlimit(which, value, value).map_err(|why| format!("{which:?} {value}: {why}"))
}
