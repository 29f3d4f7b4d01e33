//! Control groups of VMs, version 1 (also hybrid: v1 controllers beside a cgroup2 mount) or version 2. vmd makes them
//! itself and moves PID 1 in before it runs any command: so the runtime can't remove them at a VM's end, and the
//! counters are still there to be read.

mod counts;
mod death;

pub use counts::{Counts, Spent};

use gantry_proto::vmd::VmLimits;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Controllers that a VM needs on version 1.
const CONTROLLERS: [&str; 4] = ["memory", "pids", "cpu", "cpuacct"];
/// The same on version 2, where `cpu` counts too.
const CONTROLLERS_V2: [&str; 3] = ["memory", "pids", "cpu"];
/// What counts bytes of block devices, by version; only used where it is there.
const IO: &str = "blkio";
const IO_V2: &str = "io";
/// Period of the CPU quota, µs: the kernel's default.
const PERIOD_US: u64 = 100_000;
/// Smallest quota the kernel takes, µs.
const QUOTA_US_MIN: u64 = 1_000;
/// How long a group that was told to die may take: a kill needs a few ms.
const KILL_TIME: Duration = Duration::from_secs(5);
/// Pauses between two looks at it, growing.
const KILL_PAUSE_MIN: Duration = Duration::from_micros(500);
const KILL_PAUSE: Duration = Duration::from_millis(5);

/// Where the controllers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// One hierarchy per controller.
    V1(BTreeMap<&'static str, PathBuf>),
    /// One for all.
    V2(PathBuf),
}

/// The cgroup2 mounts of `mountinfo` (proc(5)).
#[must_use]
pub fn cgroup2_mounts(mountinfo: &str) -> Vec<PathBuf> {
    mounts(mountinfo).filter(|mount| mount.kind == "cgroup2").map(|mount| mount.at).collect()
}

struct Mount<'a> {
    at: PathBuf,
    kind: &'a str,
    options: &'a str,
}

fn mounts(mountinfo: &str) -> impl Iterator<Item = Mount<'_>> {
    mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let at = PathBuf::from(before.split(' ').nth(4)?);
        let mut after = after.split(' ');
        let (kind, _, options) = (after.next()?, after.next()?, after.next()?);
        Some(Mount { at, kind, options })
    })
}

impl Layout {
    /// The one to use, from `mountinfo`: version 1 when it has every controller, else version 2 when it has.
    /// `controllers` reads `cgroup.controllers` of a cgroup2 mount.
    pub fn find(mountinfo: &str, controllers: impl Fn(&Path) -> String) -> Option<Self> {
        let mut v1 = BTreeMap::new();
        for mount in mounts(mountinfo).filter(|mount| mount.kind == "cgroup") {
            for name in CONTROLLERS.into_iter().chain([IO]) {
                if mount.options.split(',').any(|option| option == name) {
                    v1.entry(name).or_insert_with(|| mount.at.clone());
                }
            }
        }
        if CONTROLLERS.iter().all(|name| v1.contains_key(name)) {
            return Some(Self::V1(v1));
        }
        cgroup2_mounts(mountinfo).into_iter().find_map(|mount| {
            let has = controllers(&mount);
            let all = CONTROLLERS_V2.iter().all(|name| has.split_whitespace().any(|one| one == *name));
            all.then_some(Self::V2(mount))
        })
    }

    /// `v1` or `v2`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::V1(_) => "v1",
            Self::V2(_) => "v2",
        }
    }

    /// Names of the groups right below `path`, in any hierarchy.
    #[must_use]
    pub fn below(&self, path: &str) -> BTreeSet<String> {
        let dirs = self.roots().into_iter().filter_map(|root| std::fs::read_dir(root.join(path)).ok());
        let entries =
            dirs.flatten().flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// The roots of its hierarchies, each once.
    fn roots(&self) -> Vec<&Path> {
        let mut roots: Vec<&Path> = match self {
            Self::V1(mounts) => mounts.values().map(PathBuf::as_path).collect(),
            Self::V2(mount) => vec![mount],
        };
        roots.sort();
        roots.dedup();
        roots
    }
}

/// The group of one VM.
#[derive(Debug, Clone)]
pub struct Cgroup {
    layout: Layout,
    path: String,
}

