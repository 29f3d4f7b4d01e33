//! The durable state of Gantry: replicated logs with their projections, on SQLite.
//!
//! There are two logs, [`LogKind::W`] (written by wconfd) and [`LogKind::Q`] (written by luxid). A *log* is a
//! sequence of rows; a row holds a [`Batch`] of object changes. Objects live in *projections*, tables that
//! hold what the committed rows say and that can be rebuilt from the log.
//!
//! ```text
//!  callers ── append(batch) ─▶ bounded queue ─▶ one thread ─▶ log (flushed) ─▶ committed? ─▶ projections ─▶ progress()
//!          ── local(changes) ─▶      "              "      ────────────────────────────▶ locks.data  ─▶    "
//!  senders ◀─ batch_after() ── recent rows          ▲
//!          ── confirm() ────────────────────────────┘       elsewhere: Copy ─ append ─▶ log (flushed) ─▶ answer
//! ```
//!
//! A [`Writer`] leads; on the other members a [`Copy`] follows. What lies between them, the network, is not the
//! store's: it hands out rows and takes in who has flushed them.
//!
//! Who may do what: the one [`Writer`] of a log is the only one that changes it; any process may read. The
//! rules of terms, promises, commits and lists are in [`core`], which does no I/O; `io` owns the files. The
//! store knows nothing of what objects mean.
//!
//! What is promised: a batch that [`Writer::progress`] shows as committed is flushed to disk on a majority of the
//! members and applied here; it is found again after a crash of the process or of the machine. Batches are
//! committed in the order of their indices. A failed write stops the writer for good; the daemon is expected to
//! exit.
//!
//! A log is opened to be led in steps ([`Opened`], [`Lead`]); [`start`] takes them all for a log with one member.
//! Rows that all objects hold are forgotten ([`Writer::compact`]); who lacks them gets a snapshot.

pub mod core;
mod error;
mod io;

pub use crate::core::Rules;
pub use crate::core::list::{List, MEMBERS_MAX, Member};
pub use crate::core::row::{
    BATCH_BYTES_MAX, Batch, BatchError, Change, Digest, Index, KEY_BYTES_MAX, KIND_BYTES_MAX, Object,
    Position, Row, RowKind, Term, digest,
};
#[cfg(any(test, feature = "weaken"))]
pub use crate::core::rules::Rule;
pub use error::StoreError;
pub use io::alone::{Alone, go_alone};
pub use io::aside::ASIDE;
pub use io::backup::{End, Rebirth, backup, end_of, rebirth, snapshot_objects, writer_runs};
pub use io::copy::{Copy, CopyOptions, EmptyCopy};
pub use io::create::{Birth, create};
pub use io::feed::{CopyView, Shipment};
pub use io::files::{LogKind, file_of};
pub use io::flushed::{END as FLUSHED, Flushed, Mark as FlushMark, forget as forget_flushed};
pub use io::look::{AppendRefusal, Bodies, Fetched, Look, NoBodies, SnapshotFile};
pub use io::opened::{Lead, Opened};
pub use io::read::{READ_BYTES_MAX, named_bodies, read_batches};
pub use io::reader::{Mark, News, Reader};
pub use io::seed::seed;
pub use io::snapshot::Head as SnapshotHead;
pub use io::start::{StartOptions, Started, start};
pub use io::writer::{
    LOCAL_BYTES_MAX, LocalChange, LocalRow, LocalSeq, Progress, QUEUE_BYTES_MAX, Stats, Writer,
};
