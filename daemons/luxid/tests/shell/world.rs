//! One root with a luxid that can be killed and started again, and a LUXI client.

use crate::fake_job::ARGS_ENV;
use crate::fake_wconfd::FakeWconfd;
use gantry_model::ids::{ClusterUuid, JobOwner, NodeUuid};
use gantry_model::role::{Role, RoleFile};
use gantry_model::root::Root;
use gantry_store::{Batch, Birth, LogKind, Member};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Longest wait for anything that must happen; far more than it takes.
pub const LIMIT: Duration = Duration::from_secs(30);

/// See the module.
pub struct World {
    pub root: Root,
    pub wconfd: Arc<FakeWconfd>,
    pub runtime: tokio::runtime::Runtime,
    luxid: Option<Child>,
    dir: tempfile::TempDir,
}

impl World {
    /// A new cluster with a running luxid.
    pub fn new() -> Self {
        let mut world = Self::without_luxid();
        world.start();
        world
    }

    pub fn without_luxid() -> Self {
        let dir = tempfile::Builder::new().prefix("lx").tempdir().unwrap();
        let root = Root::new(dir.path());
        gantry_rt::files::make_dirs(&root).unwrap();
        let (cluster, node) = (ClusterUuid(Uuid::new_v4()), NodeUuid(Uuid::new_v4()));
        let birth = Birth {
            cluster: cluster.0,
            history: Uuid::new_v4(),
            epoch: 1,
            ballot: [7; 16],
            members: vec![Member { node: node.0, copy_id: Uuid::new_v4() }],
            first: Batch::default(),
        };
        gantry_store::create(&root.lib(), LogKind::Q, &birth).unwrap();
        let role = RoleFile { node, cluster, role: Role::Master, epoch: 1 };
        gantry_rt::files::write_role(&root, &role).unwrap();
        job_program(dir.path());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let wconfd = FakeWconfd::new(cluster, node);
        let _in = runtime.enter();
        wconfd.serve(&root);
        drop(_in);
        Self { root, wconfd, runtime, luxid: None, dir }
    }

    /// Starts luxid and waits until it serves.
    pub fn start(&mut self) {
        self.start_unready();
        until("luxid to serve", || self.serves().is_ok());
    }

    /// Whether luxid answers. A mere connection may be one to the listener of a luxid that was killed while it
    /// started a child: the child keeps it until its exec.
    fn serves(&self) -> std::io::Result<()> {
        let mut stream = UnixStream::connect(self.root.socket("luxi.sock"))?;
        stream.write_all(b"{\"method\": \"QueryConfigValues\", \"args\": [[]]}\x03")?;
        stream.read_exact(&mut [0])
    }

