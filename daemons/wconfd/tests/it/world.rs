//! One cluster of one node in a temporary directory, and its wconfd.

use gantry_model::ids::{ClusterUuid, JobId, JobOwner, NodeUuid, StartNo};
use gantry_model::role::RoleFile;
use gantry_model::root::Root;
use gantry_proto::codec::Json;
use gantry_proto::wconfd::{self as wire, ApplyRequest, Command, LockRequest, ReadKey, TagTarget, Want};
use gantry_rpc::{CallError, Client, Event, Hello, Stream};
use serde_json::{Map, Value};
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest wait for anything here; far more than a loaded machine needs.
pub const LIMIT: Duration = Duration::from_secs(30);
const LUXID: &str = "gantry-luxid";

pub struct World {
    _dir: TempDir,
    pub root: Root,
    pub cluster: ClusterUuid,
    pub node: NodeUuid,
    daemon: Option<Child>,
}

pub fn program() -> Process {
    Process::new(env!("CARGO_BIN_EXE_gantry-wconfd"))
}

impl World {
    /// A new cluster, its wconfd running; noded is expected on `port`.
    pub async fn start_with(port: u16) -> Self {
        let mut world = Self::init(port);
        world.boot().await;
        world
    }

    /// A new cluster whose noded is not there.
    pub async fn start() -> Self {
        // Port 1 of the loopback: nobody listens, connecting is refused at once.
        Self::start_with(1).await
    }

    /// A new cluster, nothing running.
    pub fn init(port: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let mut init = program();
        init.args(["init", "--cluster-name", "cluster.example.test", "--node-name", "node1.example.test"]);
        init.args(["--address", "127.0.0.1", "--noded-port", &port.to_string()]);
        let done = init.arg("--root").arg(root.path()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let role: RoleFile = serde_json::from_slice(&std::fs::read(root.role_file()).unwrap()).unwrap();
        Self { _dir: dir, root, cluster: role.cluster, node: role.node, daemon: None }
    }

    /// Starts wconfd and waits until it serves.
    pub async fn boot(&mut self) {
        let log =
            std::fs::File::options().create(true).append(true).open(self.root.path().join("log")).unwrap();
        let child = program()
            .arg("--root")
            .arg(self.root.path())
            .env("GANTRY_LOG", "info")
            .stderr(Stdio::from(log))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.daemon = Some(child);
        self.client().await;
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let mut child = self.daemon.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and waits until it has ended well.
    pub fn stop(&mut self) {
        let mut child = self.daemon.take().expect("it runs");
        let pid = i32::try_from(child.id()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).unwrap();
        assert!(child.wait().unwrap().success(), "{}", self.log());
    }

    /// kill -9, then a new start.
    pub async fn restart(&mut self) {
        self.kill();
        self.boot().await;
    }

    /// Waits until the daemon has ended by itself.
    pub async fn ended(&mut self) {
        let child = self.daemon.as_mut().expect("it runs");
        let began = Instant::now();
        while child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < LIMIT, "the daemon ends");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.daemon = None;
    }

    /// What the daemon wrote to its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.root.path().join("log")).unwrap_or_default()
    }

    /// A connection as a job's.
    pub async fn client(&self) -> Client {
        self.connect(&self.hello("gantry-job")).await
    }

    /// A connection of luxid in its given run.
    pub async fn luxid(&self, run: u64) -> Client {
        self.connect(&self.luxid_hello(run)).await
    }

    pub fn luxid_hello(&self, run: u64) -> Hello {
        Hello { run: Some(run), ..self.hello(LUXID) }
    }

    pub fn hello(&self, component: &str) -> Hello {
        Hello { cluster: Some(self.cluster), epoch: Some(1), ..Hello::new(wire::PROTOCOL, component) }
    }

    async fn connect(&self, hello: &Hello) -> Client {
        let began = Instant::now();
        loop {
            match Client::unix(&self.root.socket("wconfd.sock"), hello).await {
                Ok(client) => return client,
                Err(error) if began.elapsed() > LIMIT => panic!("{error}: {}", self.log()),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

pub fn owner(job: u64) -> JobOwner {
    JobOwner { job: JobId(job), start: StartNo { epoch: 1, run: 1, counter: job } }
}

pub async fn apply_as(
    client: &Client,
    owner: Option<JobOwner>,
    seq: u64,
    commands: Vec<Command>,
) -> Result<(u64, Vec<Value>), CallError> {
    let request = ApplyRequest { owner, seq, commands: Json::of(&commands).unwrap() };
    let reply = client.call::<wire::Apply>(&request, LIMIT).await?;
    Ok((reply.index, reply.results.read().unwrap()))
}

pub async fn apply(client: &Client, commands: Vec<Command>) -> Result<(u64, Vec<Value>), CallError> {
    apply_as(client, None, 0, commands).await
}

pub fn tag(text: &str) -> Command {
    Command::TagsAdd { target: TagTarget::Cluster, tags: [text.to_owned()].into() }
}

/// An object's JSON, and its revision.
pub async fn read(client: &Client, key: ReadKey) -> Vec<(u64, Map<String, Value>)> {
    let reply = client.call::<wire::Read>(&vec![key], LIMIT).await.unwrap();
    let objects = reply.objects.into_iter();
    objects.map(|object| (object.rev, serde_json::from_str(&object.body).unwrap())).collect()
}

pub async fn cluster(client: &Client) -> Map<String, Value> {
    let mut found = read(client, ReadKey::Key("cluster".to_owned(), "cluster".to_owned())).await;
    found.pop().expect("there is a cluster").1
}

pub async fn meta_serial(client: &Client) -> u64 {
    let found = read(client, ReadKey::Key("meta".to_owned(), "config".to_owned())).await;
    found[0].1["serial_no"].as_u64().unwrap()
}

pub fn request(owner: JobOwner, wants: &[(&str, Want)]) -> LockRequest {
    let wants = wants.iter().map(|(name, want)| ((*name).to_owned(), *want)).collect();
    LockRequest { owner, priority: 0, wants }
}

/// Takes locks that are free.
pub async fn take(client: &Client, owner: JobOwner, wants: &[(&str, Want)]) {
    client.call::<wire::LockUpdate>(&request(owner, wants), LIMIT).await.unwrap();
}

/// The next news of a waiting request.
pub async fn news(stream: &mut Stream<wire::LockUpdate>) -> Result<Event<wire::LockBlocked, ()>, CallError> {
    tokio::time::timeout(LIMIT, stream.next()).await.expect("news within the limit")
}

/// The next item, which must come: the request is blocked.
pub async fn blocked(stream: &mut Stream<wire::LockUpdate>) -> wire::LockBlocked {
    match news(stream).await.unwrap() {
        Event::Item(item) => item,
        Event::End(()) => panic!("granted"),
    }
}

/// Waits until the request is granted.
pub async fn granted(stream: &mut Stream<wire::LockUpdate>) {
    while let Event::Item(_) = news(stream).await.unwrap() {}
}

/// Polls until `check` yields something.
pub async fn until<T, Fut: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> Fut) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(began.elapsed() < LIMIT, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
