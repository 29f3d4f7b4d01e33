//! A network that is cut between living nodes, on which each side goes on. What one side does is refused by the other as soon
//! as it hears of it, and what was acknowledged on either stays.

use super::load::Load;
use super::{AWAY_FROM_SILENT, JOBS, PATIENCE, TAGS, copies, returns};
use crate::step;
use anyhow::{Context, Result, ensure};
use gantry_tests::net::{DEVICE, Net};
use gantry_tests::{Options, Random, VirtualCluster, bounded, process, wait};
use nix::sys::signal::Signal;
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Instant;

/// The cluster's address, beside those of the nodes.
const ADDRESS: &str = "10.77.0.100";

/// Which way is cut between a node and another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Neither hears the other.
    Both,
    /// What the node says is lost.
    Mute,
    /// What is said to it is lost.
    Deaf,
}

impl Way {
    /// The lost directions, of (from, to).
    fn lost(self, node: usize, others: &[usize]) -> Vec<(usize, usize)> {
        let (out, back) = (self != Self::Deaf, self != Self::Mute);
        let out = others.iter().filter(move |_| out).map(|other| (node, *other));
        out.chain(others.iter().filter(move |_| back).map(|other| (*other, node))).collect()
    }
}

fn cut(net: &Net, lost: &[(usize, usize)]) -> Result<()> {
    lost.iter().try_for_each(|(from, to)| net.cut(*from, *to))
}

fn heal(net: &Net, lost: &[(usize, usize)]) -> Result<()> {
    lost.iter().try_for_each(|(from, to)| net.heal(*from, *to))
}

fn others(node: usize) -> [usize; 2] {
    [(node + 1) % 3, (node + 2) % 3]
}

/// Waits until so much more is acknowledged.
fn enough(load: &Load) -> Result<()> {
    let before = load.count();
    wait::until("enough is acknowledged", PATIENCE, || {
        let now = load.count();
        (now.0 >= before.0 + JOBS && now.1 >= before.1 + TAGS).then_some(())
    })
}

/// The master is cut from both others in the midst of work, and one of them takes over while the old master lives.
#[test]
fn a_master_that_is_cut_off_is_replaced_and_nothing_is_lost() {
    let mut random = Random::from_env("a network that is cut");
    let options = Options::on_net(3).expect("a network of its own: root and iproute2");
    let cluster = VirtualCluster::start(&options).expect("the cluster starts");
    let net = cluster.net().expect("a network");
    let load = Load::default();
    let mut master = 0;
    step("all nodes have copies that count", || copies(&cluster, 3));
    let one_way = *random.of(&[Way::Mute, Way::Deaf]);
    for (round, way) in [(1, Way::Both), (2, one_way)] {
        let next = *random.of(&others(master));
        let lost = way.lost(master, &others(master));
        step(
            &format!("round {round}: node {} is cut ({way:?}), node {} takes over", master + 1, next + 1),
            || {
                let mut then = (0, 0);
                load.blow(&cluster, round, || {
                    enough(&load)?;
                    cut(net, &lost)?;
                    let began = Instant::now();
                    let said = cluster.run_on(next, &["cluster", "master-failover"])?;
                    let took = began.elapsed();
                    eprintln!("the failover took {took:?}");
                    ensure!(said.contains("is the master now"), "{said}");
                    ensure!(took < AWAY_FROM_SILENT, "it took {took:?}: {said}");
                    then = load.count();
                    Ok(())
                })?;
                ensure!(
                    load.count() == then,
                    "the old master has acknowledged {then:?} to {:?}",
                    load.count()
                );
                Ok(())
            },
        );
        step("the old master does not believe itself, and takes nothing", || {
            // With one way open it may know already, and have stepped down.
            for args in [["cluster", "master-ping"].as_slice(), &["cluster", "add-tags", "late"]] {
                let said = bounded::output(&mut cluster.command_on(master, args))?;
                ensure!(!said.status.success(), "{args:?} on the old master succeeded");
            }
            cluster.led_by(next);
            let tags = cluster.run(&["cluster", "list-tags"])?;
            ensure!(!tags.contains("late"), "{tags}");
            Ok(())
        });
        step("its backup says that nobody knows, or is refused", || {
            let dir = cluster.dir().join(format!("cut{round}"));
            let output = bounded::output(
                &mut cluster.command_on(master, &["cluster", "backup", &dir.to_string_lossy()]),
            )?;
            let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
            let warned =
                output.status.success() && said[0].contains("no majority of the candidates confirms");
            // With one way open it may know already.
            let refused = !output.status.success() && said[1].contains("this node is not the master");
            ensure!(warned || (refused && way != Way::Both), "{said:?}");
            Ok(())
        });
        step("everything acknowledged is there, and more is taken", || {
            load.is_there(&cluster)?;
            cluster.run(&["cluster", "add-tags", &format!("after{round}")]).map(drop)
        });
        step("the network is whole again: the old master is a candidate", || {
            heal(net, &lost)?;
            returns(&cluster, master, PATIENCE)?;
            let role = std::fs::read_to_string(cluster.nodes[master].root.join("var/lib/gantry/role.json"))?;
            ensure!(role.contains("candidate"), "{role}");
            load.is_there(&cluster)
        });
        master = next;
    }
    step("the cluster is sound", || cluster.run(&["cluster", "verify"]).map(drop));
}

