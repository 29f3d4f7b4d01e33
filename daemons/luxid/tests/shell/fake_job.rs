//! A job program whose behaviour the tests choose. It is this test binary, called again by a script as its test
//! [`process`]; what the script was called with comes in the environment.
//!
//! Before go it does what the file `mode` in the root says, which it takes away, so that the next start behaves. After
//! go it does what the comment of its first opcode says. Each go adds a line to the file `went`.

use gantry_model::ids::{ClusterUuid, JobOwner};
use gantry_model::job::{OpReport, Outcome, Report, Status};
use gantry_model::root::Root;
use gantry_model::task::{BodyRef, RunReport, TaskResult, TaskState};
use gantry_proto::codec::Json;
use gantry_proto::hello::Hello;
use gantry_proto::job::{Attach, Born, Cancel, Confirm, Go, GoRequest, PROTOCOL, Ready, SetPriority};
use gantry_rpc::parcel;
use gantry_rpc::{Call, Code, Fail, Limits, Service, Verb, reply};
use rustix::process::PidfdFlags;
use serde_json::Value;
use std::future::Future;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::pin::Pin;
use std::process::{Command, Stdio, exit};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Where the script puts the arguments.
pub const ARGS_ENV: &str = "GANTRY_FAKE_JOB";

#[test]
fn process() {
    let Ok(args) = std::env::var(ARGS_ENV) else { return };
    // As the real one: see `io::spawn`.
    nix::unistd::setsid().unwrap();
    let words: Vec<&str> = args.split_whitespace().collect();
    if let [_, root, "--nursery", cluster] = words[..] {
        nursery(root, cluster);
    }
    let [_, root, job, start, cluster] = words[..] else { exit(2) };
    let owner = JobOwner { job: job.parse().unwrap(), start: start.parse().unwrap() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let root = Root::new(root);
    runtime.block_on(async {
        tokio::select! {
            () = run(root.clone(), owner, cluster.parse().unwrap()) => exit(0),
            () = gone(root.path()) => exit(1),
        }
    });
}

/// As the real one, but that each child is a program: tests have threads.
fn nursery(root: &str, cluster: &str) -> ! {
    let mut room = [0; 256];
    loop {
        let Ok((bytes, Some(line))) = parcel::receive(std::io::stdin(), &mut room) else { exit(0) };
        let start = std::str::from_utf8(&room[..bytes]).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "fake_job::process", "--nocapture"])
            .env(ARGS_ENV, format!("--root {root} {start} {cluster}"))
            .stdin(line)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::spawn(move || child.wait());
    }
}

