//! A server of `stream.sock` in this process, with all it works with.

use crate::fakes::{FakeNode, FakeWconfd, Log};
use gantry_luxid::core::mirror::{Mirror, Snapshot};
use gantry_luxid::core::queue::Shown;
use gantry_luxid::io::blob::Store;
use gantry_luxid::io::feed::Feed;
use gantry_luxid::io::nodes::Nodes;
use gantry_luxid::io::stream::{self, Parts, StreamApi};
use gantry_luxid::io::view::View;
use gantry_luxid::io::wconfd::Config;
use gantry_model::config::{Node, Stamp, kind};
use gantry_model::ids::{ClusterUuid, Fence, Generation, GroupUuid, InstanceUuid, LeaseUuid, NodeUuid};
use gantry_model::lease::{Lease, LeaseOwner, LeaseState, LeasedVm};
use gantry_model::root::Root;
use gantry_model::task::Task;
use gantry_proto::hello::Hello;
use gantry_proto::wconfd::{WatchChange, WatchItem};
use gantry_rpc::tls::{self, Identity, ca};
use gantry_rpc::{Client, Limits};
use serde::Serialize;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Longest wait for anything that must happen; far more than it takes.
pub const LIMIT: Duration = Duration::from_secs(20);

pub struct Bed {
    pub root: Root,
    pub store: Store,
    pub view: View,
    pub feed: Feed,
    pub node: Arc<FakeNode>,
    pub wconfd: Arc<FakeWconfd>,
    pub log: Log,
    mirror: Mirror,
    state: watch::Sender<Arc<Snapshot>>,
    identity: Identity,
    address: SocketAddr,
    node_stop: CancellationToken,
    stop: CancellationToken,
    rev: u64,
    _dir: tempfile::TempDir,
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.stop.cancel();
        self.node_stop.cancel();
    }
}

impl Bed {
    pub async fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("lxs").tempdir().unwrap();
        let root = Root::new(dir.path());
        gantry_rt::files::make_dirs(&root).unwrap();
        let (cluster, node) = (ClusterUuid(Uuid::new_v4()), NodeUuid(Uuid::new_v4()));
        let authority = ca::make_ca(cluster).unwrap();
        let pair = ca::make_node(&authority, cluster, node).unwrap();
        for (name, text) in [
            (tls::CA_PEM, &authority.certificate),
            (tls::NODE_PEM, &pair.certificate),
            (tls::NODE_KEY, &pair.key),
        ] {
            std::fs::write(root.secrets().join(name), text).unwrap();
        }
        let identity = Identity::load(&root.secrets()).unwrap();
        let (log, stop) = (Log::default(), CancellationToken::new());

        let wconfd = Arc::new(FakeWconfd { log: Arc::clone(&log), refusal: Mutex::default() });
        let listener = gantry_rpc::unix::bind(&root.socket("wconfd.sock"), 0o600).unwrap();
        let serve = gantry_rpc::serve_unix(listener, Arc::clone(&wconfd), Limits::default(), stop.clone());
        tokio::spawn(serve);

        let (store, view, feed) = (Store::open(&root).unwrap(), View::default(), Feed::default());
        let (state, seen) = watch::channel(Arc::new(Snapshot::default()));
        let (_, calls) = watch::channel(None);
        let hello = Hello {
            cluster: Some(cluster),
            epoch: Some(3),
            run: Some(1),
            ..Hello::new("noded", "gantry-luxid")
        };
        let parts = Parts {
            store: store.clone(),
            view: view.clone(),
            config: Config::new(seen, calls, feed.clone()),
            nodes: Nodes::new(root.clone(), hello.clone()),
            fence: Fence { epoch: 3, ballot: [1; 16] },
        };
        let api = StreamApi::new(&root, &hello, parts);
        tokio::spawn(api.serve(stream::listen(&root).unwrap(), stop.clone()));

