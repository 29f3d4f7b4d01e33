//! The caller's side: a [`Client`] is a handle on one connection, whose task reads and writes.
//! The connection closes when the last handle (clone or stream) is dropped.

use crate::QuietStream;
use crate::error::{CallError, ConnectError};
use crate::greet;
use crate::link::{FRAMES_PER_TURN, Link, LinkError, Outbox, frames, lock};
use crate::window::Taken;
use crate::{CALLS_MAX, CONNECT_MS, STALL_MS};
use gantry_proto::codec;
use gantry_proto::envelope::{Envelope, Part, STREAM_WINDOW};
use gantry_proto::hello::Hello;
use gantry_proto::verb::Verb;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Places in a stream's queue: a window of items and the end.
const STREAM_QUEUE: usize = STREAM_WINDOW as usize + 1;

/// How soon a connect is tried again while the server's backlog is full.
const BACKLOG_RETRY: Duration = Duration::from_millis(5);

/// The reason when the peer gave none.
const PEER_CLOSED: &str = "the peer closed it";

/// What ends a call.
type Outcome = Result<Vec<u8>, CallError>;

/// What a stream's queue holds.
enum Piece {
    Item(Vec<u8>),
    End(Outcome),
}

/// Who waits for a call's frames.
enum Waiter {
    /// Only for the end; items are counted, to be credited, and thrown away.
    Call {
        end: oneshot::Sender<Outcome>,
        taken: Taken,
    },
    Stream(mpsc::Sender<Piece>),
}

#[derive(Default)]
struct Pending {
    calls: HashMap<u64, Waiter>,
    closed: Option<String>,
}

/// What handles and the connection's task share.
struct Shared {
    pending: Mutex<Pending>,
    out: Arc<Outbox>,
    ids: AtomicU64,
    places: Arc<Semaphore>,
    closed: CancellationToken,
}

impl Shared {
    fn closed_error(&self) -> CallError {
        let why = lock(&self.pending).closed.clone();
        CallError::Closed(why.unwrap_or_else(|| "the connection ends".to_owned()))
    }
}

/// The last handle's drop ends the connection.
struct Handle {
    shared: Arc<Shared>,
    hello: Hello,
    cred: Option<(i32, u32)>,
    exporter: Option<[u8; 32]>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.out.close("closed by this side");
    }
}

/// What is known of the server from below the hello.
#[derive(Default)]
pub(crate) struct Below {
    pub cred: Option<(i32, u32)>,
    pub exporter: Option<[u8; 32]>,
}

/// One connection to a server. Clones share it. Calls run side by side, at most [`CALLS_MAX`] at once; further
/// ones wait for a place.
#[derive(Clone)]
pub struct Client {
    handle: Arc<Handle>,
    trace: Arc<str>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({} of {})", self.handle.hello.protocol, self.handle.hello.component)
    }
}

impl Client {
    /// Connects to the Unix socket at `path`, within [`CONNECT_MS`]. A full backlog is waited for.
    ///
    /// # Errors
    /// See [`ConnectError`]; [`ConnectError::is_dead`] tells a dead server from a slow one.
    pub async fn unix(path: &Path, hello: &Hello) -> Result<Self, ConnectError> {
        bounded(async {
            let stream = connect_unix(path).await.map_err(ConnectError::Io)?;
            let cred = stream.peer_cred().ok().and_then(|cred| Some((cred.pid()?, cred.uid())));
            let stream = QuietStream::of(stream).map_err(ConnectError::Io)?;
            Self::greet(stream, hello, Below { cred, exporter: None }).await
        })
        .await
    }

