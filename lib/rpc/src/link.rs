//! Envelopes over one byte stream: framing, the queue of frames to write, stall detection. Both sides use it;
//! nothing here knows what a call is.

use crate::WRITE_BYTES_MAX;
use bytes::{Bytes, BytesMut};
use futures_util::{Sink, Stream};
use gantry_proto::codec::{self, CodecError, FRAME_BYTES_MAX};
use gantry_proto::envelope::{Envelope, Part};
use gantry_proto::hello::HELLO_BYTES_MAX;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

/// Frames are gathered up to this many bytes before a write, so that a burst is one system call.
const GATHER_BYTES: usize = 64 << 10;

/// Frames handled in one turn of a connection's task before others get a turn.
pub(crate) const FRAMES_PER_TURN: usize = 64;

/// Frames over one byte stream: a 4-byte big-endian length, then that many bytes.
pub(crate) type Frames<T> = Framed<T, LengthDelimitedCodec>;

/// Frames as small as a hello; [`Link::new`] widens them.
pub(crate) fn frames<T: AsyncRead + AsyncWrite>(stream: T) -> Frames<T> {
    let codec = LengthDelimitedCodec::builder().max_frame_length(HELLO_BYTES_MAX).new_codec();
    Framed::with_capacity(stream, codec, HELLO_BYTES_MAX)
}

/// Takes a lock that nobody can have poisoned with half state: every critical section here is a few moves.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a link ended other than by the peer's closing it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("{0}")]
    Io(io::Error),
    #[error("{0}")]
    Garbage(String),
    #[error("no progress on a frame for {0:?}")]
    Stalled(Duration),
}

/// One frame to write, with the room it takes in the queue.
struct Queued {
    bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Queued>,
    bytes: usize,
    waker: Option<Waker>,
    closing: Option<String>,
}

/// The frames a connection has yet to write. Filled by callers and handlers, emptied by the connection's task.
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    room: Arc<Semaphore>,
    frame_limit: usize,
}

impl Outbox {
    /// An empty queue for a peer that takes frames of up to `frame_limit` bytes.
    pub fn new(frame_limit: u64) -> Arc<Self> {
        let frame_limit = usize::try_from(frame_limit).unwrap_or(usize::MAX).min(FRAME_BYTES_MAX);
        let room = Arc::new(Semaphore::new(WRITE_BYTES_MAX));
        Arc::new(Self { queue: Mutex::default(), room, frame_limit })
    }

    /// The frame of one envelope.
    pub fn encode(&self, id: u64, part: Part) -> Result<Bytes, CodecError> {
        let bytes = codec::encode(&Envelope { id, part })?;
        if bytes.len() > self.frame_limit {
            let why = format!("{} bytes are over the frame limit of {}", bytes.len(), self.frame_limit);
            return Err(CodecError::Encode { what: "envelope", why });
        }
        Ok(Bytes::from(bytes))
    }

