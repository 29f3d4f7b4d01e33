//! The death of daemons: jobs go on.

use super::{
    PATIENCE, at, kill_now, locked_delay, owners, process_of, result, running, seconds, without_boot,
};
use anyhow::{Context, Result, ensure};
use gantry_tests::process;
use gantry_tests::{Luxi, VirtualCluster, rest, wait};
use nix::sys::signal::Signal;
use serde_json::json;
use std::os::unix::net::UnixStream;

/// The job keeps its process and its locks while daemons die and come back, and then succeeds.
pub fn survives(cluster: &VirtualCluster, daemons: &[&str]) -> Result<()> {
    let mut luxi = cluster.luxi()?;
    let (job, before) = running(cluster, &mut luxi, 1.5)?;
    let waiter = luxi.submit(&[locked_delay(cluster, 0.0)])?;
    at(&mut luxi, waiter, "waiting")?;
    for daemon in daemons {
        cluster.kill(0, daemon)?;
    }
    wait::until("the daemons are back", PATIENCE, || {
        rest::look(cluster).ok().filter(|left| !left.is_empty()).map(drop)
    })?;
    let mut luxi = cluster.luxi()?;
    if luxi.status(job)? == "running" {
        ensure!(process_of(cluster, job)? == before, "another process: {before:?}");
        ensure!(owners(&mut luxi)? == [job.to_string()], "owners: {:?}", owners(&mut luxi)?);
    }
    ensure!(luxi.wait(job, PATIENCE)? == "success", "job {job}: {}", result(&mut luxi, job)?);
    ensure!(luxi.wait(waiter, PATIENCE)? == "success", "waiter {waiter}: {}", result(&mut luxi, waiter)?);
    let times = luxi.call("QueryJobs", json!([[job], ["opexec", "end_ts"]]))?;
    let (from, to) = (seconds(&times[0][0][0])?, seconds(&times[0][1])?);
    // A delay on the master, then the same on a node.
    ensure!((2.9..8.0).contains(&(to - from)), "the job took {} s of 3", to - from);
    Ok(())
}

/// Boot's death ends nothing, and another boot takes the daemons over as they are.
pub fn survives_boot(cluster: &VirtualCluster) -> Result<()> {
    let mut luxi = cluster.luxi()?;
    let (job, before) = running(cluster, &mut luxi, 600.0)?;
    let daemons = ["luxid", "wconfd", "noded"];
    let pids = |_: ()| daemons.map(|name| cluster.master().pid(name));
    let old = pids(());
    let boot = cluster.kill(0, "boot")?;
    ensure!(luxi.status(job)? == "running", "luxid serves on without boot");
    cluster.boot(0)?;
    wait::until("another boot", PATIENCE, || cluster.master().pid("boot").filter(|pid| *pid != boot))?;
    ensure!(process_of(cluster, job)? == before, "the job's process");
    ensure!(pids(()) == old, "the new boot adopted the daemons: {old:?} became {:?}", pids(()));
    // It watches what it adopted.
    cluster.restart(0, "luxid")?;
    kill_now(cluster, job)
}

pub fn ends_unseen(cluster: &VirtualCluster) -> Result<()> {
    let mut luxi = cluster.luxi()?;
    let (job, process) = running(cluster, &mut luxi, 1.5)?;
    let log =
        luxi.submit(&[json!({"OP_ID": "OP_TEST_DELAY", "duration": 0.5, "repeat": 2, "reason": []})])?;
    at(&mut luxi, log, "running")?;
    let logger = process_of(cluster, log)?;
    let spool = cluster.master().root.join("var/lib/gantry/spool");
    without_boot(cluster, || {
        cluster.kill(0, "luxid")?;
        for process in [&process, &logger] {
            wait::until("the job ends by itself", PATIENCE, || (!process::lives(process.pid)).then_some(()))?;
        }
        for process in [&process, &logger] {
            let file = spool.join(format!("{}.{}", process.id, process.start));
            ensure!(file.exists(), "{} holds the outcome", file.display());
        }
        Ok(())
    })?;
    let mut luxi = cluster.luxi()?;
    ensure!(luxi.wait(job, PATIENCE)? == "success", "{}", result(&mut luxi, job)?);
    ensure!(luxi.wait(log, PATIENCE)? == "success", "{}", result(&mut luxi, log)?);
    let entries = luxi.call("QueryJobs", json!([[log], ["oplog"]]))?;
    ensure!(entries[0][0][0].as_array().map_or(0, Vec::len) >= 3, "the log came along: {entries}");
    wait::until("spool files are deleted", PATIENCE, || {
        std::fs::read_dir(&spool).ok()?.next().is_none().then_some(())
    })?;
    rest::reached(cluster, PATIENCE)
}

