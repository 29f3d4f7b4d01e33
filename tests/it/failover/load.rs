//! What clients do while masters die, and what they were told is done.

use anyhow::{Context, Result, ensure};
use gantry_tests::{Luxi, VirtualCluster};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Clients that submit side by side.
const SUBMITTERS: u32 = 3;

/// What was acknowledged.
#[derive(Default)]
pub struct Load {
    /// Jobs by id, with what tells each apart.
    jobs: Mutex<BTreeMap<u64, String>>,
    /// Tags of the cluster whose job ended well.
    tags: Mutex<BTreeSet<String>>,
}

impl Load {
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

    /// Every acknowledged job and tag is there.
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
        Ok(())
    }
}
