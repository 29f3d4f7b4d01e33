//! `gnt-cluster renew-crypto` with whole nodes (docs/adr/0010): work goes on under it, whatever dies on the way, and who has
//! only the old CA's certificate is refused by everyone in the end.

use super::crash::{armed, boot, start, take_over, until_done};
use super::{PATIENCE, copies};
use crate::{cluster, step};
use anyhow::{Context, Result, ensure};
use gantry_rpc::tls::{CA_PEM, Identity, NODE_KEY, NODE_PEM};
use gantry_rpc::{Client, Hello};
use gantry_tests::{VirtualCluster, bounded, process, wait};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::process::{Child, Stdio};

const RENEW: [&str; 4] = ["cluster", "renew-crypto", "--force", "--new-cluster-certificate"];

/// Points of a renewal: which node's daemon comes by (0: the master), and the point.
const POINTS: [(usize, &str); 10] = [
    (0, "renew-ca-made"),
    (0, "renew-trust-grown"),
    (1, "renew-trust-grown"),
    (1, "renew-key-stored"),
    (0, "renew-key-stored"),
    (0, "renew-signed"),
    (0, "renew-certificate-stored"),
    (2, "renew-certificate-stored"),
    (0, "renew-trust-alone"),
    (2, "renew-trust-alone"),
];

/// What the nodes say of their certificates.
fn crypto(cluster: &VirtualCluster) -> Result<Value> {
    cluster.luxi()?.call("QueryCrypto", json!([]))
}

/// The CA of the master.
fn ca(cluster: &VirtualCluster) -> Result<String> {
    let said = crypto(cluster)?;
    let name = &cluster.master().name;
    let nodes = said["nodes"].as_array().context("nodes")?;
    let master = nodes.iter().find(|node| node["name"] == **name).context("the master")?;
    Ok(master["key"].as_str().with_context(|| said.to_string())?.to_owned())
}

/// All nodes are of one CA and trust no other; no renewal is under way, and everything is well.
fn settled(cluster: &VirtualCluster, candidates: usize) -> Result<()> {
    let (ca, said) = (ca(cluster)?, crypto(cluster)?);
    ensure!(said["wanted"].is_null(), "{said}");
    for node in said["nodes"].as_array().context("nodes")? {
        let trust = node["trust"].as_array().map(Vec::as_slice).unwrap_or_default();
        let alone = trust.len() == 1 && trust[0]["print"] == *ca && node["issuer"] == *ca;
        ensure!(alone && (node["candidate"] == false || node["key"] == *ca), "{ca}: {node}");
    }
    for node in &cluster.nodes {
        let secrets = node.root.join("var/lib/gantry/secrets");
        ensure!(!secrets.join("next-ca.key").exists(), "{}: next-ca.key is left", node.name);
        // A node that has joined since has its key there.
        let beside = fs::read_to_string(secrets.join(NODE_PEM))?.contains("PRIVATE KEY");
        ensure!(!beside || !secrets.join(NODE_KEY).exists(), "{}: {NODE_KEY} is left", node.name);
    }
    copies(cluster, candidates)?;
    cluster.run(&["cluster", "verify"]).map(drop)
}

fn delay(nodes: &[&str], seconds: f64) -> Value {
    json!({"OP_ID": "OP_TEST_DELAY", "duration": seconds, "on_master": false, "on_nodes": nodes, "no_locks": true, "reason": []})
}

/// Every node does the work of jobs, by new connections; a daemon that died is started anew meanwhile.
fn works(cluster: &VirtualCluster, without: &[usize]) -> Result<()> {
    let all = cluster.nodes.iter().enumerate().filter(|(number, _)| !without.contains(number));
    let names: Vec<&str> = all.map(|(_, node)| node.name.as_str()).collect();
    let mut luxi = cluster.luxi()?;
    wait::until(&format!("a job on {names:?} succeeds"), PATIENCE, || {
        let job = luxi.submit(&[delay(&names, 0.0)]).ok()?;
        (luxi.wait(job, PATIENCE).ok()? == "success").then_some(())
    })
}

