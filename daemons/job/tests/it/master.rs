//! wconfd and a noded in this test's process: the real rules (`gantry_wconfd::core`, `gantry_noded::core`) behind real
//! sockets, on a disk that never fails. A job can be killed just before or just after any step that changes something.

use crate::guest::{self, Guests};
use crate::luxid::CLUSTER;
use gantry_model::config::{Instance, Node, Slot, kind};
use gantry_model::ids::{Generation, InstanceUuid, JobOwner, LeaseUuid, NodeUuid};
use gantry_model::lease::{LeaseOwner, LeasedVm};
use gantry_model::root::Root;
use gantry_noded::core::Rules;
use gantry_noded::core::slot::{self, Action, Answer, Record, State as Life, Step, Verb};
use gantry_proto::effects::{HookEnd, HookStatus, HooksRunRequest};
use gantry_proto::noded::{self as node_wire, NodeInfoReply, VmCreateReply, VmDestroyReply, VmFacts};
use gantry_proto::wconfd::{self as wire, Command, NodeState};
use gantry_proto::{codec::Json, hello::Hello};
use gantry_rpc::tls::{self, Identity, ca};
use gantry_rpc::{Call, Code, Fail, Handled, Limits, Peer, Service, route};
use gantry_wconfd::core::config::{Config, Context, Ids, Object, Refusal};
use gantry_wconfd::seed;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use serde::de::DeserializeOwned;
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
    /// What nobody could refuse afterwards, and that the master was confirmed, in order.
    pub effects: Vec<String>,
    /// A hook that fails, as `PATH-PHASE`.
    pub bad_hook: Option<&'static str>,
    /// Instead of their answers the next batches get these; they are applied all the same.
    pub lost_answers: VecDeque<Code>,
    /// What happens just before the next batch of a job.
    pub before_apply: Option<Meanwhile>,
    /// wconfd says that no node answers.
    pub lost: bool,
    /// What happens just after it.
    pub after_apply: Option<Meanwhile>,
    ids: u128,
    /// The time.
    pub now: f64,
    /// What lives in the VMs. A lock of its own: commands run while the rest goes on.
    pub guests: Arc<Mutex<Guests>>,
    /// Creates of these slots fail, with this text.
    pub broken: BTreeMap<InstanceUuid, String>,
    /// Images VMs are made from are asked for.
    pub wants_images: bool,
    /// Most creates that were under way at the same time; each waits until `gather` are.
    pub gather: usize,
    pub gathered: usize,
    /// What an audit finds.
    pub strangers: Vec<String>,
}

