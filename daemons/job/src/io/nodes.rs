//! Calls to the nodes: by mutual TLS, to the master's own noded by its local socket, which costs no handshake.
//! Connections are kept for the life of the job.

use crate::error::{OpFail, failed};
use gantry_model::config::Node;
use gantry_model::ids::{ClusterUuid, Fence, NodeUuid};
use gantry_model::root::Root;
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::hello::Hello;
use gantry_proto::noded::PROTOCOL;
use gantry_proto::verb::Verb;
use gantry_rpc::tls::Identity;
use gantry_rpc::{CallError, Client, Stream};
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

/// How long a plain call to a node may take.
pub const CALL: Duration = Duration::from_secs(60);
/// How long making or destroying a VM may take.
pub const VM_CALL: Duration = Duration::from_secs(300);

/// Class of a driver's failure that a node names in the failure's body: a disk is full.
const NO_SPACE: &[u8] = b"no-space";

/// A node's connection, made by one caller at a time.
type Place = Rc<tokio::sync::Mutex<Option<Client>>>;

/// Connections by node. Calls to several nodes, or several to one, may be under way at once.
pub struct Nodes {
    root: Root,
    cluster: ClusterUuid,
    fence: Fence,
    /// The node this job runs on.
    here: NodeUuid,
    places: RefCell<HashMap<NodeUuid, Place>>,
}

/// Who is called.
pub trait Callee {
    /// Its uuid.
    fn uuid(&self) -> NodeUuid;
    /// As errors name it.
    fn name(&self) -> &str;
    /// Where its noded listens to other machines; None: it is called on its own socket only.
    ///
    /// # Errors
    /// When its record has no such address.
    fn address(&self) -> Option<Result<SocketAddr, OpFail>>;
}

/// Why a node gave no answer.
#[derive(Debug)]
pub enum NodeFail {
    /// It is not reached, or left in the middle, or can't now: asking again may help.
    Away(String),
    /// It says no.
    Refused(Fail),
    /// Not asked, or an answer that is none.
    Broken(OpFail),
}

impl NodeFail {
    fn of(why: CallError) -> Self {
        match why {
            CallError::Closed(_) | CallError::Deadline { .. } => Self::Away(why.to_string()),
            // Asking again makes no room.
            CallError::Fail(fail) if fail.body == NO_SPACE => Self::Refused(fail),
            CallError::Fail(fail) => match fail.code {
                Code::NotReady | Code::Busy | Code::Unknown | Code::Deadline => Self::Away(fail.text),
                Code::UnknownVerb
                | Code::BadRequest
                | Code::Denied
                | Code::Ganeti
                | Code::Fenced
                | Code::Stale
                | Code::NotFound
                | Code::Internal => Self::Refused(fail),
            },
            CallError::Protocol(text) => Self::Broken(OpFail::exec(text)),
        }
    }

    /// The text of a refusal of what was sent itself: it is malformed, or there is no room for it.
    pub fn unfit(&self) -> Option<&str> {
        match self {
            Self::Refused(fail) if fail.code == Code::BadRequest || fail.body == NO_SPACE => Some(&fail.text),
            Self::Refused(_) | Self::Away(_) | Self::Broken(_) => None,
        }
    }

    /// The code of a refusal.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(fail) => Some(fail.code),
            Self::Away(_) | Self::Broken(_) => None,
        }
    }

    /// What it means for the opcode; the node is named.
    pub fn into_op(self, node: &impl Callee) -> OpFail {
        let failed = match self {
            Self::Away(why) => OpFail::exec(why),
            Self::Refused(fail) => failed(CallError::Fail(fail)),
            Self::Broken(why) => why,
        };
        match failed {
            OpFail::Error(error) if error.class == "OpExecError" => {
                OpFail::exec(format!("node {}: {error}", node.name()))
            }
            other => other,
        }
    }
}

impl Nodes {
    /// Nothing is connected yet.
    pub fn new(root: Root, cluster: ClusterUuid, fence: Fence, here: NodeUuid) -> Self {
        Self { root, cluster, fence, here, places: RefCell::default() }
    }

    /// The master's claim that every changing call carries.
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// Read for each new connection: a renewed certificate counts at once, also in a job that has run for hours.
    fn identity(&self) -> Result<Identity, OpFail> {
        Identity::load(&self.root.secrets())
            .map_err(|why| OpFail::exec(format!("can't read this node's certificate: {why}")))
    }

