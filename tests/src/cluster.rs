//! See the crate. A cluster is made by the same commands a person would type, and leaves nothing behind.

use crate::leak::Site;
use crate::net::{self, Net};
use crate::{Luxi, bounded, process, wait};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long starting or stopping a node may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The start or the end of a whole cluster takes no longer, whatever its number of nodes.
const ALL: Duration = Duration::from_secs(1_200);

/// Uids of a node's VMs: 64 ranges.
pub(crate) const IDS_PER_NODE: u32 = 64 << 16;

/// How a cluster is made.
#[derive(Debug, Clone)]
pub struct Options {
    /// Nodes; the first becomes the master.
    pub nodes: u8,
    /// First three numbers of the loopback addresses; nodes get .11, .12, …
    pub network: [u8; 3],
    /// Where the programs lie.
    pub programs: PathBuf,
    /// Extra arguments of `gnt-cluster init`.
    pub init: Vec<String>,
    /// Drivers of the nodes; `oci` needs root and a runtime.
    pub drivers: Vec<String>,
    /// More tables of each `node.toml`.
    pub settings: String,
    /// Where it lies; None = a short name in /tmp. Either goes when it is dropped.
    pub dir: Option<PathBuf>,
    /// A network of the nodes' own, one namespace each; None = loopback addresses of this machine.
    pub net: Option<Arc<Net>>,
    /// Where the nodes' `run/` lie; None = beside all else.
    pub run: Option<PathBuf>,
}

impl Options {
    /// So many nodes on a network that is this process's own, with the programs that `cargo xtask` built.
    #[must_use]
    pub fn new(nodes: u8) -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // 127.0.0.0/16 stays free for people; each cluster of each test process has its own /24.
        let number = (std::process::id().wrapping_mul(37).wrapping_add(count)) % (254 * 256);
        let [_, _, high, low] = number.to_be_bytes();
        Self {
            nodes,
            network: [127, high.max(1), low],
            programs: programs(),
            init: Vec::new(),
            drivers: vec!["fake".to_owned()],
            settings: String::new(),
            dir: None,
            net: None,
            run: None,
        }
    }

    /// With the nodes' `run/` in memory, as `/run` is on hosts, when this machine has a place for that.
    #[must_use]
    pub fn run_in_memory(self) -> Self {
        let in_memory = |dir: &&str| statfs(*dir).is_ok_and(|fs| fs.filesystem_type() == TMPFS_MAGIC);
        let run = ["/run", "/dev/shm"].iter().find(|dir| in_memory(dir)).map(PathBuf::from);
        Self { run, ..self }
    }

    /// As [`Options::new`], with real VMs.
    #[must_use]
    pub fn oci(nodes: u8) -> Self {
        Self { drivers: vec!["oci".to_owned()], ..Self::new(nodes) }
    }

    /// As [`Options::new`], on a network of their own.
    ///
    /// # Errors
    /// When it can't be made: it needs root.
    pub fn on_net(nodes: u8) -> Result<Self> {
        let net = Some(Arc::new(Net::new(nodes)?));
        Ok(Self { network: net::NETWORK, net, ..Self::new(nodes) })
    }

    /// First uid of the VMs of node `number`: nodes on one machine need ranges of their own, and clusters side by side
    /// better have them too.
    fn uid_base(&self, number: u8) -> u32 {
        const FIRST: u32 = 1 << 20;
        let [_, high, low] = self.network.map(u32::from);
        // All must stay below 2^31.
        let range = (((high << 8) + low) * u32::from(self.nodes) + u32::from(number)) % 500;
        FIRST + range * IDS_PER_NODE
    }
}

/// The directory of the programs: `GANTRY_BIN_DIR`, else where `cargo xtask build` puts them.
#[must_use]
pub fn programs() -> PathBuf {
    std::env::var_os("GANTRY_BIN_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/gantry/bin"), PathBuf::from)
}

