//! Gantry's domain types and the rules that need nothing but them. No I/O (but the wall clock in
//! [`time`]), no async, no storage: every daemon, the CLI and the lean job process build on this.

pub mod collector;
pub mod config;
pub mod defaults;
pub mod error;
pub mod ids;
pub mod job;
pub mod lease;
pub mod master_ip;
pub mod names;
pub mod network;
pub mod opcode;
pub mod path;
pub mod pool;
pub mod role;
pub mod root;
pub mod task;
pub mod time;
