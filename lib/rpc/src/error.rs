//! Errors of connecting, calling and streaming.

use gantry_proto::codec::CodecError;
use gantry_proto::envelope::{Code, Fail};
use std::io;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The socket or the TLS handshake failed.
    #[error("can't connect")]
    Io(#[source] io::Error),
    /// The peer's first frame is no hello, or one for something else.
    #[error("bad hello: {0}")]
    Hello(String),
    /// The server refused this caller, and why.
    #[error("refused: {0}")]
    Refused(String),
    /// No version is known to both sides.
    #[error("no common version: we know {ours:?}, the peer knows {theirs:?}")]
    Version {
        /// Ours.
        ours: Vec<u32>,
        /// The peer's.
        theirs: Vec<u32>,
    },
    /// The certificate is another node's, or nobody's.
    #[error("wrong peer: wanted {wanted}, found {found}")]
    WrongPeer {
        /// The name wanted, `gantry:CLUSTER/NODE`.
        wanted: String,
        /// The name found, or what is wrong with the certificate.
        found: String,
    },
    /// A node of the cluster lives there, and one side does not believe the other's certificate: they are of different CAs.
    #[error("it lives, and certificates are not believed: {0}")]
    Distrust(String),
    /// [`crate::CONNECT_MS`] passed.
    #[error("timed out while connecting")]
    TimedOut,
}

impl ConnectError {
    /// Whether nobody listens on the socket (connect refused): the one answer that proves a local server dead
    /// (P4.5). A full backlog, a time-out or a missing file are not it.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused)
    }

    /// Whether there is no such socket file.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

/// Why a call has no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The connection ended, and why. Whether the call was carried out is not known.
    #[error("connection closed: {0}")]
    Closed(String),
    /// No answer in time. Whether the call was carried out is not known.
    #[error("no answer to {verb} within {ms} ms")]
    Deadline {
        /// Name of the verb.
        verb: &'static str,
        /// The time given.
        ms: u64,
    },
    /// The server's answer is a failure.
    #[error(transparent)]
    Fail(#[from] Fail),
    /// The request can't be sent (too large), or the answer is not what the verb says.
    #[error("protocol error: {0}")]
    Protocol(String),
}

impl CallError {
    /// The code, when the server answered with a failure.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Fail(fail) => Some(fail.code),
            Self::Closed(_) | Self::Deadline { .. } | Self::Protocol(_) => None,
        }
    }
}

impl From<CodecError> for CallError {
    fn from(error: CodecError) -> Self {
        Self::Protocol(error.to_string())
    }
}

/// Why an item was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ItemError {
    /// The caller cancelled, closed, or the call has ended.
    #[error("the caller is gone")]
    Gone,
    /// The item does not fit a frame.
    #[error("{0}")]
    TooLarge(String),
}

impl From<ItemError> for Fail {
    fn from(error: ItemError) -> Self {
        Fail::new(Code::Internal, error.to_string())
    }
}
