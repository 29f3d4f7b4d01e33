//! The server of `stream.sock` over a real socket, with a node and a wconfd played by this program: real TLS, real
//! frames, a real body store.

#![allow(clippy::unwrap_used, reason = "a failed step of a test ends it")]

mod bed;
mod fakes;
mod leases;
mod limits;
mod tasks;
