//! The job that ran a task makes its VM anew: the result is there before, and whoever dies in between changes neither.

use super::*;
use gantry_tests::process;
use nix::sys::signal::Signal;

/// Tasks per victim: not every death meets a turn-over.
const ROUNDS: usize = 4;
/// Tasks in a row whose jobs are counted.
const IN_A_ROW: usize = 6;

#[test]
fn a_death_after_the_result_changes_nothing() {
    let bed = Bed::new();
    step("a run and its turn-over are one job", || one_job_each(&bed));
    for victim in ["job", "luxid", "wconfd", "noded"] {
        step(&format!("{victim} dies when the result is there"), || dies(&bed, victim));
    }
    bed.ends();
}

/// The number of the node a task's VM was on.
fn node_of(bed: &Bed, record: &Record) -> Result<usize> {
    let (slot, _) = record.vms().pop().context("it had a VM")?;
    let slots = pool::slots(&mut bed.luxi()?)?;
    let home = slots.into_iter().find(|seen| seen.uuid == slot).context("it is a slot's")?.node;
    bed.cluster.nodes.iter().position(|node| node.name == home).context("it is on a node")
}

/// Where VM and lease of a task were: newer, and clean.
fn is_made_anew(bed: &Bed, record: &Record) -> Result<()> {
    let (slot, generation) = record.vms().pop().context("it had a VM")?;
    wait::until("the VM is made anew", PATIENCE, || {
        let slots = pool::slots(&mut bed.luxi().ok()?).ok()?;
        let seen = slots.into_iter().find(|seen| seen.uuid == slot)?;
        (seen.generation > generation && seen.state == "CLEAN").then_some(())
    })
}

/// Job numbers of tasks that follow each other have no gap, but for what the overseer does by its periods.
fn one_job_each(bed: &Bed) -> Result<()> {
    let mut jobs = Vec::new();
    for _ in 0..IN_A_ROW {
        let record = bed.run(&one("true"))?;
        first_try(&record)?;
        is_made_anew(bed, &record)?;
        jobs.push(record.json()["attempts"][0]["job"].as_u64().context("it had a job")?);
    }
    let next = jobs.windows(2).filter(|pair| pair[1] == pair[0] + 1).count();
    ensure!(next * 2 > IN_A_ROW - 1, "jobs in between: {jobs:?}");
    Ok(())
}

fn dies(bed: &Bed, victim: &str) -> Result<()> {
    let mut met = 0;
    for _ in 0..ROUNDS {
        let record = bed.run(&one("echo done"))?;
        if victim == "job" {
            for job in process::jobs(&bed.cluster.master().root) {
                // It may just have left.
                met += usize::from(process::signal(job.pid, Signal::SIGKILL).is_ok());
            }
        } else {
            let number = if victim == "noded" { node_of(bed, &record)? } else { 0 };
            bed.cluster.kill(number, victim)?;
            met += 1;
        }
        first_try(&record)?;
        is_made_anew(bed, &record)?;
        let again = wait::until("an answer", PATIENCE, || {
            let mut luxi = bed.luxi().ok()?;
            task::wait_all(&mut luxi, &[record.id()], PATIENCE).ok()
        })?;
        ensure!(again == [record], "its record changed: {again:?}");
    }
    ensure!(met > 0, "nobody was there to die");
    // Boot starts what dies often later each time.
    wait::until("all nodes answer", PATIENCE, || rest::verified(&bed.cluster).ok())?;
    bed.rests()
}
