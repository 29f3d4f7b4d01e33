//! Reads what the control groups of this node's VMs count, version 1 or 2. Makes and changes nothing: the groups are vmd's.

use crate::core::collect::node::Usage;
use std::path::{Path, PathBuf};

/// Above this a limit of version 1 is none: the kernel writes a number near 2^63.
const LIMIT_MAX: u64 = 1 << 60;

/// The groups of one node.
#[derive(Debug, Clone)]
pub struct Groups {
    /// `fs/cgroup` of sysfs.
    at: PathBuf,
    /// Below a hierarchy: `gantry/NODE`.
    path: PathBuf,
    unified: bool,
}

impl Groups {
    /// Those of a node. Version 1 counts if it has memory, as vmd decides.
    #[must_use]
    pub fn of(sys: &Path, node: &str) -> Self {
        let at = sys.join("fs/cgroup");
        let unified = !at.join("memory").is_dir() && at.join("cgroup.controllers").exists();
        Self { at, path: Path::new("gantry").join(node), unified }
    }

    fn dir(&self, controller: &str) -> PathBuf {
        if self.unified { self.at.join(&self.path) } else { self.at.join(controller).join(&self.path) }
    }

    /// Names of the VMs that have a group.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir("memory")).into_iter().flatten().flatten();
        let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        dirs.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// The VM's first process that is still there.
    #[must_use]
    pub fn first_pid(&self, vm: &str) -> Option<u32> {
        let text = std::fs::read_to_string(self.dir("pids").join(vm).join("cgroup.procs")).ok()?;
        text.lines().filter_map(|line| line.parse().ok()).min()
    }

    /// What a VM's group counts; zeros where it is not there.
    #[must_use]
    pub fn usage(&self, vm: &str) -> Usage {
        let (memory, pids) = (self.dir("memory").join(vm), self.dir("pids").join(vm));
        let both = Usage {
            pids: number(&pids, "pids.current").unwrap_or(0),
            pids_max: number(&pids, "pids.max"),
            forks_refused: key(&pids, "pids.events", "max"),
            ..Usage::default()
        };
        if self.unified {
            return Usage {
                cpu_us: key(&memory, "cpu.stat", "usage_usec"),
                memory: number(&memory, "memory.current").unwrap_or(0),
                memory_max: number(&memory, "memory.max"),
                swap: number(&memory, "memory.swap.current"),
                oom_kills: key(&memory, "memory.events", "oom_kill"),
                io: io_unified(&read(&memory, "io.stat")),
                ..both
            };
        }
        let held = number(&memory, "memory.usage_in_bytes").unwrap_or(0);
        let with_swap = number(&memory, "memory.memsw.usage_in_bytes");
        Usage {
            cpu_us: number(&self.dir("cpuacct").join(vm), "cpuacct.usage").unwrap_or(0) / 1000,
            memory: held,
            memory_max: number(&memory, "memory.limit_in_bytes").filter(|limit| *limit < LIMIT_MAX),
            swap: with_swap.map(|both| both.saturating_sub(held)),
            oom_kills: key(&memory, "memory.oom_control", "oom_kill"),
            io: io_old(&read(&self.dir("blkio").join(vm), "blkio.throttle.io_service_bytes")),
            ..both
        }
    }
}

fn read(dir: &Path, file: &str) -> String {
    std::fs::read_to_string(dir.join(file)).unwrap_or_default()
}

/// The number in a file; `max` is none.
fn number(dir: &Path, file: &str) -> Option<u64> {
    read(dir, file).trim().parse().ok()
}

/// The number after a key.
fn key(dir: &Path, file: &str, key: &str) -> u64 {
    let text = read(dir, file);
    let value = |line: &str| line.split_once(' ').filter(|(name, _)| *name == key)?.1.trim().parse().ok();
    text.lines().find_map(value).unwrap_or(0)
}

/// `8:0 Read 4096` lines.
fn io_old(text: &str) -> u64 {
    let bytes = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [_, "Read" | "Write", bytes] => bytes.parse::<u64>().ok(),
        _ => None,
    };
    text.lines().filter_map(bytes).fold(0, u64::saturating_add)
}

/// `8:0 rbytes=4096 wbytes=0 …` lines.
fn io_unified(text: &str) -> u64 {
    let bytes = |word: &str| match word.split_once('=')? {
        ("rbytes" | "wbytes", bytes) => bytes.parse::<u64>().ok(),
        _ => None,
    };
    text.split_whitespace().filter_map(bytes).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(dir: &Path, files: &[(&str, &str)]) {
        for (file, text) in files {
            let path = dir.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn version_1() {
        let dir = tempfile::tempdir().unwrap();
        put(
            dir.path(),
            &[
                ("fs/cgroup/memory/gantry/n/vm/memory.usage_in_bytes", "100\n"),
                ("fs/cgroup/memory/gantry/n/vm/memory.limit_in_bytes", "9223372036854771712\n"),
                ("fs/cgroup/memory/gantry/n/vm/memory.memsw.usage_in_bytes", "130\n"),
                ("fs/cgroup/memory/gantry/n/vm/memory.oom_control", "oom_kill_disable 0\noom_kill 2\n"),
                ("fs/cgroup/cpuacct/gantry/n/vm/cpuacct.usage", "5000\n"),
                ("fs/cgroup/pids/gantry/n/vm/pids.current", "3\n"),
                ("fs/cgroup/pids/gantry/n/vm/pids.max", "max\n"),
                ("fs/cgroup/pids/gantry/n/vm/pids.events", "max 4\n"),
                ("fs/cgroup/pids/gantry/n/vm/cgroup.procs", "9\n7\n"),
                (
                    "fs/cgroup/blkio/gantry/n/vm/blkio.throttle.io_service_bytes",
                    "8:0 Read 5\n8:0 Write 6\n8:0 Sync 9\nTotal 11\n",
                ),
            ],
        );
        let groups = Groups::of(dir.path(), "n");
        assert_eq!((groups.names(), groups.first_pid("vm")), (vec!["vm".to_owned()], Some(7)));
        let want = Usage {
            cpu_us: 5,
            memory: 100,
            swap: Some(30),
            oom_kills: 2,
            pids: 3,
            forks_refused: 4,
            io: 11,
            ..Usage::default()
        };
        assert_eq!(groups.usage("vm"), want);
        assert_eq!(groups.usage("other"), Usage::default());
    }

    #[test]
    fn version_2() {
        let dir = tempfile::tempdir().unwrap();
        put(
            dir.path(),
            &[
                ("fs/cgroup/cgroup.controllers", "cpu memory pids\n"),
                ("fs/cgroup/gantry/n/vm/memory.current", "100\n"),
                ("fs/cgroup/gantry/n/vm/memory.max", "200\n"),
                ("fs/cgroup/gantry/n/vm/memory.events", "low 0\noom_kill 1\n"),
                ("fs/cgroup/gantry/n/vm/cpu.stat", "usage_usec 77\nuser_usec 1\n"),
                ("fs/cgroup/gantry/n/vm/pids.max", "64\n"),
                ("fs/cgroup/gantry/n/vm/io.stat", "8:0 rbytes=5 wbytes=6 rios=1\n"),
            ],
        );
        let groups = Groups::of(dir.path(), "n");
        let want = Usage {
            cpu_us: 77,
            memory: 100,
            memory_max: Some(200),
            oom_kills: 1,
            pids_max: Some(64),
            io: 11,
            ..Usage::default()
        };
        assert_eq!((groups.names(), groups.usage("vm")), (vec!["vm".to_owned()], want));
    }
}
