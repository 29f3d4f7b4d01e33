//! Masters die and another node takes over (P1 to P3), with real processes: whatever was acknowledged is there, and an old
//! master that comes back changes nothing.

mod bodies;
mod crash;
mod cut;
mod damage;
mod deaths;
mod flips;
mod gone;
pub mod load;
mod renew;

use crate::{cluster, step};
use anyhow::{Context, Result, ensure};
use gantry_tests::{Luxi, VirtualCluster, bounded, process, wait};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// What is acknowledged of each kind before a master dies, in the midst of more.
const JOBS: usize = 60;
const TAGS: usize = 4;
/// After so long without an answer a copy is silent for sure.
const SILENT_MS: u64 = 5_500;
/// A failover away from a master that says nothing takes 3 to 4 s; with a wait for each step it would be 17.
const AWAY_FROM_SILENT: Duration = Duration::from_secs(10);

#[test]
fn an_old_master_that_wakes_up_changes_nothing() {
    let cluster = cluster(3);
    step("all nodes have copies that count", || copies(&cluster, 3));
    step("a job before", || {
        let op = json!({"OP_ID": "OP_TEST_DELAY", "duration": 0.0, "comment": "early", "reason": []});
        cluster.luxi()?.submit(&[op]).map(drop)
    });
    let mut old: Vec<(u32, String)> = Vec::new();
    // Connected while it was the master; asked while it could not answer.
    let mut asked: Vec<Luxi> = Vec::new();
    step("the master stands still, another takes over", || {
        for _ in 0..20 {
            asked.push(cluster.luxi()?);
        }
        // The process of the job before may end meanwhile.
        old = process::with_root(&cluster.nodes[0].root);
        for (pid, _) in &old {
            process::signal(*pid, Signal::SIGSTOP).ok();
        }
        for (number, luxi) in asked.iter_mut().enumerate() {
            let op = json!({"OP_ID": "OP_TEST_DELAY", "duration": 0.0, "comment": format!("late {number}"), "reason": []});
            let mut text = json!({"method": "SubmitJob", "args": [[op]]}).to_string().into_bytes();
            text.push(gantry_tests::luxi::ETX);
            luxi.send(&text)?;
        }
        let began = Instant::now();
        let said = cluster.run_on(1, &["cluster", "master-failover"])?;
        let took = began.elapsed();
        eprintln!("the failover took {took:?}");
        ensure!(said.contains(&format!("for an answer of {}", cluster.nodes[0].name)), "{said}");
        ensure!(took < AWAY_FROM_SILENT, "it took {took:?}: {said}");
        cluster.led_by(1);
        Ok(())
    });
    step("no backup is made of a master that does not know yet", || {
        let dir = cluster.dir().join("late");
        let output =
            bounded::output(&mut cluster.command_on(0, &["cluster", "backup", &dir.to_string_lossy()]))?;
        let said = String::from_utf8_lossy(&output.stderr);
        let new = &cluster.nodes[1].name;
        ensure!(!output.status.success() && !dir.exists(), "{said}");
        ensure!(
            said.contains("has been replaced") && said.contains(&format!("{new} is the master now")),
            "{said}"
        );
        Ok(())
    });
    step("it wakes up, accepts nothing, and steps down", || {
        for (pid, _) in &old {
            process::signal(*pid, Signal::SIGCONT).ok();
        }
        for luxi in &mut asked {
            // Closed without a word, or refused.
            let Ok(Some(answer)) = luxi.receive() else { continue };
            ensure!(answer["success"] == false, "the old master took a job: {answer}");
        }
        wait::until("the old master's daemons end", PATIENCE, || {
            let gone = |daemon: &&str| cluster.nodes[0].pid(daemon).is_none();
            ["luxid", "wconfd", "overseer"].iter().all(gone).then_some(())
        })?;
        returns(&cluster, 0, PATIENCE)
    });
    step("no late job is in the queue", || {
        let jobs = cluster.luxi()?.call("Query", json!(["job", ["id", "ops"], null]))?;
        ensure!(jobs.to_string().contains("early"), "the job before is lost: {jobs}");
        ensure!(!jobs.to_string().contains("late "), "{jobs}");
        Ok(())
    });
    step("a queue that was drained takes jobs again under the next master", || {
        cluster.run(&["cluster", "queue", "drain"])?;
        cluster.run_on(0, &["cluster", "master-failover"])?;
        cluster.led_by(0);
        let said = cluster.run(&["cluster", "queue", "info"])?;
        ensure!(said == "The drain flag is unset\n", "{said}");
        cluster.run(&["cluster", "verify"]).map(drop)
    });
    step("the new master works on", || {
        copies(&cluster, 3)?;
        cluster.run(&["cluster", "verify"]).map(drop)
    });
}

