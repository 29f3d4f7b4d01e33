//! What clients do while masters die, and what they were told is done.

use anyhow::{Context, Result, ensure};
use gantry_tests::{Luxi, VirtualCluster, pool, task};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Clients that submit side by side.
const SUBMITTERS: u32 = 3;
/// Clients of tasks, each with one under way.
const TESTERS: u32 = 3;
/// What a task in the midst of a failover may need, all its attempts together.
const TASKS_END: Duration = Duration::from_secs(180);

/// What was acknowledged.
#[derive(Default)]
pub struct Load {
    /// Jobs by id, with what tells each apart.
    jobs: Mutex<BTreeMap<u64, String>>,
    /// Tags of the cluster whose job ended well.
    tags: Mutex<BTreeSet<String>>,
    /// Whether there is a pool for tasks.
    pool: bool,
    /// Tasks by id, with what tells each apart.
    tasks: Mutex<BTreeMap<u64, String>>,
    /// How many of them were seen to end.
    ended: AtomicUsize,
}

impl Load {
    /// One with tasks for the pool too.
    pub fn with_tasks() -> Self {
        Self { pool: true, ..Self::default() }
    }

    /// Submits jobs and changes the configuration until `strike` has happened and nobody answers any more.
    pub fn blow(
        &self,
        cluster: &VirtualCluster,
        round: u32,
        strike: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let over = AtomicBool::new(false);
        let before = self.count();
        std::thread::scope(|scope| {
            for client in 0..SUBMITTERS {
                let over = &over;
                scope.spawn(move || self.submit(cluster, &format!("r{round}c{client}"), over));
            }
            scope.spawn(|| self.tag(cluster, round, &over));
            for client in 0..if self.pool { TESTERS } else { 0 } {
                let over = &over;
                scope.spawn(move || self.test(cluster, &format!("r{round}t{client}"), over));
            }
            let struck = strike();
            over.store(true, Ordering::Relaxed);
            struck
        })?;
        let (jobs, tags) = self.count();
        eprintln!("    acknowledged in this round: {} jobs, {} tags", jobs - before.0, tags - before.1);
        ensure!(jobs > before.0, "no job was acknowledged: the round tests nothing");
        Ok(())
    }

    /// Acknowledged jobs and tags.
    pub fn count(&self) -> (usize, usize) {
        (self.jobs.lock().expect("no panic").len(), self.tags.lock().expect("no panic").len())
    }

