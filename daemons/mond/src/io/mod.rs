//! Sockets, files, processes and clocks of MonD.

pub mod access;
pub mod cgroup;
pub mod cluster;
pub mod collect;
pub mod confd;
pub mod daemons;
pub mod gate;
pub mod http;
pub mod lvs;
pub mod node;
pub mod proofs;
pub mod sources;
pub mod watched;
