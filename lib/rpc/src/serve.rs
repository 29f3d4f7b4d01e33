//! Accepting connections and serving them, bounded in number and time.

use crate::QuietStream;
use crate::conn::{Conn, End};
use crate::link::{Link, LinkError, Outbox, frames};
use crate::service::{Peer, Service};
use crate::{CALLS_MAX, CONNECTIONS_MAX, DRAIN_MS, HELLO_MS, LINGER, STALL_MS, greet};
use gantry_model::ids::{ClusterUuid, NodeUuid};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long to wait after accept failed, in practice for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Numbers peers.
static PEERS: AtomicU64 = AtomicU64::new(1);

/// Bounds of one listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Calls under way on each.
    pub calls: usize,
    /// How long a caller may take for its handshake and hello.
    pub hello: Duration,
    /// How long a frame may stand half read or half written.
    pub stall: Duration,
    /// How long calls under way may take to end after stop.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: CONNECTIONS_MAX,
            calls: CALLS_MAX,
            hello: Duration::from_millis(HELLO_MS),
            stall: Duration::from_millis(STALL_MS),
            drain: Duration::from_millis(DRAIN_MS),
        }
    }
}

/// What is known of a caller from below the hello.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    /// Its uid.
    pub uid: Option<u32>,
    /// Its pid.
    pub pid: Option<i32>,
    /// What its certificate names.
    pub node: Option<(ClusterUuid, NodeUuid)>,
    /// The TLS exporter.
    pub exporter: Option<[u8; 32]>,
}

/// Serves `listener` until `stop`, and returns when all its connections have ended. Dropping the future drops them.
pub async fn serve_unix<S: Service + ?Sized>(
    listener: UnixListener,
    service: Arc<S>,
    limits: Limits,
    stop: CancellationToken,
) {
    let mut tasks = JoinSet::new();
    while let Some(got) = next(&stop, &mut tasks, || listener.accept()).await {
        let Some((stream, _)) = accepted(got).await else { continue };
        if tasks.len() >= limits.connections {
            turn_away(&stream, &*service, limits);
            continue;
        }
        tasks.spawn(serve_accepted(stream, Arc::clone(&service), limits, stop.clone()));
    }
    drop(listener);
    finish(tasks).await;
}

async fn serve_accepted<S: Service + ?Sized>(
    stream: UnixStream,
    service: Arc<S>,
    limits: Limits,
    stop: CancellationToken,
) {
    let mut facts = Facts::default();
    if let Ok(cred) = stream.peer_cred() {
        facts.uid = Some(cred.uid());
        facts.pid = cred.pid();
    }
    match QuietStream::of(stream) {
        Ok(stream) => serve_stream_until(stream, facts, service, limits, stop).await,
        Err(error) => tracing::warn!(%error, "can't serve a connection"),
    }
}

/// Serves `listener` with TLS, as [`serve_unix`].
#[cfg(feature = "tls")]
pub async fn serve_tls<S: Service + ?Sized>(
    listener: tokio::net::TcpListener,
    tls: crate::tls::ServerTls,
    service: Arc<S>,
    limits: Limits,
    stop: CancellationToken,
) {
    let mut tasks = JoinSet::new();
    while let Some(got) = next(&stop, &mut tasks, || listener.accept()).await {
        let Some((stream, from)) = accepted(got).await else { continue };
        if tasks.len() >= limits.connections {
            tracing::warn!(%from, "turned away: too many connections");
            continue;
        }
        let (tls, service, stop) = (tls.clone(), Arc::clone(&service), stop.clone());
        tasks.spawn(async move {
            let handshake = timeout(limits.hello, tls.accept(stream));
            let done = tokio::select! {
                done = handshake => done,
                () = stop.cancelled() => return,
            };
            match done {
                Ok(Ok((stream, facts))) => serve_stream_until(stream, facts, service, limits, stop).await,
                Ok(Err(error)) => tracing::warn!(%from, %error, "TLS failed"),
                Err(_) => tracing::warn!(%from, "TLS timed out"),
            }
        });
    }
    drop(listener);
    finish(tasks).await;
}

/// The next accept, while reaping ended connections; None on stop.
async fn next<T, F: Future<Output = T>>(
    stop: &CancellationToken,
    tasks: &mut JoinSet<()>,
    accept: impl Fn() -> F,
) -> Option<T> {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            Some(end) = tasks.join_next() => note(end),
            got = accept() => return Some(got),
        }
    }
}

