//! The pure part: what is seen, what follows from it, and when to look. No socket, no clock.

pub mod agenda;
pub mod away;
pub mod job;
pub mod pass;
pub mod plan;
pub mod restraint;
pub mod rows;
pub mod seen;