    /// Speaks over a stream that is already there, within [`CONNECT_MS`].
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn over<T>(stream: T, hello: &Hello) -> Result<Self, ConnectError>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        bounded(Self::greet(stream, hello, Below::default())).await
    }

    /// Exchanges hellos and starts the connection's task.
    pub(crate) async fn greet<T>(stream: T, hello: &Hello, below: Below) -> Result<Self, ConnectError>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut frames = frames(stream);
        let theirs = greet::call(&mut frames, hello).await?;
        let out = Outbox::new(theirs.frame_limit);
        let shared = Arc::new(Shared {
            pending: Mutex::default(),
            out: Arc::clone(&out),
            ids: AtomicU64::new(1),
            places: Arc::new(Semaphore::new(CALLS_MAX)),
            closed: CancellationToken::new(),
        });
        let link = Link::new(frames, out, Duration::from_millis(STALL_MS));
        tokio::spawn(drive(link, Arc::clone(&shared)));
        let handle = Handle { shared, hello: theirs, cred: below.cred, exporter: below.exporter };
        Ok(Self { handle: Arc::new(handle), trace: "".into() })
    }

    /// The same connection; calls through the handle returned carry `trace`, which names the piece of work in the
    /// server's log.
    #[must_use]
    pub fn traced(&self, trace: &str) -> Self {
        Self { handle: Arc::clone(&self.handle), trace: trace.into() }
    }

    /// The server's hello.
    #[must_use]
    pub fn peer(&self) -> &Hello {
        &self.handle.hello
    }

    /// The server's (pid, uid), on Unix sockets.
    #[must_use]
    pub fn peer_cred(&self) -> Option<(i32, u32)> {
        self.handle.cred
    }

    /// What both ends of this TLS connection, and nobody else, can compute; None on Unix sockets.
    #[must_use]
    pub fn exporter(&self) -> Option<[u8; 32]> {
        self.handle.exporter
    }

    /// Calls `V` and waits for its reply for at most `deadline`; the server is told and stops then too. Items of a
    /// stream verb are thrown away. Dropping the future cancels the call.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call<V: Verb>(
        &self,
        request: &V::Request,
        deadline: Duration,
    ) -> Result<V::Reply, CallError> {
        let ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX).max(1);
        match tokio::time::timeout(deadline, self.exchange::<V>(request, ms)).await {
            Ok(done) => done,
            Err(_) => Err(CallError::Deadline { verb: V::NAME, ms }),
        }
    }

    /// Calls `V` and waits as long as the connection stands. Dropping the future cancels the call.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call_waiting<V: Verb>(&self, request: &V::Request) -> Result<V::Reply, CallError> {
        self.exchange::<V>(request, 0).await
    }

    /// Calls `V` and returns its stream of items, without a deadline.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn open<V: Verb>(&self, request: &V::Request) -> Result<Stream<V>, CallError> {
        let (sender, pieces) = mpsc::channel(STREAM_QUEUE);
        let guard = self.start::<V>(request, 0, Waiter::Stream(sender)).await?;
        Ok(Stream {
            pieces,
            guard,
            _handle: Arc::clone(&self.handle),
            taken: Taken::default(),
            of: PhantomData,
        })
    }

    /// Waits until the connection is closed, by whomever.
    pub async fn closed(&self) {
        self.handle.shared.closed.cancelled().await;
    }

    /// Whether the connection is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.handle.shared.closed.is_cancelled()
    }

    /// Why the connection is closed; None while it stands.
    #[must_use]
    pub fn close_reason(&self) -> Option<String> {
        lock(&self.handle.shared.pending).closed.clone()
    }

    /// Closes the connection for all handles; calls under way end as [`CallError::Closed`].
    pub fn close(&self) {
        self.handle.shared.out.close("closed by this side");
    }

    async fn exchange<V: Verb>(&self, request: &V::Request, deadline_ms: u64) -> Result<V::Reply, CallError> {
        let (sender, end) = oneshot::channel();
        let guard = self
            .start::<V>(request, deadline_ms, Waiter::Call { end: sender, taken: Taken::default() })
            .await?;
        let outcome = end.await.unwrap_or_else(|_| Err(guard.shared.closed_error()));
        Ok(codec::decode(&outcome?)?)
    }

    /// Sends the request and registers who waits.
    async fn start<V: Verb>(
        &self,
        request: &V::Request,
        deadline_ms: u64,
        waiter: Waiter,
    ) -> Result<CallGuard, CallError> {
        let shared = &self.handle.shared;
        let part = Part::Request {
            verb: V::ID,
            deadline_ms,
            trace: self.trace.as_ref().to_owned(),
            body: codec::encode(request)?,
        };
        let id = shared.ids.fetch_add(1, Ordering::Relaxed);
        let bytes = shared.out.encode(id, part)?;
        let place = Arc::clone(&shared.places).acquire_owned().await.map_err(|_| shared.closed_error())?;
        let room = shared.out.room(bytes.len()).await.ok_or_else(|| shared.closed_error())?;
        let mut pending = lock(&shared.pending);
        if let Some(why) = &pending.closed {
            return Err(CallError::Closed(why.clone()));
        }
        pending.calls.insert(id, waiter);
        drop(pending);
        shared.out.push(bytes, Some(room));
        Ok(CallGuard { shared: Arc::clone(shared), id, _place: place })
    }
}

