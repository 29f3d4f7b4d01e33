//! What keeps the pool clean while nobody looks: dead VMs are found and replaced, strangers are killed, and only they.

use super::*;
use gantry_tests::leak::Trace;
use gantry_tests::process;
use nix::sys::signal::Signal;

/// Often enough for a test.
const OVERSEER: &str = "[overseer]\nhealth_check_s = 1\n";

#[test]
fn the_pool_is_kept_clean() {
    let bed = Bed::with(Options { settings: OVERSEER.to_owned(), ..Options::oci(3) });
    step("a clean VM that died is replaced", || dead_vm_is_replaced(&bed));
    step("and never leased", || dead_vm_is_never_leased(&bed));
    step("a clean VM that stands still is replaced", || still_vm_is_replaced(&bed));
    step("a stranger of this cluster is killed", || stranger_is_killed(&bed));
    step("one without its label is not touched", || foreign_is_not_touched(&bed));
    step("a recycled VM is replaced", || recycled(&bed));
    bed.ends();
}

/// Nobody looks for long: what is leased is looked at.
#[test]
fn what_does_not_live_is_leased_to_nobody() {
    let bed = Bed::new();
    for (what, signal) in [("killed", Signal::SIGKILL), ("stopped", Signal::SIGSTOP)] {
        step(&format!("a person gets a VM that lives, though all were {what}"), || {
            leased_alive(&bed, signal)
        });
        step(&format!("so do tasks, though all were {what}"), || tasks_on(&bed, signal));
    }
    bed.ends();
}

/// Sends all VMs' PID 1s a signal.
fn all_get(bed: &Bed, signal: Signal) -> Result<()> {
    let inits = bed.site.inits();
    ensure!(inits.len() == SIZE, "{} of {SIZE} VMs run", inits.len());
    inits.into_values().try_for_each(|pid| process::signal(pid, signal))
}

fn leased_alive(bed: &Bed, signal: Signal) -> Result<()> {
    all_get(bed, signal)?;
    let uuid = bed.cluster.run(&["lease", "acquire", pool::NAME, "--count", "2"])?;
    let uuid = leases::uuid(&uuid)?;
    // The first command, at once, once.
    let (said, end) = rpc::exec(bed, &uuid, "first", "echo alive")?;
    ensure!(said == "alive\n", "{said:?} {end:?}");
    bed.cluster.run(&["lease", "release", &uuid])?;
    bed.rests()
}

/// An attempt that meets a VM that stands still is the infrastructure's, and costs its user nothing.
fn tasks_on(bed: &Bed, signal: Signal) -> Result<()> {
    all_get(bed, signal)?;
    let mut luxi = bed.luxi()?;
    let ids: Vec<u64> =
        (0..SIZE).map(|_| task::submit(&mut luxi, &one("echo alive"))).collect::<Result<_>>()?;
    for record in task::wait_all(&mut luxi, &ids, PATIENCE)? {
        ensure!(record.state() == "success" && record.out(0) == "alive\n", "{}", record.json());
        let outcomes = record.outcomes();
        let (last, before) = outcomes.split_last().context("no attempt")?;
        ensure!(*last == "user-ok" && before.iter().all(|one| *one == "infra-fail"), "{}", record.json());
    }
    bed.rests()
}

/// Kills PID 1 of some VM; the VM's slot and generation.
fn kill_one(bed: &Bed) -> Result<(String, u64)> {
    signal_one(bed, Signal::SIGKILL)
}

/// Sends PID 1 of some VM a signal; the VM's slot and generation.
fn signal_one(bed: &Bed, signal: Signal) -> Result<(String, u64)> {
    let (vm, pid) = bed.site.inits().pop_first().context("a VM runs")?;
    let slots = pool::slots(&mut bed.luxi()?)?;
    let slot = slots.into_iter().find(|slot| vm.ends_with(&slot.suffix())).context("it is a slot's")?;
    process::signal(pid, signal)?;
    Ok((slot.uuid, slot.generation))
}

fn still_vm_is_replaced(bed: &Bed) -> Result<()> {
    bed.rests()?;
    let (slot, generation) = signal_one(bed, Signal::SIGSTOP)?;
    wait::until("the slot has a newer VM", PATIENCE, || {
        (*generations(bed).ok()?.get(&slot)? > generation).then_some(())
    })?;
    bed.rests()
}