fn write(path: PathBuf, value: impl ToString) -> io::Result<()> {
    let told = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| io::Write::write_all(&mut file, value.to_string().as_bytes()))
        .map_err(told)
}

impl Cgroup {
    /// The group at `path` (relative) below each hierarchy. Makes nothing.
    #[must_use]
    pub fn new(layout: &Layout, path: &str) -> Self {
        Self { layout: layout.clone(), path: path.to_owned() }
    }

    fn of(&self, controller: &str) -> PathBuf {
        match &self.layout {
            Layout::V1(mounts) => mounts.get(controller).map(|at| at.join(&self.path)).unwrap_or_default(),
            Layout::V2(mount) => mount.join(&self.path),
        }
    }

    fn dirs(&self) -> Vec<PathBuf> {
        self.layout.roots().into_iter().map(|root| root.join(&self.path)).collect()
    }

    /// Makes it, empty, with limits.
    ///
    /// # Errors
    /// The kernel's.
    pub fn create(&self, limits: &VmLimits) -> io::Result<()> {
        for dir in self.dirs() {
            std::fs::create_dir_all(&dir)?;
        }
        if let Layout::V2(mount) = &self.layout {
            let wanted = CONTROLLERS_V2.map(|name| format!("+{name}")).join(" ");
            let mut at = mount.clone();
            for part in Path::new(&self.path).components() {
                let control = at.join("cgroup.subtree_control");
                // A machine may not have it: then nothing is counted.
                let _ = write(control.clone(), format!("+{IO_V2}"));
                write(control, &wanted)?;
                at.push(part);
            }
        }
        self.limit(limits, None)
    }

    /// Sets limits; of those that hold already nothing is written. Lowering memory below what is in use fails.
    ///
    /// # Errors
    /// The kernel's.
    pub fn limit(&self, limits: &VmLimits, held: Option<&VmLimits>) -> io::Result<()> {
        if held.map(|held| held.memory_mib) != Some(limits.memory_mib) {
            self.limit_memory(limits.memory_mib << 20)?;
        }
        if held.map(|held| held.cpu_percent) != Some(limits.cpu_percent) {
            let quota = (limits.cpu_percent * PERIOD_US / 100).max(QUOTA_US_MIN);
            let cpu = self.of("cpu");
            match self.layout {
                // The period is the kernel's default, which a new group has.
                Layout::V1(_) => write(cpu.join("cpu.cfs_quota_us"), quota)?,
                Layout::V2(_) => write(cpu.join("cpu.max"), format!("{quota} {PERIOD_US}"))?,
            }
        }
        if held.map(|held| held.pids) != Some(limits.pids) {
            write(self.of("pids").join("pids.max"), limits.pids)?;
        }
        Ok(())
    }

    fn limit_memory(&self, bytes: u64) -> io::Result<()> {
        let memory = self.of("memory");
        match self.layout {
            Layout::V1(_) => {
                // memory must never be above memory and swap: which of the two goes first depends on the direction.
                let (limit, both) =
                    (memory.join("memory.limit_in_bytes"), memory.join("memory.memsw.limit_in_bytes"));
                let first = write(limit.clone(), bytes);
                if both.exists() {
                    write(both, bytes)?;
                    // Refused before: it was above the old value of both.
                    first.or_else(|_| write(limit, bytes))?;
                } else {
                    first?;
                }
            }
            Layout::V2(_) => {
                write(memory.join("memory.max"), bytes)?;
                if memory.join("memory.swap.max").exists() {
                    write(memory.join("memory.swap.max"), 0)?;
                }
            }
        }
        Ok(())
    }

    /// What a process of one thread writes `0` to, to go in, on version 1: one file in each hierarchy. None on version 2, whose
    /// groups are entered by [`Cgroup::enter`] only.
    ///
    /// # Errors
    /// The kernel's.
    pub fn doors(&self) -> io::Result<Option<Vec<OwnedFd>>> {
        let Layout::V1(_) = self.layout else { return Ok(None) };
        let open = |dir: PathBuf| {
            let path = dir.join("tasks");
            let told =
                |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
            std::fs::OpenOptions::new().write(true).open(&path).map(OwnedFd::from).map_err(told)
        };
        self.dirs().into_iter().map(open).collect::<io::Result<_>>().map(Some)
    }

