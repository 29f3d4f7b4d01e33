//! One node's life in this process: unjoined, then a member, on one listening socket that stays open throughout.

use crate::api::Api;
use crate::config::Settings;
use crate::io::data::{self, DataError};
use crate::io::files::{self, FileError};
use crate::join::Joining;
use crate::member::Member;
use crate::metrics::Metrics;
use gantry_model::role::RoleFile;
use gantry_rpc::tls::{self, Identity, TlsError, ca};
use gantry_rpc::{Limits, serve_tls, serve_unix, unix};
use gantry_rt::Tasks;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often an unjoined node looks whether its secret is too old, or `gantry-wconfd init` made it a master.
const LOOK_MS: u64 = 500;

/// Why a node can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A file of the node.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its records.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Its keys or certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The directories of its root.
    #[error("can't make the directories of {root}")]
    Dirs {
        /// Which.
        root: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its socket.
    #[error("can't listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its socket for this machine's own jobs.
    #[error("can't listen on {}", path.display())]
    Local {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// role.json.
    #[error("can't read role.json of {root}")]
    Role {
        /// Of which root.
        root: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// role.json and the certificate name different nodes.
    #[error("role.json says node {}, cluster {}; the certificate in secrets/ is another's", role.node, role.cluster)]
    Mismatch {
        /// What role.json says.
        role: RoleFile,
    },
    /// The machine or node.toml.
    #[error("can't serve as a member")]
    Member(#[source] io::Error),
    /// The records can't be written any more.
    #[error("a write to noded.data failed: the daemon ends to start over from the disk")]
    WriteFailed,
}

/// Why serving ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop.
    Stopped,
    /// The node has left its cluster.
    Left,
}

/// A node about to be served: its root is locked and its socket bound.
pub struct Server {
    settings: Settings,
    listener: TcpListener,
    tasks: Tasks,
    metrics: Metrics,
    _lock: nix::fcntl::Flock<std::fs::File>,
}

impl Server {
    /// Makes the root's directories, locks it, and binds the socket. Blocks on the disk.
    ///
    /// # Errors
    /// When another noded serves the root, or the address can't be had.
    pub fn bind(settings: Settings, tasks: Tasks, metrics: Metrics) -> Result<Self, ServeError> {
        let root = settings.root.path().display().to_string();
        gantry_rt::files::make_dirs(&settings.root).map_err(|source| ServeError::Dirs { root, source })?;
        let lock = files::lock(&settings.root)?;
        let address = settings.address;
        let listener = TcpListener::bind(address)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .map_err(|source| ServeError::Listen { address, source })?;
        Ok(Self { settings, listener, tasks, metrics, _lock: lock })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`, or until the node has left its cluster.
    ///
    /// # Errors
    /// When its files don't allow to go on.
    pub async fn serve(&self, stop: &CancellationToken) -> Result<Ended, ServeError> {
        loop {
            files::finish_leaving(&self.settings.root, self.settings.ganeti_paths)?;
            match self.role()? {
                None => self.serve_unjoined(stop).await?,
                Some(role) => return self.serve_member(role, stop).await,
            }
            if stop.is_cancelled() {
                return Ok(Ended::Stopped);
            }
        }
    }

    fn role(&self) -> Result<Option<RoleFile>, ServeError> {
        gantry_rt::files::mend_role(&self.settings.root).map_err(|source| {
            let root = self.settings.root.path().display().to_string();
            ServeError::Role { root, source }
        })
    }

    /// The same socket for each life, so that callers in between wait in its backlog.
    fn listener(&self) -> Result<tokio::net::TcpListener, ServeError> {
        let address = self.settings.address;
        self.listener
            .try_clone()
            .and_then(tokio::net::TcpListener::from_std)
            .map_err(|source| ServeError::Listen { address, source })
    }

    /// Until joined, made a master by init, or stopped.
    async fn serve_unjoined(&self, stop: &CancellationToken) -> Result<(), ServeError> {
        let joining = Joining::new(self.settings.clone(), self.tasks.clone())?;
        tracing::info!(secret = %self.settings.root.join_secret().display(), "unjoined: waits for gnt-node add");
        let tls = ca::self_signed()?;
        let over = stop.child_token();
        let serve = serve_tls(self.listener()?, tls, Arc::clone(&joining), Limits::default(), over.clone());
        let watch = async {
            let mut look = tokio::time::interval(Duration::from_millis(LOOK_MS));
            loop {
                tokio::select! {
                    () = joining.joined().cancelled() => return Ok(()),
                    () = stop.cancelled() => return Ok(()),
                    _ = look.tick() => {}
                }
                joining.renew_secret()?;
                if self.role()?.is_some() {
                    return Ok(());
                }
            }
        };
        let ending = async {
            let ended: Result<(), ServeError> = watch.await;
            over.cancel();
            ended
        };
        let (ended, ()) = tokio::join!(ending, serve);
        ended
    }

    async fn serve_member(&self, role: RoleFile, stop: &CancellationToken) -> Result<Ended, ServeError> {
        let root = &self.settings.root;
        let identity = Identity::load(&root.secrets())?;
        if (identity.cluster(), identity.node()) != (role.cluster, role.node) {
            return Err(ServeError::Mismatch { role });
        }
        files::remove_join_secret(root)?;
        let (data, loaded) = data::open(&root.lib(), role.cluster, role.node)?;
        let slots = loaded.slots.len();
        let shared = (self.tasks.clone(), self.metrics.clone());
        let member = Member::new(self.settings.clone(), role, (data.clone(), loaded), shared)
            .map_err(ServeError::Member)?;
        tracing::info!(node = %role.node, cluster = %role.cluster, role = ?role.role, slots, "serves as a member");
        member.store_fallen().await;
        member.copies().settle().await;
        let over = stop.child_token();
        let (sweeper, swept) = (Arc::clone(&member), over.clone());
        self.tasks.spawn("sweep", async move {
            tokio::select! {
                () = sweeper.sweep_at_start() => {}
                () = swept.cancelled() => {}
            }
        });
        let (listener, heard) = (Arc::clone(&member), over.clone());
        self.tasks.spawn("deaths", async move { listener.hear_deaths(heard).await });
        self.tasks.spawn("bodies", member.copies().clone().keep_tidy(over.clone()));
        let (keeper, kept) = (Arc::clone(&member), over.clone());
        self.tasks.spawn("master-ip", async move { keeper.keep_master_ip(kept).await });
        let api = Arc::new(Api::new(Arc::clone(&member)));
        // For jobs of this machine, who could read this node's key as well: no handshake, no encryption.
        let path = root.socket("noded.sock");
        let local =
            unix::bind(&path, 0o600).map_err(|source| ServeError::Local { path: path.clone(), source })?;
        let local = serve_unix(local, Arc::clone(&api), Limits::default(), over.clone());
        let tls = tls::server_config(&identity)?;
        member.listens_by(tls.clone());
        let serve = serve_tls(self.listener()?, tls, api, Limits::default(), over.clone());
        let ending = async {
            let ended = tokio::select! {
                () = stop.cancelled() => Ok(Ended::Stopped),
                () = member.left().cancelled() => Ok(Ended::Left),
                () = data.failed() => Err(ServeError::WriteFailed),
            };
            over.cancel();
            ended
        };
        let (ended, (), ()) = tokio::join!(ending, serve, local);
        let _ = std::fs::remove_file(path);
        ended
    }
}
