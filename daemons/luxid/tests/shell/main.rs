//! luxid as a real process: real store, real sockets, real job processes. Only the jobs' program and wconfd are
//! played by this test binary.

#![allow(clippy::unwrap_used, reason = "a failed step of a test ends it")]

mod fake_job;
mod fake_pool;
mod fake_wconfd;
mod server;
mod silent;
mod starts;
mod streams;
mod tasks;
mod world;
