//! The families of commands, a module each: options in, LUXI conversation and printed lines out.

pub mod blueprint;
pub mod cluster;
pub mod confd;
pub mod daemon;
pub mod debug;
pub mod group;
pub mod instance;
pub mod job;
pub mod lease;
pub mod node;
pub mod os;
pub mod pool;
pub mod slot;
pub mod tags;
pub mod task;
