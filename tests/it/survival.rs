//! One death at a time: what a job, its locks and its client see when a daemon or the job itself is killed, stopped or away
//! (P4.4 to P4.9), with real processes and SIGKILL.

use crate::{cluster, step};
use anyhow::{Context, Result, ensure};
use gantry_tests::luxi::delay;
use gantry_tests::process::{self, JobProcess};
use gantry_tests::{Luxi, VirtualCluster, rest, wait};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(40);
/// Within this the locks of a killed job are free.
const FREED_WITHIN: Duration = Duration::from_secs(2);

#[test]
fn jobs_outlive_their_daemons() {
    let cluster = cluster(2);
    step("a job survives luxid", || survives(&cluster, &["luxid"]));
    step("a job and its locks survive wconfd", || survives(&cluster, &["wconfd"]));
    step("a job survives luxid and wconfd at once", || survives(&cluster, &["luxid", "wconfd"]));
    step("a job survives boot", || survives_boot(&cluster));
    step("a job that ends while luxid is away is found finished", || ends_unseen(&cluster));
    step("a job that ends while luxid is stopped waits for it", || ends_unheard(&cluster));
    step("a job that dies while luxid is away is found dead", || dies_unseen(&cluster));
    step("a queued job survives luxid", || queued_survives(&cluster));
    step("the whole master dies and comes back", || master_dies(&cluster));
    step("a finished job stays as it was", || finished_stays(&cluster));
    step("nothing is left", || rest::reached(&cluster, PATIENCE));
    step("the cluster is sound", || rest::verified(&cluster));
}

