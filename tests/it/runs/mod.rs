//! Pools of real VMs, leases and tasks, on three nodes with the `oci` driver (root and crun or runc are needed): what a
//! person gets, what hostile code gets, and what is left afterwards: nothing.

mod input;
mod leases;
mod limits;
mod many;
mod node_gone;
mod power;
mod rpc;
mod still;
mod storm;
mod turn_over;
mod upkeep;

use crate::step;
use anyhow::{Context, Result, ensure};
use gantry_tests::leak::Site;
use gantry_tests::task::{self, Record};
use gantry_tests::{Luxi, Options, VirtualCluster, pool, rest, wait};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// More than any step here takes, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(90);
/// VMs of the pool.
const SIZE: usize = 4;

/// A cluster of three nodes with a pool of clean VMs.
struct Bed {
    cluster: VirtualCluster,
    site: Site,
}

impl Bed {
    fn new() -> Self {
        Self::with(Options::oci(3))
    }

    fn with(options: Options) -> Self {
        let cluster = VirtualCluster::start(&options).expect("the cluster starts");
        let site = Site::of(&cluster).expect("all nodes have joined");
        step("a pool of clean VMs", || {
            pool::add(&cluster, "oci", SIZE)?;
            site.rests(&cluster, SIZE, PATIENCE)
        });
        step("what looks for leaks sees them", || sees(&site));
        Self { cluster, site }
    }

    fn luxi(&self) -> Result<Luxi> {
        self.cluster.luxi()
    }

    /// The same number of clean VMs as at first, no job, nothing left of any run.
    fn rests(&self) -> Result<()> {
        self.site.rests(&self.cluster, SIZE, PATIENCE)?;
        rest::reached(&self.cluster, PATIENCE)
    }

    /// Takes the pool away, stops everything, and looks for what is left.
    fn ends(mut self) {
        step("the cluster rests", || self.rests());
        step("the cluster is sound", || rest::verified(&self.cluster));
        step("a removed pool leaves nothing", || {
            pool::remove(&self.cluster)?;
            self.site.rests(&self.cluster, 0, PATIENCE)?;
            rest::reached(&self.cluster, PATIENCE)
        });
        step("a stopped cluster leaves nothing", || {
            self.cluster.stop()?;
            self.site.gone(PATIENCE)
        });
    }

    /// Submits one task and waits for its end.
    fn run(&self, spec: &Value) -> Result<Record> {
        let mut luxi = self.luxi()?;
        let id = task::submit(&mut luxi, spec)?;
        task::wait_all(&mut luxi, &[id], PATIENCE)?.pop().context("one task")
    }
}

/// Who looks in the wrong place finds no leaks: each place has something of the VMs that run.
fn sees(site: &Site) -> Result<()> {
    let traces = site.traces();
    for place in
        ["a control group", "a process", "a spool entry", "a directory on the stage", "a mount on the stage"]
    {
        let count = traces.iter().filter(|trace| trace.place == place).count();
        ensure!(count >= SIZE, "{place}: {count} of {SIZE} VMs are seen: {traces:#?}");
    }
    Ok(())
}

/// Generations by slot uuid.
fn generations(bed: &Bed) -> Result<BTreeMap<String, u64>> {
    Ok(pool::slots(&mut bed.luxi()?)?.into_iter().map(|slot| (slot.uuid, slot.generation)).collect())
}

/// A task of one step, with small limits.
fn one(command: &str) -> Value {
    json!({
        "name": "one", "pool": pool::NAME, "execute": [{"command": command}],
        "limits": {"wall_s": 30, "cpu_s": 10, "memory_mib": 64, "pids": 16, "disk_mib": 8, "output_kib": 64},
    })
}

/// Waits until a task's output, as the node has it, holds a text: then its step runs.
fn says(bed: &Bed, id: u64, text: &str) -> Result<()> {
    let id = id.to_string();
    wait::until(&format!("task {id} says {text}"), PATIENCE, || {
        bed.cluster.run(&["task", "log", &id]).ok().filter(|log| log.contains(text)).map(drop)
    })
}

/// A task whose user did what it should, in one attempt.
fn first_try(task: &Record) -> Result<()> {
    ensure!(task.state() == "success", "task {} is {}: {}", task.id(), task.state(), task.json());
    ensure!(task.outcomes() == ["user-ok"], "task {}: {:?}", task.id(), task.json()["attempts"]);
    Ok(())
}
