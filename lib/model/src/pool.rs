//! Blueprints, pools and images: how disposable VMs are made and how many are kept ready (DESIGN §2, `model.md` §2.3).
//! Part of config.data. Values only and the rules that need nothing else; wconfd changes them.

use crate::config::Params;
use crate::ids::{BlueprintUuid, GroupUuid, PoolUuid};
use serde::{Deserialize, Serialize};

/// Largest pool. A site has 200 hosts of some 20 slots.
pub const POOL_SLOTS_MAX: u64 = 4_000;
/// Longest name of a blueprint, pool or image, bytes. A pool's name is the first part of its slots' names.
pub const NAME_BYTES_MAX: usize = 50;
/// Least memory of a VM, MiB: gantry-init and a shell need about 4.
pub const MEMORY_MIB_MIN: u64 = 16;
/// Most memory of a VM, MiB.
pub const MEMORY_MIB_MAX: u64 = 1 << 20;
/// Most CPUs of a VM.
pub const VCPUS_MAX: u64 = 256;
/// Most disk of a VM, MiB.
pub const DISK_MIB_MAX: u64 = 1 << 22;
/// Fewest processes of a VM: gantry-init, a shell and two commands.
pub const PIDS_MIN: u64 = 4;
/// Most processes of a VM.
pub const PIDS_MAX: u64 = 32_768;
/// Longest wall clock of a step, and longest lease, seconds (DESIGN §9: cap 24 h).
pub const WALL_S_MAX: u64 = 86_400;
/// The built-in image.
pub const IMAGE_HOST: &str = "host";
/// Failed creates or destroys in a row after which a slot is stuck: it is tried seldom, and people are told.
pub const SLOT_FAILURES_MAX: u32 = 8;
/// First pause after a failed create or destroy, seconds; doubles with each further one until the slot is stuck.
pub const SLOT_BACKOFF_S: f64 = 0.5;
/// Pause between tries of one that is, seconds: what hindered it may go by itself.
pub const SLOT_STUCK_S: f64 = 600.0;

/// Bytes of a VM's disk per file or directory: files may be small, but a million empty ones must not eat the kernel's memory.
pub const DISK_BYTES_PER_ENTRY: u64 = 4096;

/// The driver whose VMs have their disk in their memory.
pub const DRIVER_OCI: &str = "oci";

/// Why VMs of these sizes can't be made by that driver, beyond the bounds of each number.
///
/// # Errors
/// The reason, for people.
pub fn check_disk(driver: &str, memory_mib: u64, disk_mib: u64) -> Result<(), String> {
    if driver != DRIVER_OCI || disk_mib < memory_mib {
        return Ok(());
    }
    Err(format!(
        "the disk of an oci VM is in its memory: disk_mib ({disk_mib}) must be below memory_mib ({memory_mib})"
    ))
}

/// What becomes of a VM whose lease ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recycle {
    /// Destroyed and made anew: the only policy so far.
    #[default]
    Destroy,
}

/// How a VM is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Blueprint {
    /// Never changes.
    pub uuid: BlueprintUuid,
    /// Unique, see [`is_name`].
    pub name: String,
    /// `oci` or `fake`.
    pub driver: String,
    /// [`IMAGE_HOST`] or the name of an imported image.
    pub image: String,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// CPUs.
    pub vcpus: u64,
    /// Room for files, MiB.
    pub disk_mib: u64,
    /// Processes and threads.
    pub pids: u64,
    /// What follows a lease.
    #[serde(default)]
    pub recycle: Recycle,
    /// Longest wall clock a step of a task may ask for, seconds.
    pub wall_s_max: u64,
    /// Longest lease, seconds.
    pub lease_s_max: u64,
    /// False: no new VMs of it.
    pub enabled: bool,
    /// Serial, times, tags. The serial is the revision its VMs are made from.
    #[serde(flatten)]
    pub stamp: crate::config::Stamp,
    /// Keys of newer programs.
    #[serde(flatten)]
    pub extra: Params,
}

/// Whether a pool takes part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PoolState {
    /// Kept full.
    #[default]
    Active,
    /// No new VMs, no new leases; its slots go as they become free.
    Draining,
}

impl PoolState {
    /// The word people read.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
        }
    }
}

