//! wconfd.

pub mod core;
