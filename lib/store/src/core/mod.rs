//! The rules of a replicated log, without any I/O: what a copy may promise and accept, what counts as
//! committed, whom a recovering writer may believe, and which lists of members may follow each other.
//!
//! Nothing here opens a file, asks a clock or draws a number; `io` calls these functions inside its
//! transactions and does what they say. The rules are those of `protocols.md` P1 and P2, and each can be
//! taken away in a test ([`Rules`]) to see that it is needed.

pub mod commit;
pub mod copy;
pub mod list;
pub mod recover;
pub mod row;
pub mod rules;

#[cfg(test)]
mod sim;

pub use rules::Rules;
