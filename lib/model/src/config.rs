//! The desired state: cluster, nodes, groups, instances, in the shape of Ganeti's `config.data`
//! (`spec/config.md` §2 to §5), and the slots' runtime records of `locks.data` (DESIGN §2, `model.md` §2.5).
//!
//! Each object is stored as the JSON of its type under (kind, key); unknown keys of newer programs
//! are kept in `extra`. Parameters that Gantry only hands through stay JSON maps.

use crate::ids::{ClusterUuid, Generation, GroupUuid, InstanceUuid, JobOwner, LeaseUuid, NodeUuid};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// A JSON object of parameters.
pub type Params = Map<String, Value>;

/// Kinds of stored objects: the first half of their keys.
pub mod kind {
    /// The one cluster object; its key is [`CLUSTER_KEY`].
    pub const CLUSTER: &str = "cluster";
    /// Key of the cluster object.
    pub const CLUSTER_KEY: &str = "cluster";
    /// File-wide serial and times; its key is [`META_KEY`].
    pub const META: &str = "meta";
    /// Key of the meta object.
    pub const META_KEY: &str = "config";
    /// Nodes, by uuid.
    pub const NODE: &str = "node";
    /// Node groups, by uuid.
    pub const GROUP: &str = "group";
    /// Instances, by uuid.
    pub const INSTANCE: &str = "instance";
    /// Networks, by uuid.
    pub const NETWORK: &str = "network";
    /// Job filter rules, by uuid.
    pub const FILTER: &str = "filter";
    /// Slots' runtime records (locks.data), by instance uuid.
    pub const SLOT: &str = "slot";
    /// Blueprints, by uuid (config.data).
    pub const BLUEPRINT: &str = "blueprint";
    /// Pools, by uuid (config.data).
    pub const POOL: &str = "pool";
    /// Imported images, by name (config.data).
    pub const IMAGE: &str = "image";
    /// Leases from their grant on (locks.data), by uuid.
    pub const LEASE: &str = "lease";
    /// Milliseconds a master was up (locks.data); key [`LEASE_CLOCK_KEY`], body [`crate::lease::LeaseClock`].
    pub const LEASE_CLOCK: &str = "lease_clock";
    /// Key of the lease clock.
    pub const LEASE_CLOCK_KEY: &str = "clock";
    /// The last batch of each job that applied one, by owner: makes `Apply` safe to repeat.
    pub const APPLIED: &str = "applied";
    /// Whose copies count (config.data); key [`MEMBERS_KEY`], body [`super::Members`].
    pub const MEMBERS: &str = "members";
    /// Key of the members object.
    pub const MEMBERS_KEY: &str = "members";
}

/// Whose copies of the logs count, as the objects have it (docs/adr/0008). The list in W's log is ahead of it while a
/// change is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Number of the list.
    pub n: u64,
    /// Who counts.
    pub members: Vec<MemberCopy>,
    /// Whether this list is committed in both logs.
    pub settled: bool,
    /// An empty copy that is being fed and does not count yet: luxid feeds its part of it while it stands here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learner: Option<MemberCopy>,
}

/// One copy that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberCopy {
    /// The node that holds it.
    pub node: NodeUuid,
    /// Which copy.
    pub copy_id: Uuid,
}

/// Serial and times of the whole configuration (`spec/config.md` §1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// Format version, 3000000 as Ganeti 3.0 writes.
    pub version: u64,
    /// +1 at every effective change of config.data.
    pub serial_no: u64,
    /// Epoch.
    pub ctime: f64,
    /// Epoch.
    pub mtime: f64,
}

/// What every object with a uuid carries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stamp {
    /// Change counter, 1 for a new object.
    pub serial_no: u64,
    /// Epoch of creation.
    pub ctime: f64,
    /// Epoch of the last change.
    pub mtime: f64,
    /// Sorted, no duplicates.
    #[serde(default)]
    pub tags: BTreeSet<String>,
}

