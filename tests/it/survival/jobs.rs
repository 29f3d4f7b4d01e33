//! The death of jobs: their locks go with them, and nothing but death counts as death.

use super::{PATIENCE, at, kill_now, locked_delay, owners, process_of, result, running, without_boot};
use anyhow::{Context, Result, ensure};
use gantry_tests::luxi::delay;
use gantry_tests::process;
use gantry_tests::{VirtualCluster, rest, wait};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use serde_json::{Value, json};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

/// Within this the locks of a killed job are free.
const FREED_WITHIN: Duration = Duration::from_secs(2);

pub fn locks_freed(cluster: &VirtualCluster) -> Result<()> {
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

pub fn locks_freed_by_cancel(cluster: &VirtualCluster) -> Result<()> {
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

pub fn waiter_gone(cluster: &VirtualCluster) -> Result<()> {
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
pub fn locks_freed_while_away(cluster: &VirtualCluster) -> Result<()> {
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

/// Jobs outlive the process in which they were born, and later ones are born in another; so do they a luxid that ends with it.
pub fn nursery_dies(cluster: &VirtualCluster) -> Result<()> {
    let root = &cluster.master().root;
    let mut luxi = cluster.luxi()?;
    let (job, process) = running(cluster, &mut luxi, 600.0)?;
    let first = process::nursery(root).context("a nursery")?;
    process::signal(first, Signal::SIGKILL)?;
    wait::until("the nursery is dead", PATIENCE, || (!process::lives(first)).then_some(()))?;
    let later = luxi.submit(&[delay(0.0)])?;
    ensure!(luxi.wait(later, PATIENCE)? == "success", "{}", result(&mut luxi, later)?);
    let second = process::nursery(root).context("another nursery")?;
    ensure!(second != first && process_of(cluster, job)? == process, "the job goes on");
    cluster.restart(0, "luxid")?;
    wait::until("a nursery ends with its luxid", PATIENCE, || (!process::lives(second)).then_some(()))?;
    ensure!(process_of(cluster, job)? == process, "the job still goes on");
    kill_now(cluster, job)?;
    rest::reached(cluster, PATIENCE)
}

/// A job that is stopped for longer than any other second of the test is alive: no death, no free lock, also in the eyes
/// of a luxid that starts meanwhile.
pub fn stopped_is_alive(cluster: &VirtualCluster) -> Result<()> {
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

/// Connects to a socket without being accepted, until no more fit.
fn fill(path: &Path) -> Result<Vec<OwnedFd>> {
    let address = UnixAddr::new(path)?;
    let mut held = Vec::new();
    loop {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        match connect(socket.as_raw_fd(), &address) {
            Ok(()) => held.push(socket),
            Err(Errno::EAGAIN) => return Ok(held),
            Err(why) => return Err(why).context("filling a backlog"),
        }
        ensure!(held.len() < 10_000, "the backlog has no end");
    }
}

/// A luxid that can't even connect must not take that for death (P4.5).
pub fn full_backlog_is_alive(cluster: &VirtualCluster) -> Result<()> {
    let mut luxi = cluster.luxi()?;
    let (job, process) = running(cluster, &mut luxi, 0.5)?;
    process::signal(process.pid, Signal::SIGSTOP)?;
    let held = fill(&cluster.master().root.join(format!("run/gantry/job/{job}.{}.sock", process.start)))?;
    cluster.restart(0, "luxid")?;
    let mut luxi = cluster.luxi()?;
    let clock = luxi.submit(&[delay(2.0)])?;
    ensure!(luxi.wait(clock, PATIENCE)? == "success", "two seconds pass");
    ensure!(luxi.status(job)? == "running", "behind a full backlog the job is {}", luxi.status(job)?);
    drop(held);
    process::signal(process.pid, Signal::SIGCONT)?;
    ensure!(luxi.wait(job, PATIENCE)? == "success", "{}", result(&mut luxi, job)?);
    Ok(())
}

/// Somebody listens under the name of an older start: the dead job is dead all the same.
pub fn old_socket_fools_nobody(cluster: &VirtualCluster) -> Result<()> {
    let mut luxi = cluster.luxi()?;
    let (job, process) = running(cluster, &mut luxi, 600.0)?;
    let path = cluster.master().root.join(format!("run/gantry/job/{job}.1-0-1.sock"));
    let impostor = UnixListener::bind(&path)?;
    without_boot(cluster, || {
        cluster.kill(0, "luxid")?;
        process::signal(process.pid, Signal::SIGKILL)
    })?;
    let mut luxi = cluster.luxi()?;
    ensure!(luxi.wait(job, PATIENCE)? == "error", "{}", result(&mut luxi, job)?);
    drop(impostor);
    // luxid may have cleared it away: it belongs to no start that runs.
    std::fs::remove_file(&path).ok();
    rest::reached(cluster, PATIENCE)
}

pub fn noded_dies(cluster: &VirtualCluster) -> Result<()> {
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
pub fn instances_around_noded(cluster: &VirtualCluster) -> Result<()> {
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
