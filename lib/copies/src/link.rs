//! How other nodes' copies are reached: a small trait, so that a whole cluster runs in one process of a test, and the
//! real thing over mutual TLS.

use gantry_model::ids::{ClusterUuid, NodeUuid};
use gantry_proto::hello::Hello;
use gantry_proto::noded;
use gantry_proto::verb::Verb;
use gantry_rpc::tls::Identity;
use gantry_rpc::{CallError, Client};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::peers::Peers;

/// Why there is no answer. Whether the call was carried out is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// No node object says where it is.
    #[error("its address is not known")]
    NoAddress,
    /// It can't be reached.
    #[error("{0}")]
    Connect(String),
    /// The connection used before has ended. Told once, so that whoever relied on it begins anew.
    #[error("the connection was lost")]
    Lost,
    /// It gave no answer, or a failure.
    #[error("{0}")]
    Call(String),
}

/// The way to the nodeds of all nodes, the own one among them.
pub trait Link: Send + Sync + 'static {
    /// Calls a verb of a node's noded. Dropping the future forgets the answer only.
    fn call<V>(
        &self,
        node: NodeUuid,
        request: V::Request,
        deadline: Duration,
    ) -> impl Future<Output = Result<V::Reply, LinkError>> + Send
    where
        V: Verb<Request: Sync>;

    /// What people call the node.
    fn name(&self, node: NodeUuid) -> String {
        node.to_string()
    }
}

/// A place for a node's one connection; held while it is made.
type Place = Arc<tokio::sync::Mutex<Option<Client>>>;

/// Where the certificate is.
enum Source {
    Loaded(Identity),
    /// Read for each new connection, so that a log of one member needs none and a renewed one is taken.
    Dir(PathBuf),
}

/// Mutual TLS to the addresses that the local configuration names. One connection a node, made when it is needed.
pub struct TlsLink {
    source: Source,
    hello: Hello,
    peers: Peers,
    places: Mutex<HashMap<NodeUuid, Place>>,
}

impl TlsLink {
    /// As `component`, which is named in the hello.
    #[must_use]
    pub fn new(identity: Identity, cluster: ClusterUuid, component: &str, peers: Peers) -> Self {
        Self::from(Source::Loaded(identity), cluster, component, peers)
    }

    /// The same with the certificate in `secrets`, read for each new connection.
    #[must_use]
    pub fn of_dir(secrets: PathBuf, cluster: ClusterUuid, component: &str, peers: Peers) -> Self {
        Self::from(Source::Dir(secrets), cluster, component, peers)
    }

    fn from(source: Source, cluster: ClusterUuid, component: &str, peers: Peers) -> Self {
        let mut hello = Hello::new(noded::PROTOCOL, component);
        hello.cluster = Some(cluster);
        Self { source, hello, peers, places: Mutex::default() }
    }

    async fn connect(&self, node: NodeUuid) -> Result<Client, LinkError> {
        let peer = self.peers.of(node).ok_or(LinkError::NoAddress)?;
        let read;
        let identity = match &self.source {
            Source::Loaded(identity) => identity,
            Source::Dir(secrets) => {
                read = Identity::load(secrets)
                    .map_err(|why| LinkError::Connect(format!("loading the certificate: {}", chain(&why))))?;
                &read
            }
        };
        let connected = Client::tls(peer.address, &self.hello, identity, node).await;
        connected.map_err(|why| LinkError::Connect(chain(&why)))
    }

    async fn client(&self, node: NodeUuid) -> Result<Client, LinkError> {
        let place = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(places.entry(node).or_default())
        };
        let mut place = place.lock().await;
        if let Some(client) = place.take() {
            if client.is_closed() {
                return Err(LinkError::Lost);
            }
            *place = Some(client.clone());
            return Ok(client);
        }
        let client = self.connect(node).await?;
        *place = Some(client.clone());
        Ok(client)
    }
}

/// An error with its causes, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(why) = cause {
        text.push_str(": ");
        text.push_str(&why.to_string());
        cause = why.source();
    }
    text
}

impl Link for TlsLink {
    async fn call<V>(
        &self,
        node: NodeUuid,
        request: V::Request,
        deadline: Duration,
    ) -> Result<V::Reply, LinkError>
    where
        V: Verb<Request: Sync>,
    {
        let asked = async {
            let client = self.client(node).await?;
            client.call::<V>(&request, deadline).await.map_err(|why| match why {
                CallError::Closed(_) => LinkError::Lost,
                other => LinkError::Call(other.to_string()),
            })
        };
        let late = || LinkError::Call(format!("no answer to {} within {} ms", V::NAME, deadline.as_millis()));
        tokio::time::timeout(deadline, asked).await.unwrap_or_else(|_| Err(late()))
    }

    fn name(&self, node: NodeUuid) -> String {
        self.peers.of(node).map_or_else(|| node.to_string(), |peer| peer.name)
    }
}