/// Something that somebody else does.
pub type Meanwhile = Box<dyn FnOnce(&mut State) + Send>;

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
        let reply = |results: Vec<serde_json::Value>| wire::ApplyReply {
            index: request.seq,
            results: Json::of(&results).unwrap(),
        };
        let commands: Vec<Command> = request.commands.read().unwrap();
        let owner = request.owner.expect("jobs name themselves");
        if let Some(last) = self.config.applied(owner).filter(|last| last.seq == request.seq) {
            return Ok(reply(last.results.clone()));
        }
        let owner = Some((owner, request.seq));
        let ids = &mut Numbers(&mut self.ids);
        let mut context = Context { now: self.now, clock: 1, owner, ids };
        let effect = self.config.apply(&commands, &mut context).map_err(refused)?;
        self.config.check();
        match self.lost_answers.pop_front() {
            Some(code) => Err(Fail::new(code, "the answer is lost")),
            None => Ok(reply(effect.results)),
        }
    }

    /// Takes a VM of a pool, as luxid does for a user.
    pub fn lease(&mut self, pool: &str, lease: LeaseUuid) -> LeasedVm {
        self.lend(pool, lease, LeaseOwner::User { name: "test".to_owned() })
    }

    /// The same for this owner.
    pub fn lend(&mut self, pool: &str, lease: LeaseUuid, owner: LeaseOwner) -> LeasedVm {
        let (pool, count, for_ms, ttl_ms) = (pool.to_owned(), 1, 60_000, None);
        let grab = Command::LeaseGrab { lease, owner, pool, count, for_ms, ttl_ms };
        let ids = &mut Numbers(&mut self.ids);
        let mut context = Context { now: self.now, clock: 1, owner: None, ids };
        let granted = self.config.apply(&[grab], &mut context).unwrap();
        serde_json::from_value(granted.results[0]["vms"][0].clone()).expect("a clean VM")
    }

    /// A command of luxid's own.
    pub fn apply_as_luxid(&mut self, command: Command) {
        let ids = &mut Numbers(&mut self.ids);
        let mut context = Context { now: self.now, clock: 1, owner: None, ids };
        drop(self.config.apply(&[command], &mut context).unwrap());
    }

    /// Another home for a slot in which nothing ever lived.
    pub fn move_slot(&mut self, uuid: InstanceUuid, node: NodeUuid) {
        self.edit(|objects| {
            for object in objects.iter_mut().filter(|object| object.key == uuid.to_string()) {
                let mut value: serde_json::Value = serde_json::from_slice(&object.body).unwrap();
                let field = if object.kind == kind::SLOT { "node" } else { "primary_node" };
                value[field] = serde_json::json!(node);
                object.body = serde_json::to_vec(&value).unwrap();
            }
        });
    }

    fn edit(&mut self, change: impl FnOnce(&mut Vec<Object>)) {
        let mut objects: Vec<Object> = self.config.snapshot().objects().collect();
        change(&mut objects);
        let nodes: Vec<NodeUuid> = self.config.nodes().map(|node| node.uuid).collect();
        self.config = Config::load(objects).unwrap();
        nodes.into_iter().for_each(|node| self.config.set_claimed(node, true));
    }

    /// Changes a stored object behind everybody's back.
    pub fn meddle<T: Serialize + DeserializeOwned>(
        &mut self,
        kind: &str,
        key: impl ToString,
        change: impl FnOnce(&mut T),
    ) {
        let key = key.to_string();
        self.edit(|objects| {
            let object = objects.iter_mut().find(|object| object.kind == kind && object.key == key).unwrap();
            let mut value: T = serde_json::from_slice(&object.body).unwrap();
            change(&mut value);
            object.body = serde_json::to_vec(&value).unwrap();
        });
    }

    /// The slots of a pool by name.
    pub fn slots(&self, pool: &str) -> BTreeMap<String, Slot> {
        let own =
            self.all::<Instance>(kind::INSTANCE).into_iter().filter(|one| one.pool.as_deref() == Some(pool));
        own.map(|one| (one.name.clone(), self.config.slot(one.uuid).unwrap().slot.clone())).collect()
    }

    /// Objects of a kind.
    pub fn all<T: DeserializeOwned>(&self, kind: &str) -> Vec<T> {
        let all: Vec<Object> = self.config.snapshot().objects().collect();
        let own = all.iter().filter(|object| object.kind == kind);
        own.map(|object| serde_json::from_slice(&object.body).unwrap()).collect()
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
        let effect = self.config.owner_gone(owner, self.now);
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

/// As wconfd says it.
fn refused(why: Refusal) -> Fail {
    match why {
        Refusal::Ganeti(error) => Fail::from(error),
        Refusal::Stale(text) => Fail::new(Code::Stale, text),
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
    /// Of wconfd.
    pub stop: CancellationToken,
    seats: Arc<Seats>,
}

impl Drop for Master {
    fn drop(&mut self) {
        self.stop.cancel();
        self.seats.stop.lock().unwrap().cancel();
    }
}

/// Where the nodes' services are, so that they can be started anew.
pub struct Seats {
    state: Arc<Mutex<State>>,
    nodes: [NodeUuid; 2],
    addresses: [SocketAddr; 2],
    tls: [Identity; 2],
    stop: Mutex<CancellationToken>,
}

impl Seats {
    fn serve(&self, listeners: [tokio::net::TcpListener; 2]) {
        let stop = CancellationToken::new();
        *self.stop.lock().unwrap() = stop.clone();
        for ((listener, node), tls) in listeners.into_iter().zip(self.nodes).zip(&self.tls) {
            let leaves = node == self.nodes[1];
            let service = Arc::new(NodeService { state: Arc::clone(&self.state), node, leaves });
            let tls = tls::server_config(tls).unwrap();
            tokio::spawn(gantry_rpc::serve_tls(listener, tls, service, Limits::default(), stop.clone()));
        }
    }

    /// A VM dies while a job runs.
    pub fn lose(&self, slot: InstanceUuid) {
        self.state.lock().unwrap().lose_vm(slot);
    }

    /// What a restart of noded does to its callers: all connections end, and new ones are taken.
    pub async fn nodes(&self) {
        self.stop.lock().unwrap().cancel();
        let mut listeners = Vec::new();
        for address in self.addresses {
            listeners.push(loop {
                match tokio::net::TcpListener::bind(address).await {
                    Ok(listener) => break listener,
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
                }
            });
        }
        self.serve(listeners.try_into().unwrap_or_else(|_| unreachable!()));
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
            effects: Vec::new(),
            bad_hook: None,
            lost_answers: VecDeque::new(),
            before_apply: None,
            lost: false,
            after_apply: None,
            ids: 0,
            now: 1e9,
            guests: Arc::default(),
            broken: BTreeMap::new(),
            wants_images: false,
            gather: 0,
            gathered: 0,
            strangers: Vec::new(),
        };
        let (state, stop) = (Arc::new(Mutex::new(state)), CancellationToken::new());
        let authority = ca::make_ca(CLUSTER).unwrap();
        let tls = nodes.map(|node| identity(root, &authority, node));
        // The jobs use the first node's, which is written last.
        drop(identity(root, &authority, nodes[0]));
        let seats =
            Arc::new(Seats { state: Arc::clone(&state), nodes, addresses, tls, stop: Mutex::default() });
        seats.serve(listeners);
        let master = Self { state, node: nodes[0], addresses, stop: stop.clone(), seats };
        master.serve_wconfd(root, stop);
        master
    }

    /// Serves wconfd's socket until `stop`.
    pub fn serve_wconfd(&self, root: &Root, stop: CancellationToken) {
        let listener = gantry_rpc::unix::bind(&root.socket("wconfd.sock"), 0o600).unwrap();
        let service = Arc::new(ConfigService { state: Arc::clone(&self.state), node: self.node });
        tokio::spawn(gantry_rpc::serve_unix(listener, service, Limits::default(), stop));
    }

    /// A noded on the jobs' own node, which no record here names, beside the others.
    pub fn serve_here(&self, root: &Root, node: NodeUuid) {
        let listener = gantry_rpc::unix::bind(&root.socket("noded.sock"), 0o600).unwrap();
        let service = Arc::new(NodeService { state: Arc::clone(&self.state), node, leaves: false });
        tokio::spawn(gantry_rpc::serve_unix(listener, service, Limits::default(), CancellationToken::new()));
    }

    /// For a restart of the nodes while a job runs.
    pub fn restart(&self) -> Arc<Seats> {
        Arc::clone(&self.seats)
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
        state.effects.clear();
        state.broken.clear();
        *state.guests.lock().unwrap() = Guests::default();
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
        {
            let mut state = self.state.lock().unwrap();
            if let Some(meanwhile) = state.before_apply.take() {
                meanwhile(&mut state);
            }
        }
        let done = {
            let mut state = self.state.lock().unwrap();
            let done = state.step("apply", |state| state.apply(&request));
            if let Some(meanwhile) = state.after_apply.take() {
                meanwhile(&mut state);
            }
            done
        };
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
                    let claimed = !self.state.lock().unwrap().lost;
                    Ok(vec![NodeState { node: self.node, claimed, why: String::new() }])
                },
                wire::Read => |keys, _call| self.read(&keys),
                wire::ConfirmMaster => |(), _call| {
                    self.state.lock().unwrap().effects.push("confirm".to_owned());
                    Ok(())
                },
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
        self.gather().await;
        {
            let state = self.state.lock().unwrap();
            if let Some(why) = state.broken.get(&slot) {
                return Err(Fail::new(Code::Internal, why.clone()));
            }
            let image = request.spec.image_digest.as_ref().filter(|_| state.wants_images);
            if image.is_some_and(|digest| !state.guests.lock().unwrap().images.contains_key(digest)) {
                return Err(Fail::new(Code::NotFound, "the image is not here"));
            }
        }
        let verb = Verb::Create { generation, driver: request.spec.driver };
        let Answer::Created { attached } = self.order("create", slot, verb).await? else { unreachable!() };
        Ok(VmCreateReply { attached, runtime_id: String::new() })
    }

    async fn destroy(&self, vm: node_wire::VmRef) -> Result<VmDestroyReply, Fail> {
        let verb = Verb::Destroy { generation: vm.generation };
        let Answer::Destroyed { floor } = self.order("destroy", vm.slot, verb).await? else { unreachable!() };
        Ok(VmDestroyReply { floor })
    }

    /// Holds a create until as many as wanted are under way.
    async fn gather(&self) {
        let wanted = {
            let mut state = self.state.lock().unwrap();
            state.gathered += 1;
            state.gather
        };
        while self.state.lock().unwrap().gathered < wanted {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }

    fn guests(&self) -> Arc<Mutex<Guests>> {
        Arc::clone(&self.state.lock().unwrap().guests)
    }

    async fn open(&self, request: node_wire::VmOpenRequest) -> Result<(), Fail> {
        let (slot, generation, lease) = (request.at.vm.slot, request.at.vm.generation, request.at.lease);
        let opened = self.config_says_opened(slot, lease);
        assert!(opened, "the node hears of a lease that is not durably opened (I12)");
        self.order("open", slot, Verb::Open { generation, lease }).await?;
        self.guests().lock().unwrap().open(&request);
        Ok(())
    }

    fn config_says_opened(&self, slot: InstanceUuid, lease: LeaseUuid) -> bool {
        let state = self.state.lock().unwrap();
        state.config.slot(slot).is_some_and(|row| row.slot.opened && row.slot.lease == Some(lease))
    }

    /// A step in a VM.
    async fn inside<T>(
        &self,
        name: &'static str,
        work: impl FnOnce(&mut Guests) -> Result<T, Fail>,
    ) -> Result<T, Fail> {
        let done = self.state.lock().unwrap().step(name, |state| work(&mut state.guests.lock().unwrap()));
        answered(done).await
    }

    async fn exec(&self, request: &node_wire::VmExecRequest) -> Result<node_wire::VmExecReply, Fail> {
        let begun = self.inside("exec", |vms| vms.exec(request)).await;
        let mute = self.guests().lock().unwrap().mute;
        answered((!mute).then_some(begun)).await
    }

    fn inventory(&self) -> Vec<node_wire::SlotFacts> {
        let state = self.state.lock().unwrap();
        let facts = |(slot, record): (&InstanceUuid, &Record)| node_wire::SlotFacts {
            slot: *slot,
            floor: record.floor,
            generation: record.generation,
            state: record.state.into(),
            holder: record.holder,
            opened: record.opened,
        };
        state.records.iter().map(facts).collect()
    }

    fn audit(&self) -> node_wire::AuditReply {
        let killed = std::mem::take(&mut self.state.lock().unwrap().strangers);
        let failed = vec![("gantry-bad".to_owned(), "busy".to_owned())];
        node_wire::AuditReply { killed, failed, seen: 3 }
    }

    /// One hook, which fails if it is to.
    fn hooks(&self, request: &HooksRunRequest) -> Result<Vec<HookEnd>, Fail> {
        let mut state = self.state.lock().unwrap();
        let name = format!("{}-{}", request.path, request.phase.as_str());
        let bad = state.bad_hook == Some(name.as_str());
        let status = if bad { HookStatus::Failed } else { HookStatus::Succeeded };
        state.effects.push(name);
        Ok(vec![HookEnd { script: "it".to_owned(), status, output: "no".to_owned() }])
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
                node_wire::HooksRun => |request, _call| self.hooks(&request),
                node_wire::Leave => |_fence, _call| self.leave().await,
                node_wire::Inventory => |_fence, _call| Ok(self.inventory()),
                node_wire::Audit => |_fence, _call| Ok(self.audit()),
                node_wire::Crypto => |(), _call| Ok(plain_crypto()),
                node_wire::VmOpen => |request, _call| self.open(request).await,
                node_wire::VmPut => |request, _call| self.inside("put", |vms| vms.put(&request)).await,
                node_wire::VmExec => |request, _call| self.exec(&request).await,
                node_wire::VmCancel => |of, _call| self.inside("cancel", |vms| vms.cancel(&of)).await,
                node_wire::VmUsage => |vm, _call| self.guests().lock().unwrap().usage(&vm),
                node_wire::VmWait => |request, call| guest::wait(&self.guests(), request, call).await,
                node_wire::VmGet => |request, call| guest::get(&self.guests(), request, call).await,
                node_wire::ImagePut => |request, _call| {
                    Ok(self.guests().lock().unwrap().image_put(request))
                },
            })
        })
    }
}

/// Of a node that is no candidate and has nothing of one.
fn plain_crypto() -> node_wire::CryptoReply {
    node_wire::CryptoReply {
        state: [0; 32],
        trust: Vec::new(),
        issuer: None,
        ends: i64::MAX,
        key: None,
        hmac: None,
        role: gantry_model::role::Role::Regular,
    }
}
