//! ConfD on a cluster of three candidates: Ganeti's own Python client, unmodified, asks every type; answers while two of
//! three are down, the master among them; the newest answer wins over that of a copy that stayed behind; keys are renewed,
//! forms are switched off.

use crate::{cluster, step, stock_confd};
use anyhow::{Context, Result, ensure};
use gantry_tests::foreign::python;
use gantry_tests::{Node, VirtualCluster, process, rest, wait};
use nix::sys::signal::Signal;
use std::fs;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
const INSTANCE: &str = "inst1.gantry.test";
const PORT: &str = "1814";

#[test]
fn confd_answers_as_long_as_one_candidate_is_there() {
    let cluster = cluster(3);
    step("all three are candidates and answer", || cluster.nodes.iter().try_for_each(serves));
    step("something to ask about", || instance(&cluster));
    step("every type by Ganeti's client", || ganeti(&cluster, INSTANCE, 0, &all(&cluster)).map(drop));
    step("and by Gantry's", || own(&cluster));
    step("a stock ganeti-confd answers the same", || stock_confd::same(&cluster, INSTANCE));
    step("verify names who asked in Ganeti's form", || {
        let said = cluster.run(&["cluster", "verify"])?;
        let wanted = format!(
            "WARNING: node {}: ConfD is asked in Ganeti's form (SHA-1) by 127.",
            cluster.nodes[1].name
        );
        ensure!(said.contains(&wanted), "{said}");
        Ok(())
    });
    step("the newest answer wins", || stale(&cluster));
    step("a renewed key", || renewed(&cluster));
    step("a form that is switched off", || digest(&cluster));
    step("a node that is no candidate runs none", || demoted(&cluster));
    step("killed, it comes back", || {
        cluster.restart(1, "rconfd")?;
        serves(&cluster.nodes[1])
    });
    step("two of three are down, the master too", || {
        cluster.kill_node(0)?;
        cluster.kill_node(1)?;
        ganeti(&cluster, INSTANCE, 2, &all(&cluster)).map(drop)?;
        let said = cluster.run_on(2, &["debug", "confd", "master"])?;
        ensure!(said.contains("node1.gantry.test"), "{said}");
        Ok(())
    });
    step("all come back", || {
        cluster.boot(0)?;
        cluster.boot(1)?;
        cluster.nodes.iter().try_for_each(serves)?;
        rest::reached(&cluster, PATIENCE)
    });
}

fn all(cluster: &VirtualCluster) -> Vec<String> {
    cluster.nodes.iter().map(|node| node.address.clone()).collect()
}

/// Waits until a node's ConfD says it is well.
fn serves(node: &Node) -> Result<()> {
    let what = format!("rconfd of {} serves", node.name);
    wait::until(&what, PATIENCE, || node.pid("rconfd"))?;
    let log = node.root.join("var/log/gantry/rconfd.log");
    wait::until(&what, PATIENCE, || {
        fs::read_to_string(&log).ok()?.contains("read the configuration").then_some(())
    })
}

/// A NIC has an address on the default link.
fn instance(cluster: &VirtualCluster) -> Result<()> {
    let master = cluster.master().name.clone();
    let net = "0:ip=198.51.100.7";
    cluster.run(&[
        "instance",
        "add",
        "-t",
        "diskless",
        "-o",
        "noop",
        "--net",
        net,
        "-B",
        "memory=64",
        "-n",
        &master,
        INSTANCE,
    ])?;
    // Its last change is in no serial of the cluster's: until every ConfD has read it, answers of the same serial differ.
    wait::until("all candidates say the same of it", PATIENCE, || {
        ganeti(cluster, INSTANCE, 0, &all(cluster)).map(drop).ok()
    })
}

fn ganeti(cluster: &VirtualCluster, instance: &str, down: usize, peers: &[String]) -> Result<String> {
    let key = cluster.nodes[2].root.join("var/lib/gantry/hmac.key").display().to_string();
    let down = down.to_string();
    let mut args = vec![key.as_str(), PORT, cluster.master().name.as_str(), instance, down.as_str()];
    args.extend(peers.iter().map(String::as_str));
    let said = python("confd.py", &args)?;
    eprint!("    {said}");
    Ok(said)
}

fn own(cluster: &VirtualCluster) -> Result<()> {
    for (asked, wanted) in [
        (&["ping"][..], "3000000"),
        (&["node-role", "node2"], "1"),
        (&["node-by-instance-ip", "198.51.100.7"], cluster.master().address.as_str()),
        (&["candidate-ips"], cluster.nodes[2].address.as_str()),
        (&["instances", "node1"], INSTANCE),
        (&["config", "/cluster/cluster_name"], "cluster.gantry.test"),
        (&["collectors"], "cpu-avg-load"),
        (&["pools"], "[]"),
        (&["leases"], "[]"),
        (&["master", "--digest", "sha1"], "node1.gantry.test"),
    ] {
        let said = cluster.run_on(2, &[&["debug", "confd"], asked].concat())?;
        ensure!(said.contains(wanted), "{asked:?} does not say {wanted}: {said}");
    }
    let (code, said) = cluster.refused(&["debug", "confd", "config", "/cluster/nosuch"])?;
    ensure!(code == 1 && said.contains("nothing at that place"), "{said}");
    for (asked, wanted) in [
        (&["slots"][..], "slots wants the name of a pool"),
        (&["config", "cluster"], "config wants a JSON pointer"),
        (&["ping", "x"], "ping wants no query, not 'x'"),
        (&["pools", "--digest", "sha1"], "no type pools in the form plj0"),
    ] {
        let (_, said) = cluster.refused(&[&["debug", "confd"], asked].concat())?;
        ensure!(said.contains(wanted), "{asked:?} is not explained by {wanted:?}: {said}");
    }
    let (code, said) = cluster.refused(&["debug", "confd", "nosuch"])?;
    ensure!(code == 2 && said.contains("candidate-ips"), "{said}");
    Ok(())
}

