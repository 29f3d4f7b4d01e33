//! The pure part: who should run, and what follows from each event. No clock, no process, no file.

pub mod elect;
pub mod supervise;
