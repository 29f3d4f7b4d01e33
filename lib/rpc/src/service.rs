//! What a daemon implements to answer calls.

use crate::error::ItemError;
use crate::link::Outbox;
use crate::window::Window;
use gantry_model::ids::{ClusterUuid, NodeUuid};
use gantry_proto::codec;
use gantry_proto::envelope::{Code, Fail, Part};
use gantry_proto::hello::Hello;
use gantry_proto::verb::Verb;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// The future of one call: the encoded reply, or why there is none.
pub type Handled = Pin<Box<dyn Future<Output = Result<Vec<u8>, Fail>> + Send>>;

/// A server of one protocol.
pub trait Service: Send + Sync + 'static {
    /// What the server says of itself; asked anew for each connection.
    fn hello(&self) -> Hello;

    /// Whether this caller may talk here at all. Protocol and version are already agreed.
    ///
    /// # Errors
    /// The reason, which the caller is told.
    fn accept(&self, peer: &Peer) -> Result<(), String> {
        let _ = peer;
        Ok(())
    }

    /// Answers one call. Calls of one connection come, and are first polled, in the order sent. The future is dropped when the caller cancels, closes, or its deadline passes: hand work
    /// that changes state to the state's owner first. It shares its task with the connection's other calls and
    /// must not block.
    fn handle(self: Arc<Self>, call: Call) -> Handled;

    /// This connection ended; its calls were dropped before. Called once for each peer that was accepted.
    fn gone(&self, peer: &Peer) {
        let _ = peer;
    }
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Numbers the connections of this process from 1.
    pub id: u64,
    /// What it says of itself.
    pub hello: Hello,
    /// The version agreed: the highest both know.
    pub version: u32,
    /// Its uid, on Unix sockets.
    pub uid: Option<u32>,
    /// Its pid, on Unix sockets.
    pub pid: Option<i32>,
    /// The cluster and node its verified certificate names, with mutual TLS.
    pub node: Option<(ClusterUuid, NodeUuid)>,
    /// What both ends of this TLS connection, and nobody else, can compute.
    pub exporter: Option<[u8; 32]>,
}

impl Peer {
    /// Whether it runs on this machine as root or as this process's own user: who may use sockets that are for
    /// Gantry's own daemons.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.uid.is_some_and(|uid| uid == 0 || uid == nix::unistd::geteuid().as_raw())
    }
}

/// One call.
pub struct Call {
    /// Who calls.
    pub peer: Arc<Peer>,
    /// Number of the verb.
    pub verb: u16,
    /// Names the piece of work in logs; may be empty.
    pub trace: String,
    /// Time the caller gives; None = as long as the connection stands. It is kept for the handler.
    pub deadline: Option<Duration>,
    pub(crate) body: Vec<u8>,
    pub(crate) id: u64,
    pub(crate) out: Arc<Outbox>,
    pub(crate) credit: Arc<Window>,
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Call(peer {}, call {}, verb {}, {} bytes)",
            self.peer.id,
            self.id,
            self.verb,
            self.body.len()
        )
    }
}

impl Call {
    /// Whether it is a `V`.
    #[must_use]
    pub fn is<V: Verb>(&self) -> bool {
        self.verb == V::ID
    }

    /// Its request.
    ///
    /// # Errors
    /// `BadRequest` when the bytes are none.
    pub fn request<V: Verb>(&self) -> Result<V::Request, Fail> {
        codec::decode(&self.body)
            .map_err(|error| Fail::new(Code::BadRequest, format!("{}: {error}", V::NAME)))
    }

    /// Where its items go. May be moved to another task and cloned.
    #[must_use]
    pub fn items<V: Verb>(&self) -> ItemSender<V> {
        ItemSender {
            id: self.id,
            out: Arc::clone(&self.out),
            credit: Arc::clone(&self.credit),
            of: PhantomData,
        }
    }
}

/// Sends the items of one stream.
pub struct ItemSender<V> {
    id: u64,
    out: Arc<Outbox>,
    credit: Arc<Window>,
    of: PhantomData<fn() -> V>,
}

impl<V> Clone for ItemSender<V> {
    fn clone(&self) -> Self {
        Self { id: self.id, out: Arc::clone(&self.out), credit: Arc::clone(&self.credit), of: PhantomData }
    }
}

impl<V: Verb> ItemSender<V> {
    /// Sends `item`, waiting while a whole window ([`crate::window`]) is under way. Dropping the future sends nothing.
    ///
    /// # Errors
    /// [`ItemError::Gone`] once the call is over, by whomever; [`ItemError::TooLarge`] for an item over a frame.
    pub async fn send(&self, item: &V::Item) -> Result<(), ItemError> {
        let encode = || self.out.encode(self.id, Part::Item { body: codec::encode(item)? });
        let bytes = encode().map_err(|error| ItemError::TooLarge(error.to_string()))?;
        let leave = self.credit.leave(bytes.len()).await.ok_or(ItemError::Gone)?;
        let room = self.out.room(bytes.len()).await.ok_or(ItemError::Gone)?;
        if self.credit.is_closed() {
            return Err(ItemError::Gone);
        }
        leave.used(|| self.out.push(bytes, Some(room)));
        Ok(())
    }

    /// Whether the call is over, so that sending fails.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.credit.is_closed()
    }
}

/// Encodes the reply of `V`.
///
/// # Errors
/// `Internal` when it does not fit a frame.
pub fn reply<V: Verb>(reply: &V::Reply) -> Result<Vec<u8>, Fail> {
    codec::encode(reply).map_err(|error| Fail::new(Code::Internal, format!("{}: {error}", V::NAME)))
}

/// The answer to a verb that is not served.
#[must_use]
pub fn unknown_verb(call: &Call) -> Fail {
    Fail::new(Code::UnknownVerb, format!("verb {} is not known here", call.verb))
}