/// One virtual node.
#[derive(Debug, Clone)]
pub struct Node {
    /// Full name.
    pub name: String,
    /// Its root directory.
    pub root: PathBuf,
    /// Its address.
    pub address: String,
}

impl Node {
    /// A socket of it.
    #[must_use]
    pub fn socket(&self, name: &str) -> PathBuf {
        self.root.join("run/gantry").join(name)
    }

    /// The pid of a daemon, by its pid file, if it lives.
    #[must_use]
    pub fn pid(&self, daemon: &str) -> Option<u32> {
        if daemon == "boot" {
            let lock = fs::read_to_string(self.root.join("run/gantry/boot.lock")).ok()?;
            return lock.trim().parse().ok().filter(|pid| process::lives(*pid));
        }
        let path = self.root.join("run/gantry/pid").join(format!("{daemon}.json"));
        let file: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        let pid = u32::try_from(file["pid"].as_u64()?).ok()?;
        process::lives(pid).then_some(pid)
    }

    /// The last lines of all its logs, for a failed test.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for entry in fs::read_dir(self.root.join("var/log/gantry")).into_iter().flatten().flatten() {
            let log = fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            text.push_str(&format!("--- {} {}\n", self.name, entry.path().display()));
            for line in &lines[lines.len().saturating_sub(30)..] {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }
}

/// A running cluster. Dropped, it stops and its directory goes.
pub struct VirtualCluster {
    /// The nodes; the first is the master until a failover.
    pub nodes: Vec<Node>,
    /// Which is the master.
    master: AtomicUsize,
    programs: PathBuf,
    dir: PathBuf,
    /// Where the nodes' `run/` lie, if not below `dir`; it goes with that.
    run: Option<PathBuf>,
    /// Left as it is when this is dropped.
    kept: bool,
    /// Where the nodes run.
    net: Option<Arc<Net>>,
}

impl VirtualCluster {
    /// Makes and starts a cluster; returns when all nodes are members and jobs run.
    ///
    /// # Errors
    /// When a step fails; what was started is stopped.
    pub fn start(options: &Options) -> Result<Self> {
        let mut cluster = Self::prepare(options)?;
        match bounded::watched("a cluster starts", ALL, || cluster.bring_up(options)) {
            Ok(()) => Ok(cluster),
            Err(why) => {
                let logs: String = cluster.nodes.iter().map(Node::logs).collect();
                cluster.stop().ok();
                Err(why.context(logs))
            }
        }
    }

    /// Makes the directories and settings of a cluster, and starts nothing.
    ///
    /// # Errors
    /// When the programs are not there, or the disk is full.
    pub fn prepare(options: &Options) -> Result<Self> {
        let programs = options.programs.clone();
        ensure!(
            programs.join("gantry").exists(),
            "{} has no programs: run `cargo xtask build` (`cargo xtask test` does)",
            programs.display()
        );
        let dir = match &options.dir {
            Some(dir) => dir.clone(),
            // Short: foreign clients know the 107-byte limit of socket paths.
            None => tempfile::Builder::new().prefix("gy").rand_bytes(5).tempdir_in("/tmp")?.keep(),
        };
        // From here on it goes when this is dropped.
        let (nodes, master, net) = (Vec::new(), AtomicUsize::new(0), options.net.clone());
        let name = dir.file_name().context("a directory without a name")?;
        let run = options.run.as_ref().map(|above| above.join(name));
        let mut cluster = Self { nodes, master, programs, dir, run, kept: false, net };
        let share = capacity(u64::from(options.nodes))?;
        let [a, b, c] = options.network;
        for number in 1..=options.nodes {
            let root = cluster.dir.join(format!("n{number}"));
            let node = Node {
                name: format!("node{number}.gantry.test"),
                root: root.clone(),
                address: format!("{a}.{b}.{c}.{}", 10 + number),
            };
            fs::create_dir_all(root.join("etc/gantry"))?;
            if let Some(run) = &cluster.run {
                let run = run.join(format!("n{number}"));
                fs::create_dir_all(&run)?;
                symlink(run, root.join("run"))?;
            }
            let text = format!(
                "name = \"{}\"\naddress = \"{}\"\ndrivers = {:?}\nuid_base = {}\n{share}\n{}",
                node.name,
                node.address,
                options.drivers,
                options.uid_base(number),
                options.settings,
            );
            fs::write(root.join("etc/gantry/node.toml"), text)?;
            cluster.nodes.push(node);
        }
        Ok(cluster)
    }

