//! The data collectors of MonD: their names, and what of them the cluster's settings may say. `spec/mond.md` §3 and §6.1
//! decide the names; MonD's own table says what each reports.

/// A data collector as the settings know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collector {
    /// Its name, for ever.
    pub name: &'static str,
    /// Whether it is on in a new cluster.
    pub active: bool,
}

const fn on(name: &'static str) -> Collector {
    Collector { name, active: true }
}

const fn off(name: &'static str) -> Collector {
    Collector { name, active: false }
}

/// All of them: Ganeti's six in Ganeti's order, then Gantry's.
pub const COLLECTORS: [Collector; 16] = [
    on("cpu-avg-load"),
    on("xen-cpu-avg-load"),
    on("diskstats"),
    on("drbd"),
    on("inst-status-xen"),
    on("lv"),
    on("inst-status"),
    on("inst-status-oci"),
    // Of hypervisors that no driver makes yet: somebody who knows better turns them on.
    off("inst-status-openvz"),
    off("inst-status-kvm"),
    on("node-resources"),
    on("container-usage"),
    on("daemon-status"),
    on("pool-status"),
    on("slot-status"),
    on("lease-status"),
];

/// How often a collector looks unless the settings say otherwise, µs: Ganeti's.
pub const INTERVAL_US: u64 = 5_000_000;
/// Shortest interval, µs: ten looks a second still cost less than one percent of a CPU.
pub const INTERVAL_US_MIN: u64 = 100_000;
/// Longest interval, µs: a day; what is older tells nothing.
pub const INTERVAL_US_MAX: u64 = 86_400_000_000;

/// The collector of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Collector> {
    COLLECTORS.iter().find(|collector| collector.name == name)
}
