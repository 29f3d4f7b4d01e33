//! wconfd and a noded in this test's process: the real rules (`gantry_wconfd::core`, `gantry_noded::core`) behind real
//! sockets, on a disk that never fails. A job can be killed just before or just after any step that changes something.

use crate::luxid::CLUSTER;
use gantry_model::config::{Instance, Node, Slot, kind};
use gantry_model::ids::{Generation, InstanceUuid, JobOwner, NodeUuid};
use gantry_model::root::Root;
use gantry_noded::core::Rules;
use gantry_noded::core::slot::{self, Action, Answer, Record, State as Life, Step, Verb};
use gantry_proto::noded::{self as node_wire, NodeInfoReply, VmCreateReply, VmDestroyReply, VmFacts};
use gantry_proto::wconfd::{self as wire, Command, NodeState};
use gantry_proto::{codec::Json, hello::Hello};
use gantry_rpc::tls::{self, Identity, ca};
use gantry_rpc::{Call, Code, Fail, Handled, Limits, Peer, Service, route};
use gantry_wconfd::core::config::{Config, Context, Ids, Object};
use gantry_wconfd::seed;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

/// On which side of a step the job is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The request was sent; it was not carried out (yet).
    Before,
    /// It was carried out; the answer did not come.
    After,
}

/// Everything both services share.
pub struct State {
    pub config: Config,
    pub records: BTreeMap<InstanceUuid, Record>,
    /// What runs on the node.
    pub vms: BTreeSet<(InstanceUuid, Generation)>,
    /// What ran and was destroyed: never to be made again.
    buried: BTreeSet<(InstanceUuid, Generation)>,
    /// Steps taken by the job at work.
    pub steps: Vec<&'static str>,
    /// Kill the process at its step of this number.
    kill: Option<(usize, Side, i32)>,
    /// The order to the node that was under way when its job was killed.
    pub late: Option<(InstanceUuid, Verb)>,
    /// wconfd takes requests for locks and says nothing.
    pub silent: bool,
    /// Whether the second node has left the cluster.
    pub left: bool,
    /// Instead of their answers the next batches get these; they are applied all the same.
    pub lost_answers: VecDeque<Code>,
    ids: u128,
}

/// Ids that differ.
struct Numbers<'a>(&'a mut u128);

impl Ids for Numbers<'_> {
    fn fresh(&mut self) -> [u8; 16] {
        *self.0 += 1;
        (*self.0 << 64).to_be_bytes()
    }
}

impl State {
    /// Begins a step that changes something. None: the job was killed, nothing happens any more.
    fn step<T>(&mut self, name: &'static str, work: impl FnOnce(&mut Self) -> T) -> Option<T> {
        let now = self.steps.len();
        self.steps.push(name);
        let hit = self.kill.filter(|(at, ..)| *at == now);
        if let Some((_, Side::Before, pid)) = hit {
            end(pid);
            return None;
        }
        let done = work(self);
        if let Some((_, Side::After, pid)) = hit {
            end(pid);
            return None;
        }
        Some(done)
    }

    pub fn kill_at(&mut self, step: usize, side: Side, pid: u32) {
        self.steps.clear();
        self.kill = Some((step, side, i32::try_from(pid).unwrap()));
    }

    pub fn let_live(&mut self) {
        self.steps.clear();
        self.kill = None;
    }

    fn apply(&mut self, request: &wire::ApplyRequest) -> Result<wire::ApplyReply, Fail> {
        let owner = request.owner.expect("jobs name themselves");
        let reply = |results| wire::ApplyReply { index: request.seq, results: Json::of(&results).unwrap() };
        if let Some(last) = self.config.applied(owner).filter(|last| last.seq == request.seq) {
            return Ok(reply(last.results.clone()));
        }
        let commands: Vec<Command> = request.commands.read().unwrap();
        let ids = &mut Numbers(&mut self.ids);
        let mut context = Context { now: 1e9, clock: 0, owner: Some((owner, request.seq)), ids };
        let effect = self.config.apply(&commands, &mut context)?;
        self.config.check();
        match self.lost_answers.pop_front() {
            Some(code) => Err(Fail::new(code, "the answer is lost")),
            None => Ok(reply(effect.results)),
        }
    }

    /// Does what a noded does, step by step.
    pub fn node(&mut self, slot: InstanceUuid, verb: &Verb) -> Result<Answer, Fail> {
        let record = self.records.entry(slot).or_default();
        let plan = slot::decide(Rules::ALL, record, verb)
            .map_err(|refusal| Fail::new(Code::Stale, refusal.to_string()))?;
        for step in plan.steps {
            match step {
                Step::Store(next) => drop(self.records.insert(slot, next)),
                Step::Drive(Action::Make(generation)) => {
                    assert!(!self.buried.contains(&(slot, generation)), "generation {generation} twice");
                    self.vms.insert((slot, generation));
                }
                Step::Drive(Action::Kill(generation)) => {
                    self.vms.remove(&(slot, generation));
                    self.buried.insert((slot, generation));
                }
                Step::Drive(Action::Touch(_) | Action::EndWork(..)) => {}
            }
        }
        Ok(plan.answer)
    }

