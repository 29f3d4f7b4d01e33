//! A cluster in one process: real files, real stores, noded's own server half on each node, and links that drop, delay
//! and cut.

use gantry_copies::elect::{Event, Mode, Outcome, PATIENCE as ELECT_PATIENCE, elect};
use gantry_copies::link::{Link, LinkError};
use gantry_copies::{CopiesError, CopiesHandle, Start, start};
use gantry_model::ids::{ClusterUuid, NodeUuid};
use gantry_model::role::{Role, RoleFile};
use gantry_model::root::Root;
use gantry_noded::copies::Copies;
use gantry_noded::copies::role::Roles;
use gantry_proto::codec;
use gantry_proto::copies::{Claim, Facts, Log, MakeReply, MakeRequest, Term};
use gantry_proto::envelope::Fail;
use gantry_proto::noded as wire;
use gantry_proto::verb::Verb;
use gantry_store::core::row::Index;
use gantry_store::{Batch, Birth, Change, LogKind, Member, StartOptions, Started, Writer, create};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Longest wait for anything: far above what a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a condition that others bring about.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("no sign of {what}"));
}

/// A future that must end.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} does not end"))
}

/// What links do to messages.
#[derive(Default)]
struct Weather {
    /// Pairs that do not reach each other, one way.
    cut: BTreeSet<(usize, usize)>,
    /// Of a thousand calls so many are lost: half before they arrive, half on the way back.
    lost: u64,
    /// Longest delay each way, ms.
    delay_ms: u64,
    /// Nodes that take calls and say nothing.
    still: BTreeSet<usize>,
    /// Nodes that answer late, ms.
    late: BTreeMap<usize, u64>,
    /// Appends that arrived at a node, and their bytes.
    appends: BTreeMap<usize, (u64, u64)>,
    seed: u64,
}

impl Weather {
    fn draw(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if below == 0 { 0 } else { (self.seed >> 33) % below }
    }
}

/// One node.
pub struct Node {
    pub root: Root,
    pub uuid: NodeUuid,
    copies: Mutex<Copies>,
    _dir: tempfile::TempDir,
}

impl Node {
    pub fn copies(&self) -> Copies {
        self.copies.lock().unwrap().clone()
    }

    pub fn role(&self) -> RoleFile {
        gantry_rt::files::read_role(&self.root).unwrap().unwrap()
    }

    /// Ends its noded, does something to the files, and starts it anew.
    pub async fn restart(&self, meanwhile: impl FnOnce(&Root)) {
        let nowhere = tempfile::tempdir().unwrap();
        let root = Root::new(nowhere.path());
        let away = Copies::new(root.clone(), Roles::new(root, self.role())).unwrap();
        let old = std::mem::replace(&mut *self.copies.lock().unwrap(), away);
        old.close().await;
        drop(old);
        meanwhile(&self.root);
        let fresh = Copies::new(self.root.clone(), Roles::new(self.root.clone(), self.role())).unwrap();
        fresh.settle().await;
        *self.copies.lock().unwrap() = fresh;
    }
}

pub struct World {
    pub cluster: ClusterUuid,
    pub history: Uuid,
    pub nodes: Vec<Arc<Node>>,
    pub members: Vec<Member>,
    weather: Arc<Mutex<Weather>>,
}

/// A node's way to all.
pub struct TestLink {
    from: usize,
    cluster: ClusterUuid,
    nodes: Vec<Arc<Node>>,
    weather: Arc<Mutex<Weather>>,
}

/// A leading writer.
pub struct Leader {
    pub started: Started,
    pub handle: CopiesHandle<TestLink>,
    pub stop: CancellationToken,
}

impl World {
    /// So many nodes, all members; the first was the master that made the cluster.
    pub async fn new(count: usize) -> World {
        World::with_strangers(count, 0).await
    }

    /// And some nodes more that hold nothing.
    pub async fn with_strangers(count: usize, strangers: usize) -> World {
        let (cluster, history) = (ClusterUuid(Uuid::new_v4()), Uuid::new_v4());
        let mut nodes = Vec::new();
        for nth in 0..count + strangers {
            let dir = tempfile::Builder::new().prefix("cp").tempdir().unwrap();
            let root = Root::new(dir.path());
            gantry_rt::files::make_dirs(&root).unwrap();
            let role = if nth == 0 { Role::Master } else { Role::Candidate };
            let uuid = NodeUuid(Uuid::from_u128(0x1000 + nth as u128));
            let file = RoleFile { node: uuid, cluster, role, epoch: 1 };
            gantry_rt::files::write_role(&root, &file).unwrap();
            let copies = Copies::new(root.clone(), Roles::new(root.clone(), file)).unwrap();
            nodes.push(Arc::new(Node { root, uuid, copies: Mutex::new(copies), _dir: dir }));
        }
        let members: Vec<_> =
            nodes[..count].iter().map(|n| Member { node: n.uuid.0, copy_id: Uuid::new_v4() }).collect();
        let world = World { cluster, history, nodes, members, weather: Arc::default() };
        for log in [LogKind::W, LogKind::Q] {
            let birth = Birth {
                cluster: cluster.0,
                history,
                epoch: 1,
                ballot: [1; 16],
                members: world.members.clone(),
                first: batch("first", 1),
            };
            create(&world.nodes[0].root.lib(), log, &birth).unwrap();
        }
        for nth in 1..count {
            world.make(nth, world.members[nth].copy_id).await;
        }
        world
    }

