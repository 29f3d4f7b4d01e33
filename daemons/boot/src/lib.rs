//! Boot: starts a node's daemons in order, restarts what died, stops in reverse (DESIGN §1, "Boot").
//!
//! Owns the daemons' processes and their pid files, and says on `boot.sock` how they stand. Decides nothing
//! about the cluster: `role.json`, written by noded and init, says which daemons run here.
//!
//! ```text
//!  role.json ─┐
//!  boot.sock ─┤                     ┌─▶ spawn, SIGTERM, SIGKILL
//!  health ────┼─▶ shell ─▶ Table ───┤
//!  SIGCHLD ───┤   (one task, core)  └─▶ answers on boot.sock
//!  pidfds ────┘
//! ```
//!
//! Daemons are in process groups of their own and live on when boot is killed; the next boot on the root
//! adopts them. Boot is the subreaper of what they leave behind.

mod api;
pub mod config;
pub mod core;
mod detach;
mod failover;
mod held;
mod io;
mod shell;

pub use detach::{detach, leave_session};
pub use held::{Held, hold};
pub use shell::run;