    /// The VM dies by itself, and noded has noticed.
    pub fn lose_vm(&mut self, slot: InstanceUuid) {
        self.vms.retain(|(of, _)| *of != slot);
        self.records.get_mut(&slot).unwrap().state = Life::Lost;
    }

    /// What luxid's word of a death does.
    pub fn owner_gone(&mut self, owner: JobOwner) {
        let effect = self.config.owner_gone(owner, 1e9);
        drop(effect);
    }

    /// An instance and its slot.
    pub fn instance(&self, name: &str) -> Option<(Instance, Slot)> {
        let all = self.config.snapshot();
        let found = all
            .objects()
            .filter(|object| object.kind == kind::INSTANCE)
            .map(|object| serde_json::from_slice::<Instance>(&object.body).unwrap())
            .find(|found| found.name == name)?;
        let slot = self.config.slot(found.uuid).expect("each has one").slot.clone();
        Some((found, slot))
    }
}

fn end(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

/// The two services, and what they share.
pub struct Master {
    state: Arc<Mutex<State>>,
    pub node: NodeUuid,
    addresses: [SocketAddr; 2],
    stop: CancellationToken,
}

impl Drop for Master {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Master {
    /// Serves in `root` a cluster without instances, of a node for them and one that may leave.
    pub async fn start(root: &Root) -> Self {
        let bind = || tokio::net::TcpListener::bind("127.0.0.1:0");
        let listeners = [bind().await.unwrap(), bind().await.unwrap()];
        let addresses = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
        let (config, nodes) = config(addresses);
        let state = State {
            config,
            records: BTreeMap::new(),
            vms: BTreeSet::new(),
            buried: BTreeSet::new(),
            steps: Vec::new(),
            kill: None,
            late: None,
            silent: false,
            left: false,
            lost_answers: VecDeque::new(),
            ids: 0,
        };
        let (state, stop) = (Arc::new(Mutex::new(state)), CancellationToken::new());
        let authority = ca::make_ca(CLUSTER).unwrap();
        for (listener, node) in listeners.into_iter().zip(nodes).rev() {
            let service = Arc::new(NodeService { state: Arc::clone(&state), node, leaves: node == nodes[1] });
            // The jobs use the first node's, which is written last.
            let tls = tls::server_config(&identity(root, &authority, node)).unwrap();
            tokio::spawn(gantry_rpc::serve_tls(listener, tls, service, Limits::default(), stop.clone()));
        }
        let master = Self { state, node: nodes[0], addresses, stop: stop.clone() };
        master.serve_wconfd(root, stop);
        master
    }

    /// Serves wconfd's socket until `stop`.
    pub fn serve_wconfd(&self, root: &Root, stop: CancellationToken) {
        let listener = gantry_rpc::unix::bind(&root.socket("wconfd.sock"), 0o600).unwrap();
        let service = Arc::new(ConfigService { state: Arc::clone(&self.state), node: self.node });
        tokio::spawn(gantry_rpc::serve_unix(listener, service, Limits::default(), stop));
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The same cluster as at the start.
    pub fn reset(&self) {
        let mut state = self.state();
        state.config = config(self.addresses).0;
        state.records.clear();
        state.vms.clear();
        state.buried.clear();
        (state.late, state.left) = (None, false);
        state.let_live();
    }
}

/// A cluster whose nodes are in this process, the second without VMs.
fn config(addresses: [SocketAddr; 2]) -> (Config, [NodeUuid; 2]) {
    let mut objects = seed::instances(0);
    let at = objects.iter().position(|object| object.kind == kind::NODE).unwrap();
    let first: Node = serde_json::from_slice(&objects.remove(at).body).unwrap();
    let uuid = NodeUuid(uuid::Uuid::from_u128(22));
    let (name, master_candidate, vm_capable) = ("node2.example.test".to_owned(), false, false);
    let second = Node { uuid, name, master_candidate, vm_capable, ..first.clone() };
    let nodes = [first.uuid, uuid];
    for (mut node, address) in [first, second].into_iter().zip(addresses) {
        (node.primary_ip, node.noded_port) = (address.ip().to_string(), address.port());
        let (key, body) = (node.uuid.to_string(), serde_json::to_vec(&node).unwrap());
        objects.push(Object { kind: kind::NODE.to_owned(), key, rev: 1, body });
    }
    let mut config = Config::load(objects).unwrap();
    nodes.iter().for_each(|node| config.set_claimed(*node, true));
    (config, nodes)
}

/// A node's certificate, as the one of `root`.
fn identity(root: &Root, authority: &ca::Pair, node: NodeUuid) -> Identity {
    let pair = ca::make_node(authority, CLUSTER, node).unwrap();
    let secrets = root.secrets();
    std::fs::create_dir_all(&secrets).unwrap();
    for (name, text) in [
        (tls::NODE_PEM, &pair.certificate),
        (tls::NODE_KEY, &pair.key),
        (tls::CA_PEM, &authority.certificate),
    ] {
        std::fs::write(secrets.join(name), text).unwrap();
    }
    Identity::load(&secrets).unwrap()
}

/// The answer, or none for ever.
async fn answered<T>(done: Option<Result<T, Fail>>) -> Result<T, Fail> {
    match done {
        Some(done) => done,
        None => std::future::pending().await,
    }
}

struct ConfigService {
    state: Arc<Mutex<State>>,
    node: NodeUuid,
}

impl ConfigService {
    fn read(&self, keys: &[wire::ReadKey]) -> Result<wire::ReadReply, Fail> {
        let found = self.state.lock().unwrap().config.read(keys).map_err(Fail::from)?;
        let objects = found.objects().map(|object| wire::Object {
            kind: object.kind,
            key: object.key,
            rev: object.rev,
            body: String::from_utf8(object.body).unwrap(),
        });
        Ok(wire::ReadReply { index: 1, objects: objects.collect() })
    }

    async fn lock(&self) -> Result<(), Fail> {
        let granted = (!self.state.lock().unwrap().silent).then_some(Ok(()));
        answered(granted).await
    }

    async fn apply(&self, request: wire::ApplyRequest) -> Result<wire::ApplyReply, Fail> {
        let done = self.state.lock().unwrap().step("apply", |state| state.apply(&request));
        answered(done).await
    }
}

impl Service for ConfigService {
    fn hello(&self) -> Hello {
        let mut hello = Hello::new(wire::PROTOCOL, "gantry-wconfd");
        hello.cluster = Some(CLUSTER);
        hello
    }

    fn handle(self: Arc<Self>, call: Call) -> Handled {
        Box::pin(async move {
            route!(call, {
                wire::LockUpdate => |_request, _call| self.lock().await,
                wire::LockFree => |_request, _call| Ok(()),
                wire::NodeStates => |(), _call| {
                    Ok(vec![NodeState { node: self.node, claimed: true, why: String::new() }])
                },
                wire::Read => |keys, _call| self.read(&keys),
                wire::Apply => |request, _call| self.apply(request).await,
            })
        })
    }
}

struct NodeService {
    state: Arc<Mutex<State>>,
    node: NodeUuid,
    leaves: bool,
}

impl NodeService {
    async fn order(&self, name: &'static str, slot: InstanceUuid, verb: Verb) -> Result<Answer, Fail> {
        let done = {
            let mut state = self.state.lock().unwrap();
            let done = state.step(name, |state| state.node(slot, &verb));
            if done.is_none() {
                state.late = Some((slot, verb));
            }
            done
        };
        answered(done).await
    }

    async fn create(&self, request: node_wire::VmCreateRequest) -> Result<VmCreateReply, Fail> {
        let (slot, generation) = (request.slot, request.generation);
        let verb = Verb::Create { generation, driver: request.spec.driver };
        let Answer::Created { attached } = self.order("create", slot, verb).await? else { unreachable!() };
        Ok(VmCreateReply { attached, runtime_id: String::new() })
    }

    async fn destroy(&self, vm: node_wire::VmRef) -> Result<VmDestroyReply, Fail> {
        let verb = Verb::Destroy { generation: vm.generation };
        let Answer::Destroyed { floor } = self.order("destroy", vm.slot, verb).await? else { unreachable!() };
        Ok(VmDestroyReply { floor })
    }

    async fn leave(&self) -> Result<(), Fail> {
        let done = self.state.lock().unwrap().step("leave", |state| {
            state.left = true;
            Ok(())
        });
        answered(done).await
    }

    fn info(&self) -> NodeInfoReply {
        let state = self.state.lock().unwrap();
        let vm = |(slot, generation): &(InstanceUuid, Generation)| VmFacts {
            slot: *slot,
            generation: *generation,
            running: true,
            memory_mib: 128,
            vcpus: 1,
        };
        NodeInfoReply {
            node: self.node,
            release: String::new(),
            boot_id: String::new(),
            memory_total_mib: 65_536,
            memory_host_mib: 0,
            memory_free_mib: 65_536,
            cpus: 64,
            cpus_host: 0,
            numa_nodes: 1,
            sockets: 1,
            disk_total_mib: 65_536,
            disk_free_mib: 65_536,
            drivers: vec!["fake".to_owned()],
            vms: state.vms.iter().map(vm).collect(),
        }
    }
}

impl Service for NodeService {
    fn hello(&self) -> Hello {
        Hello::new(node_wire::PROTOCOL, "gantry-noded")
    }

    fn accept(&self, _peer: &Peer) -> Result<(), String> {
        if self.leaves && self.state.lock().unwrap().left {
            return Err("this node has not joined a cluster".to_owned());
        }
        Ok(())
    }

    fn handle(self: Arc<Self>, call: Call) -> Handled {
        Box::pin(async move {
            route!(call, {
                node_wire::NodeInfo => |(), _call| Ok(self.info()),
                node_wire::VmCreate => |request, _call| self.create(request).await,
                node_wire::VmDestroy => |request, _call| self.destroy(request).await,
                node_wire::Leave => |_fence, _call| self.leave().await,
            })
        })
    }
}
