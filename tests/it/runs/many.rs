//! Two hundred tasks, four VMs.

use super::*;
use std::collections::BTreeSet;

const TASKS: usize = 200;

#[test]
fn two_hundred_tasks_on_four_vms() {
    let bed = Bed::new();
    step("200 tasks, 200 results", || run_all(&bed));
    bed.ends();
}

/// Finds out whether somebody was in this VM before, and says a word of its own.
fn spec(number: usize) -> Value {
    one(&format!("test ! -e /tmp/used && test ! -e used && touch /tmp/used used && echo word{number}"))
}

fn run_all(bed: &Bed) -> Result<()> {
    let mut luxi = bed.luxi()?;
    let ids: Vec<u64> =
        (0..TASKS).map(|number| task::submit(&mut luxi, &spec(number))).collect::<Result<_>>()?;
    ensure!(ids.iter().collect::<BTreeSet<_>>().len() == TASKS, "ids are given once");
    let records = task::wait_all(&mut luxi, &ids, PATIENCE)?;
    for (number, record) in records.iter().enumerate() {
        first_try(record)?;
        ensure!(record.out(0) == format!("word{number}\n"), "task {}: {}", record.id(), record.json());
    }
    let vms = task::no_vm_twice(&records)?;
    ensure!(vms == TASKS, "{vms} VMs for {TASKS} tasks");
    let nodes: BTreeSet<String> =
        records.iter().map(|record| record.attempts()[0]["vm"]["node"].to_string()).collect();
    ensure!(nodes.len() == 3, "VMs of {} of 3 nodes were used", nodes.len());
    // A result that is stored does not change.
    let again = task::wait_all(&mut luxi, &ids, PATIENCE)?;
    ensure!(again == records, "records changed after their end");
    Ok(())
}