    /// Tasks that were seen to end.
    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::Relaxed)
    }

    /// Ends with its connection.
    fn submit(&self, cluster: &VirtualCluster, name: &str, over: &AtomicBool) {
        let Ok(mut luxi) = Luxi::connect(&cluster.master().socket("luxi.sock")) else { return };
        for number in 0.. {
            if over.load(Ordering::Relaxed) {
                return;
            }
            let comment = format!("{name} {number}");
            let op = json!({"OP_ID": "OP_TEST_DELAY", "duration": 0.0, "comment": comment, "reason": []});
            let Ok(id) = luxi.call("SubmitJob", json!([[op]])) else { return };
            let Some(id) = id.as_u64() else { return };
            self.jobs.lock().expect("no panic").insert(id, comment);
        }
    }

    /// Adds one tag after another; one whose job ended well is acknowledged.
    fn tag(&self, cluster: &VirtualCluster, round: u32, over: &AtomicBool) {
        let Ok(mut luxi) = Luxi::connect(&cluster.master().socket("luxi.sock")) else { return };
        for number in 0.. {
            if over.load(Ordering::Relaxed) {
                return;
            }
            let tag = format!("r{round}n{number}");
            let op =
                json!({"OP_ID": "OP_TAGS_SET", "kind": "cluster", "name": null, "tags": [tag], "reason": []});
            let Ok(id) = luxi.call("SubmitJob", json!([[op]])) else { return };
            let mut seen = Value::Null;
            while !["success", "error", "canceled"].contains(&seen[0].as_str().unwrap_or_default()) {
                // A master that lives on without a majority may not know for long.
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let args = json!([id, ["status"], seen, null, 1]);
                let Ok(change) = luxi.call("WaitForJobChange", args) else { return };
                seen = change[0].clone();
            }
            if seen[0] == "success" {
                self.tags.lock().expect("no panic").insert(tag);
            }
        }
    }

    /// Has one task run after another.
    fn test(&self, cluster: &VirtualCluster, name: &str, over: &AtomicBool) {
        let Ok(mut luxi) = Luxi::connect(&cluster.master().socket("luxi.sock")) else { return };
        for number in 0.. {
            let name = format!("{name}n{number}");
            // Long enough that a master dies in the midst of some.
            let command = format!("sleep 0.2; echo {name}");
            let spec = json!({
                "name": name, "pool": pool::NAME, "execute": [{"command": command}],
                "limits": {"wall_s": 30, "cpu_s": 10, "memory_mib": 64, "pids": 16, "disk_mib": 8, "output_kib": 64},
            });
            let id = match task::submit(&mut luxi, &spec) {
                Ok(id) => id,
                Err(why) => return eprintln!("    {name} was not acknowledged: {why:#}"),
            };
            self.tasks.lock().expect("no panic").insert(id, name);
            let mut rev = json!(0);
            loop {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(record) = luxi.call("WaitForTaskChange", json!([id, rev, 1])) else { return };
                if !record["end"].is_null() {
                    break;
                }
                // Nothing when it has not changed for a second.
                rev = if record.is_null() { rev } else { record["rev"].clone() };
            }
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Every acknowledged task ends well, with its own output, on a VM of its own; an attempt that failed did so for
    /// infrastructure.
    pub fn tasks_end_well(&self, cluster: &VirtualCluster) -> Result<()> {
        let tasks = self.tasks.lock().expect("no panic").clone();
        let ids: Vec<u64> = tasks.keys().copied().collect();
        let all = task::wait_all(&mut cluster.luxi()?, &ids, TASKS_END)?;
        for one in &all {
            ensure!(one.state() == "success", "task {} is {}: {}", one.id(), one.state(), one.why());
            ensure!(one.out(0).contains(&tasks[&one.id()]), "task {} said {:?}", one.id(), one.out(0));
            let outcomes = one.outcomes();
            let (last, before) = outcomes.split_last().context("no attempt")?;
            let infra = before.iter().all(|outcome| *outcome == "infra-fail");
            ensure!(*last == "user-ok" && infra, "attempts of task {}: {outcomes:?}", one.id());
        }
        let again = all.iter().filter(|one| one.attempts().len() > 1).count();
        let vms = task::no_vm_twice(&all)?;
        eprintln!("    {} tasks on {vms} VMs, {again} of them were tried again", all.len());
        Ok(())
    }

    /// Every acknowledged job, tag and task is there.
    pub fn is_there(&self, cluster: &VirtualCluster) -> Result<()> {
        let mut luxi = cluster.luxi()?;
        let jobs = self.jobs.lock().expect("no panic").clone();
        let ids: Vec<u64> = jobs.keys().copied().collect();
        let rows = luxi.call("QueryJobs", json!([ids, ["id", "ops"]]))?;
        let rows = rows.as_array().context("rows")?;
        ensure!(rows.len() == ids.len(), "asked for {} jobs, got {}", ids.len(), rows.len());
        for (row, (id, comment)) in rows.iter().zip(&jobs) {
            ensure!(!row.is_null(), "job {id} was acknowledged and is lost");
            ensure!(row[1][0]["comment"] == *comment, "job {id} is not {comment:?}: {row}");
        }
        let known = luxi.call("QueryTags", json!(["cluster", ""]))?;
        let known: BTreeSet<&str> =
            known.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let tags = self.tags.lock().expect("no panic");
        let lost: Vec<&String> = tags.iter().filter(|tag| !known.contains(tag.as_str())).collect();
        ensure!(lost.is_empty(), "tags were acknowledged and are lost: {lost:?}");
        for (id, name) in self.tasks.lock().expect("no panic").iter() {
            let record = task::Record::of(&mut luxi, *id)?;
            ensure!(record.name() == name, "task {id} is not {name:?}: {}", record.json());
        }
        Ok(())
    }
}
