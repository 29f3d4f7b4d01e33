//! What a cluster looks like when nothing goes on: what every test leaves behind, whatever it did.

use crate::{Luxi, VirtualCluster, process, wait};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Waits until no job is under way and nothing of one is left: no process, lock, socket or spool file.
///
/// # Errors
/// When something is still there after `within`: says what.
pub fn reached(cluster: &VirtualCluster, within: Duration) -> Result<()> {
    wait::nothing_left("nothing of any job is left", within, || look(cluster))
}

/// What is left of jobs, in words; nothing when the cluster rests.
///
/// # Errors
/// When luxid does not answer.
pub fn look(cluster: &VirtualCluster) -> Result<Vec<String>> {
    let mut left = Vec::new();
    let mut luxi = Luxi::connect(&cluster.master().socket("luxi.sock"))?;
    for row in luxi.query("job", &["id", "status"], Value::Null)? {
        if !matches!(row[1].as_str(), Some("success" | "error" | "canceled")) {
            left.push(format!("job {} is {}", row[0], row[1]));
        }
    }
    for row in luxi.query("lock", &["name", "mode", "owner", "pending"], Value::Null)? {
        if !row[1].is_null() || row[3] != json!([]) {
            left.push(format!("lock {row:?}"));
        }
    }
    for node in &cluster.nodes {
        for job in process::jobs(&node.root) {
            left.push(format!("process {} of job {}", job.pid, job.id));
        }
        for (what, dir) in [("socket", "run/gantry/job"), ("spool file", "var/lib/gantry/spool")] {
            for name in names(&node.root.join(dir)) {
                left.push(format!("{what} {name} on {}", node.name));
            }
        }
    }
    Ok(left)
}

/// `gnt-cluster verify` finds nothing.
///
/// # Errors
/// What it says otherwise.
pub fn verified(cluster: &VirtualCluster) -> Result<()> {
    let text = cluster.run(&["cluster", "verify"])?;
    ensure!(!text.contains("ERROR"), "{text}");
    Ok(())
}

/// Outcomes of starts that were no longer current, which luxid moved aside (P4.6).
///
/// # Errors
/// When one of them can't be read.
pub fn aside(cluster: &VirtualCluster) -> Result<Vec<Value>> {
    let dir = cluster.master().root.join("var/lib/gantry/spool/aside");
    names(&dir).iter().map(|name| Ok(serde_json::from_slice(&fs::read(dir.join(name))?)?)).collect()
}

/// Everything in a directory but directories.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let files = entries.filter(|entry| !entry.path().is_dir());
    files.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