    /// The hello of a job to a node.
    pub fn hello(&self, node: NodeUuid) -> Hello {
        let mut hello = Hello::new(PROTOCOL, "gantry-job");
        hello.cluster = Some(self.cluster);
        hello.node = Some(node);
        hello.epoch = Some(self.fence.epoch);
        hello
    }

    async fn client(&self, node: &impl Callee) -> Result<Client, NodeFail> {
        let place = Rc::clone(self.places.borrow_mut().entry(node.uuid()).or_default());
        let mut place = place.lock().await;
        if let Some(client) = place.as_ref().filter(|client| !client.is_closed()) {
            return Ok(client.clone());
        }
        let why = match self.local(node.uuid()).await {
            Ok(client) => {
                *place = Some(client.clone());
                return Ok(client);
            }
            Err(why) => why,
        };
        let Some(address) = node.address() else { return Err(NodeFail::Away(why)) };
        let address = address.map_err(NodeFail::Broken)?;
        let identity = self.identity().map_err(NodeFail::Broken)?;
        let client = Client::tls(address, &self.hello(node.uuid()), &identity, node.uuid())
            .await
            .map_err(|why| NodeFail::Away(format!("{address} is not reached: {why}")))?;
        *place = Some(client.clone());
        Ok(client)
    }

    /// The own node's, when its noded listens locally; else why there is none.
    async fn local(&self, node: NodeUuid) -> Result<Client, String> {
        if node != self.here {
            return Err("it is another node".to_owned());
        }
        let path = self.root.socket("noded.sock");
        let client = Client::unix(&path, &self.hello(node)).await;
        client.map_err(|why| format!("{} is not reached: {why}", path.display()))
    }

    /// The name of this job's node as noded keeps it for others to read, if it is that one and its noded listens locally.
    pub async fn here(&self, node: NodeUuid) -> Option<String> {
        let client = self.local(node).await.ok()?;
        let place = Rc::clone(self.places.borrow_mut().entry(node).or_default());
        *place.lock().await = Some(client);
        let name = std::fs::read_to_string(self.root.ssconf("master_node"));
        let name = name.ok().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
        Some(name.unwrap_or_else(|| node.to_string()))
    }

    /// One call to a node. Verbs are idempotent: a connection found broken is made anew once.
    pub async fn ask<V: Verb>(
        &self,
        node: &impl Callee,
        request: &V::Request,
        within: Duration,
    ) -> Result<V::Reply, NodeFail> {
        for attempt in 0..2 {
            match self.client(node).await?.call::<V>(request, within).await {
                Ok(reply) => return Ok(reply),
                Err(CallError::Closed(_)) if attempt == 0 => {}
                Err(why) => return Err(NodeFail::of(why)),
            }
        }
        Err(NodeFail::Away("it closes connections at once".to_owned()))
    }

    /// Opens a stream to a node. Its errors are read with [`Nodes::stream_failed`].
    pub async fn open<V: Verb>(
        &self,
        node: &impl Callee,
        request: &V::Request,
    ) -> Result<Stream<V>, NodeFail> {
        self.client(node).await?.open::<V>(request).await.map_err(NodeFail::of)
    }

    /// Why a stream ended before its reply.
    pub fn stream_failed(why: CallError) -> NodeFail {
        NodeFail::of(why)
    }

    /// As [`Nodes::ask`], with what a failure means for the opcode.
    pub async fn call<V: Verb>(
        &self,
        node: &impl Callee,
        request: &V::Request,
        within: Duration,
    ) -> Result<V::Reply, OpFail> {
        self.ask::<V>(node, request, within).await.map_err(|why| why.into_op(node))
    }
}

impl Callee for Node {
    fn uuid(&self) -> NodeUuid {
        self.uuid
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn address(&self) -> Option<Result<SocketAddr, OpFail>> {
        Some(address(self))
    }
}

/// Where a node's noded listens.
pub fn address(node: &Node) -> Result<SocketAddr, OpFail> {
    let ip: IpAddr = node.primary_ip.parse().map_err(|_| {
        OpFail::exec(format!("node {} has no usable address ('{}')", node.name, node.primary_ip))
    })?;
    Ok(SocketAddr::new(ip, node.noded_port))
}
