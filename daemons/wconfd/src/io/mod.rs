//! The shell around the core: the owner of all state, its store, the nodes it calls.

pub mod authority;
pub mod claim;
pub mod effects;
mod lease_time;
pub mod mailbox;
pub mod members;
pub mod nodes;
pub mod owner;
pub mod owner_locks;
mod owner_members;
pub mod owner_watch;
pub mod ssconf;
