//! What no well-behaved client sends: each gets one clear error or a close, memory stays bounded, and everyone else goes on.

mod frames;
mod luxi;

use crate::{cluster, step};
use anyhow::{Result, ensure};
use gantry_tests::{VirtualCluster, rest};
use serde_json::json;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn bad_input_hurts_nobody_else() {
    let cluster = cluster(2);
    let before = daemons(&cluster);
    let mut silent = Vec::new();
    step("some connect and say nothing", || {
        silent = frames::silent(&cluster)?;
        probe(&cluster)
    });
    step("LUXI: what can't be understood", || luxi::not_understood(&cluster));
    step("LUXI: wrong values", || luxi::wrong_values(&cluster));
    step("LUXI: names outside the rules", || luxi::wrong_names(&cluster));
    step("LUXI: halves of messages", || luxi::halves(&cluster));
    step("LUXI: several requests at once", || luxi::several_at_once(&cluster));
    step("LUXI: messages over the limit", || luxi::too_long(&cluster));
    step("LUXI: many long messages at once", || luxi::many_long(&cluster));
    step("LUXI: a thousand idle connections", || luxi::idle_connections(&cluster));
    step("LUXI: more jobs than there is room for", || luxi::full_queue(&cluster));
    step("wconfd: hellos and frames", || frames::wconfd_hellos(&cluster));
    step("a job's socket", || frames::job_socket(&cluster));
    step("noded's port", || frames::noded_port(&cluster));
    step("who says nothing is sent away", || frames::sent_away(silent));
    step("nothing is left", || rest::reached(&cluster, PATIENCE));
    step("no daemon was restarted", || {
        ensure!(daemons(&cluster) == before, "{before:?} became {:?}", daemons(&cluster));
        Ok(())
    });
    step("the cluster is sound", || rest::verified(&cluster));
}

fn daemons(cluster: &VirtualCluster) -> Vec<(String, Option<u32>)> {
    let pid = |number: usize, name: &str| (format!("{name} {number}"), cluster.nodes[number].pid(name));
    vec![pid(0, "luxid"), pid(0, "wconfd"), pid(0, "noded"), pid(0, "boot"), pid(1, "noded"), pid(1, "boot")]
}

/// A job as anybody else would submit it, with locks and a node.
fn probe(cluster: &VirtualCluster) -> Result<()> {
    let mut luxi = cluster.luxi()?;
    let nodes = [&cluster.nodes[1].name];
    let op = json!({"OP_ID": "OP_TEST_DELAY", "duration": 0.0, "on_nodes": nodes, "no_locks": false, "reason": []});
    let job = luxi.submit(&[op])?;
    let status = luxi.wait(job, PATIENCE)?;
    ensure!(status == "success", "the probe job {job} is {status}");
    Ok(())
}
