//! The kernel's side: control groups, mounts, the runtime, the spool.

pub mod cgroup;
pub mod runtime;
pub mod spool;
pub mod stage;
