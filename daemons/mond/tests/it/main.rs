//! The real program against the real machine and made-up ones: what it answers, what it survives.

mod collector;
mod http;
mod scenes;
mod stage;
