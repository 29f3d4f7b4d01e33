//! A node that dies and does not come back: its VMs are made on the others, nobody waits for it; when it is back after all,
//! the pool is as large as before.

use super::*;

/// The node that dies: not the master.
const GONE: usize = 2;
/// Noticed soon, for a test.
const OVERSEER: &str = "[overseer]\nnode_repair_s = 1\ndrain_slots_s = 1\nnode_lost_s = 2\n";

#[test]
fn a_lost_node_s_vms_are_made_elsewhere() {
    let bed = Bed::with(Options { settings: OVERSEER.to_owned(), ..Options::oci(3) });
    step("the other nodes get its VMs", || others_get_its_vms(&bed));
    step("as many tasks as before run at once", || as_many_run(&bed));
    step("it is back, and the pool has its size", || it_is_back(&bed));
    bed.ends();
}

/// How many clean VMs there are on that node, and on the others.
fn clean(bed: &Bed) -> Result<(usize, usize)> {
    let slots = pool::slots(&mut bed.luxi()?)?.into_iter().filter(|slot| slot.state == "CLEAN");
    let gone = &bed.cluster.nodes[GONE].name;
    let (there, elsewhere): (Vec<_>, Vec<_>) = slots.partition(|slot| slot.node == *gone);
    Ok((there.len(), elsewhere.len()))
}

fn others_get_its_vms(bed: &Bed) -> Result<()> {
    let (there, _) = clean(bed)?;
    ensure!(there > 0, "it has VMs");
    bed.cluster.kill_node(GONE)?;
    wait::until("the pool is whole without it", PATIENCE, || {
        clean(bed).is_ok_and(|(_, elsewhere)| elsewhere == SIZE).then_some(())
    })
}

fn as_many_run(bed: &Bed) -> Result<()> {
    let mut luxi = bed.luxi()?;
    let ids: Vec<u64> =
        (0..SIZE).map(|_| task::submit(&mut luxi, &one("sleep 1; echo done"))).collect::<Result<_>>()?;
    for record in task::wait_all(&mut luxi, &ids, PATIENCE)? {
        first_try(&record)?;
        ensure!(record.out(0) == "done\n", "{}", record.json());
    }
    Ok(())
}

fn it_is_back(bed: &Bed) -> Result<()> {
    bed.cluster.boot(GONE)?;
    bed.rests()
}
