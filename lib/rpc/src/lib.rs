//! Connections between Gantry's processes (DESIGN §4): Unix sockets inside a node, mutual TLS between
//! nodes, one layer of frames, hello and envelope above both.
//!
//! Owns how bytes get from one process to another, and every bound on the way. Knows no verb: those are
//! `gantry_proto`'s, and a daemon's [`Service`] answers them.
//!
//! ```text
//! caller ── Client ── one task ══ frames ══ one task ── Service::handle, one future a call
//! ```
//!
//! Each side has one task a connection. The server's task also polls the futures of that connection's calls, so
//! they are dropped at once when the peer closes or cancels: a handler hands work that changes state to the state's
//! owner (an actor, a task) before it waits for it, and only the reply is lost. It also means that a handler must
//! not block.

mod client;
mod conn;
mod error;
mod greet;
mod link;
pub mod parcel;
mod quiet;
mod route;
mod serve;
mod service;
#[cfg(feature = "tls")]
pub mod tls;
pub mod unix;
mod window;

pub use client::{Client, Event, Stream};
pub use error::{CallError, ConnectError, ItemError};
pub use gantry_proto::codec::FRAME_BYTES_MAX;
pub use gantry_proto::envelope::{Code, Fail};
pub use gantry_proto::hello::Hello;
pub use gantry_proto::verb::Verb;
pub use quiet::QuietStream;
#[cfg(feature = "tls")]
pub use serve::serve_tls;
pub use serve::{Facts, Limits, serve_stream, serve_stream_until, serve_unix};
pub use service::{Call, Handled, ItemSender, Peer, Service, reply, unknown_verb};

use std::time::Duration;

/// How long connecting may take, TLS and hello included. Local peers need microseconds, nodes a few round trips.
pub const CONNECT_MS: u64 = 5_000;

/// How long a server waits for a caller's handshake and hello before it closes.
pub const HELLO_MS: u64 = 5_000;

/// Connections at once on one listening socket (DESIGN §4); further ones are refused with a reason.
pub const CONNECTIONS_MAX: usize = 1_024;

/// Calls under way on one connection. Callers wait for a place; a server answers `Busy` to a caller that does not.
pub const CALLS_MAX: usize = 256;

/// Bytes of requests under way on one connection, so that [`CALLS_MAX`] calls can't hold 1 GiB: four whole frames.
pub const REQUEST_BYTES_MAX: usize = 4 * FRAME_BYTES_MAX;

/// Bytes queued for writing on one connection before senders wait: two whole frames.
pub const WRITE_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX;

/// How long a frame may stand half read or half written without a byte of progress before the connection closes.
pub const STALL_MS: u64 = 30_000;

/// How long calls under way may take to end once the server was told to stop.
pub const DRAIN_MS: u64 = 250;

/// How long a closing side lets its last frame out.
pub(crate) const LINGER: Duration = Duration::from_secs(1);
