//! ConfD (`spec/confd.md`): signed UDP datagrams by which anybody with the cluster's `hmac.key` asks any master candidate
//! for the configuration. Both forms, the legacy one byte for byte as Ganeti speaks it, and a client.
//!
//! | room | what |
//! |---|---|
//! | [`core`] | datagrams, requests, replies, and when a client has heard enough: pure |
//! | [`client`] | asks several candidates at once and takes the newest answer |
//! | [`files`] | what a node's files say of candidates, key and form |
//!
//! The server is `daemons/rconfd`. Nothing here knows what an answer means.

pub mod client;
pub mod core;
pub mod files;

pub use crate::core::keys::{KeyError, Keys};
pub use crate::core::request::{Kind, MasterField, Query, Request, Selection};
pub use crate::core::wire::{Form, REPLY_BYTES_MAX, REQUEST_BYTES_MAX};
