//! The families of commands, a module each: options in, LUXI conversation and printed lines out.

pub mod cluster;
pub mod daemon;
pub mod debug;
pub mod group;
pub mod instance;
pub mod job;
pub mod node;
pub mod tags;
