//! Calls to the nodes, by mutual TLS. Connections are kept for the life of the job.

use crate::error::OpFail;
use crate::error::failed;
use gantry_model::config::Node;
use gantry_model::ids::{ClusterUuid, Fence, NodeUuid};
use gantry_model::root::Root;
use gantry_proto::hello::Hello;
use gantry_proto::noded::PROTOCOL;
use gantry_proto::verb::Verb;
use gantry_rpc::Client;
use gantry_rpc::tls::Identity;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// How long a plain call to a node may take.
pub const CALL: Duration = Duration::from_secs(60);
/// How long making or destroying a VM may take.
pub const VM_CALL: Duration = Duration::from_secs(300);

/// Connections by node.
pub struct Nodes {
    root: Root,
    cluster: ClusterUuid,
    fence: Fence,
    identity: Option<Arc<Identity>>,
    clients: HashMap<NodeUuid, Client>,
}

impl Nodes {
    /// Nothing is connected yet.
    pub fn new(root: Root, cluster: ClusterUuid, fence: Fence) -> Self {
        Self { root, cluster, fence, identity: None, clients: HashMap::new() }
    }

    /// The master's claim that every changing call carries.
    pub fn fence(&self) -> Fence {
        self.fence
    }

    fn identity(&mut self) -> Result<Arc<Identity>, OpFail> {
        if let Some(identity) = &self.identity {
            return Ok(Arc::clone(identity));
        }
        let identity = Identity::load(&self.root.secrets())
            .map_err(|why| OpFail::exec(format!("can't read this node's certificate: {why}")))?;
        let identity = Arc::new(identity);
        self.identity = Some(Arc::clone(&identity));
        Ok(identity)
    }

    /// The hello of a job to a node.
    pub fn hello(&self, node: NodeUuid) -> Hello {
        let mut hello = Hello::new(PROTOCOL, "gantry-job");
        hello.cluster = Some(self.cluster);
        hello.node = Some(node);
        hello.epoch = Some(self.fence.epoch);
        hello
    }

    async fn client(&mut self, node: &Node) -> Result<Client, OpFail> {
        if let Some(client) = self.clients.get(&node.uuid).filter(|client| !client.is_closed()) {
            return Ok(client.clone());
        }
        let address = address(node)?;
        let identity = self.identity()?;
        let client = Client::tls(address, &self.hello(node.uuid), &identity, node.uuid)
            .await
            .map_err(|why| OpFail::exec(format!("node {} ({address}) is not reached: {why}", node.name)))?;
        self.clients.insert(node.uuid, client.clone());
        Ok(client)
    }

    /// One call to a node. Verbs are idempotent: a connection found broken is made anew once.
    pub async fn call<V: Verb>(
        &mut self,
        node: &Node,
        request: &V::Request,
        within: Duration,
    ) -> Result<V::Reply, OpFail> {
        for attempt in 0..2 {
            match self.client(node).await?.call::<V>(request, within).await {
                Ok(reply) => return Ok(reply),
                Err(gantry_rpc::CallError::Closed(_)) if attempt == 0 => {
                    self.clients.remove(&node.uuid);
                }
                Err(why) => {
                    return Err(match failed(why) {
                        OpFail::Error(error) if error.class == "OpExecError" => {
                            OpFail::exec(format!("node {}: {error}", node.name))
                        }
                        other => other,
                    });
                }
            }
        }
        Err(OpFail::exec(format!("node {} closes connections at once", node.name)))
    }
}

/// Where a node's noded listens.
pub fn address(node: &Node) -> Result<SocketAddr, OpFail> {
    let ip: IpAddr = node.primary_ip.parse().map_err(|_| {
        OpFail::exec(format!("node {} has no usable address ('{}')", node.name, node.primary_ip))
    })?;
    Ok(SocketAddr::new(ip, node.noded_port))
}
