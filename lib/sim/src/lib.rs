//! A simulation of copies, elections and failovers over the real rules of `gantry_store::core`.
//!
//! It owns a world of a few nodes: their disks (what is written and what is flushed), the writers of both logs,
//! the failover command, and a network that loses, delays, repeats and reorders. It decides nothing that the
//! cores can decide; each event calls the functions that the daemons call. Two drivers use it:
//!
//! ```text
//!  chance (a seed) ──┐                     ┌─▶ watch: what was acknowledged is in every later master's log;
//!                    ├─▶ world ─ core fns ─┤   logs never fork below commit; what was cut for good stays away;
//!  search (all) ─────┘                     └─▶ an effect has its cause; what `--no-voting` loses was said
//! ```
//!
//! A seed that breaks a promise prints the one command that plays it again (`tests/seeds.rs`); the searches and
//! the rules taken away one by one are in `tests/`.

pub mod chance;
pub mod disk;
pub mod leader;
mod on_copy;
mod on_master;
mod on_writer;
pub mod watch;
pub mod world;