    /// The cluster that an earlier process kept in `dir`, running or not; None when there is none.
    ///
    /// # Errors
    /// When the directory can't be read.
    pub fn found(dir: &Path, programs: &Path) -> Result<Option<Self>> {
        let mut cluster = Self {
            nodes: Vec::new(),
            master: AtomicUsize::new(0),
            programs: programs.to_owned(),
            dir: dir.to_owned(),
            run: None,
            kept: true,
            net: None,
        };
        for number in 1.. {
            let root = dir.join(format!("n{number}"));
            let Ok(text) = fs::read_to_string(root.join("etc/gantry/node.toml")) else { break };
            let word = |key: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
                line.map(|value| value.trim_matches('"').to_owned()).with_context(|| format!("no {key}"))
            };
            cluster.nodes.push(Node { name: word("name")?, root, address: word("address")? });
        }
        cluster.kept = false;
        Ok((!cluster.nodes.is_empty()).then_some(cluster))
    }

    /// Leaves it running; [`VirtualCluster::found`] finds it again.
    pub fn keep(mut self) {
        self.kept = true;
    }

    fn bring_up(&mut self, options: &Options) -> Result<()> {
        let mut init = vec!["cluster", "init"];
        init.extend(options.init.iter().map(String::as_str));
        init.push("cluster.gantry.test");
        self.run(&init)?;
        for number in 1..self.nodes.len() {
            self.boot(number)?;
        }
        for node in &self.nodes[1..] {
            let secret = node.root.join("var/lib/gantry/join-secret");
            wait::until("the join secret of a new node", PATIENCE, || secret.exists().then_some(()))?;
            let secret = secret.to_string_lossy().into_owned();
            self.run(&[
                "node",
                "add",
                "--join-secret-file",
                &secret,
                "--node-ip",
                &node.address,
                &node.name,
            ])?;
        }
        Ok(())
    }

    /// The master.
    #[must_use]
    pub fn master(&self) -> &Node {
        &self.nodes[self.master.load(Ordering::Relaxed)]
    }

    /// Says that node `number` is the master from now on: a failover was won there.
    pub fn led_by(&self, number: usize) {
        self.master.store(number, Ordering::Relaxed);
    }

    /// A `gantry …` command on a node, not yet run.
    #[must_use]
    pub fn command_on(&self, number: usize, args: &[&str]) -> Command {
        let mut command = self.program_on(number, "gantry");
        command.args(args).env("GANTRY_ROOT", &self.nodes[number].root).stdin(Stdio::null());
        command
    }

    /// One of the programs, to run where the node's processes run.
    fn program_on(&self, number: usize, name: &str) -> Command {
        let program = self.programs.join(name);
        match &self.net {
            Some(net) => net.command(number, program),
            None => Command::new(program),
        }
    }

    /// The network of the nodes' own.
    ///
    /// # Errors
    /// When they have none.
    pub fn net(&self) -> Result<&Net> {
        self.net.as_deref().context("the nodes have no network of their own")
    }

    /// Runs a `gantry …` command on a node that must succeed; what it printed.
    ///
    /// # Errors
    /// When it fails: with all it said.
    pub fn run_on(&self, number: usize, args: &[&str]) -> Result<String> {
        let output = bounded::output(&mut self.command_on(number, args))?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            bail!("gantry {} on {}: {}\n{out}{err}", args.join(" "), self.nodes[number].name, output.status);
        }
        Ok(out.into_owned())
    }

    /// Kills every process of a node with SIGKILL, as a machine dies that loses its power; they are gone when this returns.
    ///
    /// # Errors
    /// When they do not go within a minute.
    pub fn kill_node(&self, number: usize) -> Result<()> {
        let root = &self.nodes[number].root;
        wait::until("a killed node's processes are gone", PATIENCE, || {
            let left = process::with_root(root);
            for (pid, _) in &left {
                process::signal(*pid, Signal::SIGKILL).ok();
            }
            left.is_empty().then_some(())
        })
    }

    /// Where the programs lie.
    #[must_use]
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// The cluster's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts boot on a node, detached.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn boot(&self, number: usize) -> Result<()> {
        self.boot_with(number, &[])
    }

    /// As [`VirtualCluster::boot`], with more in its environment.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn boot_with(&self, number: usize, environment: &[(&str, &str)]) -> Result<()> {
        let node = &self.nodes[number];
        let status = self
            .program_on(number, "gantry-boot")
            .envs(environment.iter().copied())
            .arg("--root")
            .arg(&node.root)
            .arg("--daemonize")
            .stdin(Stdio::null())
            .status()
            .context("gantry-boot")?;
        ensure!(status.success(), "gantry-boot on {}: {status}", node.name);
        Ok(())
    }

    /// A `gantry …` command on the master, not yet run.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        self.command_on(self.master.load(Ordering::Relaxed), args)
    }

    /// Runs a `gantry …` command on the master; whatever it says.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn output(&self, args: &[&str]) -> Result<Output> {
        bounded::output(&mut self.command(args))
    }

    /// Runs a `gantry …` command on the master that must succeed; what it printed.
    ///
    /// # Errors
    /// When it fails: with all it said.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let output = self.output(args)?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            bail!("gantry {}: {}\n{out}{err}", args.join(" "), output.status);
        }
        Ok(out.into_owned())
    }

    /// A LUXI connection to the master, on which an answer has come: what a luxid that is just dying accepts does not count.
    ///
    /// # Errors
    /// When luxid does not answer within a minute.
    pub fn luxi(&self) -> Result<Luxi> {
        let socket = self.master().socket("luxi.sock");
        wait::until("luxid answers", PATIENCE, || {
            let mut luxi = Luxi::connect(&socket).ok()?;
            luxi.call("QueryConfigValues", serde_json::json!([["cluster_name"]])).ok()?;
            Some(luxi)
        })
    }

    /// Runs a `gantry …` command on the master that must fail; its exit code and all it said.
    ///
    /// # Errors
    /// When it succeeds, or dies of a signal.
    pub fn refused(&self, args: &[&str]) -> Result<(i32, String)> {
        let output = self.output(args)?;
        let text = crate::foreign::said(&output);
        let code =
            output.status.code().with_context(|| format!("gantry {args:?}: {}\n{text}", output.status))?;
        ensure!(code != 0, "gantry {} succeeded, though it must not:\n{text}", args.join(" "));
        Ok((code, text))
    }

    /// Adds an instance on `fake`; it runs when this returns.
    ///
    /// # Errors
    /// When it is refused.
    pub fn add_instance(&self, name: &str, node: &str) -> Result<()> {
        let args = [
            "instance",
            "add",
            "-t",
            "diskless",
            "-o",
            "noop",
            "--no-nics",
            "-B",
            "memory=64",
            "-n",
            node,
            name,
        ];
        self.run(&args).map(drop)
    }

    /// Kills a daemon of a node with SIGKILL; it is dead when this returns. Its pid.
    ///
    /// # Errors
    /// When it does not come to life within a minute, or does not die.
    pub fn kill(&self, number: usize, daemon: &str) -> Result<u32> {
        let node = &self.nodes[number];
        let what = format!("{daemon} of {} has a pid", node.name);
        let pid = wait::until(&what, PATIENCE, || node.pid(daemon))?;
        process::signal(pid, Signal::SIGKILL)?;
        wait::until(&format!("{daemon} is dead"), PATIENCE, || (!process::lives(pid)).then_some(()))?;
        Ok(pid)
    }

    /// Kills a daemon of a node with SIGKILL and waits until boot has started another. The new pid.
    ///
    /// # Errors
    /// When none comes within a minute.
    pub fn restart(&self, number: usize, daemon: &str) -> Result<u32> {
        let old = self.kill(number, daemon)?;
        let node = &self.nodes[number];
        let what = format!("boot restarts {daemon} of {}", node.name);
        wait::until(&what, PATIENCE, || node.pid(daemon).filter(|pid| *pid != old))
    }

    /// Stops all nodes and waits until none of their processes is left. Safe to repeat.
    ///
    /// # Errors
    /// When processes outlive their SIGTERM by a minute; they are killed then, and named.
    pub fn stop(&mut self) -> Result<()> {
        self.halt()
    }

    /// As [`VirtualCluster::stop`]; the cluster may be booted again. Jobs outlive their daemons (P4.3): those still at work
    /// are killed, as a machine that is switched off does.
    ///
    /// # Errors
    /// As [`VirtualCluster::stop`].
    pub fn halt(&self) -> Result<()> {
        for node in &self.nodes {
            let all = process::with_root(&node.root);
            for (pid, _) in &all {
                process::signal(*pid, Signal::SIGCONT).ok();
            }
            // Without a boot each daemon is told by itself.
            let told = node.pid("boot").map_or(all, |boot| vec![(boot, String::new())]);
            for (pid, _) in told {
                if !process::is_job(pid) {
                    process::signal(pid, Signal::SIGTERM).ok();
                }
            }
        }
        let left = || -> Vec<(u32, String)> {
            self.nodes.iter().flat_map(|node| process::with_root(&node.root)).collect()
        };
        let daemons = wait::until("all daemons of the cluster end", PATIENCE, || {
            left().iter().all(|(pid, _)| process::is_job(*pid)).then_some(())
        });
        let stubborn = left();
        for (pid, _) in &stubborn {
            process::signal(*pid, Signal::SIGKILL).ok();
        }
        wait::until("killed processes are gone", PATIENCE, || left().is_empty().then_some(()))?;
        daemons.with_context(|| format!("left over and killed: {stubborn:?}"))
    }
}