        let mut mirror = Mirror::new();
        mirror.apply(&WatchItem::Reset { index: 1, history: Uuid::nil() }).unwrap();
        mirror.apply(&WatchItem::Loaded).unwrap();
        let fake = FakeNode::new(cluster, node, Arc::clone(&log));
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let mut bed = Self {
            root,
            store,
            view,
            feed,
            node: fake,
            wconfd,
            log,
            mirror,
            state,
            identity,
            address,
            node_stop: CancellationToken::new(),
            stop,
            rev: 0,
            _dir: dir,
        };
        bed.serve_node(socket);
        let member = bed.member();
        bed.put(kind::NODE, &node.to_string(), Some(&member));
        bed
    }

    fn serve_node(&mut self, socket: tokio::net::TcpListener) {
        self.node_stop = CancellationToken::new();
        let config = tls::server_config(&self.identity).unwrap();
        let (node, stop) = (Arc::clone(&self.node), self.node_stop.clone());
        tokio::spawn(gantry_rpc::serve_tls(socket, config, node, Limits::default(), stop));
    }

    /// Ends the node's connections.
    pub fn stop_node(&self) {
        self.node_stop.cancel();
    }

    /// The node is there again, under its address.
    pub async fn start_node(&mut self) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        let bound = async {
            while socket.bind(self.address).is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LIMIT, bound).await.unwrap();
        self.serve_node(socket.listen(64).unwrap());
    }

    fn member(&self) -> Node {
        Node {
            uuid: self.node.node,
            name: "node1.test".to_owned(),
            primary_ip: self.address.ip().to_string(),
            secondary_ip: String::new(),
            master_candidate: true,
            offline: false,
            drained: false,
            group: GroupUuid(Uuid::nil()),
            master_capable: true,
            vm_capable: true,
            ndparams: serde_json::Map::new(),
            powered: true,
            noded_port: self.address.port(),
            stamp: Stamp::new(1.0),
            extra: serde_json::Map::new(),
        }
    }

    /// Changes an object of the configuration, as wconfd's stream would.
    pub fn put<T: Serialize>(&mut self, kind: &str, key: &str, body: Option<&T>) {
        let body = body.map(|body| serde_json::to_string(body).unwrap());
        let change = WatchChange { kind: kind.to_owned(), key: key.to_owned(), rev: 1, body };
        let index = self.mirror.snapshot().index() + 1;
        let touched = self.mirror.apply(&WatchItem::Batch { index, changes: vec![change] }).unwrap();
        self.state.send_replace(self.mirror.snapshot());
        self.feed.tell(touched);
    }

    pub fn vm(&self) -> LeasedVm {
        let (slot, generation) = (InstanceUuid(Uuid::from_u128(3)), Generation(4));
        LeasedVm { slot, generation, node: self.node.node }
    }

    /// A lease in the configuration.
    pub fn lease(&mut self, uuid: LeaseUuid, state: LeaseState, why: Option<&str>) {
        self.lease_of(uuid, state, why, LeaseOwner::User { name: "u".to_owned() });
    }

    pub fn lease_of(&mut self, uuid: LeaseUuid, state: LeaseState, why: Option<&str>, owner: LeaseOwner) {
        let lease = Lease {
            uuid,
            owner,
            pool: "p".to_owned(),
            vms: vec![self.vm()],
            granted: 1,
            until: 100_000,
            ttl_ms: None,
            renewed: 1,
            state,
            why: why.map(str::to_owned),
            granted_at: 1.0,
        };
        self.put(kind::LEASE, &uuid.to_string(), Some(&lease));
    }

    /// A task in a new revision.
    pub fn task(&mut self, task: Task) {
        self.rev += 1;
        self.view.apply(vec![Shown::Task { rev: self.rev, task: Arc::new(task) }]);
    }

    pub async fn client(&self) -> Client {
        Client::unix(&self.root.socket(stream::SOCKET), &Hello::new("stream", "test")).await.unwrap()
    }

    /// What happened on the fakes so far.
    pub fn happened(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    /// Waits until the node has so many followers of output.
    pub async fn followers(&self, count: usize) {
        let mut following = self.node.following.subscribe();
        tokio::time::timeout(LIMIT, following.wait_for(|n| *n == count)).await.unwrap().unwrap();
    }

    /// Waits until the node has a command.
    pub async fn has(&self, exec: &str) {
        let mut runs = self.node.runs.subscribe();
        tokio::time::timeout(LIMIT, runs.wait_for(|runs| runs.contains_key(exec))).await.unwrap().unwrap();
    }
}
