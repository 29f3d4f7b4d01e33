//! The rules of a replicated log, without any I/O: what a copy may promise and accept, what counts as
//! committed, whom a recovering writer may believe, which lists of members may follow each other, what may be
//! forgotten, and how a node becomes master.
//!
//! Nothing here opens a file, asks a clock or draws a number; `io` calls these functions inside its
//! transactions and does what they say. The rules are those of `protocols.md` P1 and P2, and each can be
//! taken away in a test ([`Rules`]) to see that it is needed.

pub mod commit;
pub mod compact;
pub mod copy;
pub mod elect;
pub mod list;
pub mod recover;
pub mod row;
pub mod rules;
pub mod settle;
pub mod snapshot;
pub mod token;

#[cfg(test)]
mod sim;

pub use rules::Rules;
