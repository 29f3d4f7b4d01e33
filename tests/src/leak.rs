//! What VMs leave on a machine. Looks where the kernel and the daemons would have something of one: control groups,
//! processes, user namespaces, mounts, the stage and the runtime's state in vmd's mount namespace, vmd's spool. Reads only.

use crate::pool::{Slot, slots};
use crate::{Luxi, Node, VirtualCluster, process, wait};
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Control groups of all hierarchies.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Names of file systems that exist in vmd's mount namespace only.
const STAGES: [&str; 2] = ["gantry-vmd", "gantry-scratch"];

/// The one place that is no matter of the kernel's.
const SPOOL: &str = "a spool entry";

/// Something of a VM.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trace {
    /// The node's name.
    pub node: String,
    /// Where it was found.
    pub place: &'static str,
    /// The VM's runtime id, or what there is instead.
    pub vm: String,
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} on {}", self.place, self.vm, self.node)
    }
}

/// The nodes of a cluster, remembered so that their traces are found after the cluster has gone too.
#[derive(Debug, Clone)]
pub struct Site {
    dir: PathBuf,
    nodes: Vec<Place>,
}

/// What marks a node's VMs.
#[derive(Debug, Clone)]
struct Place {
    node: Node,
    /// Its control groups are below `gantry/UUID`.
    uuid: String,
}

impl Site {
    /// The nodes of a cluster that all have joined.
    ///
    /// # Errors
    /// When a node has no role yet.
    pub fn of(cluster: &VirtualCluster) -> Result<Self> {
        let place = |node: &Node| -> Result<Place> {
            let path = node.root.join("var/lib/gantry/role.json");
            let role: Value = serde_json::from_slice(&fs::read(&path).context("role.json")?)?;
            let uuid = role["node"].as_str().context("a node uuid")?.to_owned();
            Ok(Place { node: node.clone(), uuid })
        };
        let nodes = cluster.nodes.iter().map(place).collect::<Result<_>>()?;
        Ok(Self { dir: cluster.dir().to_owned(), nodes })
    }

    /// Everything of any VM of these nodes.
    #[must_use]
    pub fn traces(&self) -> BTreeSet<Trace> {
        let mut found: BTreeSet<Trace> = self.nodes.iter().flat_map(Place::traces).collect();
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let dir = self.dir.display().to_string();
        let ours = |line: &&str| line.contains(&dir) || STAGES.iter().any(|name| line.contains(name));
        found.extend(table.lines().filter(ours).map(|line| Trace {
            node: "this machine".to_owned(),
            place: "a mount of the host",
            vm: line.to_owned(),
        }));
        found
    }

    /// Waits until no VM has anything left in the kernel, nor the cluster a process: it was stopped. What lies in files
    /// of the nodes' own directories does not count.
    ///
    /// # Errors
    /// When something still is there after `within`: says what.
    pub fn gone(&self, within: Duration) -> Result<()> {
        let left = || -> Vec<String> {
            let processes = self.nodes.iter().flat_map(|place| process::with_root(&place.node.root));
            let processes = processes.map(|(pid, program)| format!("process {pid} ({program})"));
            let traces = self.traces().into_iter().filter(|trace| trace.place != SPOOL);
            let parents = self.nodes.iter().flat_map(Place::groups).map(|dir| dir.display().to_string());
            processes.chain(traces.map(|trace| trace.to_string())).chain(parents).collect()
        };
        wait::until("nothing of the cluster is left", within, || left().is_empty().then_some(()))
            .with_context(|| left().join("; "))
    }

    /// Removes empty control groups of nodes whose processes were all killed, as a reboot does.
    pub fn sweep(&self) {
        for dir in self.nodes.iter().flat_map(Place::groups) {
            for vm in names(&dir) {
                let _ = fs::remove_dir(dir.join(vm));
            }
            let _ = fs::remove_dir(&dir);
        }
    }

    /// Runtime ids of all VMs that run, with the host's pid of their PID 1.
    #[must_use]
    pub fn inits(&self) -> BTreeMap<String, u32> {
        let all = self.nodes.iter().flat_map(Place::processes);
        all.filter(|(pid, _)| is_first(*pid)).map(|(pid, vm)| (vm, pid)).collect()
    }

    /// What is there of VMs that the cluster does not have, in words.
    ///
    /// # Errors
    /// When luxid does not answer.
    pub fn strangers(&self, luxi: &mut Luxi) -> Result<Vec<String>> {
        let live: BTreeSet<String> =
            slots(luxi)?.iter().filter(|slot| slot.lives()).map(Slot::suffix).collect();
        let known = |trace: &Trace| live.iter().any(|suffix| trace.vm.ends_with(suffix.as_str()));
        Ok(self.traces().iter().filter(|trace| !known(trace)).map(Trace::to_string).collect())
    }

