//! A copy that follows.

use super::files::LogKind;
use super::look::{AppendRefusal, Bodies, Fetched, Look, SnapshotFile};
use crate::core::Rules;
use crate::core::copy::{Append, Claim, Refusal};
use crate::core::row::{Index, Position};
use crate::core::token::Token;
use crate::error::StoreError;
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

/// How to open a copy.
#[derive(Clone)]
pub struct CopyOptions {
    /// Which log.
    pub log: LogKind,
    /// [`Rules::ALL`] but in tests.
    pub rules: Rules,
    /// The node's bodies.
    pub bodies: Arc<dyn Bodies>,
}

/// Whose copy an empty one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmptyCopy {
    /// The cluster.
    pub cluster: Uuid,
    /// The history.
    pub history: Uuid,
    /// The copy: a new id.
    pub copy_id: Uuid,
}

/// A copy that follows a writer elsewhere. Owned by one thread; all calls block.
pub struct Copy(());

type Answer<T> = Result<Result<T, Refusal>, StoreError>;

impl Copy {
    /// Opens the copy. `None`: there is no such log here.
    pub fn open(_dir: &Path, _opts: CopyOptions) -> Result<Option<Copy>, StoreError> {
        Err(StoreError::Stopped)
    }
    /// Makes an empty copy; an old one at this place is moved to `aside/` first.
    pub fn make(_dir: &Path, _log: LogKind, _empty: &EmptyCopy) -> Result<(), StoreError> {
        Err(StoreError::Stopped)
    }
    /// What it says of itself.
    pub fn look(&self) -> Result<Look, StoreError> {
        Err(StoreError::Stopped)
    }
    /// Promises.
    pub fn promise(&mut self, _claim: &Claim) -> Answer<Look> {
        Err(StoreError::Stopped)
    }
    /// Takes rows.
    pub fn append(&mut self, _append: &Append) -> Result<Result<Index, AppendRefusal>, StoreError> {
        Err(StoreError::Stopped)
    }
    /// Gives rows.
    pub fn fetch(&mut self, _claim: &Claim, _after: Position, _bytes_max: usize) -> Answer<Fetched> {
        Err(StoreError::Stopped)
    }
    /// Stores a token.
    pub fn set_token(&mut self, _claim: &Claim, _old: Option<Token>, _new: Token) -> Answer<()> {
        Err(StoreError::Stopped)
    }
    /// Writes a snapshot.
    pub fn snapshot_out(&mut self, _claim: &Claim) -> Answer<SnapshotFile> {
        Err(StoreError::Stopped)
    }
    /// Takes a snapshot over. The file is taken away from its path.
    pub fn snapshot_in(&mut self, _claim: &Claim, _path: &Path) -> Answer<Position> {
        Err(StoreError::Stopped)
    }
}