    /// Makes empty copies on a node.
    pub async fn make(&self, nth: usize, copy_id: Uuid) {
        let term = Term { epoch: 1, run: 0 };
        let claim =
            Claim { cluster: self.cluster, history: self.history, term, ballot: [1; 16], nonce: [0; 16] };
        let there = self.nodes[nth].copies().look().await.unwrap().copies;
        let instead_of = there.into_iter().map(|(log, facts)| (log, facts.copy_id)).collect();
        let request = MakeRequest { claims: vec![(Log::W, claim), (Log::Q, claim)], copy_id, instead_of };
        assert_eq!(self.nodes[nth].copies().make(request).await.unwrap(), MakeReply::Made);
    }

    pub fn link(&self, from: usize) -> TestLink {
        let (nodes, weather) = (self.nodes.clone(), Arc::clone(&self.weather));
        TestLink { from, cluster: self.cluster, nodes, weather }
    }

    /// Nothing passes between the node and all others, either way.
    pub fn cut(&self, node: usize) {
        let mut weather = self.weather.lock().unwrap();
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            weather.cut.extend([(node, other), (other, node)]);
        }
    }

    /// The node's own writers do not reach its noded.
    pub fn cut_own(&self, node: usize) {
        self.weather.lock().unwrap().cut.insert((node, node));
    }

    /// The node takes calls of others and says nothing, as a stopped process does.
    pub fn still(&self, node: usize) {
        self.weather.lock().unwrap().still.insert(node);
    }

    /// The node answers others so much later.
    pub fn late(&self, node: usize, ms: u64) {
        self.weather.lock().unwrap().late.insert(node, ms);
    }

    /// Appends that arrived at the node, and their bytes.
    pub fn appends(&self, node: usize) -> (u64, u64) {
        self.weather.lock().unwrap().appends.get(&node).copied().unwrap_or_default()
    }

    pub fn heal(&self) {
        self.weather.lock().unwrap().cut.clear();
    }

    pub fn storm(&self, lost: u64, delay_ms: u64, seed: u64) {
        let mut weather = self.weather.lock().unwrap();
        (weather.lost, weather.delay_ms, weather.seed) = (lost, delay_ms, seed);
    }

    pub async fn lead(&self, nth: usize, log: LogKind) -> Result<Leader, CopiesError> {
        let stop = CancellationToken::new();
        let node = &self.nodes[nth];
        let begin = Start {
            root: node.root.clone(),
            options: StartOptions::new(log),
            node: node.uuid,
            epoch: node.role().epoch,
            link: Arc::new(self.link(nth)),
            stop: stop.clone(),
        };
        let (started, handle) = soon("a start", start(begin, |_| ())).await?;
        Ok(Leader { started, handle, stop })
    }

    pub async fn elect(&self, nth: usize) -> Result<Outcome, String> {
        self.elect_with(nth, Mode::Vote).await.0
    }

    pub async fn elect_with(&self, nth: usize, mode: Mode) -> (Result<Outcome, String>, Vec<Event>) {
        self.elect_within(nth, mode, ELECT_PATIENCE).await
    }

    pub async fn elect_within(
        &self,
        nth: usize,
        mode: Mode,
        patience: Duration,
    ) -> (Result<Outcome, String>, Vec<Event>) {
        let mut events = Vec::new();
        let (link, node) = (self.link(nth), self.nodes[nth].uuid);
        let won = soon("an election", elect(&link, node, mode, patience, |e| events.push(e))).await;
        (won.map_err(|why| why.to_string()), events)
    }

    pub async fn facts(&self, nth: usize, log: Log) -> Facts {
        let look = self.nodes[nth].copies().look().await.unwrap();
        look.copies.into_iter().find(|(of, _)| *of == log).unwrap().1
    }
}

pub fn batch(key: &str, rev: u64) -> Batch {
    let body = Some(format!("{{\"n\":{rev}}}").into_bytes());
    Batch { changes: vec![Change { kind: "k".into(), key: key.into(), rev, body }], ..Batch::default() }
}

/// Waits until a row is committed; false when the writer failed.
pub async fn committed(writer: &Writer, idx: Index) -> bool {
    let mut progress = writer.progress();
    let done = progress.wait_for(|now| now.committed >= idx || now.failed.is_some());
    let done = soon("a commit", done).await.unwrap();
    done.committed >= idx
}