/// Runs a renewal in the background.
fn begin(cluster: &VirtualCluster, node: usize) -> Result<Child> {
    let mut command = cluster.command_on(node, &RENEW);
    Ok(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

/// Whether a node lets in who shows this certificate. `trust`: by which the caller believes the node.
fn lets_in(cluster: &VirtualCluster, number: usize, own: &Own, trust: &str) -> Result<bool> {
    let identity = Identity::from_pem(&own.certificate, &own.key, trust)?;
    let role = fs::read(cluster.nodes[number].root.join("var/lib/gantry/role.json"))?;
    let role: gantry_model::role::RoleFile = serde_json::from_slice(&role)?;
    let address =
        format!("{}:{}", cluster.nodes[number].address, gantry_model::config::NODED_PORT).parse()?;
    let hello = Hello::new(gantry_proto::noded::PROTOCOL, "gantry-job");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(Client::tls(address, &hello, &identity, role.node)).is_ok())
}

/// A node's certificate and key.
struct Own {
    certificate: String,
    key: String,
}

/// A node's own, wherever its key lies.
fn own(cluster: &VirtualCluster, number: usize) -> Result<Own> {
    let certificate = secret(cluster, number, NODE_PEM)?;
    let key = match certificate.find("-----BEGIN PRIVATE KEY") {
        Some(at) => certificate[at..].to_owned(),
        None => secret(cluster, number, NODE_KEY)?,
    };
    Ok(Own { certificate, key })
}

fn secret(cluster: &VirtualCluster, number: usize, name: &str) -> Result<String> {
    let path = cluster.nodes[number].root.join("var/lib/gantry/secrets").join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

#[test]
fn the_ca_is_renewed_under_work_and_the_old_one_is_refused() {
    let cluster = cluster(3);
    step("all nodes have copies that count", || copies(&cluster, 3));
    let stolen = |number| -> Result<Own> {
        Ok(Own { certificate: secret(&cluster, number, NODE_PEM)?, key: secret(&cluster, number, NODE_KEY)? })
    };
    let (own, before) = (stolen(1).expect("read"), ca(&cluster).expect("asked"));
    step("what was stolen works", || {
        for number in 0..3 {
            ensure!(lets_in(&cluster, number, &own, &secret(&cluster, 0, CA_PEM)?)?, "node {number}");
        }
        Ok(())
    });
    let names: Vec<&str> = cluster.nodes.iter().map(|node| node.name.as_str()).collect();
    step("a long job goes on, and connects anew afterwards", || {
        let mut luxi = cluster.luxi()?;
        let job = luxi.submit(&[delay(&names[1..2], 8.0), delay(&names[2..3], 0.0)])?;
        wait::until("it runs", PATIENCE, || (luxi.status(job).ok()? == "running").then_some(()))?;
        let said = cluster.run(&RENEW)?;
        for name in &names {
            ensure!(said.contains(&format!("{name}: trusts the new CA alone")), "{said}");
        }
        ensure!(luxi.status(job)? == "running", "the job ended before the renewal: this test shows nothing");
        ensure!(luxi.wait(job, PATIENCE)? == "success");
        settled(&cluster, 3)
    });
    step("the old CA's certificate is refused by everyone", || {
        let after = ca(&cluster)?;
        ensure!(after != before, "it is the same CA");
        for number in 0..3 {
            ensure!(!lets_in(&cluster, number, &own, &secret(&cluster, 0, CA_PEM)?)?, "node {number}");
        }
        let info = cluster.run(&["cluster", "info"])?;
        ensure!(info.contains(&after) && info.contains("Renewal under way: (none)"), "{info}");
        Ok(())
    });
    step("new certificates of the same CA", || {
        let (certificate, of) = (secret(&cluster, 2, NODE_PEM)?, ca(&cluster)?);
        cluster.run(&["cluster", "renew-crypto", "-f", "--new-node-certificates"])?;
        ensure!(certificate != secret(&cluster, 2, NODE_PEM)? && of == ca(&cluster)?, "nothing was renewed");
        settled(&cluster, 3)
    });
    step("a new key of confd is on all nodes", || {
        let keys = || -> Result<Vec<String>> {
            let read = |node: &gantry_tests::Node| {
                Ok(fs::read_to_string(node.root.join("var/lib/gantry/hmac.key"))?)
            };
            cluster.nodes.iter().map(read).collect()
        };
        let before = keys()?;
        cluster.run(&["cluster", "renew-crypto", "-f", "--new-confd-hmac-key"])?;
        let after = keys()?;
        ensure!(before[0] != after[0] && after.iter().all(|key| *key == after[0]), "{before:?} {after:?}");
        ensure!(before.iter().all(|key| *key == before[0]), "who joins gets it: {before:?}");
        // One that lost it is found, and gets it again.
        fs::remove_file(cluster.nodes[2].root.join("var/lib/gantry/hmac.key"))?;
        let (_, said) = cluster.refused(&["cluster", "verify"])?;
        ensure!(said.contains("hmac.key"), "{said}");
        cluster.run(&["cluster", "redist-conf"])?;
        ensure!(keys()? == after);
        settled(&cluster, 3)
    });
    step("who becomes a candidate gets it", || {
        cluster.run(&["node", "modify", "-C", "no", names[2]])?;
        let path = cluster.nodes[2].root.join("var/lib/gantry/hmac.key");
        let before = fs::read_to_string(&path)?;
        fs::remove_file(&path)?;
        cluster.run(&["node", "modify", "-C", "yes", names[2]])?;
        ensure!(fs::read_to_string(&path)? == before);
        settled(&cluster, 3)
    });
    step("the next master signs by the new CA", || {
        cluster.run_on(1, &["cluster", "master-failover"])?;
        cluster.led_by(1);
        copies(&cluster, 3)?;
        cluster.run(&["node", "remove", names[2]])?;
        let path = cluster.nodes[2].root.join("var/lib/gantry/join-secret");
        wait::until("a join secret", PATIENCE, || path.exists().then_some(()))?;
        let (path, address) = (path.to_string_lossy(), &cluster.nodes[2].address);
        cluster.run(&["node", "add", "--join-secret-file", &path, "--node-ip", address, names[2]])?;
        settled(&cluster, 3)
    });
    step("what makes no sense is refused with the reason", || {
        for (args, word) in [
            (&[][..], "--new-cluster-certificate"),
            (&["--new-spice-certificate"], "SPICE"),
            (&["--new-rapi-certificate"], "remote API"),
        ] {
            let (code, said) = cluster.refused(&[&["cluster", "renew-crypto", "-f"], args].concat())?;
            ensure!(code == 2 && said.contains(word), "{code}: {said}");
        }
        Ok(())
    });
}

/// Begins a renewal on the first node, the master. At the point the daemon of `node` dies, and then the job, which waits for it;
/// all copies count again when this returns.
fn dies_at(cluster: &VirtualCluster, node: usize, point: &str) -> Result<()> {
    let armed = armed(cluster, node, point);
    fs::write(&armed, "")?;
    let mut child = begin(cluster, 0)?;
    let fired = wait::until("the point is come by", PATIENCE, || (!armed.exists()).then_some(()));
    for job in process::jobs(&cluster.nodes[0].root) {
        process::signal(job.pid, Signal::SIGKILL).ok();
    }
    bounded::end(&mut child)?;
    fired?;
    copies(cluster, 3)
}

/// A daemon dies at each point, and the job with it; the cluster works, and the same command goes on.
#[test]
fn a_renewal_whose_job_dies_anywhere_is_gone_on_with() {
    let cluster = start();
    for (node, point) in POINTS {
        step(&format!("{point} on node {}", node + 1), || {
            let before = ca(&cluster)?;
            dies_at(&cluster, node, point)?;
            works(&cluster, &[])?;
            until_done(&cluster, 0, &RENEW)?;
            ensure!(ca(&cluster)? != before, "nothing was renewed");
            settled(&cluster, 3)
        });
    }
}

/// A daemon dies at each point, and the whole master with it; the next one goes on, with another CA if it has not the key.
#[test]
fn a_renewal_that_its_master_does_not_survive_is_gone_on_with_by_the_next() {
    let cluster = start();
    let mut master = 0;
    for (number, point, same) in [
        (0, "renew-ca-made", None),
        (1, "renew-trust-grown", Some(false)),
        (1, "renew-key-stored", Some(true)),
        (2, "renew-certificate-stored", Some(true)),
        (2, "renew-trust-alone", Some(true)),
    ] {
        let next = (master + 1) % 3;
        step(&format!("{point}: node {} takes over", next + 1), || {
            let armed = armed(&cluster, (master + number) % 3, point);
            fs::write(&armed, "")?;
            let mut child = begin(&cluster, master)?;
            let fired = wait::until("the point is come by", PATIENCE, || (!armed.exists()).then_some(()));
            let killed = cluster.kill_node(master);
            bounded::end(&mut child)?;
            fired.and(killed)?;
            boot(&cluster, master)?;
            take_over(&cluster, next)?;
            copies(&cluster, 3)?;
            works(&cluster, &[])?;
            let wanted = crypto(&cluster)?["wanted"].as_str().map(str::to_owned);
            ensure!(wanted.is_some() == same.is_some(), "the intent: {wanted:?}");
            until_done(&cluster, next, &RENEW)?;
            if let (Some(wanted), Some(same)) = (wanted, same) {
                ensure!((ca(&cluster)? == wanted) == same, "from {wanted} to {}", ca(&cluster)?);
            }
            settled(&cluster, 3)
        });
        master = next;
    }
}

#[test]
fn a_node_that_is_down_holds_a_renewal_up_and_nothing_else() {
    let cluster = cluster(3);
    step("all nodes have copies that count", || copies(&cluster, 3));
    let name = cluster.nodes[2].name.clone();
    step("the missing one is named, and what to do", || {
        cluster.kill_node(2)?;
        let (code, said) = cluster.refused(&RENEW)?;
        ensure!(code == 1 && said.contains(&name) && said.contains("gnt-node remove"), "{code}: {said}");
        Ok(())
    });
    step("everything else works, and verify and info tell of it", || {
        works(&cluster, &[2])?;
        cluster.run(&["cluster", "add-tags", "meanwhile"])?;
        let wanted = crypto(&cluster)?["wanted"].as_str().context("an intent")?.to_owned();
        let (_, said) = cluster.refused(&["cluster", "verify"])?;
        ensure!(said.contains(&format!("a renewal to the CA {wanted} is under way")), "{said}");
        let info = cluster.run(&["cluster", "info"])?;
        ensure!(info.contains(&format!("Renewal under way: to the CA {wanted}")), "{info}");
        ensure!(info.contains(&format!("{name}: does not answer")), "{info}");
        let (_, said) = cluster.refused(&["cluster", "renew-crypto", "-f", "--new-node-certificates"])?;
        ensure!(said.contains("--new-cluster-certificate"), "{said}");
        Ok(())
    });
    step("it comes back, and the same command ends", || {
        cluster.boot(2)?;
        copies(&cluster, 3)?;
        let wanted = crypto(&cluster)?["wanted"].as_str().context("an intent")?.to_owned();
        until_done(&cluster, 0, &RENEW)?;
        ensure!(ca(&cluster)? == wanted, "it began again");
        settled(&cluster, 3)
    });
    step("one marked offline holds it up until it is removed, and is refused then", || {
        let left = own(&cluster, 2)?;
        cluster.run(&["node", "modify", "-O", "yes", &name])?;
        let (_, said) = cluster.refused(&RENEW)?;
        ensure!(said.contains(&name) && said.contains("marked offline"), "{said}");
        cluster.run(&["node", "remove", &name])?;
        let trust = secret(&cluster, 0, CA_PEM)?;
        ensure!(lets_in(&cluster, 1, &left, &trust)?, "until all others are of the new CA");
        cluster.run(&RENEW)?;
        let trust = secret(&cluster, 0, CA_PEM)?;
        for number in 0..2 {
            ensure!(!lets_in(&cluster, number, &left, &trust)?, "node {}", number + 1);
        }
        settled(&cluster, 2)
    });
}

/// A backup made in the midst of a renewal, whatever step it is at: what is restored from it trusts all nodes and is trusted by
/// them, has confd's key, and goes on with the renewal.
#[test]
fn a_backup_of_a_renewal_under_way_restores_to_a_cluster_that_works() {
    let cluster = start();
    let hmac = || fs::read_to_string(cluster.nodes[0].root.join("var/lib/gantry/hmac.key"));
    for (node, point) in [
        (0, "renew-trust-grown"),
        (1, "renew-key-stored"),
        (0, "renew-key-stored"),
        (0, "renew-certificate-stored"),
        (2, "renew-trust-alone"),
    ] {
        let at = cluster.dir().join(format!("{point}-{node}")).to_string_lossy().into_owned();
        let key = hmac().expect("confd's key");
        step(&format!("a backup at {point} of node {}", node + 1), || {
            dies_at(&cluster, node, point)?;
            cluster.run(&["cluster", "backup", &at]).map(drop)
        });
        step("the master's disk is lost; it is restored", || {
            cluster.kill_node(0)?;
            fs::remove_dir_all(cluster.nodes[0].root.join("var/lib/gantry"))?;
            cluster.run(&["cluster", "restore", "--yes-do-it", &at])?;
            ensure!(hmac()? == key, "another hmac.key");
            // With its points, for the next round.
            cluster.kill_node(0)?;
            boot(&cluster, 0)
        });
        step("the others are fed anew, and every node works", || {
            for node in &cluster.nodes[1..] {
                until_done(&cluster, 0, &["node", "modify", "-C", "yes", &node.name])?;
            }
            copies(&cluster, 3)?;
            works(&cluster, &[])
        });
        step("the renewal is gone on with", || {
            until_done(&cluster, 0, &RENEW)?;
            settled(&cluster, 3)
        });
    }
}

/// Nodes that believe only the new CA can't be asked by a certificate of the old one; that is no sign that they are dead.
#[test]
fn a_backup_from_before_a_renewal_is_not_restored_beside_the_living() {
    let cluster = cluster(3);
    let at = cluster.dir().join("old").to_string_lossy().into_owned();
    step("a backup, then a renewal", || {
        copies(&cluster, 3)?;
        cluster.run(&["cluster", "backup", &at])?;
        cluster.run(&RENEW)?;
        settled(&cluster, 3)
    });
    let lib = cluster.nodes[1].root.join("var/lib/gantry");
    let refused = |args: &[&str]| -> Result<String> {
        let before = (fs::read(lib.join("role.json"))?, secret(&cluster, 1, CA_PEM).ok());
        let output = bounded::output(&mut cluster.command_on(1, args))?;
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(!output.status.success() && said.contains("of another CA than the backup"), "{said}");
        ensure!(said.contains(&cluster.nodes[0].name) && said.contains("gantry daemon stop"), "{said}");
        let after = (fs::read(lib.join("role.json"))?, secret(&cluster, 1, CA_PEM).ok());
        ensure!(before == after, "something was changed");
        Ok(said)
    };
    step("on a candidate it is refused, and that the master lives is seen", || {
        let said = refused(&["cluster", "restore", "--look", &at])?;
        ensure!(said.contains("it is master of epoch"), "{said}");
        refused(&["cluster", "restore", "--yes-do-it", &at])?;
        copies(&cluster, 3)
    });
    step("so it is where only the backup's certificate is left", || {
        cluster.kill_node(1)?;
        for name in [NODE_PEM, NODE_KEY, CA_PEM] {
            let _ = fs::remove_file(lib.join("secrets").join(name));
        }
        let said = refused(&["cluster", "restore", "--look", &at])?;
        ensure!(said.contains("lives, and has certificates of another CA"), "{said}");
        ensure!(!said.contains("does not answer"), "{said}");
        refused(&["cluster", "restore", "--yes-do-it", &at]).map(drop)
    });
    step("the master works on", || cluster.run(&["cluster", "add-tags", "after"]).map(drop));
    step("beside the dead it is restored", || {
        cluster.kill_node(0)?;
        cluster.kill_node(2)?;
        let output =
            bounded::output(&mut cluster.command_on(1, &["cluster", "restore", "--yes-do-it", &at]))?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    });
}
