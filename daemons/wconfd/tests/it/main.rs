//! The daemon as a process: real sockets, real files, kill -9.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

mod backup;
mod changes;
mod init;
mod large;
mod leases;
mod locks;
mod nodes;
mod owners;
mod uncommitted;
mod watch;
mod world;