impl Leader {
    pub async fn put(&self, key: &str) {
        let idx = self.started.writer.append(batch(key, 1)).unwrap();
        assert!(committed(&self.started.writer, idx).await, "{key}");
    }

    pub fn keys(&self) -> BTreeSet<String> {
        self.started.objects.iter().map(|object| object.key.clone()).collect()
    }

    /// Stops like a daemon.
    pub async fn end(self) {
        self.stop.cancel();
        let writer = self.started.writer;
        tokio::task::spawn_blocking(move || writer.stop()).await.unwrap();
    }
}

impl TestLink {
    async fn serve(&self, to: usize, verb: u16, body: &[u8]) -> Result<Vec<u8>, Fail> {
        let copies = self.nodes[to].copies();
        let caller = Some((self.cluster, self.nodes[self.from].uuid));
        macro_rules! serve {
            ($($verb:ident => |$request:ident| $work:expr;)+) => {
                match verb {
                    $(<wire::$verb as Verb>::ID => {
                        let $request: <wire::$verb as Verb>::Request = codec::decode(body).unwrap();
                        let reply: <wire::$verb as Verb>::Reply = $work.await?;
                        Ok(codec::encode(&reply).unwrap())
                    })+
                    other => panic!("verb {other}"),
                }
            };
        }
        serve! {
            CopyLook => |_request| copies.look();
            CopyPromise => |request| copies.promise(request);
            CopyAppend => |request| copies.append(request);
            CopyFetch => |request| copies.fetch(request);
            CopyMake => |request| copies.make(request);
            CopySnapshotPut => |request| copies.snapshot_put(request);
            CopySnapshotGet => |request| copies.snapshot_get(request);
            CopyToken => |request| copies.token(request);
            BodyHave => |request| copies.body_have(request);
            BodyPut => |request| copies.body_put(request);
            BodyGet => |request| copies.body_get(request);
            Elected => |request| copies.elected(caller, request);
            StepDown => |request| copies.step_down(request);
            Deposed => |request| copies.deposed(caller, request);
            CopyAlone => |request| copies.alone(caller, request);
            CopyAside => |_request| copies.aside();
            BodyDamaged => |_request| copies.body_damaged();
        }
    }

    /// What the weather does to one message.
    fn fate(&self, from: usize, to: usize) -> (bool, Duration) {
        let mut weather = self.weather.lock().unwrap();
        let (lost, delay) = (weather.lost, weather.delay_ms);
        let cut = weather.cut.contains(&(from, to));
        let lost = from != to && weather.draw(2_000) < lost;
        let delay = if from == to { 0 } else { weather.draw(delay + 1) };
        (cut || lost, Duration::from_millis(delay))
    }
}

impl Link for TestLink {
    async fn call<V>(
        &self,
        node: NodeUuid,
        request: V::Request,
        deadline: Duration,
    ) -> Result<V::Reply, LinkError>
    where
        V: Verb<Request: Sync>,
    {
        let to = self.nodes.iter().position(|known| known.uuid == node).ok_or(LinkError::NoAddress)?;
        let body = codec::encode(&request).unwrap();
        let (lost, delay) = self.fate(self.from, to);
        let (still, late) = {
            let weather = self.weather.lock().unwrap();
            let other = to != self.from;
            (other && weather.still.contains(&to), weather.late.get(&to).copied().filter(|_| other))
        };
        tokio::time::sleep(delay + Duration::from_millis(late.unwrap_or_default()).min(deadline)).await;
        if still || late.is_some_and(|late| u128::from(late) > deadline.as_millis()) {
            tokio::time::sleep(if still { deadline } else { Duration::ZERO }).await;
            return Err(LinkError::Call("no answer".to_owned()));
        }
        if lost {
            return Err(LinkError::Connect("no way".to_owned()));
        }
        if V::ID == <wire::CopyAppend as Verb>::ID {
            let mut weather = self.weather.lock().unwrap();
            let (calls, bytes) = weather.appends.entry(to).or_default();
            (*calls, *bytes) = (*calls + 1, *bytes + body.len() as u64);
        }
        let served = tokio::time::timeout(deadline, self.serve(to, V::ID, &body)).await;
        let (lost, delay) = self.fate(to, self.from);
        tokio::time::sleep(delay).await;
        match served {
            _ if lost => Err(LinkError::Lost),
            Err(_) => Err(LinkError::Call("too late".to_owned())),
            Ok(Err(fail)) => Err(LinkError::Call(fail.text)),
            Ok(Ok(reply)) => Ok(codec::decode(&reply).unwrap()),
        }
    }

    fn name(&self, node: NodeUuid) -> String {
        let nth = self.nodes.iter().position(|known| known.uuid == node);
        nth.map_or_else(|| node.to_string(), |nth| format!("n{nth}"))
    }
}