/// One candidate of two is not reached, both ways, one way, the other way: the master goes on with the other, and the one
/// that was cut catches up.
#[test]
fn candidates_that_are_cut_off_hold_nobody_up() {
    let mut random = Random::from_env("candidates that are cut off");
    let options = Options::on_net(3).expect("a network of its own: root and iproute2");
    let cluster = VirtualCluster::start(&options).expect("the cluster starts");
    let net = cluster.net().expect("a network");
    let load = Load::default();
    step("all nodes have copies that count", || copies(&cluster, 3));
    for (round, way) in [(1, Way::Both), (2, Way::Mute), (3, Way::Deaf)] {
        let victim = 1 + random.below(2);
        // From the master, or from everybody.
        let from = if random.below(2) == 0 { vec![0] } else { others(victim).to_vec() };
        let lost = way.lost(victim, &from);
        step(&format!("node {} is cut from {from:?} ({way:?}), work goes on", victim + 1), || {
            load.blow(&cluster, round, || {
                enough(&load)?;
                cut(net, &lost)?;
                enough(&load)
            })
        });
        step("it catches up", || {
            heal(net, &lost)?;
            copies(&cluster, 3)?;
            load.is_there(&cluster)
        });
    }
    step("nobody else has become the master", || {
        let said = cluster.run(&["cluster", "getmaster"])?;
        ensure!(said.trim() == cluster.nodes[0].name, "{said}");
        cluster.run(&["cluster", "verify"]).map(drop)
    });
}

/// A master that nobody hears, before and after it was replaced: what nobody could refuse afterwards, hooks and the cluster's
/// address, it leaves alone, though its own noded would obey (P1.10).
#[test]
fn a_master_that_is_cut_off_runs_no_hooks_and_adds_no_address() {
    let options = Options::on_net(3).expect("a network of its own: root and iproute2");
    let init = ["--master-ip", ADDRESS, "--master-netdev", DEVICE].map(str::to_owned).to_vec();
    let cluster = VirtualCluster::start(&Options { init, ..options }).expect("the cluster starts");
    let net = cluster.net().expect("a network");
    let (old, lost) = (cluster.nodes[0].clone(), Way::Both.lost(0, &others(0)));
    let ran = cluster.dir().join("ran");
    let mut delay = None;
    step("all nodes have copies that count, the master the address", || {
        copies(&cluster, 3)?;
        wait::until("the address", PATIENCE, || net.has(0, ADDRESS).ok()?.then_some(()))
    });
    step("a job is about to run hooks on the master only", || {
        cluster.run(&["group", "add", "alone"])?;
        cluster.run(&["group", "assign-nodes", "alone", &old.name])?;
        let hooks = old.root.join("etc/gantry/hooks/cluster-verify-post.d");
        std::fs::create_dir_all(&hooks)?;
        std::fs::write(hooks.join("note"), format!("#!/bin/sh\necho >> {}\n", ran.display()))?;
        std::fs::set_permissions(hooks.join("note"), PermissionsExt::from_mode(0o755))?;
        cluster.run(&["cluster", "verify", "--node-group", "alone"])?;
        ensure!(std::fs::read_to_string(&ran)? == "\n", "it runs when all is well");
        let wait = json!({"OP_ID": "OP_TEST_DELAY", "duration": 600.0, "interruptible": true, "reason": []});
        let verify = json!({"OP_ID": "OP_CLUSTER_VERIFY_GROUP", "group_name": "alone", "reason": []});
        cluster.luxi()?.submit(&[wait, verify])?;
        delay = Some(wait::until("its first opcode to run", PATIENCE, || {
            let files = std::fs::read_dir(old.root.join("run/gantry/job")).ok()?.flatten();
            files.map(|file| file.path()).find(|path| path.extension().is_some_and(|end| end == "delay"))
        })?);
        Ok(())
    });
    let mut seen = None;
    step("the network is cut; the job goes on, and noded and the address are lost", || {
        cut(net, &lost)?;
        UnixStream::connect(delay.as_ref().context("a socket")?)?;
        seen = Some(net.monitor(0, &cluster.dir().join("addresses"))?);
        cluster.restart(0, "noded")?;
        net.remove(0, ADDRESS)
    });
    step("another takes over, and has the address", || {
        let said = cluster.run_on(1, &["cluster", "master-failover"])?;
        ensure!(said.contains("is the master now"), "{said}");
        cluster.led_by(1);
        wait::until("the address", PATIENCE, || net.has(1, ADDRESS).ok()?.then_some(()))
    });
    step("the network is whole again", || {
        heal(net, &lost)?;
        returns(&cluster, 0, PATIENCE)?;
        wait::until("the old master's jobs end", PATIENCE, || {
            process::jobs(&old.root).is_empty().then_some(())
        })
    });
    step("no hook ran, and the address never came back", || {
        ensure!(std::fs::read_to_string(&ran)? == "\n", "a hook ran on the master that was cut off");
        let events = seen.as_ref().context("a monitor")?.of(ADDRESS)?;
        ensure!(!events.contains(&true), "{events:?}");
        ensure!(!net.has(0, ADDRESS)?, "it is on the old master");
        let boot = old.pid("boot").context("a boot")?;
        process::signal(boot, Signal::SIGTERM)
    });
}