#[test]
fn locks_do_not_outlive_their_jobs() {
    let cluster = cluster(2);
    step("a killed job's locks are free at once", || locks_freed(&cluster));
    step("also when gnt-job cancel --kill did it", || locks_freed_by_cancel(&cluster));
    step("a killed waiter waits no more", || waiter_gone(&cluster));
    step("also when luxid and wconfd were away", || locks_freed_while_away(&cluster));
    step("a stopped job is alive", || stopped_is_alive(&cluster));
    step("a node call whose noded dies is an error of its job alone", || noded_dies(&cluster));
    step("instances are made and removed around a killed noded", || instances_around_noded(&cluster));
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

/// The job keeps its process and its locks while daemons die and come back, and then succeeds.
fn survives(cluster: &VirtualCluster, daemons: &[&str]) -> Result<()> {
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

fn seconds(ts: &Value) -> Result<f64> {
    let (whole, micro) = (ts[0].as_f64(), ts[1].as_f64());
    Ok(whole.with_context(|| format!("{ts} is no time"))? + micro.unwrap_or(0.0) / 1e6)
}

fn result(luxi: &mut Luxi, job: u64) -> Result<Value> {
    Ok(luxi.call("QueryJobs", json!([[job], ["status", "opstatus", "opresult"]]))?[0].take())
}

/// Boot's death ends nothing, and another boot takes the daemons over as they are.
fn survives_boot(cluster: &VirtualCluster) -> Result<()> {
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

/// Keeps boot from restarting what is killed, while `work` goes on.
fn without_boot(cluster: &VirtualCluster, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let boot = cluster.master().pid("boot").context("boot has a pid")?;
    process::signal(boot, Signal::SIGSTOP)?;
    let done = work();
    process::signal(boot, Signal::SIGCONT)?;
    done
}

fn ends_unseen(cluster: &VirtualCluster) -> Result<()> {
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
fn ends_unheard(cluster: &VirtualCluster) -> Result<()> {
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

fn dies_unseen(cluster: &VirtualCluster) -> Result<()> {
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

fn queued_survives(cluster: &VirtualCluster) -> Result<()> {
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
fn master_dies(cluster: &VirtualCluster) -> Result<()> {
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

fn finished_stays(cluster: &VirtualCluster) -> Result<()> {
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

fn locks_freed(cluster: &VirtualCluster) -> Result<()> {
    let mut luxi = cluster.luxi()?;
    let (job, process) = running(cluster, &mut luxi, 600.0)?;
    let waiter = luxi.submit(&[locked_delay(cluster, 600.0)])?;
    at(&mut luxi, waiter, "waiting")?;
    ensure!(owners(&mut luxi)? == [job.to_string()], "owners: {:?}", owners(&mut luxi)?);
    let killed = Instant::now();
    process::signal(process.pid, Signal::SIGKILL)?;
    at(&mut luxi, waiter, "running")?;
    ensure!(killed.elapsed() <= FREED_WITHIN, "the waiter got the lock after {:?}", killed.elapsed());
    ensure!(luxi.wait(job, FREED_WITHIN)? == "error", "{}", result(&mut luxi, job)?);
    let told = result(&mut luxi, job)?.to_string();
    ensure!(told.contains("detected death of job"), "{told}");
    kill_now(cluster, waiter)
}

fn locks_freed_by_cancel(cluster: &VirtualCluster) -> Result<()> {
    let mut luxi = cluster.luxi()?;
    let (job, _) = running(cluster, &mut luxi, 600.0)?;
    let waiter = luxi.submit(&[locked_delay(cluster, 600.0)])?;
    at(&mut luxi, waiter, "waiting")?;
    let asked = Instant::now();
    let answer = luxi.call("CancelJob", json!([job, true]))?;
    ensure!(answer[0] == json!(true), "{answer}");
    ensure!(luxi.wait(job, PATIENCE)? == "error", "{}", result(&mut luxi, job)?);
    at(&mut luxi, waiter, "running")?;
    ensure!(asked.elapsed() <= FREED_WITHIN, "it took {:?}", asked.elapsed());
    kill_now(cluster, waiter)
}

fn waiter_gone(cluster: &VirtualCluster) -> Result<()> {
    let mut luxi = cluster.luxi()?;
    let (holder, _) = running(cluster, &mut luxi, 600.0)?;
    let waiter = luxi.submit(&[locked_delay(cluster, 600.0)])?;
    at(&mut luxi, waiter, "waiting")?;
    process::signal(process_of(cluster, waiter)?.pid, Signal::SIGKILL)?;
    ensure!(luxi.wait(waiter, FREED_WITHIN)? == "error", "{}", result(&mut luxi, waiter)?);
    wait::until("nobody waits", FREED_WITHIN, || {
        let rows = luxi.query("lock", &["pending"], Value::Null).ok()?;
        rows.iter().all(|row| row[0] == json!([])).then_some(())
    })?;
    ensure!(owners(&mut luxi)? == [holder.to_string()], "the holder keeps its lock");
    kill_now(cluster, holder)
}

/// Both daemons come back after the owner of a lock died: the lock is read from the file and must not stay.
fn locks_freed_while_away(cluster: &VirtualCluster) -> Result<()> {
    let mut luxi = cluster.luxi()?;
    let (job, process) = running(cluster, &mut luxi, 600.0)?;
    without_boot(cluster, || {
        cluster.kill(0, "wconfd")?;
        cluster.kill(0, "luxid")?;
        process::signal(process.pid, Signal::SIGKILL)
    })?;
    let mut luxi = cluster.luxi()?;
    ensure!(luxi.wait(job, PATIENCE)? == "error", "{}", result(&mut luxi, job)?);
    rest::reached(cluster, PATIENCE)
}

/// A job that is stopped for longer than any other second of the test is alive: no death, no free lock, also in the eyes
/// of a luxid that starts meanwhile.
fn stopped_is_alive(cluster: &VirtualCluster) -> Result<()> {
    let mut luxi = cluster.luxi()?;
    let (job, process) = running(cluster, &mut luxi, 0.5)?;
    let clock = luxi.submit(&[delay(10.0)])?;
    process::signal(process.pid, Signal::SIGSTOP)?;
    let waiter = luxi.submit(&[locked_delay(cluster, 0.0)])?;
    at(&mut luxi, waiter, "waiting")?;
    cluster.restart(0, "luxid")?;
    let mut luxi = cluster.luxi()?;
    ensure!(luxi.wait(clock, PATIENCE)? == "success", "ten seconds pass");
    ensure!(luxi.status(job)? == "running", "the stopped job is {}", luxi.status(job)?);
    ensure!(luxi.status(waiter)? == "waiting", "the waiter is {}", luxi.status(waiter)?);
    ensure!(process_of(cluster, job)? == process, "and has its process");
    process::signal(process.pid, Signal::SIGCONT)?;
    ensure!(luxi.wait(job, PATIENCE)? == "success", "{}", result(&mut luxi, job)?);
    ensure!(luxi.wait(waiter, PATIENCE)? == "success", "{}", result(&mut luxi, waiter)?);
    Ok(())
}

fn noded_dies(cluster: &VirtualCluster) -> Result<()> {
    let mut luxi = cluster.luxi()?;
    let on_node = |seconds: f64| {
        json!({"OP_ID": "OP_TEST_DELAY", "duration": seconds, "on_master": false, "on_nodes": [cluster.nodes[1].name],
               "no_locks": false, "reason": []})
    };
    let (called, other) = (luxi.submit(&[on_node(600.0)])?, luxi.submit(&[delay(0.5)])?);
    at(&mut luxi, called, "running")?;
    cluster.restart(1, "noded")?;
    // Whether the call is made again or fails is the opcode's affair; what must not be is a job for ever.
    let ended = wait::until("the job whose call broke ends, or works on", PATIENCE, || {
        let status = luxi.status(called).ok()?;
        (status == "error" || cluster.nodes[1].pid("noded").is_some() && status == "running")
            .then_some(status)
    })?;
    if ended == "running" {
        kill_now(cluster, called)?;
    }
    ensure!(luxi.wait(other, PATIENCE)? == "success", "{}", result(&mut luxi, other)?);
    let after = luxi.submit(&[on_node(0.0)])?;
    ensure!(luxi.wait(after, PATIENCE)? == "success", "{}", result(&mut luxi, after)?);
    Ok(())
}

/// What a job that died half-way leaves of an instance is taken away by the next removal; nothing runs that nobody knows.
fn instances_around_noded(cluster: &VirtualCluster) -> Result<()> {
    for round in 0..4 {
        let name = format!("half{round}.gantry.test");
        let add = [
            "instance",
            "add",
            "--submit",
            "-t",
            "diskless",
            "-o",
            "noop",
            "--no-nics",
            "-B",
            "memory=64",
            "-n",
            "node2",
            &name,
        ];
        let text = cluster.run(&add)?;
        let job: u64 = text.trim().trim_start_matches("JobID: ").parse().context(text.clone())?;
        match round {
            0 => drop(cluster.restart(1, "noded")?),
            1 => drop(cluster.restart(0, "wconfd")?),
            2 => drop(cluster.restart(0, "luxid")?),
            _ => {
                let process =
                    process::jobs(&cluster.master().root).into_iter().find(|process| process.id == job);
                process.map(|process| process::signal(process.pid, Signal::SIGKILL).ok());
            }
        }
        cluster.luxi()?.wait(job, PATIENCE)?;
        let names = cluster.luxi()?.query("instance", &["name"], Value::Null)?;
        if names.contains(&vec![json!(name)]) {
            cluster.run(&["instance", "startup", &name])?;
            rest::verified(cluster)?;
            cluster.run(&["instance", "remove", "--force", &name])?;
        }
        rest::verified(cluster)?;
    }
    ensure!(cluster.luxi()?.query("instance", &["name"], Value::Null)?.is_empty(), "all are removed");
    Ok(())
}