impl Stamp {
    /// A new object's stamp.
    #[must_use]
    pub fn new(now: f64) -> Self {
        Self { serial_no: 1, ctime: now, mtime: now, tags: BTreeSet::new() }
    }

    /// Counts a change made at `now`.
    pub fn bump(&mut self, now: f64) {
        self.serial_no += 1;
        self.mtime = now;
    }
}

/// Field of [`Cluster::extra`]: fingerprint (SHA-256, lower-case hex) of the CA that a renewal changes to; there from before the
/// first node is told of it until the last one trusts nothing else.
pub const RENEWED_CA: &str = "renewed_ca";

/// Fields of [`Cluster::extra`] by which RConfD decides (`spec/confd.md` §6, §7.3); all optional.
pub mod confd {
    /// All begin so.
    pub const PREFIX: &str = "confd_";
    /// Which forms of the protocol are spoken: one of [`DIGESTS`]. It also reaches all nodes by ssconf.
    pub const DIGEST: &str = "confd_digest";
    /// The legacy form alone.
    pub const SHA1: &str = "sha1";
    /// Both; clients of Gantry ask in the second. The default.
    pub const BOTH: &str = "both";
    /// The second form alone.
    pub const SHA256: &str = "sha256";
    /// Its values.
    pub const DIGESTS: [&str; 3] = [SHA1, BOTH, SHA256];
    /// Whether instances that Ganeti's decoders do not know are left out of the legacy form.
    pub const STRICT_GANETI: &str = "confd_strict_ganeti";
    /// Who may ask for parts of the configuration: one of [`CONFIG_QUERIES`].
    pub const CONFIG_QUERY: &str = "confd_config_query";
    /// Its values; the last is the default.
    pub const CONFIG_QUERIES: [&str; 3] = ["off", "local", "on"];
    /// Networks that are answered at all.
    pub const ALLOWED_NETWORKS: &str = "confd_allowed_networks";
    /// Networks that may use the legacy form.
    pub const LEGACY_NETWORKS: &str = "confd_legacy_networks";
    /// Types of requests that the legacy form may have, by number.
    pub const LEGACY_TYPES: &str = "confd_legacy_types";
    /// RConfD's metric that says for each `source` when it last used the legacy form: seconds since 1970. Without the prefix
    /// that all metrics have.
    pub const LEGACY_LAST: &str = "confd_legacy_last_timestamp_seconds";
}

/// The cluster (`spec/config.md` §2). Fields Gantry decides by are typed, the rest is in `extra`
/// under Ganeti's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// Never changes.
    pub uuid: ClusterUuid,
    /// Host-name-like.
    pub cluster_name: String,
    /// The master.
    pub master_node: NodeUuid,
    /// IPv4 of the cluster name; empty when unused.
    pub master_ip: String,
    /// First is the default.
    pub enabled_hypervisors: Vec<String>,
    /// First is the default.
    pub enabled_disk_templates: Vec<String>,
    /// Wanted number of master candidates.
    pub candidate_pool_size: u64,
    /// Most jobs at once.
    pub max_running_jobs: u64,
    /// Kept for Ganeti's clients.
    pub max_tracked_jobs: u64,
    /// Filled node parameters.
    pub ndparams: Params,
    /// `{"default": {minmem, maxmem, vcpus, …}}`.
    pub beparams: BTreeMap<String, Params>,
    /// `{hypervisor: {…}}`.
    pub hvparams: BTreeMap<String, Params>,
    /// `{"default": {mode, link, vlan}}`.
    pub nicparams: BTreeMap<String, Params>,
    /// `{template: {…}}`.
    pub diskparams: BTreeMap<String, Params>,
    /// Filled policy.
    pub ipolicy: Params,
    /// First three bytes of generated MACs, "aa:00:00".
    pub mac_prefix: String,
    /// Serial, times, tags.
    #[serde(flatten)]
    pub stamp: Stamp,
    /// Everything else of the table in `spec/config.md` §2.
    #[serde(flatten)]
    pub extra: Params,
}

