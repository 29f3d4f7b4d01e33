//! Every frame after the hello. One connection carries many calls at once, each under its own id.

use serde::{Deserialize, Serialize};

/// Items a stream's sender may have under way before the receiver gives more credit. Their bytes are bounded, too, by both
/// sides of `lib/rpc`.
pub const STREAM_WINDOW: u32 = 64;

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The call, numbered by the caller from 1, never reused on a connection.
    pub id: u64,
    /// What it says.
    pub part: Part,
}

/// What a frame says. New variants are appended, and sent only to peers whose version knows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// Caller: do this.
    Request {
        /// The verb's number.
        verb: u16,
        /// Milliseconds until the caller gives up; 0 = it waits as long as the connection stands.
        deadline_ms: u64,
        /// Names the piece of work in logs on both sides; may be empty.
        trace: String,
        /// The request, by verb and version.
        #[serde(with = "crate::codec::raw")]
        body: Vec<u8>,
    },
    /// Server: done; ends the call.
    Reply {
        /// The reply, by verb and version.
        #[serde(with = "crate::codec::raw")]
        body: Vec<u8>,
    },
    /// Server: not done; ends the call.
    Fail(Fail),
    /// Server: one item of a stream.
    Item {
        /// The item, by verb and version.
        #[serde(with = "crate::codec::raw")]
        body: Vec<u8>,
    },
    /// Caller: it no longer wants the answer. Work that changes state goes on to its end.
    Cancel,
    /// Caller: it has taken so many items of the stream, as many more may come.
    Credit {
        /// Items taken since the last credit.
        items: u32,
    },
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Fail {
    /// For programs.
    pub code: Code,
    /// For people: what, why, what to do.
    pub text: String,
    /// Details by verb; for [`Code::Ganeti`] the JSON of `[class, [args]]`.
    #[serde(with = "crate::codec::raw")]
    pub body: Vec<u8>,
}

/// Classes of failures that callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Code {
    /// The server does not know the verb.
    UnknownVerb,
    /// The body is no request of this verb.
    BadRequest,
    /// The caller may not do this.
    Denied,
    /// A Ganeti error for the user; the body has it.
    Ganeti,
    /// The (epoch, ballot) of the caller is out of date: it must end.
    Fenced,
    /// Generation, lease or revision is not the current one.
    Stale,
    /// A limit is reached; try later.
    Busy,
    /// Time ran out on the server.
    Deadline,
    /// The outcome is not known: ask again with the same key.
    Unknown,
    /// The server is stopping, or not ready yet.
    NotReady,
    /// Not there.
    NotFound,
    /// A bug or a broken machine on the server's side.
    Internal,
}

impl Fail {
    /// A failure without details.
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), body: Vec::new() }
    }

    /// A Ganeti error.
    #[must_use]
    pub fn ganeti(error: &gantry_model::error::GanetiError) -> Self {
        Self { code: Code::Ganeti, text: error.to_string(), body: error.to_value().to_string().into_bytes() }
    }

    /// The Ganeti error in it, if it is one.
    #[must_use]
    pub fn as_ganeti(&self) -> Option<gantry_model::error::GanetiError> {
        if self.code != Code::Ganeti {
            return None;
        }
        let value = serde_json::from_slice(&self.body).ok()?;
        gantry_model::error::GanetiError::from_value(&value)
    }
}

impl From<gantry_model::error::GanetiError> for Fail {
    fn from(error: gantry_model::error::GanetiError) -> Self {
        Self::ganeti(&error)
    }
}
