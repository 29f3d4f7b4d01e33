//! What copies cost, and how long a failover takes: three candidates on this one machine, which flushes everything three times.

use crate::figure::{Figure, ms, percentile, spread};
use crate::jobs::{IN_FLIGHT, throughput_of};
use crate::seed;
use anyhow::{Result, ensure};
use gantry_tests::luxi::delay;
use gantry_tests::{Options, VirtualCluster, wait};
use serde_json::json;
use std::time::{Duration, Instant};

/// Jobs of the throughput run.
const JOBS: u32 = 4_000;
/// Changes of the configuration in each latency run.
const CHANGES: usize = 400;
/// What the failed-over cluster holds.
const INSTANCES: u32 = 10_000;
const ARCHIVED: u32 = 10_000;
/// More than anything here takes.
const LONG: Duration = Duration::from_secs(180);

/// Throughput, the price of a commit, and failovers.
pub fn measure() -> Result<Vec<Figure>> {
    let mut one = changes(&VirtualCluster::start(&options(1))?)?;
    let cluster = VirtualCluster::start(&options(3))?;
    settled(&cluster, 3)?;
    let mut three = changes(&cluster)?;
    let rate = throughput_of(&cluster, JOBS)?;
    drop(cluster);
    let (p99_one, p99_three) = (percentile(&mut one, 0.99), percentile(&mut three, 0.99));
    let mut failovers = failovers()?;
    Ok(vec![
        Figure {
            name: "trivial jobs per second with three candidates",
            value: format!("{rate:.0}/s"),
            aim: "aim ≥ 250/s; Ganeti 2.2/s".to_owned(),
        },
        Figure {
            name: "a job that changes the configuration, one candidate",
            value: format!("{} p99 {}", spread(&mut one), ms(p99_one)),
            aim: String::new(),
        },
        Figure {
            name: "  the same with three candidates",
            value: format!("{} p99 {}", spread(&mut three), ms(p99_three)),
            aim: format!("p99 {:.1} × of one; aim ≤ 3 ×", p99_three.as_secs_f64() / p99_one.as_secs_f64()),
        },
        Figure {
            name: "failover, 10,000 instances and archived jobs, to the first job",
            value: spread(&mut failovers),
            aim: "aim ≤ 3 s; Ganeti with an empty cluster 9.4 s".to_owned(),
        },
    ])
}

fn options(nodes: u8) -> Options {
    let mut options = Options::new(nodes);
    options.init = vec!["--max-running-jobs".to_owned(), IN_FLIGHT.to_string()];
    options
}

/// Waits until so many copies count and lack nothing.
fn settled(cluster: &VirtualCluster, count: usize) -> Result<()> {
    wait::until("the copies are fed", LONG, || {
        let members = cluster.luxi().ok()?.call("QueryMembers", json!([])).ok()?;
        let fed = |log: &str| {
            let copies = members[log].as_array().map(Vec::as_slice).unwrap_or_default();
            copies.len() == count && copies.iter().all(|copy| copy["lag"] == 0 && copy["learner"] == false)
        };
        (members["settled"] == true && fed("config") && fed("queue")).then_some(())
    })
}

/// How long one change of the configuration after the other takes, from its submission to its success.
fn changes(cluster: &VirtualCluster) -> Result<Vec<Duration>> {
    let mut luxi = cluster.luxi()?;
    let mut times = Vec::with_capacity(CHANGES);
    for number in 0..CHANGES + 50 {
        let op = json!({"OP_ID": "OP_TAGS_SET", "kind": "cluster", "name": null, "tags": [format!("t{number}")], "reason": []});
        let begin = Instant::now();
        let job = luxi.submit(&[op])?;
        ensure!(luxi.wait(job, LONG)? == "success", "job {job} failed");
        if number >= 50 {
            times.push(begin.elapsed()); // The first fifty warm up.
        }
    }
    Ok(times)
}

/// The master's node dies, another takes over, five times: from the command to the first job that was accepted.
fn failovers() -> Result<Vec<Duration>> {
    let mut options = options(3);
    // The instances are filled into a log that has no other copy yet.
    options.init.extend(["--candidate-pool-size".to_owned(), "1".to_owned()]);
    let cluster = seed::fill(VirtualCluster::start(&options)?, INSTANCES)?;
    throughput_of(&cluster, ARCHIVED)?;
    for node in &cluster.nodes[1..] {
        cluster.run(&["node", "modify", "-C", "yes", &node.name])?;
    }
    let mut times = Vec::new();
    for round in 0..5 {
        settled(&cluster, 3)?;
        let (old, new) = (round % 3, (round + 1) % 3);
        cluster.kill_node(old)?;
        let begin = Instant::now();
        cluster.run_on(new, &["cluster", "master-failover"])?;
        cluster.led_by(new);
        cluster.luxi()?.submit(&[delay(0.0)])?;
        times.push(begin.elapsed());
        cluster.boot(old)?;
    }
    Ok(times)
}
