//! The configuration: cluster, groups, nodes, instances and their slots, typed and indexed, and the
//! commands that change it (DESIGN §5, `spec/config.md`).
//!
//! A pure value: no clock, no randomness, no file. The shell gives it commands with the time, appends
//! the changes it answers to the log, and tells the caller once they are committed. If the log does
//! not take them, it takes them back with [`Config::undo`].
//!
//! ```text
//! commands ─► Edit: checks and edits, one by one ─► net difference ─► serials, times ─► Changes
//!               │ first refusal: everything is put back               └ nothing differs: no batch
//! ```
//!
//! * [`object`]: what is stored.
//! * `rows`: the objects and their indexes.
//! * `pooled`: the same for pools and leases.
//! * `edit`: one batch: what it touched, and how it is put back.
//! * `finish`: how a batch is finished.
//! * `fields`: which fields callers may set, and of which type.
//! * `cluster`, `group`, `node`, `instance`, `slot`, `tags`, `pool`, `pool_slot`, `lease`: the commands.
//! * `members`: whose copies count.
//! * `load`: stored objects back into typed ones.
//! * `read`: what readers ask for.
//!
//! **Serials.** An object's serial grows by one in each batch that changes it, the meta serial by one
//! in each batch that changes anything but slots and leases, the cluster's by the rule in `spec/config.md` §5.
//! A revision in a command is compared with the serial before the batch.
//!
//! **Cost.** A command costs O(log n) of the number of objects; a batch is put back from the values it
//! replaced, never from a copy of the whole.

mod cluster;
mod edit;
mod error;
mod fields;
mod finish;
mod group;
mod instance;
mod lease;
mod load;
mod members;
mod node;
pub mod object;
mod pool;
mod pool_slot;
mod pooled;
mod read;
mod rows;
mod slot;
mod tags;

#[cfg(test)]
mod tests;

pub use cluster::is_mac_prefix;
pub use edit::{BATCH_BYTES_MAX, Context, Effect, Ids, Undo};
pub use error::Refusal;
pub use load::LoadError;
pub use members::MembersRow;
pub use object::{Change, Object};
pub use pooled::LeaseRow;
pub use read::Snapshot;
pub use rows::{Applied, Config, Fix, SlotRow};
