//! Sockets, files and connections of a job. Decides nothing.

pub mod bodies;
pub mod master;
pub mod members;
pub mod nodes;
pub mod server;
pub mod spool;
