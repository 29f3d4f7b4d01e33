//! The pure core of wconfd: no clock, no files, no sockets.

pub mod locks;
