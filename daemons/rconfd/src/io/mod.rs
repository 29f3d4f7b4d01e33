//! Sockets, files, the clock.

pub mod keys;
pub mod load;
pub mod metrics;
pub mod near;
pub mod serve;
pub mod shared;
pub mod watch;
