//! The HTTP server: HTTP/1.1 with keep-alive, GET and HEAD, plain or with TLS, everything bounded. Each answer is made from the
//! board; nothing a reader does makes a collector look.

use crate::core::answer::{ALLOWED, Answer, answer, stranger};
use crate::core::board::Board;
use crate::core::tokens::Tokens;
use crate::io::access::{Access, Request};
use crate::io::gate::{Gate, Refusal};
use crate::io::proofs::Proofs;
use bytes::Bytes;
use gantry_rt::clock;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Most bytes of a request's line and headers.
pub const HEADER_BYTES_MAX: usize = 16 << 10;
/// Most headers of a request.
const HEADERS_MAX: usize = 64;
/// How long a TLS handshake may take, or a request's headers, and how long an idle connection is kept.
pub const HEADER: Duration = Duration::from_secs(10);
/// How long a connection lives in all: one that is never read from or goes on for ever makes room for others.
pub const CONNECTION: Duration = Duration::from_secs(60);
/// How long an answer under way may then still take.
const LAST_ANSWER: Duration = Duration::from_secs(3);
/// Connections that are told at once why they are turned away; more are closed without a word.
const TURNED_AWAY_MAX: usize = 32;
/// How long one may take to read that.
const TURNED_AWAY: Duration = Duration::from_secs(1);
/// Pause after a connection could not be accepted: no descriptors are left.
const PAUSE: Duration = Duration::from_millis(100);

/// Labels of a counted request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    status: u32,
}

/// Label of a connection that was turned away.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    why: &'static str,
}

/// What the server counts. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    requests: Family<Labels, Counter>,
    connections: Counter,
    refused: Family<Why, Counter>,
    handshakes_failed: Counter,
}

impl Counts {
    /// Adds them to the daemon's metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("mond_requests", "Answered HTTP requests by status", self.requests.clone());
        registry.register("mond_connections", "Accepted HTTP connections", self.connections.clone());
        let help =
            "HTTP connections turned away, by why: not of a network that may ask, or too many of one source";
        registry.register("mond_refused_connections", help, self.refused.clone());
        let help = "TLS handshakes that failed";
        registry.register("mond_failed_handshakes", help, self.handshakes_failed.clone());
    }
}

/// How a listener is spoken to.
#[derive(Clone)]
pub enum Door {
    /// As Ganeti's: no TLS, no proof.
    Plain,
    /// TLS; who comes in proves itself by a certificate or a token.
    Tls(Arc<Proofs>),
}

/// The other side of a connection.
struct Guest {
    from: IpAddr,
    /// The tokens of which it must have one; None: it need not.
    tokens: Option<Arc<Tokens>>,
}

/// The server. Clones share everything.
#[derive(Debug, Clone)]
pub struct Server {
    board: Arc<Mutex<Board>>,
    access: Access,
    counts: Counts,
    gate: Gate,
    turned_away: Arc<Semaphore>,
}

impl Server {
    /// Answers from this board who gets through the gate.
    #[must_use]
    pub fn new(board: Arc<Mutex<Board>>, access: Access, counts: Counts, gate: Gate) -> Self {
        Self { board, access, counts, gate, turned_away: Arc::new(Semaphore::new(TURNED_AWAY_MAX)) }
    }

