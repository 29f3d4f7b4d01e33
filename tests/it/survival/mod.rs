//! One death at a time: what a job, its locks and its client see when a daemon or the job itself is killed, stopped or away
//! (P4.4 to P4.9), with real processes and SIGKILL.

mod daemons;
mod jobs;

use crate::{cluster, step};
use anyhow::{Context, Result};
use gantry_tests::process::{self, JobProcess};
use gantry_tests::{Luxi, VirtualCluster, rest, wait};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(40);

#[test]
fn jobs_outlive_their_daemons() {
    let cluster = cluster(2);
    step("a job survives luxid", || daemons::survives(&cluster, &["luxid"]));
    step("a job and its locks survive wconfd", || daemons::survives(&cluster, &["wconfd"]));
    step("a job survives luxid and wconfd at once", || daemons::survives(&cluster, &["luxid", "wconfd"]));
    step("a job survives boot", || daemons::survives_boot(&cluster));
    step("a job that ends while luxid is away is found finished", || daemons::ends_unseen(&cluster));
    step("a job that ends while luxid is stopped waits for it", || daemons::ends_unheard(&cluster));
    step("a job that dies while luxid is away is found dead", || daemons::dies_unseen(&cluster));
    step("a queued job survives luxid", || daemons::queued_survives(&cluster));
    step("the whole master dies and comes back", || daemons::master_dies(&cluster));
    step("a finished job stays as it was", || daemons::finished_stays(&cluster));
    step("nothing is left", || rest::reached(&cluster, PATIENCE));
    step("the cluster is sound", || rest::verified(&cluster));
}

#[test]
fn locks_do_not_outlive_their_jobs() {
    let cluster = cluster(2);
    step("a killed job's locks are free at once", || jobs::locks_freed(&cluster));
    step("also when gnt-job cancel --kill did it", || jobs::locks_freed_by_cancel(&cluster));
    step("a killed waiter waits no more", || jobs::waiter_gone(&cluster));
    step("also when luxid and wconfd were away", || jobs::locks_freed_while_away(&cluster));
    step("jobs outlive the process they were born in", || jobs::nursery_dies(&cluster));
    step("a stopped job is alive", || jobs::stopped_is_alive(&cluster));
    step("a full backlog is alive", || jobs::full_backlog_is_alive(&cluster));
    step("an old start's socket fools nobody", || jobs::old_socket_fools_nobody(&cluster));
    step("a node call whose noded dies is an error of its job alone", || jobs::noded_dies(&cluster));
    step("instances are made and removed around a killed noded", || jobs::instances_around_noded(&cluster));
    step("nothing is left", || rest::reached(&cluster, PATIENCE));
    step("the cluster is sound", || rest::verified(&cluster));
}

/// Holds a node's lock for so long, on the master.
fn locked_delay(cluster: &VirtualCluster, seconds: f64) -> Value {
    json!({"OP_ID": "OP_TEST_DELAY", "duration": seconds, "on_master": true, "on_nodes": [cluster.nodes[1].name],
           "no_locks": false, "reason": []})
}

fn at(luxi: &mut Luxi, job: u64, wanted: &str) -> Result<()> {
    wait::until(&format!("job {job} is {wanted}"), PATIENCE, || {
        (luxi.status(job).ok()? == wanted).then_some(())
    })
}

fn process_of(cluster: &VirtualCluster, job: u64) -> Result<JobProcess> {
    let found = process::jobs(&cluster.master().root).into_iter().find(|process| process.id == job);
    found.with_context(|| format!("job {job} has a process"))
}

/// A running job with a lock, and its process.
fn running(cluster: &VirtualCluster, luxi: &mut Luxi, seconds: f64) -> Result<(u64, JobProcess)> {
    let job = luxi.submit(&[locked_delay(cluster, seconds)])?;
    at(luxi, job, "running")?;
    Ok((job, process_of(cluster, job)?))
}

/// Owners of locks, as the lock query names them.
fn owners(luxi: &mut Luxi) -> Result<Vec<String>> {
    let rows = luxi.query("lock", &["owner"], Value::Null)?;
    let mut owners: Vec<String> = rows
        .iter()
        .flat_map(|row| row[0].as_array().cloned().unwrap_or_default())
        .filter_map(|owner| owner.as_str().map(str::to_owned))
        .collect();
    owners.sort();
    owners.dedup();
    Ok(owners)
}

fn kill_now(cluster: &VirtualCluster, job: u64) -> Result<()> {
    cluster.luxi()?.call("CancelJob", json!([job, true]))?;
    cluster.luxi()?.wait(job, PATIENCE).map(drop)
}

fn seconds(ts: &Value) -> Result<f64> {
    let (whole, micro) = (ts[0].as_f64(), ts[1].as_f64());
    Ok(whole.with_context(|| format!("{ts} is no time"))? + micro.unwrap_or(0.0) / 1e6)
}

fn result(luxi: &mut Luxi, job: u64) -> Result<Value> {
    Ok(luxi.call("QueryJobs", json!([[job], ["status", "opstatus", "opresult"]]))?[0].take())
}

/// Keeps boot from restarting what is killed, while `work` goes on.
fn without_boot(cluster: &VirtualCluster, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let boot = cluster.master().pid("boot").context("boot has a pid")?;
    process::signal(boot, Signal::SIGSTOP)?;
    let done = work();
    process::signal(boot, Signal::SIGCONT)?;
    done
}
