//! Why a log is not led.

use gantry_store::StoreError;
use gantry_store::core::copy::Refusal;

/// Why a start did not lead its log, or leads it no more.
#[derive(Debug, thiserror::Error)]
pub enum CopiesError {
    /// The own store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A newer master, or a newer start of this writer, was heard of.
    #[error("{who} refuses term {term}: {why}")]
    Deposed {
        /// Who said so.
        who: String,
        /// The own term.
        term: gantry_store::core::row::Term,
        /// What it said.
        why: Refusal,
    },
    /// The copy was promised to another master since this node's role was written.
    #[error("this node's role is of epoch {role}, but its copy is promised to epoch {promised}")]
    OtherEpoch {
        /// Of role.json.
        role: u64,
        /// Of the copy.
        promised: u64,
    },
    /// The newest list does not name this copy.
    #[error("the newest list of members does not name this node's copy: it must not be master")]
    NotMember,
    /// The own copy is an old image or damaged.
    #[error("this node's own copy is an old image or damaged: it must not be master")]
    Suspect,
    /// A copy does not follow the protocol, or contradicts what is known.
    #[error("{who}: {what}")]
    Broken {
        /// Who.
        who: String,
        /// What it said.
        what: String,
    },
    /// A side file could not be written.
    #[error("can't write {path}")]
    File {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No majority confirmed in time.
    #[error("{have} of {need} copies needed confirmed this master within {ms} ms; silent: {silent}")]
    Unconfirmed {
        /// Confirmations, the own included.
        have: usize,
        /// Needed.
        need: usize,
        /// Who is missing.
        silent: String,
        /// The time waited.
        ms: u64,
    },
    /// The daemon stops.
    #[error("stopped")]
    Stopped,
}
