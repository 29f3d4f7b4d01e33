//! Real sockets on both sides.

mod calls;
mod world;
