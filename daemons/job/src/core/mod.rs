//! The pure half: what this start of the job has done so far, and what luxid knows of it.

pub mod board;
pub mod join;
pub mod place;
