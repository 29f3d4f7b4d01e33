//! What ends luxid.

use crate::core::queue::LoadError;
use gantry_store::StoreError;

/// Why luxid can't go on. It ends, and boot starts it anew (crash-only).
#[derive(Debug, thiserror::Error)]
pub enum LuxidError {
    /// The store's writer failed; nothing can be made durable.
    #[error("the store failed: {0}")]
    StoreFailed(String),
    /// The store's writer ended without a word.
    #[error("the store's writer has ended")]
    StoreEnded,
    /// A batch was refused.
    #[error("can't append to queue.data")]
    Append(#[source] StoreError),
    /// queue.data can't be opened.
    #[error("can't open queue.data")]
    Open(#[source] StoreError),
    /// An object of queue.data can't be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// This node is not the master, or its role is of another epoch.
    #[error("this node is not the master of epoch {epoch}: {why}")]
    NotMaster {
        /// Epoch of queue.data.
        epoch: u64,
        /// What role.json says.
        why: String,
    },
}
