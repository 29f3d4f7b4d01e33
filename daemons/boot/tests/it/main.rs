//! Boot as a real process with real daemons: this test program, started again under their names.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test may panic")]

mod failover;
mod play;
mod scenes;
