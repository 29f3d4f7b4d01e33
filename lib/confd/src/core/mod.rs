//! The protocol without sockets: what is signed, what is asked, what is answered, when a client has heard enough. Pure.

pub mod ascii;
pub mod collect;
pub mod keys;
pub mod reply;
pub mod request;
pub mod wants;
pub mod wire;
