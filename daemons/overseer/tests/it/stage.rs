//! A root, the world, and the overseer's process.

use crate::luxid::Luxid;
use crate::world::World;
use gantry_model::root::Root;
use gantry_proto::admin::{Health, HealthReply, Metrics, PROTOCOL};
use gantry_rpc::{Client, Hello};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Nothing here takes longer on any machine that works.
const LIMIT: Duration = Duration::from_secs(30);
/// Between looks at a condition.
const LOOK: Duration = Duration::from_millis(5);

pub struct Stage {
    dir: tempfile::TempDir,
    pub root: Root,
    pub world: Arc<Mutex<World>>,
}

impl Stage {
    /// Nodes are looked at every second; all other periods are too long to matter.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        gantry_rt::files::make_dirs(&root).unwrap();
        let stage = Self { dir, root, world: Arc::new(Mutex::new(World::new())) };
        stage.settings("");
        stage
    }

    pub fn settings(&self, more: &str) {
        let names = [
            "destroy_dirty_s",
            "create_slots_s",
            "expand_pools_s",
            "drain_slots_s",
            "health_check_s",
            "audit_nodes_s",
        ];
        let long: String =
            names.iter().filter(|n| !more.contains(**n)).map(|n| format!("{n} = 100000\n")).collect();
        let text =
            format!("name = \"n1\"\naddress = \"127.0.0.2\"\n[overseer]\nnode_repair_s = 1\n{long}{more}\n");
        std::fs::write(self.root.node_toml(), text).unwrap();
    }

    pub fn luxid(&self) -> Luxid {
        Luxid::serve(&self.root, &self.world)
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gantry-overseer"));
        command.arg("--root").arg(self.dir.path()).stdin(Stdio::null());
        command
    }

    pub fn overseer(&self) -> Overseer {
        Overseer(self.command().stderr(Stdio::null()).spawn().unwrap())
    }

    pub fn with<T>(&self, act: impl FnOnce(&mut World) -> T) -> T {
        act(&mut self.world.lock().unwrap())
    }

    /// Waits until the world is so.
    pub async fn until<T>(&self, what: &str, mut look: impl FnMut(&mut World) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = self.with(&mut look) {
                return found;
            }
            let jobs = self.with(|world| format!("{:?}", world.jobs));
            assert!(begun.elapsed() < LIMIT, "never came true: {what}; jobs: {jobs}");
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn client(&self) -> Option<Client> {
        Client::unix(&self.root.admin_socket("overseer"), &Hello::new(PROTOCOL, "test")).await.ok()
    }

    /// Waits until the overseer's health is so.
    pub async fn health(&self, what: &str, fits: impl Fn(&HealthReply) -> bool) -> HealthReply {
        let begun = Instant::now();
        loop {
            let asked = async { self.client().await?.call::<Health>(&(), LIMIT).await.ok() }.await;
            match asked {
                Some(reply) if fits(&reply) => return reply,
                other => assert!(begun.elapsed() < LIMIT, "never came true: {what}; health: {other:?}"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    pub async fn metrics(&self) -> String {
        self.client().await.unwrap().call::<Metrics>(&(), LIMIT).await.unwrap()
    }

    /// Waits until it serves and has done what was due at its start: the whole destroy-dirty pass is over, and so is a
    /// look at the nodes.
    pub async fn settled(&self) {
        self.health("ready", |health| health.ready).await;
        self.until("pools and nodes were looked at", |world| {
            let asked = |kind: &str| world.asked.iter().any(|(asked, _)| asked == kind);
            (asked("pool") && asked("node")).then_some(())
        })
        .await;
        let begun = Instant::now();
        let done = ["destroy-dirty", "create-slots", "expand-pools", "drain-slots", "node-repair"];
        loop {
            let text = self.metrics().await;
            let ran = |pass: &&str| !text.contains(&format!("runs_total{{pass=\"{pass}\"}} 0\n"));
            if done.iter().all(ran) {
                return;
            }
            assert!(begun.elapsed() < LIMIT, "passes never ran: {text}");
            tokio::time::sleep(LOOK).await;
        }
    }
}

pub struct Overseer(Child);

impl Overseer {
    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Overseer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
