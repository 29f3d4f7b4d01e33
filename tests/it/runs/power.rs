//! A node's machine loses its power. What noded had written of its VMs and not flushed is gone, as far as a record may go
//! back: to the one that raised the slot's floor, with which the VM was begun. VMs die with the machine, so nothing may be made of that.

use super::*;
use gantry_noded::core::slot::{Outlive, Record as Slot, State};
use gantry_noded::io::data::{self, Change};

/// The node that falls; the master is the first.
const NODE: usize = 1;

#[test]
fn a_power_cut_takes_vms_and_nothing_comes_back_used() {
    let bed = Bed::new();
    step("VMs of the node are in use", || falls(&bed));
    bed.ends();
}

fn falls(bed: &Bed) -> Result<()> {
    let mut luxi = bed.luxi()?;
    let lease = leases::uuid(&bed.cluster.run(&["lease", "acquire", pool::NAME, "--count", "2"])?)?;
    let spec = one("echo begun; sleep 3");
    let ids = [task::submit(&mut luxi, &spec)?, task::submit(&mut luxi, &spec)?];
    for id in ids {
        says(bed, id, "begun")?;
    }
    let before = generations(bed)?;
    bed.cluster.kill_node(NODE)?;
    // In memory on a host.
    std::fs::remove_dir_all(bed.cluster.nodes[NODE].root.join("run"))?;
    let lost = set_back(bed)?;
    ensure!(!lost.is_empty(), "no VM was on the node");
    bed.cluster.boot(NODE)?;
    for record in task::wait_all(&mut luxi, &ids, PATIENCE)? {
        let outcomes = record.outcomes();
        ensure!(record.state() == "success" && outcomes.last() == Some(&"user-ok"), "{}", record.json());
        ensure!(outcomes.iter().rev().skip(1).all(|one| *one == "infra-fail"), "{}", record.json());
    }
    // The person's lease may have had a VM there, with which it is over.
    let _ = bed.cluster.output(&["lease", "release", &lease])?;
    bed.rests()?;
    let now = generations(bed)?;
    for slot in &lost {
        let (then, now) = (before.get(slot), now.get(slot));
        ensure!(now.is_none() || now > then, "{slot} was at {then:?} and is at {now:?}");
    }
    Ok(())
}

/// Sets all records of the node back as far as a power cut can, in another boot of its machine; the slots that had a VM.
fn set_back(bed: &Bed) -> Result<Vec<String>> {
    let lib = bed.cluster.nodes[NODE].root.join("var/lib/gantry");
    let role: gantry_model::role::RoleFile = serde_json::from_slice(&std::fs::read(lib.join("role.json"))?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let (file, loaded) = data::open(&lib, role.cluster, role.node)?;
    let mut had = Vec::new();
    for (slot, record) in loaded.slots {
        if record.state != State::Absent {
            had.push(slot.to_string());
        }
        let begun = Slot {
            floor: record.floor,
            generation: record.generation,
            state: State::Creating,
            driver: record.driver,
            boot: "the boot before".to_owned(),
            ..Slot::default()
        };
        runtime.block_on(file.put(Change::Slot(slot, Box::new(begun), Outlive::Machine)))?;
    }
    Ok(had)
}