async fn bounded<F: Future<Output = Result<Client, ConnectError>>>(
    connect: F,
) -> Result<Client, ConnectError> {
    let limit = Duration::from_millis(CONNECT_MS);
    tokio::time::timeout(limit, connect).await.unwrap_or(Err(ConnectError::TimedOut))
}

async fn connect_unix(path: &Path) -> std::io::Result<tokio::net::UnixStream> {
    loop {
        match crate::unix::connect(path).await {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                tokio::time::sleep(BACKLOG_RETRY).await;
            }
            other => return other,
        }
    }
}

/// A call under way. Dropped before the end came, it cancels.
struct CallGuard {
    shared: Arc<Shared>,
    id: u64,
    _place: OwnedSemaphorePermit,
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        let unfinished = lock(&self.shared.pending).calls.remove(&self.id).is_some();
        if unfinished {
            self.shared.out.push_small(self.id, Part::Cancel);
        }
    }
}

/// What a stream yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<I, R> {
    /// One item.
    Item(I),
    /// The reply: nothing follows.
    End(R),
}

/// A stream of items, ended by a reply. Holds the connection open; dropping it cancels the call.
pub struct Stream<V: Verb> {
    pieces: mpsc::Receiver<Piece>,
    guard: CallGuard,
    _handle: Arc<Handle>,
    taken: Taken,
    of: PhantomData<fn() -> V>,
}

impl<V: Verb> Stream<V> {
    /// The next item or the end. Safe to drop: nothing is lost. After the end or an error it only fails.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn next(&mut self) -> Result<Event<V::Item, V::Reply>, CallError> {
        match self.pieces.recv().await {
            Some(Piece::Item(body)) => {
                self.credit(body.len());
                Ok(Event::Item(codec::decode(&body)?))
            }
            Some(Piece::End(outcome)) => Ok(Event::End(codec::decode(&outcome?)?)),
            None => match &lock(&self.guard.shared.pending).closed {
                Some(why) => Err(CallError::Closed(why.clone())),
                None => Err(CallError::Closed("the stream has ended".to_owned())),
            },
        }
    }

    fn credit(&mut self, bytes: usize) {
        if let Some(items) = self.taken.one(bytes) {
            self.guard.shared.out.push_small(self.guard.id, Part::Credit { items });
        }
    }
}

/// The connection's task: reads, hands out, writes, until either side closes.
async fn drive<T: AsyncRead + AsyncWrite + Unpin>(mut link: Link<T>, shared: Arc<Shared>) {
    let why = std::future::poll_fn(|cx| turn(&mut link, &shared, cx)).await;
    tracing::debug!(why, "connection ended");
    let calls = {
        let mut pending = lock(&shared.pending);
        pending.closed = Some(why);
        std::mem::take(&mut pending.calls)
    };
    shared.out.ended();
    shared.places.close();
    shared.closed.cancel();
    // Dropping the senders wakes the waiters, who then read why.
    drop(calls);
    link.finish().await;
}

