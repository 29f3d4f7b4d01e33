//! The `gnt-*` commands and the front command `gantry`: one program, many names (DESIGN §9).
//!
//! Talks LUXI to luxid and, for making and ending a cluster, to this node's boot. Owns no state: what it
//! knows it asks for. [`args`] parses and dispatches, [`command`] has a module per family, [`job`] and
//! [`list`] are the two conversations they share, [`output`] is what Ganeti's users expect to read.

pub mod archive;
pub mod args;
mod away;
pub mod command;
pub mod error;
pub mod filter;
pub mod job;
pub mod list;
pub mod local;
pub mod luxi;
pub mod opcode;
pub mod output;
pub mod params;
pub mod progress;
pub mod session;
pub mod spool;
pub mod stream;