async fn accepted<T>(got: io::Result<T>) -> Option<T> {
    match got {
        Ok(stream) => Some(stream),
        Err(error) => {
            tracing::warn!(%error, "can't accept");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn finish(mut tasks: JoinSet<()>) {
    while let Some(end) = tasks.join_next().await {
        note(end);
    }
}

fn note(end: Result<(), JoinError>) {
    if let Err(error) = end {
        tracing::error!(%error, "a connection's task died");
    }
}

/// Tells a caller over the limit why, without waiting for it.
fn turn_away<S: Service + ?Sized>(stream: &UnixStream, service: &S, limits: Limits) {
    let why = format!("{} connections are open here", limits.connections);
    tracing::warn!(why, "turned away");
    if let Ok(hello) = greet::hello_bytes(&greet::refusal(service.hello(), &why)) {
        let length = u32::try_from(hello.len()).unwrap_or(0).to_be_bytes();
        // A socket just accepted has room for this; if not, the caller sees a bare close.
        let _ = stream.try_write(&[&length[..], &hello[..]].concat());
    }
}

/// Serves one connection with the usual limits until it ends.
pub async fn serve_stream<T, S>(stream: T, facts: Facts, service: Arc<S>)
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: Service + ?Sized,
{
    serve_stream_until(stream, facts, service, Limits::default(), CancellationToken::new()).await;
}

/// Serves one connection until it ends or `stop`.
pub async fn serve_stream_until<T, S>(
    stream: T,
    facts: Facts,
    service: Arc<S>,
    limits: Limits,
    stop: CancellationToken,
) where
    T: AsyncRead + AsyncWrite + Unpin,
    S: Service + ?Sized,
{
    let mut frames = frames(stream);
    let mut ours = service.hello();
    let hello = async {
        tokio::select! {
            got = timeout(limits.hello, greet::receive(&mut frames)) => got.ok(),
            () = stop.cancelled() => None,
        }
    };
    let theirs = match hello.await {
        Some(Ok(theirs)) => theirs,
        Some(Err(error)) => return tracing::debug!(%error, "gone before its hello"),
        None => return tracing::debug!("no hello in time"),
    };
    let peer = match theirs.and_then(|theirs| judged(&ours, theirs, facts, &*service)) {
        Ok(peer) => Arc::new(peer),
        Err(why) => {
            tracing::warn!(why, protocol = ours.protocol, "refused");
            let _ = timeout(LINGER, greet::refuse(frames, ours, &why)).await;
            return;
        }
    };
    let _gone = Gone { service: &*service, peer: &peer };
    ours.refused = None;
    if let Err(error) = greet::send(&mut frames, &ours).await {
        return tracing::debug!(%error, "can't answer a hello");
    }
    let out = Outbox::new(peer.hello.frame_limit);
    let link = Link::new(frames, Arc::clone(&out), limits.stall);
    let conn = Conn::new(link, out, Arc::clone(&service), Arc::clone(&peer), limits);
    match conn.run(&stop).await {
        End::Broken(LinkError::Io(error)) => tracing::debug!(peer = peer.id, %error, "connection lost"),
        End::Broken(error) => {
            tracing::warn!(peer = peer.id, component = peer.hello.component, %error, "closed a broken connection");
        }
        end @ (End::Closed | End::Stopped) => tracing::trace!(peer = peer.id, ?end, "connection ended"),
    }
}

fn judged<S: Service + ?Sized>(
    ours: &gantry_proto::hello::Hello,
    theirs: gantry_proto::hello::Hello,
    facts: Facts,
    service: &S,
) -> Result<Peer, String> {
    let version = greet::judge(ours, &theirs)?;
    let Facts { uid, pid, node, exporter } = facts;
    let id = PEERS.fetch_add(1, Ordering::Relaxed);
    let peer = Peer { id, hello: theirs, version, uid, pid, node, exporter };
    service.accept(&peer)?;
    Ok(peer)
}

/// Tells the service that a peer is gone, also when the task is aborted.
struct Gone<'a, S: Service + ?Sized> {
    service: &'a S,
    peer: &'a Peer,
}

impl<S: Service + ?Sized> Drop for Gone<'_, S> {
    fn drop(&mut self) {
        self.service.gone(self.peer);
    }
}