impl Drop for VirtualCluster {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if std::thread::panicking() {
            eprintln!("{}", self.nodes.iter().map(Node::logs).collect::<String>());
        }
        let stopped = bounded::watched("a cluster ends", ALL, || self.stop());
        if let Ok(site) = Site::of(self) {
            site.sweep();
        }
        let _ = fs::remove_dir_all(&self.dir);
        self.run.iter().for_each(|run| _ = fs::remove_dir_all(run));
        match stopped {
            Err(why) if std::thread::panicking() => eprintln!("stopping a virtual cluster: {why:#}"),
            // A test that leaves processes behind has failed.
            Err(why) => panic!("stopping a virtual cluster: {why:#}"),
            Ok(()) => {}
        }
    }
}

/// Each virtual node offers its share of this machine.
fn capacity(shares: u64) -> Result<String> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find(|line| line.starts_with("MemTotal:")).context("no MemTotal")?;
    let kib: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    let mib = (kib / 1024).saturating_sub(1024) / shares.max(1);
    let cpus = std::thread::available_parallelism().map_or(1, |all| all.get() as u64 / shares.max(1)).max(1);
    Ok(format!("[capacity]\nmemory_mib = {mib}\ncpus = {cpus}\ndisk_mib = {}\n", 10_240))
}