/// Waits until so many copies of each log count and lack nothing.
pub(crate) fn copies(cluster: &VirtualCluster, count: usize) -> Result<()> {
    let mut last = Value::Null;
    wait::until("all copies to be settled and fed", PATIENCE, || {
        last = cluster.luxi().ok()?.call("QueryMembers", json!([])).ok()?;
        let fed = |log: &str| {
            let copies = last[log].as_array().map(Vec::as_slice).unwrap_or_default();
            let fed =
                |copy: &&Value| copy["lag"] == 0 && copy["suspect"].is_null() && copy["learner"] == false;
            copies.iter().filter(fed).count() == count
        };
        (last["settled"] == true && fed("config") && fed("queue")).then_some(())
    })
    .with_context(|| last.to_string())
}

/// A node that was master is a candidate again and knows the new one.
pub(crate) fn returns(cluster: &VirtualCluster, number: usize, within: Duration) -> Result<()> {
    let name = cluster.master().name.clone();
    let mut said = String::new();
    wait::until("the returned node knows the master", within, || {
        said = cluster.run_on(number, &["cluster", "getmaster"]).ok()?;
        (said.trim() == name).then_some(())
    })
    .with_context(|| format!("it said {said}"))?;
    copies(cluster, cluster.nodes.len())
}

/// Waits until node `number` counts as silent in both logs.
pub(crate) fn silent(cluster: &VirtualCluster, number: usize) -> Result<()> {
    let (name, mut last) = (&cluster.nodes[number].name, Value::Null);
    wait::until("a copy to count as silent", PATIENCE, || {
        last = cluster.luxi().ok()?.call("QueryMembers", json!([])).ok()?;
        let silent = |log: &str| {
            let copies = last[log].as_array().map(Vec::as_slice).unwrap_or_default();
            let own = copies.iter().find(|copy| copy["name"] == **name);
            own.is_some_and(|copy| copy["answered_ms_ago"].as_u64() >= Some(SILENT_MS))
        };
        (silent("config") && silent("queue")).then_some(())
    })
    .with_context(|| last.to_string())
}

/// With one of two silent nothing can be stored, so no job either. The master takes the silent one out without one (P2.6).
#[test]
fn the_silent_one_of_two_is_taken_out_by_the_master() {
    let cluster = cluster(2);
    step("both nodes have copies that count", || copies(&cluster, 2));
    let name = cluster.nodes[1].name.clone();
    let drop = ["cluster", "drop-candidate", "--yes-do-it", &name];
    step("it is a job's work while both answer", || {
        let (_, said) = cluster.refused(&drop)?;
        ensure!(said.contains(&format!("gnt-node modify -C no {name}")), "{said}");
        cluster.run(&["cluster", "add-tags", "before"]).map(|_| ())
    });
    step("without the other nothing is stored, and the command that helps is named", || {
        cluster.kill_node(1)?;
        silent(&cluster, 1)?;
        let (_, said) = cluster.refused(&["cluster", "add-tags", "never"])?;
        ensure!(said.contains(&format!("gnt-cluster drop-candidate {name}")), "{said}");
        Ok(())
    });
    step("with it taken out work goes on, in the same epoch", || {
        let epoch = |cluster: &VirtualCluster| {
            std::fs::read_to_string(cluster.nodes[0].root.join("var/lib/gantry/role.json"))
        };
        let before = epoch(&cluster)?;
        cluster.run(&drop)?;
        copies(&cluster, 1)?;
        cluster.run(&["cluster", "add-tags", "after"])?;
        let tags = cluster.run(&["cluster", "list-tags"])?;
        ensure!(tags.contains("before") && tags.contains("after") && !tags.contains("never"), "{tags}");
        ensure!(before == epoch(&cluster)?, "no new master was needed");
        Ok(())
    });
    step("the one taken out can't become master, and is a candidate again when it is back", || {
        cluster.boot(1)?;
        let said = cluster.run_on(1, &["cluster", "master-failover"]);
        ensure!(said.is_err(), "it became master: {said:?}");
        wait::until("it can be made a candidate", PATIENCE, || {
            cluster.run(&["node", "modify", "-C", "yes", &name]).ok()
        })?;
        copies(&cluster, 2)?;
        cluster.run(&["cluster", "verify"]).map(|_| ())
    });
}

