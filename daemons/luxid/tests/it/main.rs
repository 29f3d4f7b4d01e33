//! luxid's pure read path against what a real Ganeti 3.0.2 server answered.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic, in its helpers too")]

mod cluster;
mod golden;
mod scale;
