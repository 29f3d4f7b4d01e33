//! The outside of boot: processes, health, the role file.

pub mod elect;
pub mod health;
pub mod process;
pub mod role;