    /// Waits for room for `bytes` in the queue; None once the connection is closed.
    pub async fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes).ok()?;
        Arc::clone(&self.room).acquire_many_owned(bytes).await.ok()
    }

    /// Queues a frame; `room` None is for frames whose number is bounded otherwise.
    pub fn push(&self, bytes: Bytes, room: Option<OwnedSemaphorePermit>) {
        let mut queue = lock(&self.queue);
        queue.bytes += bytes.len();
        queue.frames.push_back(Queued { bytes, _room: room });
        let waker = queue.waker.take();
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Encodes and queues a small frame.
    pub fn push_small(&self, id: u64, part: Part) {
        if let Ok(bytes) = self.encode(id, part) {
            self.push(bytes, None);
        }
    }

    /// Whether so much is queued that nothing should be made that will be queued too.
    pub fn is_full(&self) -> bool {
        lock(&self.queue).bytes >= WRITE_BYTES_MAX
    }

    /// Lets pushes wake nobody until the queue was next found empty: for the task that empties it, while it works.
    pub fn quiet(&self) {
        lock(&self.queue).waker = None;
    }

    /// Asks the connection's task to end, once.
    pub fn close(&self, why: &str) {
        let mut queue = lock(&self.queue);
        queue.closing.get_or_insert_with(|| why.to_owned());
        let waker = queue.waker.take();
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Why the connection was asked to end, if it was. Wakes the task on [`Outbox::close`] otherwise.
    pub fn closing(&self, cx: &mut Context<'_>) -> Option<String> {
        let mut queue = lock(&self.queue);
        queue.waker = Some(cx.waker().clone());
        queue.closing.clone()
    }

    /// The task is over: whoever waits for room waits in vain.
    pub fn ended(&self) {
        self.room.close();
        lock(&self.queue).frames.clear();
    }

    /// The next frame to write; None after storing the waker.
    fn pop(&self, cx: &mut Context<'_>) -> Option<Bytes> {
        let mut queue = lock(&self.queue);
        let Some(next) = queue.frames.pop_front() else {
            queue.waker = Some(cx.waker().clone());
            return None;
        };
        queue.bytes -= next.bytes.len();
        Some(next.bytes)
    }
}

/// Watches that what is half read or half written moves.
struct Stall {
    limit: Duration,
    mark: (usize, usize, bool),
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    /// Ready when `mark` was the same, and not nothing, for the limit.
    fn poll(&mut self, cx: &mut Context<'_>, mark: (usize, usize, bool)) -> Poll<()> {
        if mark == (0, 0, false) {
            self.mark = mark;
            self.sleep = None;
            return Poll::Pending;
        }
        let limit = self.limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if mark != self.mark {
            self.mark = mark;
            sleep.as_mut().reset(Instant::now() + limit);
        }
        sleep.as_mut().poll(cx)
    }
}

/// Envelopes both ways over one stream.
pub(crate) struct Link<T> {
    frames: Frames<T>,
    out: Arc<Outbox>,
    unflushed: bool,
    stall: Stall,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Link<T> {
    /// Takes over after the hello. A frame without progress for `stall` is an error.
    pub fn new(mut frames: Frames<T>, out: Arc<Outbox>, stall: Duration) -> Self {
        frames.codec_mut().set_max_frame_length(FRAME_BYTES_MAX);
        frames.set_backpressure_boundary(GATHER_BYTES);
        Self {
            frames,
            out,
            unflushed: false,
            stall: Stall { limit: stall, mark: (0, 0, false), sleep: None },
        }
    }

    /// The next envelope; None when the peer closed.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Envelope>, LinkError>> {
        let frame = match ready!(Pin::new(&mut self.frames).poll_next(cx)) {
            None => return Poll::Ready(Ok(None)),
            Some(Ok(frame)) => frame,
            // Closed with frames of ours unread.
            Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Poll::Ready(Ok(None));
            }
            Some(Err(error)) => return Poll::Ready(Err(frame_error(error))),
        };
        Poll::Ready(parse(&frame).map(Some))
    }

    /// Writes what is queued. Ready when nothing is left.
    pub fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        let mut frames = Pin::new(&mut self.frames);
        loop {
            // Room first: what is popped must be taken.
            match Sink::<Bytes>::poll_ready(frames.as_mut(), cx) {
                Poll::Ready(done) => done.map_err(LinkError::Io)?,
                Poll::Pending => return Poll::Pending,
            }
            let Some(bytes) = self.out.pop(cx) else { break };
            frames.as_mut().start_send(bytes).map_err(LinkError::Io)?;
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Sink::<Bytes>::poll_flush(frames.as_mut(), cx)).map_err(LinkError::Io)?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Ready with an error when a frame hangs. To be called when reading and writing are both pending.
    pub fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<LinkError> {
        let mark = (self.frames.read_buffer().len(), self.frames.write_buffer().len(), self.unflushed);
        self.stall.poll(cx, mark).map(|()| LinkError::Stalled(self.stall.limit))
    }

    /// Lets out what is queued and ends the writing side, within [`crate::LINGER`].
    pub async fn finish(mut self) {
        let flush = async {
            if std::future::poll_fn(|cx| self.poll_send(cx)).await.is_ok() {
                let _ = tokio::io::AsyncWriteExt::shutdown(self.frames.get_mut()).await;
            }
        };
        let _ = tokio::time::timeout(crate::LINGER, flush).await;
    }
}

/// What is wrong with a frame, or the stream.
pub(crate) fn frame_error(error: io::Error) -> LinkError {
    match error.kind() {
        io::ErrorKind::InvalidData => LinkError::Garbage(format!("frame over the limit ({error})")),
        io::ErrorKind::Other => LinkError::Garbage("the stream ended within a frame".to_owned()),
        _ => LinkError::Io(error),
    }
}

/// The envelope in one frame.
fn parse(frame: &BytesMut) -> Result<Envelope, LinkError> {
    codec::decode(frame).map_err(|error| LinkError::Garbage(error.to_string()))
}
