//! A cluster's CA, a master's identity, and node processes with roots of their own.

use gantry_model::ids::{ClusterUuid, Fence, Generation, InstanceUuid, LeaseUuid, NodeUuid};
use gantry_model::role::Role;
use gantry_model::root::Root;
use gantry_noded::core::join::{Bond, Side, is_proof, proof};
use gantry_proto::hello::Hello;
use gantry_proto::noded::{self as wire, SlotFacts, VmSpec, VmState};
use gantry_rpc::tls::{Identity, ca};
use gantry_rpc::{CallError, Client, Code, Fail};
use gantry_rt::node_toml::{Capacity, NodeToml};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use uuid::Uuid;

/// Longest wait for anything: far above what a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster seen from its master.
pub struct Cluster {
    pub uuid: ClusterUuid,
    pub ca: ca::Pair,
    pub master: Identity,
    dir: tempfile::TempDir,
}

impl Cluster {
    pub fn new() -> Self {
        let uuid = ClusterUuid(Uuid::new_v4());
        let ca = ca::make_ca(uuid).expect("made");
        let pair = ca::make_node(&ca, uuid, NodeUuid(Uuid::new_v4())).expect("made");
        let master = Identity::from_pem(&pair.certificate, &pair.key, &ca.certificate).expect("fits");
        let dir = tempfile::Builder::new().prefix("nd").tempdir().expect("dir");
        Self { uuid, ca, master, dir }
    }

    pub fn path(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// A root with node.toml, nothing running.
    pub fn root(&self, name: &str) -> (Root, SocketAddr) {
        let root = Root::new(self.dir.path().join(name));
        gantry_rt::files::make_dirs(&root).expect("made");
        let address = address();
        let mut toml = NodeToml::new(name, address.ip());
        toml.drivers = vec!["fake".to_owned()];
        toml.capacity = Some(Capacity { memory_mib: 32_768, cpus: 8, disk_mib: 65_536 });
        toml.save(&root).expect("written");
        (root, address)
    }

    /// A process that has not joined.
    pub async fn unjoined(&self, name: &str) -> Node {
        let (root, address) = self.root(name);
        let node = NodeUuid(Uuid::new_v4());
        let process = start(&root);
        let node = Node { root, address, node, process };
        wait_for("an unjoined node", || async { Client::tls_join(address, &hello()).await.ok() }).await;
        node
    }

    /// A member, claimed under `fence(1)`.
    pub async fn member(&self, name: &str) -> (Node, Client) {
        let node = self.unjoined(name).await;
        self.join(&node, fence(1)).await.expect("joined");
        let client = self.connect(&node).await;
        claim(&client, self, &node, fence(1)).await.expect("claimed");
        (node, client)
    }

    pub async fn connect(&self, node: &Node) -> Client {
        wait_for("a member", || async {
            Client::tls(node.address, &hello(), &self.master, node.node).await.ok()
        })
        .await
    }

    pub async fn prove(&self, client: &Client, node: &Node, secret: &[u8; 32]) -> Result<String, CallError> {
        let bond = self.bond(client, node);
        let request = wire::JoinProveRequest {
            cluster: self.uuid,
            node: node.node,
            name: node.name(),
            proof: proof(secret, Side::Master, &bond),
        };
        let reply = client.call::<wire::JoinProve>(&request, PATIENCE).await?;
        assert!(is_proof(secret, Side::Node, &bond, &reply.proof), "the node proves itself");
        Ok(reply.csr)
    }

    pub fn bond(&self, client: &Client, node: &Node) -> Bond {
        let exporter = client.exporter().expect("TLS");
        Bond { exporter, cluster: self.uuid, node: node.node }
    }

    pub fn certificate(&self, csr: &str, node: NodeUuid) -> String {
        ca::sign_csr(&self.ca, csr, self.uuid, node).expect("signed")
    }

    pub fn finish(&self, certificate: String, fence: Fence) -> wire::JoinFinishRequest {
        let ca = self.ca.certificate.clone();
        wire::JoinFinishRequest { certificate, ca, fence, role: Role::Regular }
    }

    pub async fn join(&self, node: &Node, fence: Fence) -> Result<(), CallError> {
        let client = Client::tls_join(node.address, &hello()).await.expect("connects");
        let csr = self.prove(&client, node, &node.secret()).await?;
        let certificate = self.certificate(&csr, node.node);
        client.call::<wire::JoinFinish>(&self.finish(certificate, fence), PATIENCE).await
    }
}

/// A node and its process, killed when dropped.
pub struct Node {
    pub root: Root,
    pub address: SocketAddr,
    pub node: NodeUuid,
    pub process: Child,
}

impl Node {
    /// The name in its node.toml. A node of a process that serves many has none and takes any.
    pub fn name(&self) -> String {
        gantry_rt::node_toml::load(&self.root).map_or_else(|_| "any.gantry.test".to_owned(), |toml| toml.name)
    }