    /// Waits until `count` slots are clean, each of their VMs is found on its node, and nothing of any other VM is.
    ///
    /// # Errors
    /// When it is not so after `within`: says why.
    pub fn rests(&self, cluster: &VirtualCluster, count: usize, within: Duration) -> Result<()> {
        let what = "all slots are clean and nothing else is there";
        wait::nothing_left(what, within, || self.unrest(cluster, count))
    }

    fn unrest(&self, cluster: &VirtualCluster, count: usize) -> Result<Vec<String>> {
        let mut luxi = Luxi::connect(&cluster.master().socket("luxi.sock"))?;
        let slots = slots(&mut luxi)?;
        if slots.len() != count || slots.iter().any(|slot| slot.state != "CLEAN") {
            let count = format!("{} of {count} slots are there", slots.len());
            return Ok(std::iter::once(count).chain(slots.iter().map(Slot::to_string)).collect());
        }
        let traces = self.traces();
        let missing = slots.iter().filter(|slot| {
            !traces.iter().any(|trace| trace.place == "a process" && trace.vm.ends_with(&slot.suffix()))
        });
        let mut why: Vec<String> = missing.map(|slot| format!("no process of {slot}")).collect();
        why.extend(self.strangers(&mut luxi)?);
        Ok(why)
    }
}

impl Place {
    fn traces(&self) -> Vec<Trace> {
        let mut found = Vec::new();
        let mut add = |place: &'static str, vm: String| {
            found.push(Trace { node: self.node.name.clone(), place, vm });
        };
        for dir in self.groups() {
            let groups = names(&dir).into_iter().filter(|name| dir.join(name).is_dir());
            groups.for_each(|vm| add("a control group", vm));
        }
        self.processes().into_iter().for_each(|(_, vm)| add("a process", vm));
        self.lost_users().into_iter().for_each(|what| add("a user namespace", what));
        for dir in ["var/lib/gantry/spool/vm", "run/gantry/vm"] {
            names(&self.node.root.join(dir)).into_iter().for_each(|vm| add(SPOOL, vm));
        }
        if let Some(vmd) = self.node.pid("vmd") {
            for dir in ["vm", "state"] {
                let dir = PathBuf::from(format!("/proc/{vmd}")).join("root/mnt").join(dir);
                names(&dir).into_iter().for_each(|vm| add("a directory on the stage", vm));
            }
            let mounts = fs::read_to_string(format!("/proc/{vmd}/mounts")).unwrap_or_default();
            let vms = mounts.lines().filter_map(|line| line.split(" /mnt/vm/").nth(1)?.split('/').next());
            vms.for_each(|vm| add("a mount on the stage", vm.to_owned()));
        }
        found
    }

    /// The node's directories of control groups, in every hierarchy where it has one.
    fn groups(&self) -> Vec<PathBuf> {
        let hierarchies = names(Path::new(CGROUPS)).into_iter().chain([".".to_owned()]);
        let dirs = hierarchies.map(|name| Path::new(CGROUPS).join(name).join("gantry").join(&self.uuid));
        dirs.filter(|dir| dir.is_dir()).collect()
    }

    /// Processes in control groups of this node's VMs.
    fn processes(&self) -> Vec<(u32, String)> {
        let mark = format!("/gantry/{}/", self.uuid);
        let vm = |pid: u32| -> Option<String> {
            let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
            let rest = text.split_once(&mark)?.1;
            Some(rest.split(['/', '\n']).next()?.to_owned())
        };
        pids().filter_map(|pid| Some((pid, vm(pid)?))).filter(|(pid, _)| process::lives(*pid)).collect()
    }

    /// Processes with ids of this node's VMs in no VM's control group.
    fn lost_users(&self) -> Vec<String> {
        let Some(ids) = self.ids() else { return Vec::new() };
        let lost = |pid: &u32| {
            let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap_or_default();
            let base = map.split_whitespace().nth(1).and_then(|word| word.parse::<u32>().ok());
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            base.is_some_and(|base| ids.contains(&base))
                && !groups.contains("/gantry/")
                && process::lives(*pid)
        };
        pids().filter(lost).map(|pid| format!("process {pid}")).collect()
    }

    fn ids(&self) -> Option<std::ops::Range<u32>> {
        let text = fs::read_to_string(self.node.root.join("etc/gantry/node.toml")).ok()?;
        let base = text.lines().find_map(|line| line.strip_prefix("uid_base = ")?.parse::<u32>().ok())?;
        Some(base..base + crate::cluster::IDS_PER_NODE)
    }
}

/// Whether a process is PID 1 of a namespace below this one.
fn is_first(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let Some(line) = status.lines().find_map(|line| line.strip_prefix("NSpid:")) else { return false };
    let pids: Vec<&str> = line.split_whitespace().collect();
    pids.len() > 1 && pids.last() == Some(&"1")
}

fn pids() -> impl Iterator<Item = u32> {
    names(Path::new("/proc")).into_iter().filter_map(|name| name.parse().ok())
}

/// Names in a directory; none when it is not there.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