/// Its test is over and has taken the directory away: nobody will say any more what this waits for.
async fn gone(root: &Path) {
    while root.exists() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What the stages of the process share.
struct Board {
    owner: JobOwner,
    root: Root,
    report: watch::Sender<Report>,
    confirmed: watch::Sender<u64>,
    cancelled: watch::Sender<bool>,
    go: watch::Sender<Option<GoRequest>>,
    attached: AtomicUsize,
}

async fn run(root: Root, owner: JobOwner, cluster: ClusterUuid) {
    let mode = take_mode(&root);
    if mode == "die-first" {
        exit(1);
    }
    let mut pair =
        std::os::unix::net::UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap();
    let born = serde_json::to_string(&Born { born: std::process::id() }).unwrap() + "\n";
    let _ = parcel::send(&pair, born.as_bytes(), own.as_fd());
    let listener = gantry_rpc::unix::bind(&root.job_socket(owner), 0o600).unwrap();
    if mode == "die-bound" {
        exit(1);
    }
    let report =
        Report { owner, number: 0, outcome: Outcome::NeverBegan, ops: Vec::new(), seen_w: 0, stage: None };
    let board = Arc::new(Board {
        owner,
        root: root.clone(),
        report: watch::Sender::new(report),
        confirmed: watch::Sender::new(0),
        cancelled: watch::Sender::new(false),
        go: watch::Sender::new(None),
        attached: AtomicUsize::new(0),
    });
    let mut hello = Hello::new(PROTOCOL, "fake-job");
    hello.cluster = Some(cluster);
    let service = Arc::new(FakeService(Arc::clone(&board), hello));
    tokio::spawn(gantry_rpc::serve_unix(listener, service, Limits::default(), CancellationToken::new()));
    if mode == "slow" {
        std::fs::write(root.path().join("slow"), "").unwrap();
        wait_for_file(&root.path().join("proceed")).await;
    }
    let pid = if mode == "wrong-pid" { 1 } else { std::process::id() };
    let line = serde_json::to_string(&Ready { pid }).unwrap() + "\n";
    let said = pair.write_all(line.as_bytes());
    if mode == "die-ready" {
        exit(1);
    }
    if said.is_ok() {
        let gone = tokio::task::spawn_blocking(move || pair.read(&mut [0; 8]));
        let mut go = board.go.subscribe();
        tokio::select! {
            _ = go.wait_for(Option::is_some) => {}
            _ = gone => {}
        }
    }
    let request = board.go.borrow().clone();
    match request {
        Some(request) => work(&board, request).await,
        None => board.spool(),
    }
}

fn take_mode(root: &Root) -> String {
    let (path, taken) = (root.path().join("mode"), root.path().join("mode.taken"));
    match std::fs::rename(&path, &taken) {
        Ok(()) => std::fs::read_to_string(taken).unwrap(),
        Err(_) => String::new(),
    }
}

async fn wait_for_file(path: &Path) {
    while !path.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn work(board: &Arc<Board>, request: GoRequest) {
    let path = board.root.path().join("went");
    let mut went = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    // In one write: others append too.
    went.write_all(format!("{}\n", board.owner).as_bytes()).unwrap();
    let ops = request.ops.read().unwrap();
    let input = &ops[0].input;
    let name = || input.get("spec")?.get("name")?.as_str();
    let what = input.get("comment").and_then(Value::as_str).or_else(name);
    let what = what.unwrap_or("quick").to_owned();
    let end = match what.as_str() {
        "die" => {
            board.say(ops.len(), Status::Running, 0);
            exit(9);
        }
        "hold" => {
            board.say(ops.len(), Status::Running, 0);
            wait_for_file(&board.root.path().join("finish")).await;
            Status::Success
        }
        "infra" => Status::Error,
        "wait" => {
            board.say(ops.len(), Status::Waiting, 0);
            board.cancelled.subscribe().wait_for(|c| *c).await.unwrap();
            Status::Canceled
        }
        _ => Status::Success,
    };
    if ops[0].input["OP_ID"] == "OP_TASK_RUN" && end == Status::Success {
        board.task_result(&what, ops.len());
        // Its second opcode begins when the first one's result is stored.
        if ops.len() > 1 && what != "missing" {
            board.known().await;
            board.turned_over();
        }
    } else {
        board.say(ops.len(), end, if what == "seen" { 50 } else { 0 });
    }
    if !board.known().await {
        board.spool();
    }
    // Let the last reply out.
    for _ in 0..100 {
        if board.attached.load(Ordering::SeqCst) == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let _ = std::fs::remove_file(board.root.job_socket(board.owner));
}

impl Board {
    /// The last word of an attempt that came to a result; of `userfail` a bad one, of `missing` one whose body is not
    /// in the store.
    fn task_result(&self, what: &str, ops: usize) {
        let state = if what == "userfail" { TaskState::RunFailed } else { TaskState::Success };
        let mut result = TaskResult { wall_ms: 7, ..TaskResult::default() };
        if what == "missing" {
            result.archive = Some(BodyRef { digest: "d".repeat(64), bytes: 1 });
        }
        let run = serde_json::to_value(RunReport { state, why: None, result }).unwrap();
        self.report.send_modify(|report| {
            put(report, ops, Status::Success, 0, &run);
            for later in &mut report.ops[1..] {
                (later.status, later.result) = (Status::Queued, Value::Null);
                report.outcome = Outcome::Underway;
            }
        });
    }

    /// The second opcode of an attempt is over too.
    fn turned_over(&self) {
        self.report.send_modify(|report| {
            report.number += 1;
            report.outcome = Outcome::Ended;
            (report.ops[1].status, report.ops[1].result) = (Status::Success, Value::from("turned over"));
        });
    }

    /// Waits until luxid has stored the newest report; false when no luxid is there.
    async fn known(&self) -> bool {
        let number = self.report.borrow().number;
        let mut confirmed = self.confirmed.subscribe();
        loop {
            if *confirmed.borrow_and_update() >= number {
                return true;
            }
            if self.attached.load(Ordering::SeqCst) == 0 {
                return false;
            }
            let _ = tokio::time::timeout(Duration::from_millis(20), confirmed.changed()).await;
        }
    }

    fn say(&self, ops: usize, status: Status, seen_w: u64) {
        let result = Value::from(self.owner.to_string());
        self.report.send_modify(|report| put(report, ops, status, seen_w, &result));
    }

    fn spool(&self) {
        let path = self.root.spool_file(self.owner);
        let temporary = self.root.spool_dir().join(format!("{}.tmp", self.owner));
        std::fs::write(&temporary, serde_json::to_vec(&*self.report.borrow()).unwrap()).unwrap();
        std::fs::rename(temporary, path).unwrap();
    }

    async fn attend<V: Verb<Item = Json<Report>, Reply = ()>>(&self, call: Call) -> Result<Vec<u8>, Fail> {
        let _here = Here::new(&self.attached);
        let items = call.items::<V>();
        let (mut reports, mut confirmed) = (self.report.subscribe(), self.confirmed.subscribe());
        let mut sent = 0;
        loop {
            let report = reports.borrow_and_update().clone();
            if report.number > sent {
                sent = report.number;
                items.send(&Json::of(&report).unwrap()).await?;
            }
            if report.outcome == Outcome::Ended && *confirmed.borrow_and_update() >= report.number {
                return reply::<V>(&());
            }
            tokio::select! {
                _ = reports.changed() => {}
                _ = confirmed.changed() => {}
            }
        }
    }
}

/// The next report: all opcodes stand alike.
fn put(report: &mut Report, ops: usize, status: Status, seen_w: u64, result: &Value) {
    let op = OpReport {
        status,
        result: if status.is_final() { result.clone() } else { Value::Null },
        priority: 0,
        input: None,
        start: None,
        exec: None,
        end: None,
        log: Vec::new(),
    };
    report.number += 1;
    report.outcome = if status.is_final() { Outcome::Ended } else { Outcome::Underway };
    report.ops = vec![op; ops];
    report.seen_w = seen_w;
    report.stage = (status == Status::Running).then_some(TaskState::Running);
}

struct Here<'a>(&'a AtomicUsize);

impl<'a> Here<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

struct FakeService(Arc<Board>, Hello);

impl Service for FakeService {
    fn hello(&self) -> Hello {
        self.1.clone()
    }

    fn handle(self: Arc<Self>, call: Call) -> Pin<Box<dyn Future<Output = Result<Vec<u8>, Fail>> + Send>> {
        Box::pin(async move {
            let board = &self.0;
            if call.is::<Go>() {
                let request = call.request::<Go>()?;
                if request.owner != board.owner {
                    return Err(Fail::new(Code::Stale, "another start"));
                }
                board.go.send_if_modified(|go| go.is_none() && go.replace(request).is_none());
                return board.attend::<Go>(call).await;
            }
            if call.is::<Attach>() {
                if board.go.borrow().is_none() {
                    return Err(Fail::new(Code::NotReady, "not told to go"));
                }
                return board.attend::<Attach>(call).await;
            }
            if call.is::<Confirm>() {
                board.confirmed.send_replace(call.request::<Confirm>()?.number);
                return reply::<Confirm>(&());
            }
            if call.is::<Cancel>() {
                board.cancelled.send_replace(true);
                return reply::<Cancel>(&());
            }
            if call.is::<SetPriority>() {
                return reply::<SetPriority>(&());
            }
            Err(gantry_rpc::unknown_verb(&call))
        })
    }
}