fn dead_vm_is_replaced(bed: &Bed) -> Result<()> {
    let (slot, generation) = kill_one(bed)?;
    wait::until("the slot has a newer VM", PATIENCE, || {
        (*generations(bed).ok()?.get(&slot)? > generation).then_some(())
    })?;
    bed.rests()
}

/// All VMs are killed at once, then as many tasks come in: a task that gets a dead one is tried again, and is not charged.
fn dead_vm_is_never_leased(bed: &Bed) -> Result<()> {
    let killed = kill_one(bed)?;
    wait::until("the death is known", PATIENCE, || {
        let slots = pool::slots(&mut bed.luxi().ok()?).ok()?;
        let slot = slots.into_iter().find(|slot| slot.uuid == killed.0)?;
        (slot.generation > killed.1 || slot.state != "CLEAN").then_some(())
    })?;
    let mut luxi = bed.luxi()?;
    let ids: Vec<u64> =
        (0..SIZE * 2).map(|_| task::submit(&mut luxi, &one("true"))).collect::<Result<_>>()?;
    for record in task::wait_all(&mut luxi, &ids, PATIENCE)? {
        first_try(&record)?;
        ensure!(!record.vms().contains(&killed), "task {} had the dead VM {killed:?}", record.id());
    }
    Ok(())
}

fn audit(bed: &Bed, number: usize) -> Result<()> {
    let mut luxi = bed.luxi()?;
    let name = &bed.cluster.nodes[number].name;
    let job = luxi.submit(&[json!({"OP_ID": "OP_NODE_AUDIT", "node_name": name, "reason": []})])?;
    let status = luxi.wait(job, PATIENCE)?;
    ensure!(
        status == "success",
        "the audit is {status}: {}",
        luxi.call("QueryJobs", json!([[job], ["opresult"]]))?
    );
    Ok(())
}

/// Uids that no slot's VM has: far above those of a virtual node.
const STRAY_UIDS: u32 = 1900 << 20;

fn stranger_is_killed(bed: &Bed) -> Result<()> {
    // A node of few slots has no VM at all while they are turned over.
    bed.rests()?;
    let node = &bed.cluster.nodes[0];
    // The VMs of the tasks before are just being made anew.
    let mut label = wait::until("a VM on the node", PATIENCE, || rpc::some_label(node).ok())?;
    let (name, stale) = (|| {
        let runtime_id = rpc::noted(node).ok()?.into_iter().find(|name| name.starts_with("gantry-"))?;
        let (slot, generation) = runtime_id.rsplit_once('-')?;
        let stale = generation.parse::<u64>().ok()? + 1000;
        Some((format!("{slot}-{stale}"), stale))
    })()
    .context("a VM's name ends in its generation")?;
    // As one whose create came late: of a known slot, in a generation that is not its current one.
    label["vm"]["generation"] = json!(stale);
    rpc::stray(node, &name, label.to_string(), STRAY_UIDS)?;
    ensure!(seen(bed, &name), "the stranger runs");
    audit(bed, 0)?;
    ensure!(!seen(bed, &name), "the stranger is still there: {:?}", bed.site.traces());
    bed.rests()
}

fn foreign_is_not_touched(bed: &Bed) -> Result<()> {
    let node = &bed.cluster.nodes[0];
    let name = "somebody-elses";
    rpc::stray(node, name, "not of Gantry".to_owned(), STRAY_UIDS)?;
    audit(bed, 0)?;
    let runs = bed.site.inits().contains_key(name);
    rpc::remove(node, name)?;
    ensure!(runs, "what has no label of this cluster was killed");
    bed.rests()
}

fn seen(bed: &Bed, name: &str) -> bool {
    bed.site.traces().iter().any(|trace: &Trace| trace.vm == name)
}

fn recycled(bed: &Bed) -> Result<()> {
    let slot = pool::slots(&mut bed.luxi()?)?.into_iter().next().context("a slot")?;
    bed.cluster.run(&["slot", "recycle", &slot.name])?;
    wait::until("the slot has a newer VM", PATIENCE, || {
        (*generations(bed).ok()?.get(&slot.uuid)? > slot.generation).then_some(())
    })?;
    bed.rests()
}
