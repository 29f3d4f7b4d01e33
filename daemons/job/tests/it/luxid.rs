//! Luxid's side of a start, as small as it can be.

use gantry_model::ids::{ClusterUuid, Fence, JobOwner, NodeUuid};
use gantry_model::job::{Report, Status};
use gantry_model::root::Root;
use gantry_proto::codec::Json;
use gantry_proto::hello::Hello;
use gantry_proto::job::{Born, GoOp, GoRequest, PROTOCOL, Ready};
use gantry_rpc::Client;
use serde_json::{Value, json};
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use uuid::Uuid;

pub const CLUSTER: ClusterUuid = ClusterUuid(Uuid::from_u128(1));

pub struct Luxid {
    pub root: Root,
    _dir: tempfile::TempDir,
}

/// A started job and luxid's end of its stdin.
pub struct Started {
    pub child: Child,
    pub line: Option<UnixStream>,
}

impl Started {
    pub async fn exit(&mut self) -> ExitStatus {
        tokio::time::timeout(Duration::from_secs(20), self.child.wait())
            .await
            .expect("it leaves")
            .expect("a status")
    }
}

impl Luxid {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        std::fs::create_dir_all(root.job_dir()).unwrap();
        std::fs::create_dir_all(root.spool_dir()).unwrap();
        Self { root, _dir: dir }
    }

    /// Starts the program and waits until it is ready.
    pub async fn spawn(&mut self, owner: JobOwner) -> Started {
        let (mine, its) = std::os::unix::net::UnixStream::pair().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_gantry-job"))
            .arg("--root")
            .arg(self.root.path())
            .args([owner.job.to_string(), owner.start.to_string(), CLUSTER.to_string()])
            .stdin(Stdio::from(OwnedFd::from(its)))
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        mine.set_nonblocking(true).unwrap();
        let line = UnixStream::from_std(mine).unwrap();
        let text = two_lines(&line).await;
        let (born, ready) = text.split_once('\n').unwrap();
        let (born, ready): (Born, Ready) =
            (serde_json::from_str(born).unwrap(), serde_json::from_str(ready).unwrap());
        assert_eq!((Some(born.born), born.born), (child.id(), ready.pid));
        Started { child, line: Some(line) }
    }

    pub async fn connect(&self, owner: JobOwner) -> Client {
        let mut hello = Hello::new(PROTOCOL, "gantry-luxid");
        hello.cluster = Some(CLUSTER);
        Client::unix(&self.root.job_socket(owner), &hello).await.unwrap()
    }
}

/// A read ends with the message that a descriptor came with, whatever waits behind it: that one was short is no sign that all is read,
/// as which tokio's own reads would take it.
async fn two_lines(line: &UnixStream) -> String {
    let mut text = Vec::new();
    while text.iter().filter(|byte| **byte == b'\n').count() < 2 {
        line.readable().await.unwrap();
        match line.try_read_buf(&mut text) {
            Ok(0) => panic!("closed"),
            Ok(_) => {}
            Err(why) => assert_eq!(why.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
    String::from_utf8(text).unwrap()
}

pub fn delay(seconds: f64) -> Value {
    json!({"OP_ID": "OP_TEST_DELAY", "duration": seconds, "on_master": true, "on_nodes": [], "no_locks": true})
}

pub fn go(owner: JobOwner, ops: &[Value]) -> GoRequest {
    let op = |input: &Value| GoOp {
        input: input.as_object().unwrap().clone(),
        priority: 0,
        status: Status::Queued,
        result: Value::Null,
    };
    GoRequest {
        owner,
        cluster: CLUSTER,
        master: NodeUuid(Uuid::from_u128(2)),
        fence: Fence { epoch: 1, ballot: [0; 16] },
        ops: Json::of(&ops.iter().map(op).collect()).unwrap(),
        next_serial: 1,
    }
}

/// The spooled report of a start, if there is one.
pub fn last_of(root: &Root, owner: JobOwner) -> Option<Report> {
    let text = std::fs::read(root.spool_file(owner)).ok()?;
    Some(serde_json::from_slice(&text).unwrap())
}
