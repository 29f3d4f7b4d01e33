//! Live facts of the machine, and what the node offers of it to VMs (DESIGN §7). Reads `/proc`, `/sys` and statvfs;
//! blocks for microseconds.

use gantry_model::root::Root;
use gantry_rt::node_toml::Capacity;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;

/// Memory kept for the host when node.toml does not say what to offer.
pub const HOST_MEMORY_MIB: u64 = 1024;
/// CPUs counted as the host's in that case, as Ganeti counts them for drivers without a domain 0.
pub const HOST_CPUS: u64 = 1;

/// What a node has and offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// For VMs and host together, MiB.
    pub memory_total_mib: u64,
    /// The host's part, MiB.
    pub memory_host_mib: u64,
    /// Logical CPUs.
    pub cpus: u64,
    /// The host's part.
    pub cpus_host: u64,
    /// NUMA nodes.
    pub numa_nodes: u64,
    /// Sockets.
    pub sockets: u64,
    /// For VMs, MiB.
    pub disk_total_mib: u64,
    /// What the file system still has, MiB; VMs planned but not written are not in it.
    pub disk_room_mib: u64,
}

impl Offer {
    /// Memory for VMs, MiB.
    #[must_use]
    pub fn memory_mib(&self) -> u64 {
        self.memory_total_mib.saturating_sub(self.memory_host_mib)
    }
}

/// Looks at the machine; `capacity` replaces what it finds.
///
/// # Errors
/// When `/proc/meminfo` or the file system of the root can't be read.
pub fn offer(root: &Root, capacity: Option<Capacity>) -> io::Result<Offer> {
    let stat = nix::sys::statvfs::statvfs(&root.lib())?;
    let mib = |blocks: u64| blocks.saturating_mul(stat.fragment_size()) >> 20;
    let (disk_total, disk_room) = (mib(stat.blocks()), mib(stat.blocks_available()));
    let found = Offer {
        memory_total_mib: memory_total_mib(&std::fs::read_to_string("/proc/meminfo")?)?,
        memory_host_mib: HOST_MEMORY_MIB,
        cpus: std::thread::available_parallelism().map_or(1, |count| count.get() as u64),
        cpus_host: HOST_CPUS,
        numa_nodes: numa_nodes(Path::new("/sys/devices/system/node")),
        sockets: sockets(Path::new("/sys/devices/system/cpu")),
        disk_total_mib: disk_total,
        disk_room_mib: disk_room,
    };
    Ok(match capacity {
        None => found,
        Some(Capacity { memory_mib, cpus, disk_mib }) => Offer {
            memory_total_mib: memory_mib,
            memory_host_mib: 0,
            cpus,
            cpus_host: 0,
            disk_total_mib: disk_mib,
            ..found
        },
    })
}

/// The machine's boot id.
///
/// # Errors
/// When the kernel does not say.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The same for all processes that see the same network devices.
///
/// # Errors
/// When /proc can't be read.
pub fn network_stack() -> io::Result<String> {
    let space = std::fs::read_link("/proc/self/ns/net")?;
    Ok(format!("{} {}", boot_id()?, space.display()))
}

fn memory_total_mib(meminfo: &str) -> io::Result<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let number = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    number.map(|kib| kib / 1024).ok_or_else(|| io::Error::other("/proc/meminfo has no MemTotal in kB"))
}

fn numa_nodes(dir: &Path) -> u64 {
    let is_node = |name: &str| {
        name.strip_prefix("node")
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    };
    let count = names(dir).iter().filter(|name| is_node(name)).count();
    count.max(1) as u64
}

fn sockets(dir: &Path) -> u64 {
    let id =
        |name: &String| std::fs::read_to_string(dir.join(name).join("topology/physical_package_id")).ok();
    let all: BTreeSet<String> = names(dir).iter().filter_map(id).collect();
    all.len().max(1) as u64
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_read() {
        let dir = tempfile::tempdir().expect("dir");
        let root = Root::new(dir.path());
        std::fs::create_dir_all(root.lib()).expect("made");
        let all = offer(&root, None).expect("read");
        assert!(all.memory_total_mib > 0 && all.cpus > 0 && all.disk_total_mib > 0, "{all:?}");
        assert_eq!(boot_id().expect("read").len(), 36);
        let third = offer(&root, Some(Capacity { memory_mib: 100, cpus: 2, disk_mib: 50 })).expect("read");
        assert_eq!((third.memory_mib(), third.cpus, third.disk_total_mib), (100, 2, 50));
    }

    #[test]
    fn meminfo_is_understood() {
        assert_eq!(memory_total_mib("MemTotal:       2048000 kB\nMemFree: 1 kB\n").expect("found"), 2000);
        assert!(memory_total_mib("MemFree: 1 kB\n").is_err());
    }
}
