//! Decisions of RConfD: what the configuration answers, who is answered, what is remembered. Pure.

pub mod admit;
pub mod answer;
pub mod cache;
pub mod gate;
pub mod keep;
pub mod options;
pub mod pace;
pub mod pointer;
pub mod shape;
pub mod shards;
pub mod snapshot;
