//! A node's root, a gantry-vmd for it, and words for short tests.

use crate::driver::fake::Room;
use crate::driver::oci::image::HOST;
use crate::driver::oci::{Node, Oci};
use crate::driver::{Class, Driver, DriverError, Ended, ExecSpec, Execution, Output, VmId};
use gantry_model::ids::{ClusterUuid, Generation, InstanceUuid, NodeUuid};
use gantry_model::root::Root;
use gantry_proto::noded::VmSpec;
use gantry_proto::vmd::STAGE;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use uuid::Uuid;

pub const CLUSTER: ClusterUuid = ClusterUuid(Uuid::from_u128(0x0c1));
/// Each bed has ids for so many VMs.
const BED_IDS: u32 = 64 * 65_536;
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Bed {
    dir: tempfile::TempDir,
    node: Node,
    runtime: Option<&'static str>,
    pub vmd: Child,
}

/// The runtimes that are there, best first; `GANTRY_OCI_RUNTIME=runc` has all of these tests use that one.
pub fn runtimes() -> Vec<&'static str> {
    let there = |name: &&str| ["/usr/bin", "/usr/sbin"].iter().any(|dir| Path::new(dir).join(name).exists());
    ["crun", "runc"].into_iter().filter(there).collect()
}

/// The programs, built like this test.
fn programs() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        assert!(nix::unistd::geteuid().is_root(), "containers need root: run these tests as root");
        assert!(!runtimes().is_empty(), "no OCI runtime: apt-get install crun");
        let mut cargo = Command::new(env!("CARGO"));
        // What cargo told this test of itself would have it build ring anew, and again for the next test.
        for (name, _) in std::env::vars()
            .filter(|(name, _)| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST"))
        {
            cargo.env_remove(name);
        }
        let status = cargo
            .args(["build", "--quiet", "--package", "gantry-vmd", "--package", "gantry-init"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .expect("cargo runs");
        assert!(status.success(), "gantry-vmd and gantry-init can't be built");
        let test = std::env::current_exe().expect("a path");
        test.ancestors().nth(2).expect("target/debug").to_owned()
    })
}

pub fn vm(slot: u128) -> VmId {
    VmId { cluster: CLUSTER, slot: InstanceUuid(Uuid::from_u128(slot)), generation: Generation(1) }
}

pub fn spec() -> VmSpec {
    VmSpec {
        name: "vm1".into(),
        driver: "oci".into(),
        image: HOST.into(),
        memory_mib: 128,
        vcpus: 1,
        disk_mib: 32,
        image_digest: None,
        pids: 64,
    }
}

pub fn class<T>(result: Result<T, DriverError>) -> Option<Class> {
    result.err().map(|error| error.class)
}

pub fn command(id: &str, script: &str) -> ExecSpec {
    ExecSpec {
        id: id.into(),
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec![],
        cwd: None,
        stdin: vec![],
        output_bytes_max: 1 << 20,
        wall_ms: 60_000,
        cpu_ms: 60_000,
    }
}

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub out: String,
    pub err: String,
    pub ended: Ended,
}

impl Bed {
    pub async fn new() -> Self {
        Self::with(None).await
    }

    /// With that runtime.
    pub async fn with(runtime: Option<&'static str>) -> Self {
        static BEDS: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::tempdir().expect("dir");
        let root = Root::new(dir.path());
        let bed = BEDS.fetch_add(1, Ordering::Relaxed);
        let node = Node {
            root,
            cluster: CLUSTER,
            node: NodeUuid(Uuid::new_v4()),
            uid_base: 500_000_000 + bed * BED_IDS,
            room: Room { memory_mib: 4096, disk_mib: 4096 },
            etc: "/etc".into(),
        };
        let vmd = Self::spawn(&node, runtime);
        let bed = Self { dir, node, runtime, vmd };
        bed.ready().await;
        bed
    }

    fn spawn(node: &Node, runtime: Option<&str>) -> Child {
        let mut command = Command::new(programs().join("gantry-vmd"));
        command.arg("--root").arg(node.root.path()).env("GANTRY_LOG", "warn");
        command.args(runtime.iter().flat_map(|name| ["--runtime", name]));
        command.spawn().expect("vmd starts")
    }

    /// The runtime in use.
    pub fn runtime(&self) -> String {
        let named = || std::env::var("GANTRY_OCI_RUNTIME").ok();
        self.runtime.map(str::to_owned).or_else(named).unwrap_or_else(|| runtimes()[0].to_owned())
    }

