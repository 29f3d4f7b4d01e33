//! The pure core of wconfd: no clock, no files, no sockets.

pub mod claim;
pub mod config;
pub mod guard;
pub mod locks;
pub mod ssconf;