    /// Serves until stopped; then answers under way are finished, within [`LAST_ANSWER`].
    pub async fn serve(self, listener: TcpListener, door: Door, stop: CancellationToken) {
        let connections = TaskTracker::new();
        loop {
            let accepted = async {
                let free = self.gate.free().await;
                (listener.accept().await, free)
            };
            let (accepted, free) = tokio::select! {
                accepted = accepted => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer)) => {
                    self.counts.connections.inc();
                    // Joined below, and dropped with the daemon.
                    match self.gate.admit(free, peer.ip()) {
                        Ok(place) => {
                            let (server, door, stop) = (self.clone(), door.clone(), stop.clone());
                            connections.spawn(async move {
                                server.enter(stream, peer.ip(), door, stop).await;
                                drop(place);
                            });
                        }
                        Err(why) => self.turn_away(stream, peer.ip(), why, &door, &connections),
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        connections.close();
        connections.wait().await;
    }

    /// Says why, if not too many are being told already, and closes. With TLS a handshake would be what it costs: it closes.
    fn turn_away(
        &self,
        stream: TcpStream,
        from: IpAddr,
        why: Refusal,
        door: &Door,
        connections: &TaskTracker,
    ) {
        tracing::debug!(%from, why = why.word(), "turned away");
        self.counts.refused.get_or_create(&Why { why: why.word() }).inc();
        if matches!(door, Door::Tls(_)) {
            return;
        }
        if let Ok(turn) = Arc::clone(&self.turned_away).try_acquire_owned() {
            connections.spawn(async move {
                let _ = tokio::time::timeout(TURNED_AWAY, told(stream, &why.text())).await;
                drop(turn);
            });
        }
    }

    async fn enter(self, stream: TcpStream, from: IpAddr, door: Door, stop: CancellationToken) {
        // A report is one write: waiting for more only delays it.
        let _ = stream.set_nodelay(true);
        let proofs = match door {
            Door::Plain => return self.connection(stream, Guest { from, tokens: None }, stop).await,
            Door::Tls(proofs) => proofs,
        };
        let entered = tokio::select! {
            entered = tokio::time::timeout(HEADER, shake_hands(stream, proofs)) => entered,
            () = stop.cancelled() => return,
        };
        let why = match entered {
            Ok(Ok((stream, tokens))) => {
                return self.connection(stream, Guest { from, tokens }, stop).await;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it took more than {} s", HEADER.as_secs()),
        };
        self.counts.handshakes_failed.inc();
        tracing::debug!(%from, why, "TLS failed");
    }

    async fn connection<S>(self, stream: S, guest: Guest, stop: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let service = service_fn(|request: hyper::Request<Incoming>| {
            let response = self.respond(&request, &guest);
            async move { Ok::<_, Infallible>(response) }
        });
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(HEADER).max_buf_size(HEADER_BYTES_MAX);
        server.max_headers(HEADERS_MAX).keep_alive(true);
        let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(from = %guest.from, %error, "a connection broke");
                }
                return;
            }
            () = tokio::time::sleep(CONNECTION) => {}
            () = stop.cancelled() => {}
        }
        connection.as_mut().graceful_shutdown();
        // Dropped if it does not end by then: the reader does not read.
        let _ = tokio::time::timeout(LAST_ANSWER, connection).await;
    }

    fn respond(&self, request: &hyper::Request<Incoming>, guest: &Guest) -> Response<Full<Bytes>> {
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
        let method = request.method().as_str();
        let answer = match refused(request, guest) {
            Some(refused) => refused,
            None => {
                // Collectors do not wait for the making of an answer.
                let board = self.board.lock().unwrap_or_else(PoisonError::into_inner).clone();
                answer(&board, method, target, accept, clock::millis())
            }
        };
        let bytes = answer.body.as_str().len();
        let status = answer.status;
        self.counts.requests.get_or_create(&Labels { status: status.into() }).inc();
        let from = guest.from;
        self.access.note(&Request { from, epoch: clock::now().epoch(), method, target, status, bytes });
        response(&answer)
    }
}

/// The server's half of the handshake, and the tokens of which who has no certificate must have one.
async fn shake_hands(
    stream: TcpStream,
    proofs: Arc<Proofs>,
) -> io::Result<(impl AsyncRead + AsyncWrite + Unpin, Option<Arc<Tokens>>)> {
    let current = tokio::task::spawn_blocking(move || proofs.current()).await.map_err(io::Error::other)?;
    let (tls, tokens) = current.ok_or_else(|| io::Error::other("this node has no certificate to use"))?;
    let (stream, is_proved) = tls.accept(stream).await?;
    Ok((stream, (!is_proved).then_some(tokens)))
}

/// What a guest gets that has not proved itself.
fn refused(request: &hyper::Request<Incoming>, guest: &Guest) -> Option<Answer> {
    let tokens = guest.tokens.as_ref()?;
    let given = request.headers().get(AUTHORIZATION);
    let known = given.and_then(|value| value.to_str().ok()).is_some_and(|value| tokens.take(value));
    (!known).then(|| stranger(given.is_some()))
}

/// Sends a text and closes. What the other side sends is not looked at, but taken: to leave it would reset the connection, and
/// the text with it.
async fn told(mut stream: TcpStream, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(HEADER_BYTES_MAX as u64), &mut tokio::io::sink()).await.map(drop)
}

fn response(answer: &Answer) -> Response<Full<Bytes>> {
    let body = Bytes::copy_from_slice(answer.body.as_str().as_bytes());
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(challenge) = answer.challenge {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
    if answer.status == 405 {
        headers.insert(ALLOW, HeaderValue::from_static(ALLOWED));
    }
    response
}
