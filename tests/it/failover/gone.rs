//! A node that never comes back, with VMs of a pool on it: it can be removed, its pool is whole again on the others, and
//! nothing waits for it any more.

use super::{PATIENCE, copies};
use crate::{cluster, step};
use anyhow::{Result, ensure};
use gantry_tests::pool::{self, Slot};
use gantry_tests::{VirtualCluster, foreign, rest, wait};
use serde_json::Value;

/// VMs of the pool.
const SIZE: usize = 4;

/// Runs a command that must succeed; all it says.
fn said(cluster: &VirtualCluster, args: &[&str]) -> Result<String> {
    let output = cluster.output(args)?;
    let text = foreign::said(&output);
    ensure!(output.status.success(), "gantry {args:?}: {text}");
    Ok(text)
}

/// Waits until the pool has all its VMs clean and all slots there are satisfy `wanted`.
fn whole(cluster: &VirtualCluster, wanted: impl Fn(&Slot) -> bool) -> Result<()> {
    wait::until("the pool is whole", PATIENCE, || {
        let slots = pool::slots(&mut cluster.luxi().ok()?).ok()?;
        let fits = |slot: &Slot| slot.state == "CLEAN" && wanted(slot);
        (slots.len() == SIZE && slots.iter().all(fits)).then_some(())
    })
}

#[test]
fn a_dead_node_with_slots_is_removed_and_nothing_waits_for_it() {
    let cluster = cluster(3);
    let name = |number: usize| cluster.nodes[number].name.as_str();
    step("a pool on all nodes", || {
        copies(&cluster, 3)?;
        pool::add(&cluster, "fake", SIZE)?;
        whole(&cluster, |_| true)?;
        let slots = pool::slots(&mut cluster.luxi()?)?;
        ensure!((0..3).all(|number| slots.iter().any(|slot| slot.node == name(number))), "{slots:?}");
        Ok(())
    });
    step("what nobody has leased goes from a drained node, and it comes back", || {
        let (_, text) = cluster.refused(&["node", "remove", name(1)])?;
        ensure!(text.contains(&format!("gnt-node modify -D yes {}", name(1))), "{text}");
        cluster.run(&["node", "modify", "-D", "yes", name(1)])?;
        whole(&cluster, |slot| slot.node != name(1))?;
        cluster.run(&["node", "modify", "-D", "no", name(1)]).map(drop)
    });
    step("a node dies, with a lease on it", || {
        cluster.run(&["lease", "acquire", pool::NAME, "--count", &SIZE.to_string()])?;
        cluster.kill_node(2)
    });
    step("it is kept while it may come back, and what helps is said", || {
        let (_, text) = cluster.refused(&["node", "remove", name(2)])?;
        ensure!(text.contains(&format!("gnt-node modify -O yes {}", name(2))), "{text}");
        Ok(())
    });
    step("marked offline it can be removed, and what that costs is said", || {
        let text = said(&cluster, &["node", "modify", "-O", "yes", name(2)])?;
        ensure!(text.contains("1 lease on it ends as broken"), "{text}");
        let text = said(&cluster, &["node", "remove", name(2)])?;
        ensure!(text.contains("was not destroyed"), "{text}");
        Ok(())
    });
    step("the pool is whole again on the others", || {
        whole(&cluster, |slot| slot.node != name(2))?;
        let leases = cluster.luxi()?.query("lease", &["uuid", "state"], Value::Null)?;
        ensure!(leases.len() == 1 && leases[0][1] == "broken", "{leases:?}");
        Ok(())
    });
    step("the renewal of the CA does not wait for it", || {
        copies(&cluster, 2)?;
        cluster.run(&["cluster", "renew-crypto", "--force", "--new-cluster-certificate"]).map(drop)
    });
    step("nothing is left", || {
        rest::verified(&cluster)?;
        pool::remove(&cluster)?;
        ensure!(pool::slots(&mut cluster.luxi()?)?.is_empty());
        rest::reached(&cluster, PATIENCE)
    });
}
