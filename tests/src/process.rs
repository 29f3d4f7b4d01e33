//! Processes by pid: signals, memory, whether they live. Only pids that a cluster's own pid files name are touched.

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::Path;

/// Sends a signal.
///
/// # Errors
/// When there is no such process.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(i32::try_from(pid)?), signal).with_context(|| format!("{signal} to {pid}"))
}

/// Whether the process lives and is no zombie.
#[must_use]
pub fn lives(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit_once(") ").map(|(_, rest)| !rest.starts_with(['Z', 'X'])))
        .unwrap_or(false)
}

/// Resident memory in KiB; of shared pages only those of the process's own files count once.
///
/// # Errors
/// When the process is gone.
pub fn rss_kib(pid: u32) -> Result<u64> {
    field_kib(pid, "VmRSS:")
}

/// Pids and program paths of all processes whose command line names `root` as an argument.
#[must_use]
pub fn with_root(root: &Path) -> Vec<(u32, String)> {
    let program = |(pid, words): (u32, Vec<String>)| (pid, words.into_iter().next().unwrap_or_default());
    commands(root).into_iter().map(program).collect()
}

/// A process of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobProcess {
    /// Its pid.
    pub pid: u32,
    /// The job.
    pub id: u64,
    /// Its start: `E-R-C`.
    pub start: String,
}

/// The living job processes of a root: they have the command line of the nursery in which they were born, and are named `job ID`.
/// Their starts are those of their sockets, and empty before they listen.
#[must_use]
pub fn jobs(root: &Path) -> Vec<JobProcess> {
    let sockets = fs::read_dir(root.join("run/gantry/job")).into_iter().flatten().flatten();
    let sockets: Vec<String> =
        sockets.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let start = |id: u64| {
        let begin = format!("{id}.");
        let mut names = sockets.iter().filter_map(|name| name.strip_prefix(&begin)?.strip_suffix(".sock"));
        names.next_back().unwrap_or_default().to_owned()
    };
    let job = |(pid, _): (u32, Vec<String>)| {
        let id = name(pid).strip_prefix("job ")?.parse().ok()?;
        Some(JobProcess { pid, id, start: start(id) })
    };
    commands(root).into_iter().filter_map(job).collect()
}

/// Whether this is the process of a job.
#[must_use]
pub fn is_job(pid: u32) -> bool {
    name(pid).starts_with("job ")
}

/// A process's own name for itself.
fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// The process in which jobs of a root are born, once there was one. Its children have its command line, and names of their own.
#[must_use]
pub fn nursery(root: &Path) -> Option<u32> {
    let is = |(pid, words): &(u32, Vec<String>)| {
        words.iter().any(|word| word == "--nursery") && name(*pid) == "gantry-job"
    };
    commands(root).into_iter().find(is).map(|(pid, _)| pid)
}

/// The largest resident memory that the process ever had, in KiB.
///
/// # Errors
/// When the process is gone.
pub fn peak_kib(pid: u32) -> Result<u64> {
    field_kib(pid, "VmHWM:")
}

fn field_kib(pid: u32, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with(field)).with_context(|| format!("no {field}"))?;
    Ok(line.split_whitespace().nth(1).context("no number")?.parse()?)
}

/// Pids and command lines of all living processes that name `root` as an argument.
#[must_use]
pub fn commands(root: &Path) -> Vec<(u32, Vec<String>)> {
    let wanted = root.to_string_lossy();
    all(|words| words.iter().any(|word| *word == wanted))
}

/// Pids and command lines of all living processes whose command line, never empty, is `wanted`.
#[must_use]
pub fn all(wanted: impl Fn(&[String]) -> bool) -> Vec<(u32, Vec<String>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        let words: Vec<String> =
            line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        if wanted(&words) && lives(pid) {
            found.push((pid, words));
        }
    }
    found
}
