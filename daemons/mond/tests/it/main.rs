//! The real program against the real machine and made-up ones: what it answers, what it survives.

#![allow(clippy::unwrap_used, reason = "a failed step of a test ends it")]

mod collector;
mod http;
mod scenes;
mod stage;
mod tls;
