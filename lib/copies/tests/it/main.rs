//! Whole clusters of copies in one process: real stores, noded's server half, links that lose, delay and cut.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod damage;
mod failover;
mod feeding;
mod storm;
mod world;
