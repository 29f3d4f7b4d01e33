//! One owner's request: a bounded set of wishes in canonical order.

use super::error::LockError;
use super::name::LockName;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// Most locks named in one request. More objects than this are locked through their group lock; the
/// bound keeps one request within a frame and one retry within milliseconds.
pub const LOCKS_PER_REQUEST_MAX: usize = 10_000;

/// How a lock is held. `Exclusive` is the greater: it serves where shared is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Together with other sharers.
    Shared,
    /// Alone.
    Exclusive,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Shared => "shared",
            Mode::Exclusive => "exclusive",
        })
    }
}

/// What is wished for one lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Want {
    /// To hold it shared.
    Shared,
    /// To hold it exclusively.
    Exclusive,
    /// Not to hold it.
    Release,
}

impl Want {
    /// The mode to hold the lock in afterwards; none for a release.
    #[must_use]
    pub fn mode(self) -> Option<Mode> {
        match self {
            Want::Shared => Some(Mode::Shared),
            Want::Exclusive => Some(Mode::Exclusive),
            Want::Release => None,
        }
    }
}

impl From<Mode> for Want {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Shared => Want::Shared,
            Mode::Exclusive => Want::Exclusive,
        }
    }
}

/// A request in canonical form: sorted by lock, each lock once. Two requests are the same request
/// when these are equal. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wants(Arc<[(LockName, Want)]>);

impl Wants {
    /// Sorts the list and drops repetitions.
    ///
    /// # Errors
    /// More than [`LOCKS_PER_REQUEST_MAX`] entries, or one lock wanted in two ways.
    pub fn new(mut list: Vec<(LockName, Want)>) -> Result<Self, LockError> {
        if list.len() > LOCKS_PER_REQUEST_MAX {
            return Err(LockError::TooMany { count: list.len() });
        }
        list.sort_unstable();
        list.dedup();
        match list.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(LockError::Inconsistent { lock: pair[0].0.clone() }),
            None => Ok(Self(list.into())),
        }
    }

    /// All wishes, in lock order.
    #[must_use]
    pub fn as_slice(&self) -> &[(LockName, Want)] {
        &self.0
    }

    /// The wishes that acquire, in lock order.
    pub fn acquisitions(&self) -> impl Iterator<Item = (&LockName, Mode)> {
        self.0.iter().filter_map(|(lock, want)| want.mode().map(|mode| (lock, mode)))
    }
}
