//! What ends luxid.

use crate::core::queue::LoadError;
use gantry_copies::CopiesError;
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
    /// The queue can't be led, or is led by another master now.
    #[error("leading the job queue")]
    Copies(#[source] CopiesError),
    /// The logs contradict each other.
    #[error(
        "the queue's members list is number {q}, the configuration's is {w}: the two files are not of one cluster state"
    )]
    Apart {
        /// Of Q.
        q: u64,
        /// Of W.
        w: u64,
    },
    /// An object of queue.data can't be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// This node is not the master, or its role is of another epoch.
    #[error("this node is not the master: {why}")]
    NotMaster {
        /// What role.json says.
        why: String,
    },
}
