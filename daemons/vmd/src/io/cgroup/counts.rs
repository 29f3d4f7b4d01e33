//! What control groups count.

use super::{Cgroup, IO, Layout};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// What a group counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// CPU time, µs.
    pub cpu_us: u64,
    /// Memory now, bytes.
    pub memory: u64,
    /// Highest memory, bytes.
    pub memory_peak: u64,
    /// Processes killed for memory.
    pub oom_kills: u64,
    /// Processes and threads now.
    pub pids: u64,
    /// Forks refused.
    pub forks_refused: u64,
    /// Read from and written to block devices, bytes; 0 where the kernel does not count it.
    pub io_bytes: u64,
}

/// What says how a command of the group ended, and what it used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// CPU time, µs.
    pub cpu_us: u64,
    /// Processes killed for memory.
    pub oom_kills: u64,
    /// Forks refused.
    pub forks_refused: u64,
}

/// Most bytes read of one of these files. That of block devices has some six lines for each: what a hundred disks have done fits,
/// those after them are not counted.
const FILE_BYTES_MAX: usize = 16 * 1024;

/// A file of the kernel's, which has no size and is told whole by one read. Empty where it is not there.
fn told(path: &Path) -> String {
    let mut room = [0; FILE_BYTES_MAX];
    let read = File::open(path).and_then(|mut file| file.read(&mut room));
    String::from_utf8_lossy(&room[..read.unwrap_or(0)]).into_owned()
}

fn read_number(path: &Path) -> u64 {
    told(path).trim().parse().unwrap_or(0)
}

/// Bytes of all devices in a file of `DEVICE Read BYTES` and `DEVICE Write BYTES` lines.
fn read_blkio(path: &Path) -> u64 {
    let text = told(path);
    let bytes = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [_, "Read" | "Write", bytes] => bytes.parse::<u64>().ok(),
        _ => None,
    };
    text.lines().filter_map(bytes).fold(0, u64::saturating_add)
}

/// Bytes of all devices in a file of `DEVICE rbytes=BYTES wbytes=BYTES ...` lines.
fn read_io(path: &Path) -> u64 {
    let text = told(path);
    let bytes = |word: &str| match word.split_once('=')? {
        ("rbytes" | "wbytes", bytes) => bytes.parse::<u64>().ok(),
        _ => None,
    };
    text.split_whitespace().filter_map(bytes).fold(0, u64::saturating_add)
}

/// The number after `key` in a file of `KEY NUMBER` lines.
fn read_key(path: &Path, key: &str) -> u64 {
    let text = told(path);
    let value = |line: &str| line.split_once(' ').filter(|(name, _)| *name == key)?.1.trim().parse().ok();
    text.lines().find_map(value).unwrap_or(0)
}

impl Cgroup {
    /// What it counted; zeros where it is not there.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let (memory, pids) = (self.of("memory"), self.of("pids"));
        let (cpu_us, now, peak, oom_kills, io_bytes) = match &self.layout {
            Layout::V1(mounts) => (
                read_number(&self.of("cpuacct").join("cpuacct.usage")) / 1000,
                "memory.usage_in_bytes",
                "memory.max_usage_in_bytes",
                read_key(&memory.join("memory.oom_control"), "oom_kill"),
                mounts
                    .get(IO)
                    .map_or(0, |at| read_blkio(&at.join(&self.path).join("blkio.throttle.io_service_bytes"))),
            ),
            Layout::V2(_) => (
                read_key(&memory.join("cpu.stat"), "usage_usec"),
                "memory.current",
                "memory.peak",
                read_key(&memory.join("memory.events"), "oom_kill"),
                read_io(&memory.join("io.stat")),
            ),
        };
        Counts {
            cpu_us,
            memory: read_number(&memory.join(now)),
            memory_peak: read_number(&memory.join(peak)),
            oom_kills,
            pids: read_number(&pids.join("pids.current")),
            forks_refused: read_key(&pids.join("pids.events"), "max"),
            io_bytes,
        }
    }

    /// CPU time so far, µs.
    #[must_use]
    pub fn cpu_us(&self) -> u64 {
        match self.layout {
            Layout::V1(_) => read_number(&self.of("cpuacct").join("cpuacct.usage")) / 1000,
            Layout::V2(_) => read_key(&self.of("cpu").join("cpu.stat"), "usage_usec"),
        }
    }

    /// What only is to be known around a command; fewer files than [`Cgroup::counts`].
    #[must_use]
    pub fn spent(&self) -> Spent {
        let oom_kills = match self.layout {
            Layout::V1(_) => read_key(&self.of("memory").join("memory.oom_control"), "oom_kill"),
            Layout::V2(_) => read_key(&self.of("memory").join("memory.events"), "oom_kill"),
        };
        let forks_refused = read_key(&self.of("pids").join("pids.events"), "max");
        Spent { cpu_us: self.cpu_us(), oom_kills, forks_refused }
    }

    /// Highest memory, bytes.
    #[must_use]
    pub fn memory_peak(&self) -> u64 {
        let name = match self.layout {
            Layout::V1(_) => "memory.max_usage_in_bytes",
            Layout::V2(_) => "memory.peak",
        };
        read_number(&self.of("memory").join(name))
    }
}
