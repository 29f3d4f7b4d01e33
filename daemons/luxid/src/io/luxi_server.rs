//! The LUXI socket (`spec/luxi.md` §2): one task a connection, requests answered strictly in order. Bounds: number of
//! connections, idle time, size of a message, and the bytes that all unfinished messages take together.

use crate::api::{Api, Response, respond};
use crate::core::luxi::{self, ParseFailure, Splitter};
use gantry_rpc::QuietStream;
use gantry_rt::Tasks;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Mode of the socket: root and the group of administrators.
pub const MODE: u32 = 0o660;
/// Connections at once (DESIGN §4).
const CONNECTIONS_MAX: usize = 1_024;
/// How long a connection may be silent, and how long an answer may take to be taken (`spec/luxi.md` §2).
const IDLE: Duration = Duration::from_secs(180);
/// Bytes of a message that every connection may have without asking: 64 MiB for all of them.
const FREE_BYTES: usize = 64 << 10;
/// Unit of what messages take beyond that.
const BLOCK_BYTES: usize = 64 << 10;
/// Units for all connections: 256 MiB, four of the largest messages.
const BLOCKS: usize = (256 << 20) / BLOCK_BYTES;
/// A message above this is read and answered alone among its like: as a JSON value it takes many times its size.
const LARGE_BYTES: usize = 1 << 20;
/// How much is read at once.
const READ_BYTES: usize = 16 << 10;
/// Pause after an accept that failed for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The server.
pub struct Server {
    api: Api,
    places: Arc<Semaphore>,
    blocks: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

impl Server {
    /// A server of these methods.
    #[must_use]
    pub fn new(api: Api) -> Arc<Self> {
        Arc::new(Self {
            api,
            places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            blocks: Arc::new(Semaphore::new(BLOCKS)),
            large: Arc::new(Semaphore::new(1)),
        })
    }

    /// Serves until `stop`. A connection beyond the limit is closed at once.
    pub async fn serve(self: Arc<Self>, listener: UnixListener, tasks: Tasks, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "can't accept on luxi.sock");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                tracing::warn!(limit = CONNECTIONS_MAX, "too many LUXI connections: one is closed");
                continue;
            };
            let (server, stop) = (Arc::clone(&self), stop.clone());
            tasks.spawn("luxi", async move {
                tokio::select! {
                    ended = server.accepted(stream) => {
                        if let Err(error) = ended {
                            tracing::debug!(%error, "a LUXI connection ended");
                        }
                    }
                    () = stop.cancelled() => {}
                }
                drop(place);
            });
        }
    }

    async fn accepted(&self, stream: UnixStream) -> io::Result<()> {
        self.converse(QuietStream::of(stream)?).await
    }

    async fn converse(&self, mut stream: QuietStream) -> io::Result<()> {
        let mut splitter = Splitter::default();
        let mut held = None;
        loop {
            match splitter.next_message() {
                Ok(Some(message)) => {
                    let _alone =
                        if message.len() > LARGE_BYTES { self.large.acquire().await.ok() } else { None };
                    let response = respond(&self.api, &message).await;
                    drop(message);
                    if !splitter.is_inside() {
                        // Gives the memory of a large message back.
                        splitter = Splitter::default();
                        held = None;
                    }
                    match response {
                        Response::Answer(bytes) => send(&mut stream, &bytes).await?,
                        Response::Close(bytes) => return send(&mut stream, &bytes).await,
                    }
                }
                Ok(None) => {
                    if !self.covers(&mut held, splitter.buffer().len()) {
                        let text = "too many large requests at once, try again later";
                        return refuse(&mut stream, text).await;
                    }
                    splitter.buffer().reserve(READ_BYTES);
                    match timeout(IDLE, stream.read_buf(splitter.buffer())).await {
                        Err(_) | Ok(Ok(0)) => return Ok(()),
                        Ok(read) => drop(read?),
                    }
                }
                Err(too_long) => return refuse(&mut stream, &too_long.to_string()).await,
            }
        }
    }

    /// Whether this connection may hold so many bytes of a message. What it holds is added to `held`.
    fn covers(&self, held: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> bool {
        // What will be read next counts too.
        let wanted = (bytes + READ_BYTES).saturating_sub(FREE_BYTES).div_ceil(BLOCK_BYTES);
        let missing = wanted.saturating_sub(held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
        if missing == 0 {
            return true;
        }
        let Ok(missing) = u32::try_from(missing) else { return false };
        match Arc::clone(&self.blocks).try_acquire_many_owned(missing) {
            Ok(more) => {
                match held {
                    Some(held) => held.merge(more),
                    None => *held = Some(more),
                }
                true
            }
            Err(_) => false,
        }
    }
}

async fn refuse(stream: &mut QuietStream, why: &str) -> io::Result<()> {
    send(stream, &luxi::parse_failure(&ParseFailure(why.to_owned()))).await
}

async fn send(stream: &mut QuietStream, bytes: &[u8]) -> io::Result<()> {
    timeout(IDLE, stream.write_all(bytes)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
