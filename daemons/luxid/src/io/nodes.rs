//! Connections to nodes, kept while they stand; live facts of nodes (`NodeInfo`). Changes nothing on a node itself.

use crate::core::mirror::Snapshot;
use crate::core::query::{LiveFacts, Unreachable};
use gantry_model::config::Node;
use gantry_model::ids::NodeUuid;
use gantry_model::root::Root;
use gantry_proto::hello::Hello;
use gantry_proto::noded::{Crypto, CryptoReply, NodeInfo, NodeInfoReply};
use gantry_rpc::Client;
use gantry_rpc::tls::Identity;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How long a node may take to answer a query, connecting included. Clients of lists wait for the slowest node.
const INFO_MS: u64 = 4_000;
/// The same for its certificates, which `gnt-cluster info` shows: a person waits, and a healthy node reads four small files.
const CRYPTO_MS: u64 = 1_000;
/// Nodes asked at the same time by one query.
const ASKED_AT_ONCE_MAX: usize = 64;

/// The nodes, as far as queries need them. Clones share connections.
#[derive(Clone)]
pub struct Nodes(Arc<Shared>);

struct Shared {
    root: Root,
    hello: Hello,
    clients: Mutex<HashMap<NodeUuid, Client>>,
}

impl Nodes {
    /// Nothing is connected yet. `hello` is what luxid says to a node, whose uuid is filled in.
    #[must_use]
    pub fn new(root: Root, hello: Hello) -> Self {
        Self(Arc::new(Shared { root, hello, clients: Mutex::default() }))
    }

    /// Asks these nodes, side by side.
    pub async fn facts(&self, config: &Arc<Snapshot>, nodes: &[NodeUuid]) -> LiveFacts {
        let places = Arc::new(Semaphore::new(ASKED_AT_ONCE_MAX));
        let mut asked = JoinSet::new();
        for uuid in nodes.iter().copied() {
            let node = config.nodes().get(&uuid).cloned();
            let (own, places) = (self.clone(), Arc::clone(&places));
            asked.spawn(async move {
                let _place = places.acquire().await;
                let answer = match &node {
                    Some(node) => own.info(node).await,
                    None => Err(Unreachable),
                };
                (uuid, answer)
            });
        }
        LiveFacts::new(asked.join_all().await)
    }

    /// A connection to a node by which more than its facts may be asked.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub async fn connect(&self, config: &Snapshot, node: NodeUuid) -> Result<Client, String> {
        let node = config.nodes().get(&node).ok_or_else(|| format!("node {node} is not in the cluster"))?;
        if node.offline {
            return Err(format!("node {} is marked offline", node.name));
        }
        self.client(node).await.map_err(|why| format!("node {} does not answer: {why}", node.name))
    }

    /// Asks all nodes side by side what their certificates are; why one does not say, for people.
    pub async fn crypto(&self, config: &Snapshot) -> Vec<(Arc<Node>, Result<CryptoReply, String>)> {
        let places = Arc::new(Semaphore::new(ASKED_AT_ONCE_MAX));
        let mut asked = JoinSet::new();
        for node in config.nodes().iter().map(|(_, node)| Arc::clone(node)) {
            let (own, places) = (self.clone(), Arc::clone(&places));
            asked.spawn(async move {
                let _place = places.acquire().await;
                let answer = own.certificates(&node).await;
                (node, answer)
            });
        }
        let mut all = asked.join_all().await;
        all.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
        all
    }

    async fn certificates(&self, node: &Node) -> Result<CryptoReply, String> {
        if node.offline {
            return Err("is marked offline".to_owned());
        }
        let limit = Duration::from_millis(CRYPTO_MS);
        let asked = tokio::time::timeout(limit, async {
            self.client(node).await?.call::<Crypto>(&(), limit).await.map_err(|error| error.to_string())
        });
        let answer = asked.await.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")));
        answer.map_err(|why| format!("does not answer: {why}"))
    }

    async fn info(&self, node: &Node) -> Result<NodeInfoReply, Unreachable> {
        let limit = Duration::from_millis(INFO_MS);
        let asked = tokio::time::timeout(limit, async {
            let client = self.client(node).await?;
            client.call::<NodeInfo>(&(), limit).await.map_err(|error| error.to_string())
        });
        match asked.await {
            Ok(Ok(info)) => Ok(info),
            Ok(Err(why)) => {
                tracing::debug!(node = %node.name, why, "a node does not answer a query");
                Err(Unreachable)
            }
            Err(_) => Err(Unreachable),
        }
    }

    async fn client(&self, node: &Node) -> Result<Client, String> {
        let kept = lock(&self.0.clients).get(&node.uuid).filter(|client| !client.is_closed()).cloned();
        if let Some(client) = kept {
            return Ok(client);
        }
        let ip = node.primary_ip.parse().map_err(|_| format!("no usable address '{}'", node.primary_ip))?;
        let address = SocketAddr::new(ip, node.noded_port);
        let hello = Hello { node: Some(node.uuid), ..self.0.hello.clone() };
        let identity = self.identity()?;
        let client =
            Client::tls(address, &hello, &identity, node.uuid).await.map_err(|error| error.to_string())?;
        lock(&self.0.clients).insert(node.uuid, client.clone());
        Ok(client)
    }

    /// Read for each new connection: a renewed certificate counts at once.
    fn identity(&self) -> Result<Identity, String> {
        Identity::load(&self.0.root.secrets()).map_err(|error| error.to_string())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
