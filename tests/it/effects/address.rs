//! The cluster's address moves with the master, on a network of the nodes' own.

use super::{noting, put_hook, runs};
use crate::failover::{copies, returns};
use crate::step;
use anyhow::{Result, ensure};
use gantry_tests::net::DEVICE;
use gantry_tests::{Options, VirtualCluster, process, wait};
use nix::sys::signal::Signal;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// The cluster's, beside those of the nodes.
const ADDRESS: &str = "10.77.0.100";

fn cluster() -> VirtualCluster {
    let options = Options::on_net(3).expect("a network of its own: root and iproute2");
    let init = ["--master-ip", ADDRESS, "--master-netdev", DEVICE].map(str::to_owned).to_vec();
    VirtualCluster::start(&Options { init, ..options }).expect("the cluster starts")
}

/// Waits until just these nodes have an address.
fn only_on(cluster: &VirtualCluster, address: &str, wanted: &[usize]) -> Result<()> {
    let net = cluster.net()?;
    wait::until(&format!("{address} to be on {wanted:?} only"), PATIENCE, || {
        (0..3).all(|number| net.has(number, address).ok() == Some(wanted.contains(&number))).then_some(())
    })
}

/// Makes node `number` the master.
fn fail_over(cluster: &VirtualCluster, number: usize) -> Result<()> {
    let said = cluster.run_on(number, &["cluster", "master-failover"])?;
    ensure!(said.contains("is the master now"), "{said}");
    cluster.led_by(number);
    Ok(())
}

#[test]
fn the_clusters_address_moves_with_the_master() {
    let cluster = cluster();
    let net = cluster.net().expect("a network");
    step("all nodes have copies that count", || copies(&cluster, 3));
    step("the master has the address, and it is shown", || {
        only_on(&cluster, ADDRESS, &[0])?;
        wait::until("it to be shown", PATIENCE, || {
            cluster.run(&["cluster", "info"]).ok()?.contains(&format!("master ip: {ADDRESS}")).then_some(())
        })
    });
    step("the third node knows where it is", || {
        net.speak(2, ADDRESS)?;
        let (knows, is) = (net.neighbour(2, ADDRESS)?, net.link_address(0)?);
        ensure!(knows == is, "{knows} is not {is}");
        Ok(())
    });
    step("hooks wait for it to come and go", || {
        put_hook(&cluster.nodes[0], "master-ip-turndown-post.d", "note", &noting("down"))?;
        put_hook(&cluster.nodes[1], "master-ip-turnup-pre.d", "note", &noting("up"))?;
        Ok(())
    });
    step("a failover in peace moves it, and the neighbours hear of it", || {
        fail_over(&cluster, 1)?;
        ensure!(!net.has(0, ADDRESS)?, "the old master had stepped down, and has the address still");
        only_on(&cluster, ADDRESS, &[1])?;
        // Without a word to the address: by its announcement alone.
        let is = net.link_address(1)?;
        wait::until("the neighbour to know", PATIENCE, || {
            (net.neighbour(2, ADDRESS).ok()? == is).then_some(())
        })?;
        // Those after it went hold nobody up.
        wait::until("hooks of both to have run once", PATIENCE, || {
            ((runs(&cluster.nodes[0], "down"), runs(&cluster.nodes[1], "up")) == (1, 1)).then_some(())
        })
    });
    step("an operator takes it down; restarts of daemons do not bring it back", || {
        cluster.run(&["cluster", "deactivate-master-ip", "--yes-do-it"])?;
        only_on(&cluster, ADDRESS, &[])?;
        for daemon in ["wconfd", "noded"] {
            cluster.restart(1, daemon)?;
            copies(&cluster, 3)?;
        }
        cluster.run(&["cluster", "add-tags", "later"])?;
        only_on(&cluster, ADDRESS, &[])?;
        let said = cluster.run(&["cluster", "verify"])?;
        ensure!(said.contains("by an operator's word"), "{said}");
        Ok(())
    });
    step("an operator puts it up", || {
        cluster.run(&["cluster", "activate-master-ip"])?;
        ensure!(net.has(1, ADDRESS)?, "the command is back and the address is not up");
        Ok(())
    });
    step("the death of daemons does not move it", || {
        cluster.restart(1, "wconfd")?;
        cluster.restart(1, "noded")?;
        copies(&cluster, 3)?;
        only_on(&cluster, ADDRESS, &[1])
    });
    step(
        "a master that dies keeps it, which nobody can prevent; the next one has it too and says so",
        || {
            cluster.kill_node(1)?;
            fail_over(&cluster, 0)?;
            only_on(&cluster, ADDRESS, &[0, 1])?;
            let is = net.link_address(0)?;
            wait::until("the neighbour to know", PATIENCE, || {
                (net.neighbour(2, ADDRESS).ok()? == is).then_some(())
            })
        },
    );
    step("the dead one comes back and takes it away", || {
        cluster.boot(1)?;
        only_on(&cluster, ADDRESS, &[0])?;
        returns(&cluster, 1, PATIENCE)
    });
    step("another address replaces it, none takes it away", || {
        cluster.run(&["cluster", "modify", "--master-ip", "10.77.0.101", "--master-netmask", "24"])?;
        only_on(&cluster, "10.77.0.101", &[0])?;
        only_on(&cluster, ADDRESS, &[])?;
        cluster.run(&["cluster", "modify", "--master-ip", ""])?;
        only_on(&cluster, "10.77.0.101", &[])
    });
    step("what can't be the cluster's address is refused", || {
        for (wrong, why) in
            [(&net.address(1), "can't be the address of a node"), (&"224.0.0.1".to_owned(), "no address")]
        {
            let (_, said) = cluster.refused(&["cluster", "modify", "--master-ip", wrong])?;
            ensure!(said.contains(why), "{said}");
        }
        let (_, said) = cluster.refused(&["cluster", "activate-master-ip"])?;
        ensure!(said.contains("gnt-cluster modify --master-ip"), "{said}");
        Ok(())
    });
    step("the cluster is sound", || cluster.run(&["cluster", "verify"]).map(drop));
}

