//! Output of one command, from its node to a caller, by offset.

use gantry_model::error::{Ecode, GanetiError};
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::noded::{CommandEnd, OutputPiece, Stream, VmCommandRef, VmWait, VmWaitRequest};
use gantry_rpc::{CallError, Client, Event};
use std::future::Future;
use std::time::Duration;

/// Where a relay stands: the first bytes wanted of both streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Offsets {
    pub out: u64,
    pub err: u64,
}

/// Why a relay ended before the command did.
#[derive(Debug)]
pub(super) enum Broken {
    /// The node, or the way to it, failed.
    Node(CallError),
    /// The caller can't be sent to any more.
    Caller(Fail),
    /// Nothing came for the time given.
    Quiet,
}

/// Who takes the pieces.
pub(super) trait Sink: Send + Sync {
    fn take(&self, piece: OutputPiece) -> impl Future<Output = Result<(), Fail>> + Send;
}

/// Relays until the command ends, or, with `quiet`, until nothing came for so long. The offsets follow what was taken,
/// so that the relay can go on with another connection. Safe to drop.
pub(super) async fn relay(
    client: &Client,
    of: &VmCommandRef,
    offsets: &mut Offsets,
    quiet: Option<Duration>,
    sink: &impl Sink,
) -> Result<CommandEnd, Broken> {
    let request = VmWaitRequest { of: of.clone(), out: Some(offsets.out), err: Some(offsets.err) };
    let mut stream = client.open::<VmWait>(&request).await.map_err(Broken::Node)?;
    loop {
        let next = match quiet {
            Some(quiet) => tokio::time::timeout(quiet, stream.next()).await.map_err(|_| Broken::Quiet)?,
            None => stream.next().await,
        };
        match next.map_err(Broken::Node)? {
            Event::End(end) => return Ok(end),
            Event::Item(piece) => {
                let (stream, end) = (piece.stream, piece.offset + piece.bytes.len() as u64);
                sink.take(piece).await.map_err(Broken::Caller)?;
                match stream {
                    Stream::Out => offsets.out = end,
                    Stream::Err => offsets.err = end,
                }
            }
        }
    }
}

/// Class of a driver's failure that a node names in the failure's body: a VM's disk has no room for it.
const NO_SPACE: &[u8] = b"no-space";

/// Whether a call to a node may be repeated: it was not answered, or not now.
pub(super) fn passes(why: &CallError) -> bool {
    match why {
        // Asking again makes no room.
        CallError::Fail(fail) if fail.body == NO_SPACE => false,
        CallError::Closed(_) | CallError::Deadline { .. } => true,
        CallError::Fail(fail) => matches!(fail.code, Code::Busy | Code::NotReady),
        CallError::Protocol(_) => false,
    }
}

/// What a node answered, in words for users.
pub(super) fn told(node: &str, why: &CallError) -> Fail {
    let text = format!("node {node}: {why}");
    if matches!(why, CallError::Fail(fail) if fail.body == NO_SPACE) {
        return GanetiError::prereq(text, Ecode::InsufficientResources).into();
    }
    match why.code() {
        Some(Code::BadRequest) => GanetiError::prereq(text, Ecode::WrongInput).into(),
        Some(Code::NotFound) => GanetiError::prereq(text, Ecode::UnknownEntity).into(),
        Some(Code::Stale) => GanetiError::prereq(text, Ecode::WrongState).into(),
        Some(Code::Busy) => Fail::new(Code::Busy, text),
        _ => GanetiError::exec(text).into(),
    }
}