/// luxid lives but does not answer: the job waits with its outcome, and luxid takes it when it goes on.
pub fn ends_unheard(cluster: &VirtualCluster) -> Result<()> {
    let mut luxi = cluster.luxi()?;
    let op = json!({"OP_ID": "OP_TEST_DELAY", "duration": 600.0, "interruptible": true, "reason": []});
    let job = luxi.submit(&[op])?;
    let socket = wait::until("the job says how to end it", PATIENCE, || {
        let log = luxi.call("QueryJobs", json!([[job], ["oplog"]])).ok()?;
        let entries = log[0][0][0].as_array()?;
        let entry = entries.iter().find(|entry| entry[2] == json!("delay-test"))?;
        entry[3][0].as_str().map(std::path::PathBuf::from)
    })?;
    let process = process_of(cluster, job)?;
    let luxid = cluster.master().pid("luxid").context("luxid has a pid")?;
    process::signal(luxid, Signal::SIGSTOP)?;
    let unheard = (|| {
        drop(UnixStream::connect(&socket).context("the job's own socket")?);
        wait::until("the opcode ends", PATIENCE, || UnixStream::connect(&socket).is_err().then_some(()))?;
        // Meanwhile the world goes on for a while.
        cluster.restart(1, "noded")?;
        ensure!(process::lives(process.pid), "a job whose outcome nobody confirmed leaves too early");
        Ok(())
    })();
    process::signal(luxid, Signal::SIGCONT)?;
    unheard?;
    ensure!(luxi.wait(job, PATIENCE)? == "success", "{}", result(&mut luxi, job)?);
    rest::reached(cluster, PATIENCE)
}

pub fn dies_unseen(cluster: &VirtualCluster) -> Result<()> {
    let mut luxi = cluster.luxi()?;
    let (job, process) = running(cluster, &mut luxi, 600.0)?;
    let waiter = luxi.submit(&[locked_delay(cluster, 0.0)])?;
    at(&mut luxi, waiter, "waiting")?;
    without_boot(cluster, || {
        cluster.kill(0, "luxid")?;
        process::signal(process.pid, Signal::SIGKILL)?;
        wait::until("it is dead", PATIENCE, || (!process::lives(process.pid)).then_some(()))
    })?;
    let mut luxi = cluster.luxi()?;
    ensure!(luxi.wait(job, PATIENCE)? == "error", "{}", result(&mut luxi, job)?);
    ensure!(luxi.wait(waiter, PATIENCE)? == "success", "{}", result(&mut luxi, waiter)?);
    rest::reached(cluster, PATIENCE)
}

pub fn queued_survives(cluster: &VirtualCluster) -> Result<()> {
    let mut luxi = cluster.luxi()?;
    let (holder, _) = running(cluster, &mut luxi, 600.0)?;
    let queued: Vec<u64> = (0..20)
        .map(|_| {
            let op = json!({"OP_ID": "OP_TEST_DELAY", "duration": 0.0, "depends": [[holder, ["error"]]], "reason": []});
            luxi.submit(&[op])
        })
        .collect::<Result<_>>()?;
    cluster.restart(0, "luxid")?;
    let mut luxi = cluster.luxi()?;
    for job in &queued {
        ensure!(luxi.status(*job)? == "queued", "job {job} is {}", luxi.status(*job)?);
    }
    ensure!(luxi.status(holder)? == "running", "the holder");
    kill_now(cluster, holder)?;
    for job in queued {
        ensure!(luxi.wait(job, PATIENCE)? == "success", "job {job}: {}", result(&mut luxi, job)?);
    }
    Ok(())
}

/// Everything on the master dies at once, jobs included: those at work end in error, those queued run, no lock stays.
pub fn master_dies(cluster: &VirtualCluster) -> Result<()> {
    let mut luxi = cluster.luxi()?;
    let (job, _) = running(cluster, &mut luxi, 600.0)?;
    let interruptible =
        json!({"OP_ID": "OP_TEST_DELAY", "duration": 600.0, "interruptible": true, "reason": []});
    let listening = luxi.submit(&[interruptible])?;
    at(&mut luxi, listening, "running")?;
    let waiter = luxi.submit(&[locked_delay(cluster, 0.0)])?;
    at(&mut luxi, waiter, "waiting")?;
    let after =
        json!({"OP_ID": "OP_TEST_DELAY", "duration": 0.0, "depends": [[job, ["error"]]], "reason": []});
    let queued = luxi.submit(&[after])?;
    let root = &cluster.master().root;
    // Boot first, so that it restarts nothing.
    cluster.kill(0, "boot")?;
    for (pid, _) in process::with_root(root) {
        process::signal(pid, Signal::SIGKILL).ok();
    }
    wait::until("all are dead", PATIENCE, || process::with_root(root).is_empty().then_some(()))?;
    cluster.boot(0)?;
    let mut luxi = cluster.luxi()?;
    for (job, wanted) in [(job, "error"), (listening, "error"), (waiter, "error"), (queued, "success")] {
        ensure!(luxi.wait(job, PATIENCE)? == wanted, "job {job}: {}", result(&mut luxi, job)?);
    }
    rest::reached(cluster, PATIENCE)?;
    rest::verified(cluster)
}

pub fn finished_stays(cluster: &VirtualCluster) -> Result<()> {
    let fields =
        ["id", "status", "opstatus", "opresult", "received_ts", "start_ts", "end_ts", "ops", "oplog"];
    let all = |luxi: &mut Luxi| luxi.call("QueryJobs", json!([null, fields]));
    let before = all(&mut cluster.luxi()?)?;
    ensure!(before.as_array().is_some_and(|rows| rows.len() > 20), "there are finished jobs");
    cluster.restart(0, "luxid")?;
    let after = all(&mut cluster.luxi()?)?;
    ensure!(before == after, "jobs changed with a restart of luxid");
    Ok(())
}
