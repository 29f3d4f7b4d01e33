//! A real daemon process: this binary again, told by an environment variable to be one.

use gantry_model::root::Root;
use gantry_proto::admin::{Health, HealthReply, LogLevel, Metrics, PROTOCOL};
use gantry_rpc::{Client, Hello};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prometheus_client::metrics::counter::Counter;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

/// Names the root of a daemon to be run; unset in the test process itself.
const ROOT: &str = "GANTRY_RT_TEST_ROOT";
/// What the daemon does.
const MODE: &str = "GANTRY_RT_TEST_MODE";
/// Exit codes are told apart from a test harness's own by this one.
const FAILED: i32 = 77;
const SOON: Duration = Duration::from_secs(10);

/// No test of its own: the daemon, when started by [`start`].
#[test]
fn daemon() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    let mode = std::env::var(MODE).unwrap_or_default();
    let root = Root::new(root);
    let log_file = Some(root.log().join("sample.log"));
    std::fs::create_dir_all(root.log()).expect("made");
    let options = gantry_rt::Options { name: "sample", root, log_file };
    let code = gantry_rt::run_with(options, async move |daemon| {
        let counter: Counter = Counter::default();
        counter.inc();
        daemon.metrics.lock().expect("sound").register("starts", "Starts", counter);
        daemon.ready.set(true, "");
        match mode.as_str() {
            "panic" => daemon.tasks.spawn("panics", async { assert_eq!(1, 2, "a bug") }),
            "fail" => daemon.tasks.spawn("fails", async { anyhow::bail!("disk full") }),
            "refuse" => anyhow::bail!("no settings"),
            _ => {}
        }
        daemon.stop.cancelled().await;
        Ok(())
    });
    std::process::exit(if code == ExitCode::SUCCESS { 0 } else { FAILED });
}

fn start(root: &Path, mode: &str) -> Child {
    Command::new(std::env::current_exe().expect("known"))
        .args(["--exact", "daemon", "--nocapture"])
        .env(ROOT, root)
        .env(MODE, mode)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts")
}

async fn ended(mut child: Child) -> ExitStatus {
    let wait = tokio::task::spawn_blocking(move || child.wait().expect("our child"));
    tokio::time::timeout(SOON, wait).await.expect("ends").expect("no panic")
}

async fn admin(root: &Path) -> Client {
    let hello = Hello::new(PROTOCOL, "gantry-test");
    let path = Root::new(root).admin_socket("sample");
    let connect = async {
        loop {
            match Client::unix(&path, &hello).await {
                Ok(client) => return client,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(SOON, connect).await.expect("listens")
}

async fn health(client: &Client) -> HealthReply {
    client.call::<Health>(&(), SOON).await.expect("answered")
}

fn log(root: &Path) -> String {
    std::fs::read_to_string(Root::new(root).log().join("sample.log")).expect("a log")
}

#[tokio::test]
async fn a_daemon_tells_its_health_and_stops_on_sigterm() {
    let dir = tempfile::tempdir().expect("a directory");
    let child = start(dir.path(), "");
    let client = admin(dir.path()).await;
    let ready = async {
        while !health(&client).await.ready {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, ready).await.expect("ready");
    let health = health(&client).await;
    assert_eq!((health.name.as_str(), health.pid), ("sample", child.id()));
    let metrics = client.call::<Metrics>(&(), SOON).await.expect("answered");
    assert!(metrics.contains("gantry_starts_total 1"), "{metrics}");
    client.call::<LogLevel>(&"debug".to_owned(), SOON).await.expect("set");
    assert!(client.call::<LogLevel>(&"=/=".to_owned(), SOON).await.is_err());
    kill(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), Signal::SIGTERM).expect("sent");
    client.closed().await;
    assert_eq!(ended(child).await.code(), Some(0));
    assert!(!Root::new(dir.path()).admin_socket("sample").exists());
    assert!(log(dir.path()).contains("SIGTERM"));
}

#[tokio::test]
async fn a_second_one_does_not_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = start(dir.path(), "");
    let client = admin(dir.path()).await;
    assert_eq!(ended(start(dir.path(), "")).await.code(), Some(FAILED));
    assert!(log(dir.path()).contains("does another run?"));
    assert_eq!(health(&client).await.pid, first.id());
    kill(Pid::from_raw(i32::try_from(first.id()).expect("a pid")), Signal::SIGINT).expect("sent");
    assert_eq!(ended(first).await.code(), Some(0));
}

#[tokio::test]
async fn failures_end_the_process_with_a_line_in_the_log() {
    let cases = [
        ("fail", "disk full", Ok(FAILED)),
        ("refuse", "no settings", Ok(FAILED)),
        ("panic", "a bug", Err(6)),
    ];
    for (mode, words, end) in cases {
        let dir = tempfile::tempdir().expect("a directory");
        let status = ended(start(dir.path(), mode)).await;
        match end {
            Ok(code) => assert_eq!(status.code(), Some(code), "{mode}"),
            Err(signal) => assert_eq!(status.signal(), Some(signal), "{mode}"),
        }
        assert!(log(dir.path()).contains(words), "{mode}");
    }
}
