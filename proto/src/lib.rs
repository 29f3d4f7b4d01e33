//! Wire types of Gantry's inside protocols (DESIGN §4): the first frame ([`hello`]), the frames after it
//! ([`envelope`]), their one encoding ([`codec`]), and a module per service with its verbs.
//!
//! Types here are what travels, nothing more: no rules, no I/O. A verb's number and the order of its
//! fields are frozen by golden bytes from release 0.1.0 on; new fields mean a new verb or a new version.

pub mod admin;
pub mod boot;
pub mod codec;
pub mod copies;
pub mod effects;
pub mod envelope;
pub mod hello;
pub mod job;
pub mod noded;
pub mod stream;
pub mod verb;
pub mod vmd;
pub mod wconfd;
