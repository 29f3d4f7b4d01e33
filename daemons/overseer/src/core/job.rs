//! Keyed jobs: what passes ask luxid to do.

use crate::core::pass::Pass;
use crate::core::seen::{Node, Pool, Slot};
use gantry_model::ids::InstanceUuid;
use serde_json::{Map, Value, json};

/// Most slots of one job (DESIGN §8): a process each would cost more than the work.
pub const LOT: usize = 16;

/// A slot in a generation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Which.
    pub uuid: InstanceUuid,
    /// Its name.
    pub name: String,
    /// Its generation.
    pub generation: u64,
}

impl From<&Slot> for Place {
    fn from(slot: &Slot) -> Self {
        Self { uuid: slot.uuid, name: slot.name.clone(), generation: slot.generation }
    }
}

/// What is to be done with slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotWork {
    /// Make VMs.
    Create,
    /// Destroy what lives there, and make it anew if it is wanted.
    Destroy,
    /// Look whether the VM works.
    Verify,
    /// Take out of service: CLEAN ones become DIRTY, ABSENT ones go, a leased one goes when its lease has ended.
    Drain(&'static str),
    /// Replace by new VMs.
    Recycle(&'static str),
    /// The same, and end their leases: for VMs that nobody can reach any more, which the job looks at again.
    Break(&'static str),
}

impl SlotWork {
    /// First part of its keys. At most one live job drains, recycles or breaks a slot's generation.
    fn key(self) -> &'static str {
        match self {
            Self::Create => "slot-create",
            Self::Destroy => "slot-destroy",
            Self::Verify => "slot-verify",
            Self::Drain(_) | Self::Recycle(_) | Self::Break(_) => "slot-drain",
        }
    }

    fn opcode(self, slots: &[Place]) -> (&'static str, Map<String, Value>) {
        let places: Vec<Value> = slots.iter().map(|slot| json!([slot.uuid, slot.generation])).collect();
        let (id, params) = match self {
            Self::Create => ("OP_SLOT_CREATE", json!({"slots": places})),
            Self::Destroy => ("OP_SLOT_DESTROY", json!({"slots": places, "recreate": true})),
            Self::Verify => ("OP_SLOT_VERIFY", json!({"slots": places})),
            Self::Drain(why) => ("OP_SLOT_DRAIN", json!({"slots": places, "why": why})),
            Self::Recycle(why) => ("OP_SLOT_RECYCLE", json!({"slots": places, "why": why})),
            Self::Break(why) => {
                ("OP_SLOT_RECYCLE", json!({"slots": places, "force": true, "only_lost": true, "why": why}))
            }
        };
        let Value::Object(params) = params else { unreachable!("made as an object above") };
        (id, params)
    }
}

/// One job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyedJob {
    /// Add the slots a pool lacks.
    Expand {
        /// Its uuid, as text.
        uuid: String,
        /// Its name.
        name: String,
        /// How many slots count, and how many shall: the same want is not repeated at once when it could not be met.
        gap: (u64, u64),
    },
    /// Work on slots.
    Slots {
        /// What.
        work: SlotWork,
        /// On which: 1 to [`LOT`].
        slots: Vec<Place>,
    },
    /// Compare what lives on a node with what should.
    Audit {
        /// Its uuid, as text.
        uuid: String,
        /// Its name.
        name: String,
    },
}

impl KeyedJob {
    /// Adds slots to a pool.
    #[must_use]
    pub fn expand(pool: &Pool, counted: u64) -> Self {
        Self::Expand { uuid: pool.uuid.to_string(), name: pool.name.clone(), gap: (counted, pool.wanted) }
    }

    /// Looks through a node.
    #[must_use]
    pub fn audit(node: &Node) -> Self {
        Self::Audit { uuid: node.uuid.to_string(), name: node.name.clone() }
    }

    /// Work on slots, in lots.
    #[must_use]
    pub fn lots(work: SlotWork, slots: &[&Slot]) -> Vec<Self> {
        let lot =
            |lot: &[&Slot]| Self::Slots { work, slots: lot.iter().map(|slot| Place::from(*slot)).collect() };
        slots.chunks(LOT).map(lot).collect()
    }

    /// Its keys: one per entity it works on (I10).
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        match self {
            Self::Expand { uuid, .. } => vec![format!("pool-expand:{uuid}")],
            Self::Audit { uuid, .. } => vec![format!("node-audit:{uuid}")],
            Self::Slots { work, slots } => {
                let key = |slot: &Place| format!("{}:{}:{}", work.key(), slot.uuid, slot.generation);
                slots.iter().map(key).collect()
            }
        }
    }

    /// Its opcode as LUXI takes it, with the pass in its reason trail.
    #[must_use]
    pub fn opcode(&self, pass: Pass, now_ns: u64) -> Value {
        let (id, mut params) = match self {
            Self::Expand { name, .. } => ("OP_POOL_EXPAND", one("pool_name", name)),
            Self::Audit { uuid, name } => {
                let mut params = one("node_name", name);
                params.insert("node_uuid".to_owned(), json!(uuid));
                ("OP_NODE_AUDIT", params)
            }
            Self::Slots { work, slots } => work.opcode(slots),
        };
        params.insert("OP_ID".to_owned(), json!(id));
        params.insert("reason".to_owned(), json!([["gantry:overseer", pass.name(), now_ns]]));
        Value::Object(params)
    }

    /// In two, when it works on several slots: one of them may have a live job, which must not hold up the others.
    #[must_use]
    pub fn halves(&self) -> Option<[Self; 2]> {
        match self {
            Self::Slots { work, slots } if slots.len() > 1 => {
                let (one, other) = slots.split_at(slots.len() / 2);
                Some([one, other].map(|slots| Self::Slots { work: *work, slots: slots.to_vec() }))
            }
            Self::Slots { .. } | Self::Expand { .. } | Self::Audit { .. } => None,
        }
    }
}

fn one(name: &str, value: &str) -> Map<String, Value> {
    Map::from_iter([(name.to_owned(), json!(value))])
}