/// A candidate whose noded stands still keeps an old copy: it answers with a lower serial, and is not believed.
fn stale(cluster: &VirtualCluster) -> Result<()> {
    let noded = cluster.nodes[2].pid("noded").context("noded of the third")?;
    process::signal(noded, Signal::SIGSTOP)?;
    let work = || -> Result<()> {
        cluster.run(&["cluster", "modify", "--mac-prefix", "aa:00:02"])?;
        let (taken, newest) = wait::until("the others have the change, the third has not", PATIENCE, || {
            let said = ganeti(cluster, "-", 0, &all(cluster)).ok()?;
            let numbers: Vec<u64> =
                said.split([' ', ',', '\n']).filter_map(|word| word.parse().ok()).collect();
            let [low, middle, high, taken] = numbers.as_slice() else { return None };
            (low < middle && middle == high).then_some((*taken, *high))
        })?;
        ensure!(taken == newest, "Ganeti's client took serial {taken}, the newest is {newest}");
        let said = cluster.run_on(2, &["debug", "confd", "config", "/cluster/mac_prefix"])?;
        ensure!(said.contains("aa:00:02"), "an old answer was taken: {said}");
        Ok(())
    };
    let done = work();
    process::signal(noded, Signal::SIGCONT)?;
    done?;
    wait::until("the third has it too", PATIENCE, || {
        let said = ganeti(cluster, "-", 0, &all(cluster)).ok()?;
        let mut serials: Vec<&str> = said.split_whitespace().skip(1).take(3).collect();
        serials.iter_mut().for_each(|serial| *serial = serial.trim_end_matches(','));
        serials.windows(2).all(|pair| pair[0] == pair[1]).then_some(())
    })
}

fn renewed(cluster: &VirtualCluster) -> Result<()> {
    let path = cluster.nodes[2].root.join("var/lib/gantry/hmac.key");
    let before = fs::read(&path)?;
    cluster.run(&["cluster", "renew-crypto", "-f", "--new-confd-hmac-key"])?;
    ensure!(fs::read(&path)? != before, "another key");
    wait::until("the new key is known everywhere", PATIENCE, || ganeti(cluster, "-", 0, &all(cluster)).ok())?;
    // A client elsewhere has the old one still.
    let old = cluster.dir().join("old.key");
    fs::write(&old, before)?;
    let mut args = vec![
        old.display().to_string(),
        PORT.to_owned(),
        cluster.master().name.clone(),
        "-".to_owned(),
        "0".to_owned(),
    ];
    args.extend(all(cluster));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    python("confd.py", &args).context("with the old key")?;
    Ok(())
}

fn digest(cluster: &VirtualCluster) -> Result<()> {
    let modify = |digest: &str| cluster.run(&["cluster", "modify", "--confd-digest", digest]);
    modify("sha256")?;
    wait::until("nobody answers the legacy form", PATIENCE, || {
        let refused = cluster.refused(&["debug", "confd", "--digest", "sha1", "ping"]).ok()?;
        refused.1.contains("plj0").then_some(())
    })?;
    let said = cluster.run_on(2, &["debug", "confd", "ping"])?;
    ensure!(said.contains("3000000"), "{said}");
    let (_, said) = cluster.refused(&["cluster", "modify", "--confd-digest", "sha1"])?;
    ensure!(said.contains("set it to both first"), "{said}");
    modify("both")?;
    wait::until("the legacy form is answered again", PATIENCE, || ganeti(cluster, "-", 0, &all(cluster)).ok())
        .map(drop)
}

fn demoted(cluster: &VirtualCluster) -> Result<()> {
    let name = cluster.nodes[2].name.clone();
    cluster.run(&["cluster", "modify", "-C", "2"]).ok();
    cluster.run(&["node", "modify", "-C", "no", &name])?;
    wait::until("its rconfd ends", PATIENCE, || cluster.nodes[2].pid("rconfd").is_none().then_some(()))?;
    let said = cluster.run_on(2, &["debug", "confd", "candidate-ips"])?;
    ensure!(
        !said.contains(&cluster.nodes[2].address),
        "a client on any node is answered by those that are: {said}"
    );
    cluster.run(&["cluster", "modify", "-C", "10"])?;
    cluster.run(&["node", "modify", "-C", "yes", &name]).ok();
    wait::until("it is a candidate again", PATIENCE, || {
        let said = cluster.run(&["debug", "confd", "candidate-ips"]).ok()?;
        said.contains(&cluster.nodes[2].address).then_some(())
    })?;
    wait::until("its rconfd is back", PATIENCE, || cluster.nodes[2].pid("rconfd")).map(drop)?;
    wait::until("and has the configuration", PATIENCE, || ganeti(cluster, "-", 0, &all(cluster)).ok())
        .map(drop)
}