/// A node (`spec/config.md` §3).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "Ganeti's flags")]
pub struct Node {
    /// Never changes.
    pub uuid: NodeUuid,
    /// Full host name.
    pub name: String,
    /// Address of its noded.
    pub primary_ip: String,
    /// Equals the primary on single-homed clusters.
    pub secondary_ip: String,
    /// Holds copies and may become master.
    pub master_candidate: bool,
    /// Not contacted at all.
    pub offline: bool,
    /// No new instances.
    pub drained: bool,
    /// Its group.
    pub group: GroupUuid,
    /// May become candidate.
    pub master_capable: bool,
    /// May host instances.
    pub vm_capable: bool,
    /// Own parameters only.
    #[serde(default)]
    pub ndparams: Params,
    /// Believed powered on.
    pub powered: bool,
    /// TCP port of its noded.
    #[serde(default = "default_noded_port")]
    pub noded_port: u16,
    /// Serial, times, tags.
    #[serde(flatten)]
    pub stamp: Stamp,
    /// Keys of newer programs.
    #[serde(flatten)]
    pub extra: Params,
}

/// TCP port of noded (DESIGN §1).
pub const NODED_PORT: u16 = 1811;

fn default_noded_port() -> u16 {
    NODED_PORT
}

impl Node {
    /// One letter as in the query field `role`, but for the master, which only the cluster knows.
    #[must_use]
    pub fn role(&self, master: NodeUuid) -> char {
        match (self.uuid == master, self.offline, self.drained, self.master_candidate) {
            (true, ..) => 'M',
            (_, true, ..) => 'O',
            (_, _, true, _) => 'D',
            (_, _, _, true) => 'C',
            _ => 'R',
        }
    }
}

/// A node group (`spec/config.md` §4).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Never changes.
    pub uuid: GroupUuid,
    /// Unique.
    pub name: String,
    /// Own parameters only.
    #[serde(default)]
    pub ndparams: Params,
    /// `preferred`, `last_resort` or `unallocable`.
    pub alloc_policy: String,
    /// Own parts only.
    #[serde(default)]
    pub ipolicy: Params,
    /// Own parts only.
    #[serde(default)]
    pub diskparams: BTreeMap<String, Params>,
    /// `{network uuid: {mode, link, vlan}}`.
    #[serde(default)]
    pub networks: BTreeMap<String, Params>,
    /// Serial, times, tags.
    #[serde(flatten)]
    pub stamp: Stamp,
    /// Keys of newer programs.
    #[serde(flatten)]
    pub extra: Params,
}

/// The three allocation policies of groups.
pub const ALLOC_POLICIES: [&str; 3] = ["preferred", "last_resort", "unallocable"];

/// A network interface of an instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Nic {
    /// Own uuid.
    pub uuid: String,
    /// Lower case, colons.
    pub mac: String,
    /// Own mode, link, vlan only.
    #[serde(default)]
    pub nicparams: Params,
    /// Address, if one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// Network uuid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// User's name of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A disk of an instance, kept inside the instance (Ganeti keeps a table of its own; clients never see it).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Disk {
    /// Own uuid.
    pub uuid: String,
    /// MiB.
    pub size: u64,
    /// `rw` or `ro`.
    pub mode: String,
    /// User's name of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What the operator wants of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdminState {
    /// Should run.
    Up,
    /// Should not run.
    Down,
    /// Should not run and takes no dynamic resources.
    Offline,
}

impl AdminState {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Offline => "offline",
        }
    }
}

