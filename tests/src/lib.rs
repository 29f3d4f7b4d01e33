//! Virtual clusters: several nodes on this machine as real processes, each with a root directory and a loopback
//! address of its own. Used by the whole-cluster tests, `cargo xtask dev-cluster` and the benches.
//! Speaks to the programs only as their users do: command lines, sockets, files.

pub mod bounded;
pub mod cluster;
pub mod examples;
pub mod foreign;
pub mod leak;
pub mod luxi;
pub mod mond;
pub mod net;
pub mod pool;
pub mod process;
pub mod random;
pub mod rest;
pub mod sockets;
pub mod task;
pub mod wait;

pub use cluster::{Node, Options, VirtualCluster};
pub use luxi::Luxi;
pub use random::Random;
