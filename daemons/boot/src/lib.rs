//! boot.
pub mod core;
