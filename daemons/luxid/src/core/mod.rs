//! The pure half of luxid: no sockets, files, clocks or randomness. What comes from outside comes in as an
//! argument; what shall happen outside goes out as a value. `io` performs it.

pub mod admission;
pub mod cluster_info;
pub mod luxi;
pub mod mirror;
pub mod query;
pub mod queue;
pub mod single;
pub mod task_log;