    pub fn start_unready(&mut self) {
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("luxid.log"));
        let luxid = Command::new(env!("CARGO_BIN_EXE_gantry-luxid"))
            .arg("--root")
            .arg(self.root.path())
            .arg("--libexec")
            .arg(self.dir.path())
            .env("GANTRY_LOG", "debug")
            .stdin(Stdio::null())
            .stderr(log.unwrap())
            .spawn()
            .unwrap();
        self.luxid = Some(luxid);
    }

    /// Kills luxid with SIGKILL and waits until it is gone.
    pub fn kill_luxid(&mut self) {
        let mut luxid = self.luxid.take().unwrap();
        luxid.kill().unwrap();
        luxid.wait().unwrap();
        // A socket without a listener refuses, so the next start is seen by who connects.
    }

    pub fn file(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// How the next job process behaves before go.
    pub fn mode(&self, mode: &str) {
        std::fs::write(self.file("mode.new"), mode).unwrap();
        std::fs::rename(self.file("mode.new"), self.file("mode")).unwrap();
    }

    /// The starts that were told to go.
    pub fn went(&self) -> Vec<JobOwner> {
        let text = std::fs::read_to_string(self.file("went")).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    pub fn client(&self) -> Luxi {
        Luxi(UnixStream::connect(self.root.socket("luxi.sock")).unwrap())
    }

    pub fn ask(&self, method: &str, args: Value) -> Value {
        self.client().ask(method, args).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// Submits a job that behaves as `comment` says.
    pub fn submit(&self, comment: &str) -> u64 {
        self.ask("SubmitJob", json!([[op(comment)]])).as_u64().unwrap()
    }

    /// Submits a task that behaves as `name` says.
    pub fn task(&self, name: &str) -> u64 {
        let id = self.ask("SubmitTask", json!([task(name)])).as_u64().unwrap();
        assert!(id > 0);
        id
    }

    /// Waits until a task is in a state, by `WaitForTaskChange`.
    pub fn task_is(&self, id: u64, state: u64) -> Value {
        let mut client = self.client();
        let end = Instant::now() + LIMIT;
        let mut seen = client.ask("QueryTask", json!([id])).unwrap();
        while seen["state"] != state {
            assert!(Instant::now() < end && seen["end"].is_null(), "task is not {state}: {seen}");
            let answer = client.ask("WaitForTaskChange", json!([id, seen["rev"], 5])).unwrap();
            if !answer.is_null() {
                seen = answer;
            }
        }
        seen
    }

    pub fn job(&self, id: u64, field: &str) -> Value {
        self.ask("QueryJobs", json!([[id], [field]]))[0][0].clone()
    }

    /// Waits for a status by `WaitForJobChange`.
    pub fn wait_for(&self, id: u64, status: &str) {
        let mut client = self.client();
        let mut seen = Value::Null;
        let end = Instant::now() + LIMIT;
        while seen != json!([status]) {
            assert!(Instant::now() < end, "job {id} is not {status} but {seen}; {}", self.log());
            let answer = client.ask("WaitForJobChange", json!([id, ["status"], seen, null, 5])).unwrap();
            seen = answer[0].clone();
            let last = seen[0].as_str().unwrap();
            let over = ["success", "error", "canceled"].contains(&last);
            assert!(!over || last == status, "job {id} ended as {last}: {}", self.job(id, "opresult"));
        }
    }

    pub fn pid(&self, id: u64) -> i32 {
        let job = self.ask("Query", json!(["job", ["id", "status"], ["==", "id", id]]));
        assert_eq!(job["data"][0][0][1], id);
        let start = self.went().into_iter().rev().find(|owner| owner.job.0 == id).unwrap();
        self.pid_of(start)
    }

    /// The pid of the process that listens for a start.
    pub fn pid_of(&self, owner: JobOwner) -> i32 {
        let _in = self.runtime.enter();
        let path = self.root.job_socket(owner);
        self.runtime.block_on(gantry_rpc::unix::connect(&path)).unwrap().peer_cred().unwrap().pid().unwrap()
    }

    /// Names in the directories of spool files and job sockets.
    pub fn leftovers(&self) -> Vec<String> {
        let mut names = Vec::new();
        for dir in [self.root.spool_dir(), self.root.job_dir()] {
            for entry in std::fs::read_dir(dir).unwrap() {
                names.push(entry.unwrap().file_name().to_string_lossy().into_owned());
            }
        }
        names
    }

    /// Living processes of jobs, by what their script was called with.
    pub fn processes(&self) -> Vec<String> {
        let begin = format!("{ARGS_ENV}=--root {} ", self.root.path().display());
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let environments = all.filter_map(|entry| std::fs::read(entry.path().join("environ")).ok());
        let words = environments.filter_map(|text| {
            let text = String::from_utf8_lossy(&text).into_owned();
            text.split('\0').find_map(|pair| pair.strip_prefix(&begin)).map(str::to_owned)
        });
        words.filter(|words| !words.starts_with("--nursery")).collect()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.file("luxid.log")).unwrap_or_default()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut luxid) = self.luxid.take() {
            let _ = luxid.kill();
            let _ = luxid.wait();
        }
        let _ = std::fs::write(self.file("finish"), "");
        let _ = std::fs::write(self.file("proceed"), "");
        if std::thread::panicking() {
            eprintln!("--- luxid's log\n{}", self.log());
        }
    }
}

/// The script that calls this test binary as the job program.
fn job_program(dir: &Path) {
    let own = std::env::current_exe().unwrap();
    let text = format!(
        "#!/bin/sh\n{ARGS_ENV}=\"$*\" exec {} --exact fake_job::process --nocapture >/dev/null\n",
        own.display()
    );
    let path = dir.join("gantry-job");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Waits for a condition.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < end, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn op(comment: &str) -> Value {
    json!({"OP_ID": "OP_TEST_DELAY", "duration": 0.0, "comment": comment, "reason": []})
}

pub fn task(name: &str) -> Value {
    json!({"name": name, "pool": "py", "execute": [{"command": "true"}], "user": "alice"})
}

/// A LUXI connection.
pub struct Luxi(pub UnixStream);

impl Luxi {
    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// The next answer; None when the connection was closed.
    pub fn answer(&mut self) -> Option<Value> {
        self.0.set_read_timeout(Some(LIMIT)).unwrap();
        let mut text = Vec::new();
        let mut byte = [0];
        loop {
            if self.0.read(&mut byte).unwrap() == 0 {
                assert!(text.is_empty(), "closed in the middle of an answer");
                return None;
            }
            if byte[0] == 3 {
                return Some(serde_json::from_slice(&text).unwrap());
            }
            text.push(byte[0]);
        }
    }

    /// As [`Luxi::answer`]; a reset counts as closed.
    pub fn answer_or_reset(&mut self) -> Option<Value> {
        let mut byte = [0];
        self.0.set_read_timeout(Some(LIMIT)).unwrap();
        match self.0.read(&mut byte) {
            Ok(0) | Err(_) => None,
            Ok(_) => self.answer(),
        }
    }

    pub fn ask(&mut self, method: &str, args: Value) -> Result<Value, Value> {
        self.send(format!("{}\u{3}", json!({"method": method, "args": args})).as_bytes());
        let answer = self.answer().expect("an answer");
        if answer["success"] == true { Ok(answer["result"].clone()) } else { Err(answer["result"].clone()) }
    }
}