/// While a majority answers, a silent candidate is taken out by an ordinary job.
#[test]
fn a_silent_one_of_three_is_taken_out_by_a_job() {
    let cluster = cluster(3);
    step("all nodes have copies that count", || copies(&cluster, 3));
    let names: Vec<String> = cluster.nodes.iter().map(|node| node.name.clone()).collect();
    step("one is silent, and is taken out", || {
        cluster.kill_node(2)?;
        silent(&cluster, 2)?;
        cluster.run(&["node", "modify", "-C", "no", &names[2]])?;
        copies(&cluster, 2)
    });
    step("it is made a candidate again when it is back", || {
        cluster.boot(2)?;
        wait::until("it can be made a candidate", PATIENCE, || {
            cluster.run(&["node", "modify", "-C", "yes", &names[2]]).ok()
        })?;
        copies(&cluster, 3)
    });
    step("another is silent, and is marked offline", || {
        cluster.kill_node(1)?;
        silent(&cluster, 1)?;
        cluster.run(&["node", "modify", "-O", "yes", &names[1]])?;
        copies(&cluster, 2)?;
        cluster.run(&["cluster", "add-tags", "after"]).map(|_| ())
    });
}

/// With two candidates writes need both. The one that is left goes on alone when its operator says so.
#[test]
fn one_of_two_goes_on_without_voting() {
    let cluster = cluster(2);
    step("both nodes have copies that count", || copies(&cluster, 2));
    step("without the other nothing is stored, and who is silent is said", || {
        cluster.run(&["cluster", "add-tags", "before"])?;
        cluster.kill_node(1)?;
        // What is submitted before it counts as silent waits for it.
        let mut last = Value::Null;
        wait::until("the other counts as silent", PATIENCE, || {
            last = cluster.luxi().ok()?.call("QueryMembers", json!([])).ok()?;
            let silent = |log: &str| last[log][1]["answered_ms_ago"].as_u64() >= Some(SILENT_MS);
            (silent("config") && silent("queue")).then_some(())
        })
        .with_context(|| last.to_string())?;
        let (_, said) = cluster.refused(&["cluster", "add-tags", "never"])?;
        ensure!(said.contains("no majority") && said.contains(&cluster.nodes[1].name), "{said}");
        let (_, said) = cluster.refused(&["cluster", "master-failover"])?;
        ensure!(said.contains("--no-voting"), "{said}");
        Ok(())
    });
    step("without voting it goes on, and says that nothing is lost", || {
        let said = cluster.run(&["cluster", "master-failover", "--no-voting", "--yes-do-it"])?;
        ensure!(said.contains("nothing that was acknowledged is lost"), "{said}");
        cluster.run(&["cluster", "add-tags", "after"])?;
        let tags = cluster.run(&["cluster", "list-tags"])?;
        ensure!(tags.contains("before") && tags.contains("after"), "{tags}");
        copies(&cluster, 1)
    });
    let name = cluster.nodes[1].name.clone();
    step("the other keeps what it needs to be the master of the history that was given up", || {
        cluster.boot(1)?;
        let mut luxi = cluster.luxi()?;
        wait::until("it to be audited", PATIENCE, || {
            let audit = json!({"OP_ID": "OP_NODE_AUDIT", "node_name": name, "reason": []});
            let job = luxi.submit(&[audit]).ok()?;
            (luxi.wait(job, PATIENCE).ok()? == "success").then_some(())
        })?;
        let lib = cluster.nodes[1].root.join("var/lib/gantry");
        ensure!(std::fs::read_to_string(lib.join("role.json"))?.contains("candidate"), "its role is gone");
        ensure!(lib.join("secrets/ca.key").exists(), "its key of the CA is gone");
        let (_, said) = cluster.refused(&["cluster", "verify"])?;
        ensure!(said.contains("a history that was given up"), "{said}");
        Ok(())
    });
    step("the other is fed anew when it is back", || {
        wait::until("it can be made a candidate", PATIENCE, || {
            cluster.run(&["node", "modify", "-C", "yes", &name]).ok()
        })?;
        copies(&cluster, 2)?;
        cluster.run(&["cluster", "verify"]).map(drop)
    });
}