    pub fn secret(&self) -> [u8; 32] {
        let text = std::fs::read_to_string(self.root.join_secret()).expect("there is a secret");
        let mut secret = [0; 32];
        for (at, byte) in secret.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("hex");
        }
        secret
    }

    /// kill -9, then a new process.
    pub fn kill_and_start(&mut self) {
        self.process.kill().expect("killed");
        self.process.wait().expect("reaped");
        self.process = start(&self.root);
    }

    pub fn faults(&self, json: &str) {
        let path = self.root.etc().join("fake.json");
        gantry_rt::files::atomic_write(&path, json.as_bytes(), 0o644).expect("written");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn start(root: &Root) -> Child {
    Command::new(env!("CARGO_BIN_EXE_gantry-noded"))
        .arg("--root")
        .arg(root.path())
        .stdin(Stdio::null())
        .spawn()
        .expect("started")
}

/// An address of this process alone: the whole of 127/8 is this machine.
pub fn address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let last = NEXT.fetch_add(1, Ordering::Relaxed);
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 64 | high & 63, low, last)), 1811)
}

pub fn hello() -> Hello {
    Hello::new(wire::PROTOCOL, "test")
}

pub fn fence(epoch: u64) -> Fence {
    Fence { epoch, ballot: [7; 16] }
}

pub fn slot(number: u128) -> InstanceUuid {
    InstanceUuid(Uuid::from_u128(number))
}

pub fn lease(number: u128) -> LeaseUuid {
    LeaseUuid(Uuid::from_u128(number))
}

/// Asks until there is an answer.
pub async fn wait_for<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let asked = async {
        loop {
            match ask().await {
                Some(answer) => return answer,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("no sign of {what}"))
}

pub async fn claim(
    client: &Client,
    cluster: &Cluster,
    node: &Node,
    fence: Fence,
) -> Result<Vec<SlotFacts>, CallError> {
    let request = wire::ClaimRequest { cluster: cluster.uuid, node: node.node, fence };
    client.call::<wire::Claim>(&request, PATIENCE).await
}

pub fn create_request(fence: Fence, slot: InstanceUuid, generation: u64) -> wire::VmCreateRequest {
    let spec = VmSpec {
        name: "vm1.example.test".into(),
        driver: "fake".into(),
        image: "noop".into(),
        memory_mib: 128,
        vcpus: 1,
        disk_mib: 64,
        image_digest: None,
        pids: 64,
    };
    wire::VmCreateRequest { fence, slot, generation: Generation(generation), spec }
}

pub async fn create(
    client: &Client,
    slot: InstanceUuid,
    generation: u64,
) -> Result<wire::VmCreateReply, CallError> {
    client.call::<wire::VmCreate>(&create_request(fence(1), slot, generation), PATIENCE).await
}

pub fn vm(fence: Fence, slot: InstanceUuid, generation: u64) -> wire::VmRef {
    wire::VmRef { fence, slot, generation: Generation(generation) }
}

pub async fn destroy(client: &Client, slot: InstanceUuid, generation: u64) -> Result<u64, CallError> {
    let reply = client.call::<wire::VmDestroy>(&vm(fence(1), slot, generation), PATIENCE).await?;
    Ok(reply.floor.0)
}

pub async fn facts(client: &Client, fence: Fence, slot: InstanceUuid) -> Option<SlotFacts> {
    let all = client.call::<wire::Inventory>(&fence, PATIENCE).await.expect("inventory");
    all.into_iter().find(|facts| facts.slot == slot)
}

pub async fn state(client: &Client, slot: InstanceUuid) -> Option<VmState> {
    facts(client, fence(1), slot).await.map(|facts| facts.state)
}

pub fn fail<T>(result: Result<T, CallError>) -> Fail {
    match result {
        Err(CallError::Fail(fail)) => fail,
        Err(other) => panic!("another failure: {other}"),
        Ok(_) => panic!("it was not refused"),
    }
}

pub fn code<T>(result: Result<T, CallError>) -> Code {
    fail(result).code
}
