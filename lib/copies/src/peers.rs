//! Where the nodes are: the node objects in the local `config.data`, read beside its writer (docs/adr/0008, 6). So a
//! recovering luxid needs no wconfd, and a candidate no master. What is read may be old; a node that moved is then
//! silent until the file has caught up.

use gantry_model::config::Node;
use gantry_model::ids::NodeUuid;
use rusqlite::{Connection, OpenFlags};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How old what was read may be before it is read again.
const FRESH_MS: u64 = 2_000;
/// How long to wait for a checkpoint of the writer.
const BUSY: Duration = Duration::from_millis(200);

/// A node to call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Where its noded listens.
    pub address: SocketAddr,
}

#[derive(Debug, Default)]
struct Known {
    peers: BTreeMap<NodeUuid, Peer>,
    read_at: Option<u64>,
}

/// The nodes known here. Clones share what was read.
#[derive(Debug, Clone)]
pub struct Peers {
    file: Option<PathBuf>,
    known: Arc<Mutex<Known>>,
}

impl Peers {
    /// Those of `config.data` in `dir`, read when asked for.
    #[must_use]
    pub fn of_dir(dir: &Path) -> Self {
        Self { file: Some(dir.join("config.data")), known: Arc::default() }
    }

    /// Just these.
    #[must_use]
    pub fn fixed(peers: BTreeMap<NodeUuid, Peer>) -> Self {
        let known = Known { peers, read_at: None };
        Self { file: None, known: Arc::new(Mutex::new(known)) }
    }

    /// Adds one that no object names yet: a node that is being added.
    pub fn add(&self, node: NodeUuid, peer: Peer) {
        self.lock().peers.insert(node, peer);
    }

    /// One of them. Reads a small file now and then, and always for one that is not known: it may just have been added.
    #[must_use]
    pub fn of(&self, node: NodeUuid) -> Option<Peer> {
        let mut known = self.lock();
        let now = gantry_rt::clock::millis();
        if let Some(file) = &self.file
            && (!known.peers.contains_key(&node)
                || known.read_at.is_none_or(|at| now.saturating_sub(at) > FRESH_MS))
        {
            known.read_at = Some(now);
            match read(file) {
                Ok(peers) => known.peers.extend(peers),
                Err(error) => tracing::warn!(%error, "can't read the nodes in config.data"),
            }
        }
        known.peers.get(&node).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(file: &Path) -> rusqlite::Result<BTreeMap<NodeUuid, Peer>> {
    let db = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    db.busy_timeout(BUSY)?;
    let mut query = db.prepare("SELECT body FROM object WHERE kind = 'node'")?;
    let bodies = query.query_map([], |row| row.get::<_, String>(0))?;
    let mut peers = BTreeMap::new();
    for body in bodies {
        let Ok(node) = serde_json::from_str::<Node>(&body?) else { continue };
        let Ok(ip) = node.primary_ip.parse() else { continue };
        let address = SocketAddr::new(ip, node.noded_port);
        peers.insert(node.uuid, Peer { name: node.name, address });
    }
    Ok(peers)
}
