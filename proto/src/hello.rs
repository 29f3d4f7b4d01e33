//! The first frame of a connection, both ways: JSON, so that it can be read for ever. Unknown keys are
//! ignored; a side that shares no version with the other says which it knows and closes (DESIGN §4).

use gantry_model::ids::{ClusterUuid, NodeUuid};
use serde::{Deserialize, Serialize};

/// Largest hello, in bytes.
pub const HELLO_BYTES_MAX: usize = 4096;

/// The version of every inside protocol so far.
pub const VERSION: u32 = 1;

/// Who speaks, and what it understands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Service spoken on this connection: `wconfd`, `noded`, `job`, `boot`, `admin`.
    pub protocol: String,
    /// Versions understood.
    pub versions: Vec<u32>,
    /// Program, such as `gantry-luxid`.
    pub component: String,
    /// Its release.
    pub release: String,
    /// Named extras.
    #[serde(default)]
    pub features: Vec<String>,
    /// Largest frame it takes.
    pub frame_limit: u64,
    /// From a server: who it is. From a caller: the node it wants (one process may serve several).
    #[serde(default)]
    pub node: Option<NodeUuid>,
    /// The cluster; None only while joining.
    #[serde(default)]
    pub cluster: Option<ClusterUuid>,
    /// The master's epoch, if it knows one.
    #[serde(default)]
    pub epoch: Option<u64>,
    /// The speaker's run in that epoch (luxid to wconfd: P4.7).
    #[serde(default)]
    pub run: Option<u64>,
    /// Set by a server that refuses the connection: why. It closes after this frame.
    #[serde(default)]
    pub refused: Option<String>,
}

impl Hello {
    /// A hello of this release for `protocol`.
    #[must_use]
    pub fn new(protocol: &str, component: &str) -> Self {
        Self {
            protocol: protocol.to_owned(),
            versions: vec![VERSION],
            component: component.to_owned(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            features: Vec::new(),
            frame_limit: crate::codec::FRAME_BYTES_MAX as u64,
            node: None,
            cluster: None,
            epoch: None,
            run: None,
            refused: None,
        }
    }
}
