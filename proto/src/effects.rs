//! What a master has done that nobody can refuse afterwards (P1.10): the cluster's address on a device, and hooks. The
//! verbs are noded's ([`crate::noded`]); whoever sends one has had the master confirmed just before.

use gantry_model::ids::Fence;
use gantry_model::master_ip::MasterAddress;
use serde::{Deserialize, Serialize};

/// What shall become of the cluster's address on the master's node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MasterIpOrder {
    /// Have just this one, or none; but an operator's word of this epoch stays.
    Keep(Option<MasterAddress>),
    /// An operator wants it up.
    Up(MasterAddress),
    /// An operator wants it down for as long as this epoch lasts.
    Down,
}

/// See [`crate::noded::MasterIp`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterIpRequest {
    /// The master.
    pub fence: Fence,
    /// What to do.
    pub order: MasterIpOrder,
}

/// See [`crate::noded::MasterIp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterIpReply {
    /// Whether the node has the address now.
    pub up: bool,
}

/// See [`crate::noded::AddressLook`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressLookReply {
    /// The device that has it, if one has.
    pub device: Option<String>,
    /// An operator took the cluster's address down here, for as long as the epoch lasts.
    pub down: bool,
    /// The same for all who share this node's network devices: nodes may be on one machine.
    pub stack: String,
}

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HookPhase {
    /// Before the effect, which a failure prevents.
    Pre,
    /// After it.
    Post,
}

impl HookPhase {
    /// The word in names and variables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pre => "pre",
            Self::Post => "post",
        }
    }
}

/// See [`crate::noded::HooksRun`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HooksRunRequest {
    /// The master.
    pub fence: Fence,
    /// Which hooks, such as `node-add`.
    pub path: String,
    /// Before or after.
    pub phase: HookPhase,
    /// (name, value) of variables, beside those that the node adds.
    pub env: Vec<(String, String)>,
}

/// How one file of a directory of hooks fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HookStatus {
    /// No hook: by its name, or not executable.
    Skipped,
    /// Ended badly, or not in time, or could not be started.
    Failed,
    /// Ended well.
    Succeeded,
}

/// See [`crate::noded::HooksRun`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookEnd {
    /// `DIRECTORY/FILE`.
    pub script: String,
    /// How it fared.
    pub status: HookStatus,
    /// The last of what it said, on both outputs.
    pub output: String,
}
