//! RConfD: what it answers, whom, and that it goes on doing so. The last modules run the real program on real files.

#![allow(clippy::unwrap_used, reason = "a failed step of a test ends it")]

mod admit;
mod age;
mod answers;
mod gate;
mod history;
mod objects;
mod process;
mod storm;
mod world;
