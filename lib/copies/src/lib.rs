//! Copies of a log over the network (docs/adr/0008): recovery of a writer's start, one sender a copy, who answered
//! when, and elections.
//!
//! ```text
//!  wconfd, luxid ─ start ─▶ promise own ─▶ ask all members heard ─▶ best ─▶ fetch ─▶ adopt ─▶ lead ─▶ serve
//!                                                                                        │
//!                    store::Writer ◀── confirm, suspect, quorum ── one sender task a copy ◀┘
//! ```
//!
//! It carries the store's messages and keeps time. Who may promise, what counts, whom to believe: the store's core says
//! so. It knows nothing of what objects mean.

pub mod advice;
pub mod aside;
mod bodies;
pub mod elect;
mod error;
pub mod facts;
mod handle;
pub mod heard;
pub mod link;
pub mod metrics;
mod own;
pub mod peers;
mod recover;
mod roll;
mod sender;
pub mod wire;

pub use bodies::Named;
pub use error::CopiesError;
pub use handle::{CopiesHandle, CopyStatus, SILENT_MS};
pub use recover::{Start, start};
