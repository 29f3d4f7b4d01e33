//! The first frame both ways: what is said, and what is refused.

use crate::error::ConnectError;
use crate::link::{Frames, LinkError, frame_error};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use gantry_proto::hello::{HELLO_BYTES_MAX, Hello};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest reason in a refusal, so that the hello around it fits.
const REASON_BYTES_MAX: usize = 1_024;

/// What a refused caller may still send before it reads the refusal.
const REFUSED_DRAIN_BYTES: u64 = 64 << 10;

/// The highest version both lists have.
pub(crate) fn common_version(ours: &[u32], theirs: &[u32]) -> Option<u32> {
    ours.iter().copied().filter(|version| theirs.contains(version)).max()
}

/// The first frame's bytes, length included, of `hello`.
///
/// # Errors
/// `InvalidInput` when it is over [`HELLO_BYTES_MAX`].
pub(crate) fn hello_bytes(hello: &Hello) -> io::Result<Bytes> {
    let body =
        serde_json::to_vec(hello).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    if body.len() > HELLO_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a hello of {} bytes", body.len())));
    }
    Ok(Bytes::from(body))
}

/// Reads a hello.
pub(crate) fn parse_hello(bytes: &[u8]) -> Result<Hello, String> {
    let hello: Hello = serde_json::from_slice(bytes).map_err(|error| format!("not a hello: {error}"))?;
    if hello.frame_limit < HELLO_BYTES_MAX as u64 {
        return Err(format!("a frame limit of {} bytes is too small", hello.frame_limit));
    }
    Ok(hello)
}

/// Writes `hello`.
pub(crate) async fn send<T: AsyncRead + AsyncWrite + Unpin>(
    frames: &mut Frames<T>,
    hello: &Hello,
) -> io::Result<()> {
    frames.send(hello_bytes(hello)?).await
}

/// Reads the peer's hello. Ok(Err) says what is wrong with what came instead.
pub(crate) async fn receive<T: AsyncRead + AsyncWrite + Unpin>(
    frames: &mut Frames<T>,
) -> io::Result<Result<Hello, String>> {
    match frames.next().await {
        None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed before its hello")),
        Some(Ok(frame)) => Ok(parse_hello(&frame)),
        Some(Err(error)) if is_alert(&error) => Err(error),
        Some(Err(error)) => match frame_error(error) {
            LinkError::Io(error) => Err(error),
            other @ (LinkError::Garbage(_) | LinkError::Stalled(_)) => {
                Ok(Err(format!("not a hello: {other}")))
            }
        },
    }
}

/// Whether the other side of a TLS connection has ended it, and has said why.
fn is_alert(error: &io::Error) -> bool {
    #[cfg(feature = "tls")]
    let is = crate::tls::alert(error).is_some();
    #[cfg(not(feature = "tls"))]
    let is = {
        let _ = error;
        false
    };
    is
}

/// The caller's half: says `ours`, reads and judges the server's.
pub(crate) async fn call<T: AsyncRead + AsyncWrite + Unpin>(
    frames: &mut Frames<T>,
    ours: &Hello,
) -> Result<Hello, ConnectError> {
    let sent = send(frames, ours).await;
    let theirs = match (receive(frames).await, sent) {
        // Who does not believe our certificate has closed before this was sent, and has said so.
        (Err(alert), _) if is_alert(&alert) => Err(alert),
        (_, Err(error)) => Err(error),
        (received, Ok(())) => received,
    };
    let theirs = theirs.map_err(ConnectError::Io)?.map_err(ConnectError::Hello)?;
    let common = common_version(&ours.versions, &theirs.versions);
    match theirs.refused {
        _ if theirs.protocol != ours.protocol => Err(ConnectError::Hello(format!(
            "the peer speaks {:?}, not {:?}",
            theirs.protocol, ours.protocol
        ))),
        _ if common.is_none() => {
            Err(ConnectError::Version { ours: ours.versions.clone(), theirs: theirs.versions })
        }
        Some(why) => Err(ConnectError::Refused(why)),
        None => Ok(theirs),
    }
}

/// The server's judgement of a caller's hello, before the service has its say.
pub(crate) fn judge(ours: &Hello, theirs: &Hello) -> Result<u32, String> {
    if theirs.protocol != ours.protocol {
        return Err(format!("this socket speaks {:?}, not {:?}", ours.protocol, theirs.protocol));
    }
    common_version(&ours.versions, &theirs.versions).ok_or_else(|| {
        format!("no common version: this side knows {:?}, the caller {:?}", ours.versions, theirs.versions)
    })
}

/// Tells the caller why it is refused, and closes. The caller must bound the time.
pub(crate) async fn refuse<T: AsyncRead + AsyncWrite + Unpin>(mut frames: Frames<T>, ours: Hello, why: &str) {
    if send(&mut frames, &refusal(ours, why)).await.is_err() {
        return;
    }
    let stream = frames.get_mut();
    if stream.shutdown().await.is_ok() {
        // A socket closed with unread bytes resets, and the refusal would be lost on the way.
        let _ = tokio::io::copy(&mut stream.take(REFUSED_DRAIN_BYTES), &mut tokio::io::sink()).await;
    }
}

/// `ours` with the reason in it.
pub(crate) fn refusal(mut ours: Hello, why: &str) -> Hello {
    let mut end = why.len().min(REASON_BYTES_MAX);
    while !why.is_char_boundary(end) {
        end -= 1;
    }
    ours.refused = Some(why[..end].to_owned());
    ours
}
