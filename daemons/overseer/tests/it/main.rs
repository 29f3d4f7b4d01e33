//! The overseer as a real process beside a luxid that is played here, on real sockets.

#![allow(clippy::unwrap_used, reason = "a failed step of a test ends it")]

mod luxid;
mod scenes;
mod stage;
mod world;
