//! What may go wrong between the overseer and luxid.

use crate::core::rows::RowsError;
use std::io;

/// A call that brought no answer to work with.
#[derive(Debug, thiserror::Error)]
pub enum LuxiError {
    /// Nobody listens, or the connection broke.
    #[error("luxid does not answer on luxi.sock: {0}")]
    Away(io::Error),
    /// It took too long.
    #[error("luxid gave no answer to {method} within {seconds} s")]
    Slow {
        /// What was asked.
        method: &'static str,
        /// For how long.
        seconds: u64,
    },
    /// It said no.
    #[error("luxid refused {method}: {text}")]
    Refused {
        /// What was asked.
        method: &'static str,
        /// Why.
        text: String,
    },
    /// The answer cannot be read.
    #[error("luxid's answer to {method} is no LUXI message: {why}")]
    Protocol {
        /// What was asked.
        method: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A table that cannot be read.
    #[error("{0}")]
    Rows(#[from] RowsError),
}