/// One turn; Ready with the reason when it is over.
fn turn<T: AsyncRead + AsyncWrite + Unpin>(
    link: &mut Link<T>,
    shared: &Shared,
    cx: &mut Context<'_>,
) -> Poll<String> {
    if let Some(why) = shared.out.closing(cx) {
        return Poll::Ready(why);
    }
    for handled in 0.. {
        if handled == FRAMES_PER_TURN {
            cx.waker().wake_by_ref();
            break;
        }
        match link.poll_recv(cx) {
            Poll::Ready(Ok(Some(envelope))) => {
                if let Err(why) = hand_out(shared, envelope) {
                    return Poll::Ready(why);
                }
            }
            Poll::Ready(Ok(None)) => return Poll::Ready(PEER_CLOSED.to_owned()),
            Poll::Ready(Err(error)) => return Poll::Ready(error.to_string()),
            Poll::Pending => break,
        }
    }
    if let Poll::Ready(Err(error)) = link.poll_send(cx) {
        return Poll::Ready(last_words(link, shared, cx).unwrap_or_else(|| error.to_string()));
    }
    link.poll_stall(cx).map(|error: LinkError| error.to_string())
}

/// What came before writing failed: answers are still handed out, and the peer may have said why it closed.
fn last_words<T: AsyncRead + AsyncWrite + Unpin>(
    link: &mut Link<T>,
    shared: &Shared,
    cx: &mut Context<'_>,
) -> Option<String> {
    while let Poll::Ready(got) = link.poll_recv(cx) {
        match got {
            Ok(Some(envelope)) => {
                if let Err(why) = hand_out(shared, envelope) {
                    return Some(why);
                }
            }
            Ok(None) => return Some(PEER_CLOSED.to_owned()),
            Err(_) => return None,
        }
    }
    None
}

/// Gives a frame to who waits for it; Err ends the connection.
fn hand_out(shared: &Shared, Envelope { id, part }: Envelope) -> Result<(), String> {
    if id == 0 {
        return Err(match part {
            Part::Fail(fail) => format!("the peer closed it: {}", fail.text),
            _ => "a frame without a call".to_owned(),
        });
    }
    if id >= shared.ids.load(Ordering::Relaxed) {
        return Err(format!("a frame for call {id}, which was never made"));
    }
    let outcome = match part {
        Part::Item { body } => return item(shared, id, body),
        Part::Reply { body } => Ok(body),
        Part::Fail(fail) => Err(CallError::Fail(fail)),
        Part::Request { .. } | Part::Cancel | Part::Credit { .. } => {
            return Err("a caller's frame from a server".to_owned());
        }
    };
    // Late answers to cancelled calls find nobody.
    let waiter = lock(&shared.pending).calls.remove(&id);
    match waiter {
        None => Ok(()),
        Some(Waiter::Call { end, .. }) => {
            let _ = end.send(outcome);
            Ok(())
        }
        Some(Waiter::Stream(pieces)) => over_window(id, pieces.try_send(Piece::End(outcome))),
    }
}

fn item(shared: &Shared, id: u64, body: Vec<u8>) -> Result<(), String> {
    let mut pending = lock(&shared.pending);
    match pending.calls.get_mut(&id) {
        None => Ok(()),
        Some(Waiter::Stream(pieces)) => over_window(id, pieces.try_send(Piece::Item(body))),
        Some(Waiter::Call { taken, .. }) => {
            if let Some(items) = taken.one(body.len()) {
                drop(pending);
                shared.out.push_small(id, Part::Credit { items });
            }
            Ok(())
        }
    }
}

fn over_window(id: u64, sent: Result<(), mpsc::error::TrySendError<Piece>>) -> Result<(), String> {
    match sent {
        Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        Err(mpsc::error::TrySendError::Full(_)) => Err(format!("call {id} got more items than its window")),
    }
}
