//! A Unix stream socket that is woken by what comes, not by what went.
//!
//! Whenever a peer takes something from such a socket, the kernel tells the sender that there is room, whether it was full or
//! not (`unix_write_space`). tokio's own type listens for that, so each message costs its sender a wake-up in which there is
//! nothing to do: half of all wake-ups between the daemons of a node. Here room is listened for only while there is none.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// Most bytes of one read: room that is read into is cleared first, however little comes.
const READ_BYTES: usize = 16 << 10;

/// A connected Unix stream socket.
#[derive(Debug)]
pub struct QuietStream {
    io: AsyncFd<UnixStream>,
    /// The same socket under another number, listened to for room; there while there was none.
    full: Option<AsyncFd<OwnedFd>>,
}

impl QuietStream {
    /// Takes over a connected socket.
    ///
    /// # Errors
    /// When it can't be watched.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { io: watch(stream, Interest::READABLE)?, full: None })
    }

    /// Takes over one of tokio's.
    ///
    /// # Errors
    /// When it can't be watched.
    pub fn of(stream: tokio::net::UnixStream) -> io::Result<Self> {
        Self::new(stream.into_std()?)
    }

    /// The socket.
    #[must_use]
    pub fn get_ref(&self) -> &UnixStream {
        self.io.get_ref()
    }

    /// Waits for room in the socket, which has just had none.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let full = match &self.full {
            Some(full) => full,
            None => {
                let copy = self.io.get_ref().as_fd().try_clone_to_owned()?;
                self.full.insert(watch(copy, Interest::WRITABLE)?)
            }
        };
        // Forgotten before the next attempt, so that room which comes after that one is told.
        ready!(full.poll_write_ready(cx))?.clear_ready();
        Poll::Ready(Ok(()))
    }
}

#[allow(deprecated, reason = "its flaw is types that change their descriptor; these do not")]
fn watch<T: AsRawFd>(io: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(io, interest)
}

impl AsyncRead for QuietStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.io.poll_read_ready(cx))?;
            let room = buf.initialize_unfilled_to(buf.remaining().min(READ_BYTES));
            let Ok(got) = ready.try_io(|io| io.get_ref().read(room)) else { continue };
            let got = got?;
            // Less than there was room for: all is read, and more is told.
            if got > 0 && got < room.len() {
                ready.clear_ready();
            }
            buf.advance(got);
            return Poll::Ready(Ok(()));
        }
    }
}

impl AsyncWrite for QuietStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.io.get_ref().write(bytes) {
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => ready!(self.poll_room(cx))?,
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                done => {
                    self.full = None;
                    return Poll::Ready(done);
                }
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.io.get_ref().shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn pair() -> (QuietStream, QuietStream) {
        let (one, other) = UnixStream::pair().expect("a pair");
        (QuietStream::new(one).expect("watched"), QuietStream::new(other).expect("watched"))
    }

    /// More than the kernel holds, both ways at once, in pieces of all sizes.
    #[tokio::test]
    async fn all_that_is_written_is_read() {
        const BYTES: usize = 5 << 20;
        let (one, other) = pair();
        let text: Vec<u8> = (0..BYTES).map(|at| u8::try_from(at % 251).expect("small")).collect();
        let ends = [one, other].map(|stream| {
            let text = text.clone();
            let (mut reader, mut writer) = tokio::io::split(stream);
            let wrote = tokio::spawn(async move {
                let mut rest = &text[..];
                let mut size = 1;
                while !rest.is_empty() {
                    let (now, later) = rest.split_at(rest.len().min(size));
                    writer.write_all(now).await.expect("written");
                    (rest, size) = (later, size * 3 % 300_007 + 1);
                }
                writer.shutdown().await.expect("shut");
            });
            let read = tokio::spawn(async move {
                let mut all = Vec::new();
                reader.read_to_end(&mut all).await.expect("read");
                all
            });
            (wrote, read)
        });
        for (wrote, read) in ends {
            wrote.await.expect("writer");
            assert!(read.await.expect("reader") == text, "another text came");
        }
    }

    /// A writer without room waits until there is some, and an end that closes is told.
    #[tokio::test]
    async fn a_full_socket_is_waited_for_and_a_closed_one_refused() {
        let (mut one, mut other) = pair();
        let piece = vec![7; 64 << 10];
        let mut sent = 0;
        while let Ok(wrote) = tokio::time::timeout(Duration::from_millis(50), one.write(&piece)).await {
            sent += wrote.expect("written");
        }
        assert!(one.full.is_some() && sent > 0);
        let mut taken = vec![0; sent];
        let (read, wrote) = tokio::join!(other.read_exact(&mut taken), one.write(b"more"));
        assert_eq!((read.expect("read"), wrote.expect("written")), (sent, 4));
        assert!(one.full.is_none(), "still listens for room");
        drop(other);
        assert_eq!(one.write(b"x").await.expect_err("refused").kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(one.read(&mut taken).await.map_err(|why| why.kind()), Err(io::ErrorKind::ConnectionReset));
    }

    /// The peer's taking what was sent is no event.
    #[tokio::test]
    async fn what_is_taken_wakes_nobody() {
        let (mut one, mut other) = pair();
        one.write_all(b"question").await.expect("written");
        let mut text = [0; 8];
        other.read_exact(&mut text).await.expect("read");
        let woken = tokio::time::timeout(Duration::from_millis(100), one.io.ready(Interest::WRITABLE)).await;
        assert!(woken.is_err(), "told of room");
        other.write_all(b"answer").await.expect("written");
        one.read_exact(&mut text[..6]).await.expect("read");
    }
}
