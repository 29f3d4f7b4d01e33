//! The server of `stream.sock` ([`gantry_proto::stream`]): bodies, output that is followed, commands in leased VMs,
//! changes as they come. It owns no state but who relays what; it decides nothing about tasks and leases.
//!
//! Output is relayed from the node that has it, by offset (DESIGN §4): luxid keeps none of it, and a caller that is
//! slow slows its own relay only.

mod command;
mod lease;
mod opener;
mod relay;
mod task_log;
mod watch;

use super::blob::Store;
use super::nodes::Nodes;
use super::view::View;
use super::wconfd::Config;
use gantry_model::ids::Fence;
use gantry_model::root::Root;
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::hello::Hello;
use gantry_proto::noded::Bytes;
use gantry_proto::stream as wire;
use gantry_rpc::{Call, Handled, ItemSender, Limits, Peer, Service, route};
use opener::Opener;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Name of the socket.
pub const SOCKET: &str = "stream.sock";
/// Mode of the socket: administrators only, as `luxi.sock`.
pub const MODE: u32 = 0o660;
/// Connections at once: people's commands, rapid's followers, the overseer.
const CONNECTIONS_MAX: usize = 256;
/// Streams at once over one connection.
pub const STREAMS_PER_CONNECTION_MAX: usize = 32;
/// Streams at once over all connections. Below what one connection to a node carries ([`gantry_rpc::CALLS_MAX`]), so
/// that short calls find room even when all streams come from one node.
pub const STREAMS_MAX: usize = 192;
/// Bytes of a body read at once.
const READ_BYTES: usize = 256 << 10;

/// What the server works with.
#[derive(Clone)]
pub struct Parts {
    /// The body store.
    pub store: Store,
    /// Tasks and requests as committed.
    pub view: View,
    /// The configuration as committed.
    pub config: Config,
    /// Connections to nodes, of the server's own.
    pub nodes: Nodes,
    /// This master's claim, which nodes ask for.
    pub fence: Fence,
}

/// The service.
pub struct StreamApi {
    parts: Parts,
    hello: Hello,
    opener: Opener,
    /// Leased VMs that were opened in this run.
    opened: lease::Opened,
    all: Arc<Semaphore>,
    each: Mutex<HashMap<u64, Arc<Semaphore>>>,
}

/// A stream's place among those that are possible at once.
type Place = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl StreamApi {
    /// A service. `hello` is what luxid says of itself, for any protocol.
    #[must_use]
    pub fn new(root: &Root, hello: &Hello, parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            parts,
            hello: Hello { protocol: wire::PROTOCOL.to_owned(), ..hello.clone() },
            opener: Opener::new(root, hello),
            opened: lease::Opened::default(),
            all: Arc::new(Semaphore::new(STREAMS_MAX)),
            each: Mutex::default(),
        })
    }

    /// Serves until `stop`.
    pub async fn serve(self: Arc<Self>, listener: UnixListener, stop: CancellationToken) {
        let limits = Limits { connections: CONNECTIONS_MAX, ..Limits::default() };
        gantry_rpc::serve_unix(listener, self, limits, stop).await;
    }

    fn each(&self) -> MutexGuard<'_, HashMap<u64, Arc<Semaphore>>> {
        self.each.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more stream of this caller.
    fn place(&self, peer: &Peer) -> Result<Place, Fail> {
        let own = || Arc::new(Semaphore::new(STREAMS_PER_CONNECTION_MAX));
        let own = Arc::clone(self.each().entry(peer.id).or_insert_with(own));
        let busy = |text: String| Fail::new(Code::Busy, text);
        let own = own.try_acquire_owned().map_err(|_| {
            busy(format!("{STREAMS_PER_CONNECTION_MAX} streams are open on this connection: end one first"))
        })?;
        let all = Arc::clone(&self.all).try_acquire_owned().map_err(|_| {
            busy(format!("luxid serves {STREAMS_MAX} streams already: try again when others have ended"))
        })?;
        Ok((own, all))
    }

    async fn blob_get(
        &self,
        request: wire::BlobGetRequest,
        items: ItemSender<wire::BlobGet>,
    ) -> Result<(), Fail> {
        let mut offset = request.offset;
        let mut body = self.parts.store.body(&request.digest).await?;
        loop {
            let bytes = body.piece(offset, READ_BYTES).await?;
            if bytes.is_empty() {
                return Ok(());
            }
            offset += bytes.len() as u64;
            items.send(&Bytes { bytes }).await?;
        }
    }

    async fn answer(&self, call: Call) -> Result<Vec<u8>, Fail> {
        route!(call, {
            wire::BlobPut => |request, call| self.parts.store.put(call.peer.id, request).await,
            wire::BlobGet => |request, call| {
                let _place = self.place(&call.peer)?;
                self.blob_get(request, call.items()).await
            },
            wire::TaskLog => |request, call| {
                let _place = self.place(&call.peer)?;
                self.task_log(request, call.items()).await
            },
            wire::LeaseExec => |request, call| {
                let _place = self.place(&call.peer)?;
                self.lease_exec(request, call.items()).await
            },
            wire::LeaseSignal => |request, _call| self.lease_signal(request).await,
            wire::LeasePut => |request, _call| self.lease_put(request).await,
            wire::LeaseGet => |request, call| {
                let _place = self.place(&call.peer)?;
                self.lease_get(request, call.items()).await
            },
            wire::Watch => |request, call| {
                let _place = self.place(&call.peer)?;
                self.watch(&request, call.items()).await
            },
        })
    }
}

impl Service for StreamApi {
    fn hello(&self) -> Hello {
        self.hello.clone()
    }

    /// The file's mode says who may call. People's programs know no epoch; whoever names a cluster or an epoch means just
    /// that. What reaches a node from here carries this master's fence, which the node checks.
    fn accept(&self, peer: &Peer) -> Result<(), String> {
        let (theirs, ours) = (&peer.hello, &self.hello);
        if theirs.cluster.is_some() && theirs.cluster != ours.cluster {
            return Err("this luxid serves another cluster".to_owned());
        }
        if theirs.epoch.is_some() && theirs.epoch != ours.epoch {
            let ours = ours.epoch.unwrap_or_default();
            return Err(format!("this master's epoch is {ours}"));
        }
        Ok(())
    }

    fn handle(self: Arc<Self>, call: Call) -> Handled {
        Box::pin(async move { self.answer(call).await })
    }

    fn gone(&self, peer: &Peer) {
        self.each().remove(&peer.id);
        self.parts.store.connection_ended(peer.id);
    }
}

/// Listens on `stream.sock`, for the same people as `luxi.sock`.
///
/// # Errors
/// What the system says.
pub fn listen(root: &Root) -> io::Result<UnixListener> {
    gantry_rpc::unix::bind(&root.socket(SOCKET), MODE)
}
