//! Starting a command. PID 1 forks; the child becomes the user it shall be and turns into the command. PID 1 has one thread, so
//! its child may do between fork and exec what any program may. PID 1 does not wait for the exec: from the moment the child is
//! the user, other processes of that user can stop it.

use crate::wire::{EXEC_FDS, Exec};
use fork::{Fork, fork};
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::signal::SigSet;
use nix::unistd::{
    Gid, Uid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, dup3, setgid, setgroups, setsid, setuid,
};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// OOM score of commands: they go before PID 1, whose death would be the VM's.
const OOM_SCORE: &str = "1000";
/// Exit codes as a shell's: there, but can't be run; not found.
const EXIT_NOT_RUN: u8 = 126;
const EXIT_NOT_FOUND: u8 = 127;

/// Who returns from [`start`].
#[derive(Debug)]
pub enum Started {
    /// PID 1: the command's process, which may not have become the command yet.
    Process(i32),
    /// That process, when it could not: it has said why, and has to end with this exit code.
    Failed(u8),
}

/// Starts `exec` with these as its standard input, output and error. `link` is PID 1's own, which the process gives up before it is the
/// user: it is PID 1's word on what became of commands.
///
/// # Errors
/// No process could be made.
pub fn start(exec: &Exec, stdio: &[OwnedFd; EXEC_FDS], link: &mut OwnedFd) -> Result<Started, String> {
    match fork().map_err(|why| why.to_string())? {
        Fork::Parent(pid) => Ok(Started::Process(pid)),
        Fork::Child => {
            let (text, code) = become_it(exec, stdio, link);
            // Its exit code says the same to whoever has closed the other end.
            let _ = writeln!(std::io::stderr(), "{text}");
            Ok(Started::Failed(code))
        }
    }
}

/// Turns this process into the command; returns only if that fails: what to say on standard error, and the exit code.
fn become_it(exec: &Exec, stdio: &[OwnedFd; EXEC_FDS], link: &mut OwnedFd) -> (String, u8) {
    let Some((program, args)) = exec.argv.split_first() else {
        return ("gantry-init: a command without words".to_owned(), EXIT_NOT_RUN);
    };
    if let Err(why) = take_over(stdio, link).and_then(|()| settle(exec)) {
        return (format!("gantry-init: can't prepare {program}: {why}"), EXIT_NOT_RUN);
    }
    let env = exec.env.iter().map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let error = Command::new(program).args(args).env_clear().envs(env).exec();
    let code = if error.kind() == std::io::ErrorKind::NotFound { EXIT_NOT_FOUND } else { EXIT_NOT_RUN };
    (format!("{program}: {error}"), code)
}

fn take_over([input, output, error]: &[OwnedFd; EXEC_FDS], link: &mut OwnedFd) -> Result<(), String> {
    let done = dup2_stderr(error).and_then(|()| dup2_stdin(input)).and_then(|()| dup2_stdout(output));
    let done = done.and_then(|()| dup3(input, link, OFlag::O_CLOEXEC));
    done.map_err(|why| format!("standard streams: {why}"))
}

fn settle(exec: &Exec) -> Result<(), String> {
    let uid = exec.uid;
    std::fs::write("/proc/self/oom_score_adj", OOM_SCORE).map_err(|why| format!("oom score: {why}"))?;
    limit(Resource::RLIMIT_NOFILE, exec.files_max)?;
    limit(Resource::RLIMIT_FSIZE, exec.file_bytes_max)?;
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
    chdir(exec.cwd.as_str()).map_err(|why| format!("directory {}: {why}", exec.cwd))?;
    SigSet::empty().thread_set_mask().map_err(|why| format!("signals: {why}"))
}

/// Sets a limit, but never above the hard one in force: raising needs a capability that hosts may lack.
fn limit(which: Resource, wanted: u64) -> Result<(), String> {
    let (_, hard) = getrlimit(which).map_err(|why| why.to_string())?;
    let value = rlim_t::min(wanted, hard);
    setrlimit(which, value, value).map_err(|why| format!("{which:?} {value}: {why}"))
}
