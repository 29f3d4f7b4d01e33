//! Leases as wconfd keeps them from the grant on (locks.data), and requests as luxid keeps them before (queue.data).
//! A lease gives (slot, generation) to one owner; it never becomes live again once ended (I8).

use crate::ids::{Generation, InstanceUuid, LeaseUuid, NodeUuid, TaskId};
use crate::time::Ts;
use serde::{Deserialize, Serialize};

/// Longest lease, ms (DESIGN §9: 24 h).
pub const LEASE_MS_MAX: u64 = 24 * 60 * 60 * 1000;
/// How long a user's lease lasts when nothing is said, ms.
pub const LEASE_MS_DEFAULT: u64 = 60 * 60 * 1000;
/// Shortest time between renewals that may be asked for, ms.
pub const TTL_MS_MIN: u64 = 5_000;
/// Most VMs of one lease.
pub const LEASE_VMS_MAX: u32 = 64;
/// How long a waiting request lives without anybody asking about it, s: its client has vanished.
pub const REQUEST_IDLE_S: u64 = 60;
/// How often the lease clock is stored while a lease lives, ms (P1: at least every 10 s).
pub const CLOCK_STORE_MS: u64 = 5_000;

/// Who has a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaseOwner {
    /// An attempt of a task.
    Task {
        /// The task.
        task: TaskId,
        /// The attempt, from 1.
        attempt: u32,
    },
    /// A person or a program, by the name it gave.
    User {
        /// 1 to 255 bytes.
        name: String,
    },
}

impl std::fmt::Display for LeaseOwner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Task { task, attempt } => write!(f, "task {task} attempt {attempt}"),
            Self::User { name } => f.write_str(name),
        }
    }
}

/// A VM of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeasedVm {
    /// The slot.
    pub slot: InstanceUuid,
    /// Its generation.
    pub generation: Generation,
    /// Where it lives.
    pub node: NodeUuid,
}

/// Whether a lease lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaseState {
    /// Its VMs are its owner's.
    Active,
    /// Over by release, time or the end of its owner.
    Released,
    /// Over because a VM or node was lost or recycled.
    Broken,
}

impl LeaseState {
    /// The word people read.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Released => "released",
            Self::Broken => "broken",
        }
    }
}

/// A lease from its grant on; ended ones stay until luxid says forget. Times are milliseconds of the lease clock:
/// how long a master was up, so that no wall clock and no failover shortens a lease.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// Made by who asks, before it asks.
    pub uuid: LeaseUuid,
    /// Who has it.
    pub owner: LeaseOwner,
    /// The pool's name.
    pub pool: String,
    /// Its VMs, in the order granted.
    pub vms: Vec<LeasedVm>,
    /// Lease clock at the grant.
    pub granted: u64,
    /// Lease clock at which it ends.
    pub until: u64,
    /// It ends when not renewed for so long; None = never for that reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// Lease clock at the last renewal.
    pub renewed: u64,
    /// Whether it lives.
    pub state: LeaseState,
    /// Why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Epoch of the grant, for people.
    pub granted_at: f64,
}

impl Lease {
    /// The lease clock at which it ends, if it is not renewed.
    #[must_use]
    pub fn ends(&self) -> u64 {
        self.ttl_ms.map_or(self.until, |ttl| self.until.min(self.renewed.saturating_add(ttl)))
    }
}

/// The stored lease clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseClock {
    /// Milliseconds a master was up.
    pub ms: u64,
}

/// What wconfd answers to a grab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum Grab {
    /// These VMs are the lease's.
    Granted {
        /// In the order granted.
        vms: Vec<LeasedVm>,
    },
    /// Not now: why, as people read it ("no clean slot in pool py, 3 creating").
    Wait {
        /// The reason.
        why: String,
    },
}

/// A user's request for a lease, a row of queue.data under its uuid until the lease is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeaseRequest {
    /// The lease's uuid.
    pub uuid: LeaseUuid,
    /// Who asks.
    pub user: String,
    /// The pool's name.
    pub pool: String,
    /// How many VMs, all at once.
    pub count: u32,
    /// How long, from the grant on, ms.
    pub for_ms: u64,
    /// See [`Lease::ttl_ms`].
    #[serde(default)]
    pub ttl_ms: Option<u64>,
    /// Lower is more urgent.
    pub priority: i32,
    /// When it was asked for.
    pub received: Ts,
    /// Where it stands.
    pub state: RequestState,
    /// Why it waits, was refused or ended.
    #[serde(default)]
    pub why: Option<String>,
    /// Its VMs, once granted.
    #[serde(default)]
    pub vms: Vec<LeasedVm>,
}

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestState {
    /// In line.
    Waiting,
    /// wconfd gave it VMs.
    Granted,
    /// It can never be served, or was withdrawn, or the lease is over.
    Over,
}

impl RequestState {
    /// The word people read.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Granted => "granted",
            Self::Over => "over",
        }
    }
}
