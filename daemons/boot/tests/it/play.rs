//! The stage: a root in a temporary directory, programs that are scripts around this test program, and a
//! handle on a real boot.

use gantry_model::ids::{ClusterUuid, NodeUuid};
use gantry_model::role::{Role, RoleFile};
use gantry_model::root::Root;
use gantry_proto::boot::{self as wire, DaemonState, DaemonStatus, PROTOCOL};
use gantry_rpc::{Client, Hello};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Set when this program plays a daemon.
const PLAYED: &str = "GANTRY_TEST_PLAYS";
/// Nothing here takes longer on any machine that works.
pub const LIMIT: Duration = Duration::from_secs(30);
/// Every daemon boot may start.
const DAEMONS: [&str; 7] = ["vmd", "noded", "rconfd", "mond", "wconfd", "luxid", "overseer"];
/// Between looks at a condition.
const LOOK: Duration = Duration::from_millis(10);

/// What the scripts run: a daemon with a real admin socket, that ends at once while `fail/NAME` exists.
#[test]
fn plays_a_daemon() {
    let Ok(name) = std::env::var(PLAYED) else { return };
    let name: &'static str = name.leak();
    let root = Root::new(std::env::var("GANTRY_TEST_ROOT").expect("set by the script"));
    if root.path().join("fail").join(name).exists() {
        std::process::exit(3);
    }
    let code = gantry_rt::run(name, root, |daemon| async move {
        daemon.ready.set(true, "");
        daemon.stop.cancelled().await;
        let order = daemon.root.path().join("order");
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(order)?;
        std::io::Write::write_all(&mut file, format!("{name} ").as_bytes())?;
        Ok(())
    });
    std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
}

pub struct Stage {
    dir: tempfile::TempDir,
    pub root: Root,
}

impl Stage {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        gantry_rt::files::make_dirs(&root).unwrap();
        let stage = Self { dir, root };
        std::fs::create_dir(stage.libexec()).unwrap();
        std::fs::create_dir(stage.path().join("fail")).unwrap();
        for name in DAEMONS {
            stage.program(name);
        }
        stage
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    fn libexec(&self) -> PathBuf {
        self.path().join("libexec")
    }

    fn program(&self, name: &str) {
        let own = std::env::current_exe().unwrap();
        let text = format!(
            "#!/bin/sh\n[ \"$1\" = elect ] && exec sh \"$3/elect.sh\" \"$@\"\nexec env {PLAYED}={name} GANTRY_TEST_ROOT=\"$2\" '{}' --exact play::plays_a_daemon --nocapture\n",
            own.display()
        );
        let path = self.libexec().join(format!("gantry-{name}"));
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub fn fails(&self, name: &str, fails: bool) {
        let path = self.path().join("fail").join(name);
        if fails { std::fs::write(path, "").unwrap() } else { std::fs::remove_file(path).unwrap() }
    }

    pub fn role(&self, role: Role) {
        let file = RoleFile {
            node: NodeUuid(uuid::Uuid::from_u128(1)),
            cluster: ClusterUuid(uuid::Uuid::from_u128(2)),
            role,
            epoch: 1,
        };
        gantry_rt::files::write_role(&self.root, &file).unwrap();
    }

    /// What the elector does; `$3` is the root.
    pub fn elector(&self, script: &str) {
        std::fs::write(self.path().join("elect.sh"), script).unwrap();
    }

    /// Settings that name these drivers.
    pub fn drivers(&self, list: &str) {
        let text = format!("name = \"n1\"\naddress = \"127.0.0.2\"\ndrivers = [{list}]\n");
        std::fs::write(self.root.node_toml(), text).unwrap();
    }

    /// A boot in the foreground.
    pub fn boot(&self) -> Boot<'_> {
        let child = self.command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Boot { stage: self, child }
    }

    /// A daemon that no boot knows of, serving.
    pub async fn stray(&self, name: &str) -> Child {
        let mut command = Command::new(self.libexec().join(format!("gantry-{name}")));
        let child = command.arg("--root").arg(self.path()).stdout(Stdio::null()).spawn().unwrap();
        let hello = Hello::new(gantry_proto::admin::PROTOCOL, "test");
        let socket = self.root.admin_socket(name);
        eventually("it serves", async || Client::unix(&socket, &hello).await.ok()).await;
        child
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gantry-boot"));
        command.arg("--root").arg(self.path()).arg("--libexec").arg(self.libexec()).stdin(Stdio::null());
        command
    }

    pub async fn client(&self) -> Client {
        let hello = Hello::new(PROTOCOL, "test");
        let socket = self.root.socket("boot.sock");
        eventually("boot answers", async || Client::unix(&socket, &hello).await.ok()).await
    }

    pub async fn status(&self) -> Vec<DaemonStatus> {
        self.client().await.call::<wire::Status>(&(), LIMIT).await.unwrap()
    }

    /// Waits until exactly these are ready and no other has a process.
    pub async fn ready(&self, names: &[&str]) -> Vec<DaemonStatus> {
        self.ready_among(names, &[]).await
    }

    /// The same, whatever `others` do.
    pub async fn ready_among(&self, names: &[&str], others: &[&str]) -> Vec<DaemonStatus> {
        eventually(&format!("{names:?} are ready"), async || {
            let all = self.status().await;
            let fits = |d: &DaemonStatus| match names.contains(&d.name.as_str()) {
                true => d.state == DaemonState::Ready,
                false => d.pid.is_none() || others.contains(&d.name.as_str()),
            };
            all.iter().all(fits).then_some(all)
        })
        .await
    }

    pub fn order(&self) -> String {
        std::fs::read_to_string(self.path().join("order")).unwrap_or_default()
    }
}

/// Waits until the look gives something.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < LIMIT, "never came true: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

pub fn one<'a>(all: &'a [DaemonStatus], name: &str) -> &'a DaemonStatus {
    all.iter().find(|d| d.name == name).expect("is in the table")
}

pub fn pid(all: &[DaemonStatus], name: &str) -> u32 {
    one(all, name).pid.expect("runs")
}

pub fn starts(all: &[DaemonStatus], name: &str) -> u64 {
    one(all, name).starts
}

pub fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

/// Whether a process runs (a zombie does not).
pub fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z')
}

pub struct Boot<'a> {
    stage: &'a Stage,
    child: Child,
}

impl Boot<'_> {
    pub fn signal(&self, which: Signal) {
        signal(self.child.id(), which);
    }

    /// Waits for its end.
    pub fn wait(mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Boot<'_> {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_some() {
            return;
        }
        // A failed test: ends the daemons with their boot. They are known by their pid files.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for name in DAEMONS {
            let text = std::fs::read_to_string(self.stage.root.pid_file(name)).unwrap_or_default();
            let found = serde_json::from_str::<serde_json::Value>(&text).ok().and_then(|v| v["pid"].as_i64());
            if let Some(raw) = found.and_then(|pid| i32::try_from(pid).ok()) {
                let _ = kill(Pid::from_raw(raw), Signal::SIGKILL);
            }
        }
    }
}