    /// Moves a process in; its children to come are born there. The kernel may take 20 ms for it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn enter(&self, pid: i32) -> io::Result<()> {
        self.dirs().into_iter().try_for_each(|dir| write(dir.join("cgroup.procs"), pid))
    }

    /// Processes in it. All hierarchies have the same: the others are looked at once the first has none.
    fn procs_but(&self, spared: Option<i32>) -> Vec<i32> {
        let first = procs_of([self.of("pids")], spared);
        if first.is_empty() { procs_of(self.dirs(), spared) } else { first }
    }

    /// Whether this process, of one thread, is in it and nothing else is, dying or not. Not when that can't be told. The count is what
    /// no fork goes by unseen, while the list is made one by one.
    #[must_use]
    pub fn has_only(&self, pid: i32) -> bool {
        let says = |file: &str, wanted: &str| {
            let text = std::fs::read_to_string(self.of("pids").join(file));
            text.is_ok_and(|text| text.trim() == wanted)
        };
        says("cgroup.procs", &pid.to_string()) && says("pids.current", "1")
    }

    /// Kills what is in it and waits until nothing is. No new process can be born meanwhile.
    ///
    /// # Errors
    /// `TimedOut` when something does not die within 5 s.
    pub async fn kill(&self) -> io::Result<()> {
        self.kill_but(None).await
    }

    /// The same, sparing one process. Whoever calls this sets limits anew.
    ///
    /// # Errors
    /// As [`Cgroup::kill`].
    pub async fn kill_but(&self, spared: Option<i32>) -> io::Result<()> {
        let pids = self.of("pids").join("pids.max");
        if pids.exists() {
            write(pids, 0)?;
        }
        let mut seen = Vec::new();
        let (mut pause, begun) = (KILL_PAUSE_MIN, Instant::now());
        while begun.elapsed() < KILL_TIME {
            let procs = self.procs_but(spared);
            if procs.is_empty() {
                return Ok(());
            }
            // The oldest first: as a rule that is PID 1 of the VM, whose end is the end of all others.
            let oldest = procs.first().and_then(|pid| death::watch(*pid).ok());
            for pid in procs {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                seen.push(pid);
            }
            death::within(pause, oldest.as_ref()).await;
            pause = (pause * 2).min(KILL_PAUSE);
            reap(&seen);
        }
        let text = format!("{}: processes do not die", self.path);
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    }

    /// Removes it. It must be empty.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&self) -> io::Result<()> {
        self.dirs().iter().try_for_each(|dir| remove_dir(dir))
    }

    /// Removes the groups above it that are empty: the cluster's folder, then the node's.
    pub fn remove_parents(&self) {
        for dir in self.dirs() {
            for above in dir.ancestors().skip(1).take(Path::new(&self.path).components().count() - 1) {
                let _ = std::fs::remove_dir(above);
            }
        }
    }
}

fn procs_of(dirs: impl IntoIterator<Item = PathBuf>, spared: Option<i32>) -> Vec<i32> {
    let mut all: Vec<i32> = Vec::new();
    for dir in dirs {
        let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        all.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    }
    all.retain(|pid| Some(*pid) != spared);
    all.sort_unstable();
    all.dedup();
    all
}

fn remove_dir(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Takes the end of a process that was killed, if it is vmd's child: a runtime left it to vmd.
pub async fn reap_one(pid: i32) {
    let (mut pause, begun) = (KILL_PAUSE_MIN, Instant::now());
    while begun.elapsed() < KILL_TIME {
        match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => tokio::time::sleep(pause).await,
            _ => return,
        }
        pause = (pause * 2).min(KILL_PAUSE);
    }
}

/// Takes the ends of those among `pids` that are vmd's children: what a runtime left to it. Others are no matter.
fn reap(pids: &[i32]) {
    for pid in pids {
        while waitpid(Pid::from_raw(*pid), Some(WaitPidFlag::WNOHANG)) == Err(Errno::EINTR) {}
    }
}

#[cfg(test)]
#[path = "cgroup/tests.rs"]
mod tests;
