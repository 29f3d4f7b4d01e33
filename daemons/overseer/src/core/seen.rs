//! What passes look at: rows of luxid's queries, by the names of their fields (docs/adr/0007).

use gantry_model::config::SlotState;
use gantry_model::ids::{InstanceUuid, NodeUuid, PoolUuid};
use gantry_model::pool::{PoolState, SLOT_STUCK_S};
use serde::Deserialize;
use std::collections::BTreeSet;

/// Fields of [`Pool`].
pub const POOL_FIELDS: &[&str] = &["uuid", "name", "blueprint", "state", "wanted", "spare", "lifetime"];
/// Fields of [`Blueprint`].
pub const BLUEPRINT_FIELDS: &[&str] = &["name", "enabled"];
/// Fields of [`Slot`].
pub const SLOT_FIELDS: &[&str] = &[
    "uuid",
    "name",
    "pool",
    "node_uuid",
    "node_usable",
    "state",
    "generation",
    "drained",
    "stuck",
    "backoff_until",
    "revision",
    "wanted_revision",
    "ready_at",
];
/// Fields of [`Node`]. `mtotal` is what the node itself must be asked for.
pub const NODE_FIELDS: &[&str] = &["uuid", "name", "offline", "drained", "vm_capable", "mtotal"];

/// A pool.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Pool {
    /// Which.
    pub uuid: PoolUuid,
    /// Its name.
    pub name: String,
    /// Name of its blueprint.
    pub blueprint: Option<String>,
    /// Active or draining.
    pub state: PoolState,
    /// How many slots there shall be now.
    pub wanted: u64,
    /// Clean VMs to keep beyond the leased ones.
    pub spare: u64,
    /// Age at which a clean VM is replaced, seconds; 0 = never.
    pub lifetime: u64,
    /// Whether its blueprint makes new VMs.
    #[serde(skip, default = "yes")]
    pub enabled: bool,
}

fn yes() -> bool {
    true
}

/// A blueprint.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Blueprint {
    /// Its name.
    pub name: String,
    /// Whether new VMs are made of it.
    pub enabled: bool,
}

/// A slot.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Slot {
    /// Which.
    pub uuid: InstanceUuid,
    /// `POOL-NUMBER`.
    pub name: String,
    /// Name of its pool.
    pub pool: String,
    /// Its home.
    pub node_uuid: NodeUuid,
    /// Whether that takes work: neither offline nor drained.
    pub node_usable: bool,
    /// Where it stands.
    pub state: SlotState,
    /// Its generation.
    pub generation: u64,
    /// Neither created nor leased any more.
    pub drained: bool,
    /// Failed too often: tried seldom, and told to people.
    pub stuck: bool,
    /// Epoch before which it is not tried again.
    pub backoff_until: Option<f64>,
    /// Serial of the blueprint its VM was made from.
    #[serde(default)]
    pub revision: u64,
    /// Serial of the blueprint now.
    pub wanted_revision: Option<u64>,
    /// Epoch when its VM became CLEAN for the first time.
    pub ready_at: Option<f64>,
}

impl Slot {
    /// Its number within the pool: the highest goes first.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.name.rsplit('-').next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
    }

    /// Whether it may be tried now.
    #[must_use]
    pub fn may_try(&self, now: f64) -> bool {
        self.try_at(now).is_none()
    }

    /// When it may be tried, if that is later than now. A longer pause than there is was set by a wall clock that has
    /// stepped back since.
    #[must_use]
    pub fn try_at(&self, now: f64) -> Option<f64> {
        self.backoff_until.filter(|until| *until > now && *until <= now + SLOT_STUCK_S)
    }
}

/// A node as luxid knows it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Node {
    /// Which.
    pub uuid: NodeUuid,
    /// Its name.
    pub name: String,
    /// Marked offline.
    pub offline: bool,
    /// Marked drained.
    pub drained: bool,
    /// Whether it may have VMs.
    pub vm_capable: bool,
    /// Its memory, MiB; none while it cannot be asked.
    pub mtotal: Option<u64>,
    /// How long it has been away, seconds; none = it answers.
    #[serde(skip)]
    pub away_s: Option<u64>,
    /// It answers, and has since it was seen first or for a while.
    #[serde(skip)]
    pub settled: bool,
}

impl Node {
    /// Whether it can be asked for anything now.
    #[must_use]
    pub fn is_there(&self) -> bool {
        !self.offline && self.away_s.is_none()
    }

    /// Whether it is marked offline, or away for so many seconds.
    fn is_lost(&self, lost_s: u64) -> bool {
        self.offline || self.away_s.is_some_and(|away| away >= lost_s)
    }
}

/// All that a pass looks at.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    /// All pools.
    pub pools: Vec<Pool>,
    /// Slots: all, or those an event named.
    pub slots: Vec<Slot>,
    /// All nodes; empty until they were first looked at.
    pub nodes: Vec<Node>,
    /// Seconds after which a node that is away is lost.
    pub lost_s: u64,
}

impl Seen {
    /// The slot's node, if it is known.
    #[must_use]
    pub fn node_of(&self, slot: &Slot) -> Option<&Node> {
        self.nodes.iter().find(|node| node.uuid == slot.node_uuid)
    }

    /// Whether some pool wants more slots the more are leased.
    #[must_use]
    pub fn has_spare(&self) -> bool {
        self.pools.iter().any(|pool| pool.spare > 0)
    }

    /// Whether the slot's node can be asked; one that is not known is believed to.
    #[must_use]
    pub fn can_ask(&self, slot: &Slot) -> bool {
        self.node_of(slot).is_none_or(Node::is_there)
    }

    /// Whether the slot's node answers and is marked drained: what nobody has leased goes from there.
    #[must_use]
    pub fn is_being_emptied(&self, slot: &Slot) -> bool {
        !slot.node_usable && self.node_of(slot).is_some_and(|node| node.drained && node.is_there())
    }

    /// Whether the slot counts towards its pool's amount: it is to stay, on a node that takes work and is not lost.
    #[must_use]
    pub fn counts(&self, slot: &Slot) -> bool {
        !slot.drained && slot.node_usable && !self.is_lost(slot)
    }

    /// Whether the slot is there to stay: it counts, and its node has settled. For nothing less are others let go.
    #[must_use]
    pub fn stays(&self, slot: &Slot) -> bool {
        self.counts(slot) && self.node_of(slot).is_some_and(|node| node.settled)
    }

    /// Nodes that are lost.
    #[must_use]
    pub fn lost_nodes(nodes: &[Node], lost_s: u64) -> BTreeSet<NodeUuid> {
        nodes.iter().filter(|node| node.is_lost(lost_s)).map(|node| node.uuid).collect()
    }

    /// Whether the slot's node is lost: marked offline, or away for too long.
    #[must_use]
    pub fn is_lost(&self, slot: &Slot) -> bool {
        self.node_of(slot).is_some_and(|node| node.is_lost(self.lost_s))
    }
}