#[test]
fn an_old_master_that_wakes_up_takes_the_address_away_and_never_adds_it() {
    let cluster = cluster();
    let net = cluster.net().expect("a network");
    step("all nodes have copies that count, the master the address", || {
        copies(&cluster, 3)?;
        only_on(&cluster, ADDRESS, &[0])
    });
    let seen = net.monitor(0, &cluster.dir().join("addresses")).expect("ip monitor");
    let mut old = Vec::new();
    step("the master stands still, another takes over", || {
        old = process::with_root(&cluster.nodes[0].root);
        for (pid, _) in &old {
            process::signal(*pid, Signal::SIGSTOP).ok();
        }
        fail_over(&cluster, 1)?;
        only_on(&cluster, ADDRESS, &[0, 1])
    });
    step("it wakes up, takes the address away and steps down", || {
        for (pid, _) in &old {
            process::signal(*pid, Signal::SIGCONT).ok();
        }
        only_on(&cluster, ADDRESS, &[1])?;
        wait::until("the old master's daemons end", PATIENCE, || {
            let gone = |daemon: &&str| cluster.nodes[0].pid(daemon).is_none();
            ["luxid", "wconfd", "overseer"].iter().all(gone).then_some(())
        })?;
        returns(&cluster, 0, PATIENCE)
    });
    step("it went once, and never came back", || {
        let events = wait::until("the change to be told", PATIENCE, || {
            seen.of(ADDRESS).ok().filter(|events| !events.is_empty())
        })?;
        ensure!(events == [false], "{events:?}");
        only_on(&cluster, ADDRESS, &[1])
    });
    step("a node that stops for good takes it away", || {
        let boot = cluster.nodes[1].pid("boot").expect("a boot");
        process::signal(boot, Signal::SIGTERM)?;
        only_on(&cluster, ADDRESS, &[])
    });
}

#[test]
fn what_the_address_needs_never_stops_a_failover() {
    let cluster = cluster();
    step("all nodes have copies that count, the master the address", || {
        copies(&cluster, 3)?;
        only_on(&cluster, ADDRESS, &[0])
    });
    let forbids =
        put_hook(&cluster.nodes[1], "master-ip-turnup-pre.d", "no", "echo not here; exit 1").expect("put");
    step("a hook keeps the address from the next master, and no failover", || {
        fail_over(&cluster, 1)?;
        copies(&cluster, 3)?;
        only_on(&cluster, ADDRESS, &[])?;
        let (_, said) = cluster.refused(&["cluster", "activate-master-ip"])?;
        ensure!(said.contains("not here"), "{said}");
        let log = cluster.nodes[1].root.join("var/log/gantry/wconfd.log");
        wait::until("its log to say why", PATIENCE, || {
            std::fs::read_to_string(&log).ok()?.contains("not here").then_some(())
        })
    });
    step("without that hook it comes by itself", || {
        std::fs::remove_file(&forbids)?;
        only_on(&cluster, ADDRESS, &[1])
    });
    step("a device that is not there neither", || {
        cluster.run(&["cluster", "modify", "--master-netdev", "nosuch0"])?;
        only_on(&cluster, ADDRESS, &[])?;
        fail_over(&cluster, 2)?;
        copies(&cluster, 3)?;
        let (_, said) = cluster.refused(&["cluster", "activate-master-ip"])?;
        ensure!(said.contains("nosuch0"), "{said}");
        cluster.run(&["cluster", "modify", "--master-netdev", DEVICE])?;
        only_on(&cluster, ADDRESS, &[2])
    });
    step("an address that somebody else put on the machine is left alone", || {
        let foreign = "10.77.0.102";
        let net = cluster.net()?;
        net.add(2, foreign)?;
        cluster.run(&["cluster", "modify", "--master-ip", foreign])?;
        only_on(&cluster, ADDRESS, &[])?;
        let (_, said) = cluster.refused(&["cluster", "activate-master-ip"])?;
        ensure!(said.contains("not by Gantry"), "{said}");
        fail_over(&cluster, 0)?;
        only_on(&cluster, foreign, &[0, 2])?;
        let (_, said) = cluster.refused(&["cluster", "verify"])?;
        let third = format!("{}: it has the cluster's address {foreign}", cluster.nodes[2].name);
        ensure!(said.contains(&third), "{said}");
        cluster.net()?.remove(2, foreign)?;
        cluster.run(&["cluster", "verify"])?;
        // Somebody takes it from the master: told, until the master has looked again.
        cluster.run(&["cluster", "modify", "--master-netdev", "nosuch0"])?;
        wait::until("verify to tell that it is not there", PATIENCE, || {
            let (_, said) = cluster.refused(&["cluster", "verify"]).ok()?;
            (said.contains("is not there") && said.contains("nosuch0")).then_some(())
        })
    });
}
