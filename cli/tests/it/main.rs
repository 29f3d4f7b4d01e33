//! The program against a scripted luxid: a real socket, a real process, each request checked.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test may panic")]

mod images;
mod leases;
mod pools;
mod scenes;
mod stage;
mod streamd;
mod tasks;
