//! A log that is opened to be led: recovery with other members (P1.7).

use super::look::{Look, SnapshotFile};
use super::start::{StartOptions, Started};
use super::writer::Writer;
use crate::core::copy::{Claim, Refusal};
use crate::core::list::List;
use crate::core::row::{Index, Position, Row, Term};
use crate::core::token::{Records, TokenRow};
use crate::error::StoreError;
use std::collections::BTreeMap;
use std::path::Path;
use tokio::sync::watch;
use uuid::Uuid;

/// A log whose writer lock is held, not led yet.
pub struct Opened(());

/// A log that is led, but not serving until its first row is committed.
pub struct Lead(());

impl Opened {
    /// Takes the writer lock, checkpoints.
    pub fn open(_dir: &Path, _opts: StartOptions) -> Result<Opened, StoreError> {
        Err(StoreError::Stopped)
    }
    /// What the own copy says.
    pub fn look(&self) -> Result<Look, StoreError> {
        Err(StoreError::Stopped)
    }
    /// The claim of this start: the run after all of the own epoch that were heard, a fresh nonce.
    pub fn claim(&self, _heard: &[Term]) -> Result<Claim, StoreError> {
        Err(StoreError::Stopped)
    }
    /// Promises in the own copy.
    pub fn promise(&mut self, _claim: &Claim) -> Result<Result<Look, Refusal>, StoreError> {
        Err(StoreError::Stopped)
    }
    /// The last own row that is in every later history: where to fetch from when the best copy says
    /// that the own last row is another one.
    pub fn sure(&self) -> Result<Position, StoreError> {
        Err(StoreError::Stopped)
    }
    /// Keeps fetched rows for [`Opened::adopt`], in order. A crash forgets them.
    pub fn spool(&mut self, _rows: &[Row]) -> Result<(), StoreError> {
        Err(StoreError::Stopped)
    }
    /// Puts what was spooled after `after`, in one transaction. Nothing spooled: cuts what follows it.
    pub fn adopt(&mut self, _claim: &Claim, _after: Position) -> Result<Position, StoreError> {
        Err(StoreError::Stopped)
    }
    /// Takes a snapshot over, then rows may be spooled and adopted after it.
    pub fn adopt_snapshot(&mut self, _claim: &Claim, _path: &Path) -> Result<Position, StoreError> {
        Err(StoreError::Stopped)
    }
    /// Appends the empty row and starts the writer.
    pub fn lead(self, _claim: &Claim) -> Result<Lead, StoreError> {
        Err(StoreError::Stopped)
    }
}

impl Lead {
    /// The writer, for the senders; nobody else appends before [`Lead::loaded`].
    pub fn writer(&self) -> Writer {
        unreachable!("no lead is made")
    }
    /// Blocks until the empty row is committed and applied; then loads.
    pub fn loaded(self) -> Result<Started, StoreError> {
        Err(StoreError::Stopped)
    }
}

/// Rows for one copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shipment {
    /// These, to stand directly after `prev`; none when the copy has all.
    Rows {
        /// The row before.
        prev: Position,
        /// The rows.
        rows: Vec<Row>,
        /// What is committed.
        commit: Index,
    },
    /// The copy lacks rows that are compacted away up to here: send a snapshot.
    Compacted(Position),
}

/// What a writer knows of one copy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CopyView {
    /// It has flushed rows up to here in this term.
    pub confirmed: Index,
    /// Why it counts no more.
    pub suspect: Option<String>,
}

impl Writer {
    /// The claim every message to a copy carries.
    pub fn claim(&self) -> Claim {
        unreachable!()
    }
    /// Appends a list; it counts at once.
    pub fn append_list(&self, _list: List) -> Result<Index, StoreError> {
        Err(StoreError::Stopped)
    }
    /// Appends the record of a token.
    pub fn append_token(&self, _token: &TokenRow) -> Result<Index, StoreError> {
        Err(StoreError::Stopped)
    }
    /// Rows after `after`, also those not flushed here yet (P1.3). Blocks on the disk when they are old.
    pub fn batch_after(
        &self,
        _after: Index,
        _bytes_max: usize,
        _rows_max: usize,
    ) -> Result<Shipment, StoreError> {
        Err(StoreError::Stopped)
    }
    /// The last index given out, to be awaited.
    pub fn appended(&self) -> watch::Receiver<Index> {
        unreachable!()
    }
    /// A copy says it has flushed all up to `idx` under `term`.
    pub fn confirm(&self, _copy_id: Uuid, _term: Term, _idx: Index) {}
    /// A copy is not to be believed; it counts no more in this term.
    pub fn suspect(&self, _copy_id: Uuid, _why: &str) {}
    /// Whether a majority answers; else who is silent: batches are refused with `NoMajority` then.
    pub fn set_quorum(&self, _quorum: Result<(), String>) {}
    /// What is known of each copy that confirmed or was found suspect.
    pub fn members(&self) -> BTreeMap<Uuid, CopyView> {
        BTreeMap::new()
    }
    /// The newest list and its row.
    pub fn list(&self) -> (Index, List) {
        unreachable!()
    }
    /// The newest token records of the log.
    pub fn tokens(&self) -> Records {
        Records::default()
    }
    /// A newer writer was heard of: ends this one with `Progress.failed`.
    pub fn depose(&self, _why: &str) {}
    /// Forgets rows that neither the objects nor a copy at `slowest` needs, in the background.
    pub fn compact(&self, _slowest: Index) {}
    /// Writes a snapshot of what is committed, for a copy that is far behind. Blocks.
    pub fn snapshot(&self) -> Result<SnapshotFile, StoreError> {
        Err(StoreError::Stopped)
    }
}
