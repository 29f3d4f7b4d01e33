//! The files of a log and the thread that writes them. Decides nothing that `core` decides.

mod admit;
pub mod alone;
pub mod aside;
pub mod backup;
mod compact;
pub mod copy;
pub mod create;
mod disk;
pub mod feed;
pub mod files;
pub mod flushed;
mod install;
mod lock;
pub mod log;
pub mod look;
mod objects;
pub mod opened;
mod place;
pub mod read;
pub mod reader;
pub mod seed;
pub mod snapshot;
pub mod sql;
pub mod start;
mod turn;
mod whole;
pub mod writer;

#[cfg(test)]
mod tests;
