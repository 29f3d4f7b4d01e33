//! The pure half: what this start of the job has done so far and what luxid knows of it, where VMs go, what a step
//! became, what a node's roles are, which hooks
//! an opcode has, who asks ConfD in its old form, where the cluster's address should be.

pub mod address;
pub mod board;
pub mod candidates;
pub mod confd_legacy;
pub mod crypto;
pub mod hooks;
pub mod join;
pub mod patience;
pub mod place;
pub mod renew;
pub mod report;
pub mod roles;
pub mod together;
