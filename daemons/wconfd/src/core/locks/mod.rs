//! The lock table: which job holds which lock, who waits, and who is granted next.
//!
//! A pure value. It knows no clock, no file and no connection: `wconfd`'s shell hands it requests,
//! writes the changes of held locks that each [`Step`] names (table `local` of `locks.data`), and
//! only then answers and tells the newly granted owners. The table does not know what an owner is;
//! the daemon uses one start of one job.
//!
//! ```text
//! request ─► Wants (sorted, bounded) ─► order rules ─► obstacle? ─ no ─► Held ─► gates opened
//!                                                         │yes                        │
//!                                                         ▼                           ▼
//!                                                      Waiting ◄── retry, most urgent first
//! ```
//!
//! * [`name`]: lock names and their total order (`spec/locks.md` §1).
//! * [`request`]: one owner's list of wishes, made canonical.
//! * [`rule`]: what a request must keep whoever else holds what.
//! * `held`: who owns what, indexed by owner, by lock and by level.
//! * `waiting`: pending requests, each filed under one *gate* (a condition that keeps it waiting).
//! * [`table`]: the commands.
//! * [`row`]: what the `lock` query shows.
//!
//! **Cost.** A waiter is filed under one gate that is closed to it. A release looks only at the gates
//! it may have opened, and at each only at waiters that the gate now lets through: a thousand jobs
//! queueing for one node cost one retry per release, not a thousand.
//!
//! **Deadlock.** The order rule makes waiting free of cycles with one exception: two sharers of a
//! lock that both want it exclusively. So an upgrade that is not free at once is refused
//! ([`LockError::UpgradeWaits`]) where Ganeti would let both wait for ever.

pub mod error;
mod held;
pub mod name;
pub mod request;
pub mod row;
pub mod rule;
pub mod table;
mod waiting;

#[cfg(test)]
mod tests;

pub use error::LockError;
pub use name::{Level, LockName, NameError};
pub use request::{Mode, Want, Wants};
pub use row::{LockRow, LockWaiter};
pub use table::{Answer, HeldChange, LockTable, Outcome, PendingView, Step};