/// An instance: a slot of a pool, or one outside any pool (`spec/config.md` §5, DESIGN §9).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Never changes; also the slot's uuid.
    pub uuid: InstanceUuid,
    /// Full name.
    pub name: String,
    /// Home node: all generations live there.
    pub primary_node: NodeUuid,
    /// OS with variant, `noop` or `debian+default`.
    pub os: String,
    /// True back end: `fake`, `oci`, `openvz`.
    pub hypervisor: String,
    /// Own parameters only.
    #[serde(default)]
    pub hvparams: Params,
    /// Own parameters only.
    #[serde(default)]
    pub beparams: Params,
    /// Own parameters only.
    #[serde(default)]
    pub osparams: Params,
    /// Wanted state.
    pub admin_state: AdminState,
    /// `admin` or `user`.
    pub admin_state_source: String,
    /// Network interfaces, in order.
    #[serde(default)]
    pub nics: Vec<Nic>,
    /// One of Ganeti's nine templates, `diskless` without disks.
    pub disk_template: String,
    /// Disks, in order.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// Only reserves room. Slots of pools keep this for ever (`model.md` §2.1).
    #[serde(default)]
    pub forthcoming: bool,
    /// The pool's name; None outside pools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Serial, times, tags.
    #[serde(flatten)]
    pub stamp: Stamp,
    /// Keys of newer programs.
    #[serde(flatten)]
    pub extra: Params,
}

/// State of a slot (`model.md` §2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum SlotState {
    /// Nothing lives in it.
    Absent,
    /// A job is about to make, or makes, a VM.
    Creating,
    /// Made, not yet proved ready.
    Booting,
    /// Ready and never touched.
    Clean,
    /// Given to one owner.
    Leased,
    /// To be destroyed.
    Dirty,
    /// Being destroyed.
    Destroying,
}

impl SlotState {
    /// The word people read.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "ABSENT",
            Self::Creating => "CREATING",
            Self::Booting => "BOOTING",
            Self::Clean => "CLEAN",
            Self::Leased => "LEASED",
            Self::Dirty => "DIRTY",
            Self::Destroying => "DESTROYING",
        }
    }

    /// Whether a VM of the current generation may live on the node.
    #[must_use]
    pub fn may_live(self) -> bool {
        self != Self::Absent
    }
}

/// A slot's runtime record in locks.data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slot {
    /// The instance.
    pub uuid: InstanceUuid,
    /// Where its VMs live.
    pub node: NodeUuid,
    /// Current generation; 0 before the first VM.
    pub generation: Generation,
    /// Where it stands.
    pub state: SlotState,
    /// The job that creates or destroys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<JobOwner>,
    /// The lease that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseUuid>,
    /// Whether the VM of this generation was touched by a lease.
    #[serde(default)]
    pub opened: bool,
    /// Why it is dirty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Failed creates or destroys in a row.
    #[serde(default)]
    pub failures: u32,
    /// Serial of the blueprint that the current generation was made from; 0 outside pools.
    #[serde(default)]
    pub revision: u64,
    /// Epoch when the current generation became CLEAN for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<f64>,
    /// Neither created nor leased any more; goes when it is ABSENT.
    #[serde(default)]
    pub drained: bool,
    /// Failed so often that only an operator's recycle tries it again.
    #[serde(default)]
    pub stuck: bool,
    /// Epoch before which it is not tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_until: Option<f64>,
}

impl Slot {
    /// A slot in which nothing ever lived.
    #[must_use]
    pub fn new(uuid: InstanceUuid, node: NodeUuid) -> Self {
        Self {
            uuid,
            node,
            generation: Generation(0),
            state: SlotState::Absent,
            holder: None,
            lease: None,
            opened: false,
            why: None,
            failures: 0,
            revision: 0,
            ready_at: None,
            drained: false,
            stuck: false,
            backoff_until: None,
        }
    }
}

/// `own` over `parent`: the effective parameters.
#[must_use]
pub fn filled(parent: &Params, own: &Params) -> Params {
    let mut all = parent.clone();
    all.extend(own.iter().map(|(key, value)| (key.clone(), value.clone())));
    all
}
