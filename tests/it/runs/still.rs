//! Daemons that stand still for a while (SIGSTOP), as on a machine that swaps or is suspended, while commands run: what
//! ended meanwhile is told afterwards, once, and nobody is charged.

use super::*;
use gantry_tests::process;
use nix::sys::signal::Signal;

#[test]
fn daemons_that_stand_still_cost_no_attempt() {
    let bed = Bed::new();
    step("commands in VMs are seen", || seen(&bed));
    for daemon in ["vmd", "noded", "luxid", "wconfd", "overseer"] {
        step(&format!("{daemon} stands still"), || stands_still(&bed, daemon));
    }
    step("all of them", || all_stand_still(&bed));
    step("who waits for wconfd is told so", || wconfd_is_named(&bed));
    bed.ends();
}

/// Living processes below the PID 1s of all VMs.
fn inside(bed: &Bed) -> usize {
    let children = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let all = bed.site.inits().into_values().filter_map(|pid| children(pid).ok());
    all.map(|text| text.split_whitespace().count()).sum()
}

fn seen(bed: &Bed) -> Result<()> {
    let mut luxi = bed.luxi()?;
    let id = task::submit(&mut luxi, &one("echo begun; sleep 100"))?;
    says(bed, id, "begun")?;
    ensure!(inside(bed) > 0, "whoever sees no command waits for no end");
    bed.cluster.run(&["task", "cancel", &id.to_string()])?;
    task::wait_all(&mut luxi, &[id], PATIENCE)?;
    bed.rests()
}

/// Tasks on all VMs that run for a moment more.
fn running(bed: &Bed) -> Result<Vec<u64>> {
    let mut luxi = bed.luxi()?;
    let spec = one("echo begun; sleep 2; echo ended");
    let ids: Vec<u64> = (0..SIZE).map(|_| task::submit(&mut luxi, &spec)).collect::<Result<_>>()?;
    for id in &ids {
        says(bed, *id, "begun")?;
    }
    Ok(ids)
}

fn pids(bed: &Bed, daemon: &str) -> Vec<u32> {
    bed.cluster.nodes.iter().filter_map(|node| node.pid(daemon)).collect()
}

/// Stops those processes until all commands in VMs have ended.
fn stopped(bed: &Bed, pids: &[u32]) -> Result<()> {
    ensure!(!pids.is_empty(), "nobody to stop");
    for pid in pids {
        tell(*pid, Signal::SIGSTOP)?;
    }
    let ended = wait::until("the commands end by themselves", PATIENCE, || (inside(bed) == 0).then_some(()));
    for pid in pids {
        tell(*pid, Signal::SIGCONT)?;
    }
    ended
}

/// A job may just have ended by itself.
fn tell(pid: u32, signal: Signal) -> Result<()> {
    process::signal(pid, signal).or_else(|why| if process::lives(pid) { Err(why) } else { Ok(()) })
}

fn stands_still(bed: &Bed, daemon: &str) -> Result<()> {
    let ids = running(bed)?;
    let before = pids(bed, daemon);
    stopped(bed, &before)?;
    told_once(bed, &ids)?;
    ensure!(pids(bed, daemon) == before, "{daemon} was not restarted");
    bed.rests()
}

fn all_stand_still(bed: &Bed) -> Result<()> {
    let ids = running(bed)?;
    let all: Vec<u32> =
        ["vmd", "noded", "luxid", "wconfd", "overseer"].iter().flat_map(|daemon| pids(bed, daemon)).collect();
    let jobs = process::jobs(&bed.cluster.master().root).into_iter().map(|job| job.pid);
    stopped(bed, &all.into_iter().chain(jobs).collect::<Vec<_>>())?;
    told_once(bed, &ids)?;
    bed.rests()
}

fn told_once(bed: &Bed, ids: &[u64]) -> Result<()> {
    for record in task::wait_all(&mut bed.luxi()?, ids, PATIENCE)? {
        first_try(&record)?;
        ensure!(record.out(0) == "begun\nended\n", "{}", record.json());
    }
    Ok(())
}

/// Whoever waits for a VM while wconfd stands still reads that, and has one when it goes on.
fn wconfd_is_named(bed: &Bed) -> Result<()> {
    let all = pids(bed, "wconfd");
    ensure!(!all.is_empty(), "nobody to stop");
    for pid in &all {
        tell(*pid, Signal::SIGSTOP)?;
    }
    let asked = ask_in_vain(bed);
    for pid in &all {
        tell(*pid, Signal::SIGCONT)?;
    }
    let (task, lease) = asked?;
    told_once(bed, &[task])?;
    let told = bed.luxi()?.call("WaitForLease", json!([lease, "waiting", 60]))?;
    ensure!(told["state"] == "granted", "{told}");
    bed.luxi()?.call("LeaseRelease", json!([lease]))?;
    bed.rests()
}

/// A task and a lease request that both say who is silent.
fn ask_in_vain(bed: &Bed) -> Result<(u64, Value)> {
    let mut luxi = bed.luxi()?;
    let task = task::submit(&mut luxi, &one("echo begun; echo ended"))?;
    let request = json!({"pool": pool::NAME, "count": 1, "for_s": 60, "user": "test", "priority": 0});
    let lease = luxi.call("LeaseRequest", json!([request]))?;
    for (kind, key, this) in [("task", "id", &json!(task)), ("lease", "uuid", &lease)] {
        wait::until(&format!("the {kind} says who is silent"), PATIENCE, || {
            let rows = luxi.query(kind, &[key, "why"], Value::Null).ok()?;
            let why = rows.iter().find(|row| row[0] == *this)?[1].as_str()?.to_owned();
            why.starts_with("gantry-wconfd has not answered for ").then_some(())
        })?;
    }
    Ok((task, lease))
}
