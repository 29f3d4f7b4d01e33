//! Real sockets on both sides.

mod abuse;
mod calls;
mod tls;
mod world;
