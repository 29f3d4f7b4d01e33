//! The files of a log and the thread that writes them. Decides nothing that `core` decides.

pub mod alone;
pub mod copy;
pub mod create;
pub mod files;
mod lock;
pub mod log;
pub mod look;
mod objects;
pub mod opened;
pub mod read;
pub mod seed;
mod sql;
pub mod start;
mod turn;
pub mod writer;

#[cfg(test)]
mod tests;