/// How many VMs of a blueprint are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pool {
    /// Never changes.
    pub uuid: PoolUuid,
    /// Unique, see [`is_name`]. Slots are called `NAME-1`, `NAME-2`, …
    pub name: String,
    /// What its VMs are.
    pub blueprint: BlueprintUuid,
    /// Only nodes of this group; None = all.
    #[serde(default)]
    pub group: Option<GroupUuid>,
    /// Fewest slots.
    pub min: u64,
    /// Most slots.
    pub max: u64,
    /// Slots asked for.
    pub amount: u64,
    /// Clean VMs to keep beyond the leased ones.
    #[serde(default)]
    pub spare: u64,
    /// Age at which a clean VM is replaced, seconds; 0 = never.
    #[serde(default)]
    pub lifetime_s: u64,
    /// Longest time from the start of a create to CLEAN, seconds.
    pub connect_timeout_s: u64,
    /// Active or draining.
    #[serde(default)]
    pub state: PoolState,
    /// Serial, times, tags.
    #[serde(flatten)]
    pub stamp: crate::config::Stamp,
    /// Keys of newer programs.
    #[serde(flatten)]
    pub extra: Params,
}

impl Pool {
    /// How many slots there shall be while `leased` are leased (`model.md` X12).
    #[must_use]
    pub fn wanted(&self, leased: u64) -> u64 {
        match self.state {
            PoolState::Draining => 0,
            PoolState::Active => self.amount.max(leased.saturating_add(self.spare)).clamp(self.min, self.max),
        }
    }
}

/// An image made by `gnt-os import`: a tar archive in the body store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// Unique, see [`is_name`]; never [`IMAGE_HOST`].
    pub name: String,
    /// SHA-256 of the archive, lower-case hex.
    pub digest: String,
    /// Size of the archive, bytes.
    pub bytes: u64,
    /// Serial, times, tags.
    #[serde(flatten)]
    pub stamp: crate::config::Stamp,
}

/// Whether `name` may name a blueprint, a pool or an image: 1 to [`NAME_BYTES_MAX`] lower-case letters, digits and
/// inner `-`, beginning with a letter; not formed like a uuid.
#[must_use]
pub fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && uuid::Uuid::try_parse(name).is_err()
}

/// The name of a pool's slot of that number.
#[must_use]
pub fn slot_name(pool: &str, number: u64) -> String {
    format!("{pool}-{number}")
}

/// The pause before a slot that failed `failures` times in a row is tried again, seconds.
#[must_use]
pub fn slot_backoff_s(failures: u32) -> f64 {
    match failures {
        0 => 0.0,
        1..SLOT_FAILURES_MAX => SLOT_BACKOFF_S * f64::from(1u32 << (failures - 1)),
        SLOT_FAILURES_MAX.. => SLOT_STUCK_S,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["py", "p1", "a-b-2", &"a".repeat(NAME_BYTES_MAX)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "P", "1a", "-a", "a-", "a_b", "a.b", "a/b", "ä", &"a".repeat(NAME_BYTES_MAX + 1)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        assert_eq!(slot_backoff_s(0), 0.0);
        assert_eq!(slot_backoff_s(1), 0.5);
        assert_eq!(slot_backoff_s(3), 2.0);
        assert_eq!(slot_backoff_s(SLOT_FAILURES_MAX - 1), 32.0);
        assert_eq!([SLOT_FAILURES_MAX, u32::MAX].map(slot_backoff_s), [SLOT_STUCK_S; 2]);
    }

    #[test]
    fn a_pools_size() {
        let pool: Pool = serde_json::from_value(serde_json::json!({
            "uuid": uuid::Uuid::nil(), "name": "p", "blueprint": uuid::Uuid::nil(), "min": 1, "max": 6, "amount": 2,
            "spare": 2, "connect_timeout_s": 60, "serial_no": 1, "ctime": 1.0, "mtime": 1.0,
        }))
        .unwrap();
        for (leased, want) in [(0, 2), (1, 3), (3, 5), (9, 6)] {
            assert_eq!(pool.wanted(leased), want, "{leased}");
        }
        assert_eq!(Pool { state: PoolState::Draining, ..pool }.wanted(3), 0);
    }
}