    async fn ready(&self) {
        until("vmd answers", async || self.oci().list().await.is_ok()).await;
    }

    /// As a noded sees it whose host has another /etc.
    pub fn oci_of(&self, etc: &Path) -> Oci {
        Oci::new(Node { etc: etc.to_owned(), ..self.node.clone() })
    }

    /// As a new noded sees it.
    pub fn oci(&self) -> Oci {
        Oci::new(self.node.clone())
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub async fn kill_vmd(&mut self) {
        self.vmd.kill().expect("killed");
        self.vmd.wait().expect("waited");
    }

    pub async fn restart_vmd(&mut self) {
        self.vmd = Self::spawn(&self.node, self.runtime);
        self.ready().await;
    }

    /// A running VM.
    pub async fn start(&self, slot: u128) -> Oci {
        let oci = self.oci();
        oci.create(&vm(slot), &spec()).await.expect("created");
        oci.start(&vm(slot)).await.expect("started");
        oci
    }

    /// Processes of a VM that have not ended, as the kernel says it; zombies are none.
    pub fn procs(&self, slot: u128) -> Vec<i32> {
        let dirs = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(Path::new);
        let group = format!("gantry/{}/{}", self.node.node, vm(slot));
        let text =
            dirs.iter().find_map(|dir| std::fs::read_to_string(dir.join(&group).join("cgroup.procs")).ok());
        text.unwrap_or_default().lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// What the node still has of any VM: control groups, processes with ids of this bed, files.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").expect("cgroups") {
            let dir = hierarchy.expect("entry").path().join(format!("gantry/{}", self.node.node));
            for vm in std::fs::read_dir(&dir).into_iter().flatten().flatten().filter(|vm| vm.path().is_dir())
            {
                left.push(vm.path().display().to_string());
            }
        }
        let ids = self.node.uid_base..self.node.uid_base + BED_IDS;
        for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
            let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let uid =
                status.lines().find_map(|line| line.strip_prefix("Uid:\t")?.split('\t').next()?.parse().ok());
            if uid.is_some_and(|uid: u32| ids.contains(&uid)) {
                left.push(entry.path().display().to_string());
            }
        }
        for dir in [self.node.root.spool_dir().join("vm"), self.node.root.vm_dir()] {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            left.extend(entries.map(|at| at.path().display().to_string()));
        }
        let stage = format!("/proc/{}/root{STAGE}", self.vmd.id());
        for dir in ["vm", "state"] {
            let entries = std::fs::read_dir(format!("{stage}/{dir}")).into_iter().flatten().flatten();
            left.extend(entries.map(|entry| entry.path().display().to_string()));
        }
        let mounts = std::fs::read_to_string(format!("/proc/{}/mounts", self.vmd.id())).unwrap_or_default();
        left.extend(mounts.lines().filter(|line| line.contains("/mnt/vm/")).map(str::to_owned));
        left
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = self.vmd.kill();
        let _ = self.vmd.wait();
        // PID 1s end with vmd; what they leave are empty groups.
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let node = hierarchy.path().join(format!("gantry/{}", self.node.node));
            let begun = Instant::now();
            while node.exists() && begun.elapsed() < PATIENCE {
                for vm in std::fs::read_dir(&node).into_iter().flatten().flatten() {
                    let _ = std::fs::remove_dir(vm.path());
                }
                let _ = std::fs::remove_dir(&node);
                std::thread::yield_now();
            }
            let _ = std::fs::remove_dir(hierarchy.path().join("gantry"));
        }
    }
}

/// Waits until `holds`.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub async fn all(execution: &mut dyn Execution, output: Output) -> String {
    let mut bytes = Vec::new();
    loop {
        let chunk = execution.read(output, bytes.len() as u64, 1 << 20).await.expect("read");
        bytes.extend(chunk.bytes);
        if chunk.last {
            return String::from_utf8_lossy(&bytes).into_owned();
        }
    }
}

pub async fn run(oci: &Oci, slot: u128, command: &ExecSpec) -> Ran {
    let mut execution = oci.exec(&vm(slot), command).await.expect("begun");
    let out = all(&mut *execution, Output::Out).await;
    let err = all(&mut *execution, Output::Err).await;
    let ended = execution.ended().await.expect("ended");
    Ran { out, err, ended }
}

pub async fn sh(oci: &Oci, slot: u128, id: &str, script: &str) -> Ran {
    run(oci, slot, &command(id, script)).await
}
