//! The master dies under load, again and again, alone or together with another candidate: whatever was acknowledged is there
//! under the next one, users' leases go on, and tasks that were under way are tried again.

use super::load::Load;
use super::{JOBS, PATIENCE, TAGS, copies, returns};
use crate::step;
use anyhow::{Context, Result, ensure};
use gantry_tests::{Options, Random, VirtualCluster, pool, wait};
use serde_json::{Value, json};
use std::time::Duration;

/// Rounds of death and failover; a soak sets more.
const ROUNDS_ENV: &str = "GANTRY_FAILOVER_ROUNDS";
const ROUNDS: u32 = 5;
/// The larger cluster's: each is as long as two of the smaller one's.
const ROUNDS_OF_FIVE: u32 = 2;
/// Tasks that end before a master dies, in the midst of more.
const TASKS: usize = 6;
/// How soon a node that comes back knows the new master: three times the longest pause between two tries, and its start.
const RETURN: Duration = Duration::from_secs(10);
/// Leases drawn until one is of a VM on a node that will live.
const LEASES_MAX: usize = 30;

#[test]
fn the_master_dies_under_load_again_and_again() {
    let cluster = VirtualCluster::start(&Options::oci(3)).expect("the cluster starts");
    Bed { cluster, driver: "oci", slots: 6, deaths: 1 }.play("failover under load", rounds(ROUNDS));
}

/// Two of five, of which one is the master: as many as a majority can lose.
#[test]
fn the_master_and_another_of_five_die_together() {
    let cluster = crate::cluster(5);
    Bed { cluster, driver: "fake", slots: 10, deaths: 2 }.play("failover of five", rounds(ROUNDS_OF_FIVE));
}

fn rounds(usual: u32) -> u32 {
    std::env::var(ROUNDS_ENV).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// A user's lease, and the node of its VM.
struct Held {
    lease: String,
    node: String,
}

struct Bed {
    cluster: VirtualCluster,
    driver: &'static str,
    slots: usize,
    /// How many candidates die in a round, the master among them.
    deaths: usize,
}

impl Bed {
    fn play(&self, what: &str, rounds: u32) {
        let cluster = &self.cluster;
        let mut random = Random::from_env(what);
        let (load, mut held) = (Load::with_tasks(), None);
        step("all nodes have copies that count", || copies(cluster, cluster.nodes.len()));
        step("a pool", || pool::add(cluster, self.driver, self.slots));
        let mut master = 0;
        for round in 1..=rounds {
            let (victims, next) = self.draw(&mut random, master);
            let doomed: Vec<&str> =
                victims.iter().map(|number| cluster.nodes[*number].name.as_str()).collect();
            step("a user holds a lease of a VM that will live", || {
                held = Some(lease_beside(cluster, held.take(), &doomed)?);
                Ok(())
            });
            step(
                &format!("round {round}: {} die, node {} takes over", doomed.join(" and "), next + 1),
                || {
                    load.blow(cluster, round, || {
                        worked(&load)?;
                        victims.iter().try_for_each(|victim| cluster.kill_node(*victim))
                    })?;
                    let said = cluster.run_on(next, &["cluster", "master-failover"])?;
                    ensure!(said.contains("is the master now"), "{said}");
                    cluster.led_by(next);
                    Ok(())
                },
            );
            step("everything acknowledged is there", || load.is_there(cluster));
            step("the user's lease goes on", || goes_on(cluster, held.as_ref().context("a lease")?));
            step("the dead come back as candidates, and say who is master", || {
                victims.iter().try_for_each(|victim| cluster.boot(*victim))?;
                victims.iter().try_for_each(|victim| returns(cluster, *victim, RETURN))
            });
            master = next;
        }
        step("every task that was acknowledged ends with one result", || load.tasks_end_well(cluster));
        step("the cluster is sound", || cluster.run(&["cluster", "verify"]).map(drop));
    }

    /// Who dies, and who takes over.
    fn draw(&self, random: &mut Random, master: usize) -> (Vec<usize>, usize) {
        let mut others: Vec<usize> = (0..self.cluster.nodes.len()).filter(|node| *node != master).collect();
        let mut take = || others.swap_remove(random.below(others.len()));
        let victims = std::iter::once(master).chain((1..self.deaths).map(|_| take())).collect();
        (victims, take())
    }
}

/// Waits until enough of each kind is acknowledged.
fn worked(load: &Load) -> Result<()> {
    let (before, tasks) = (load.count(), load.ended());
    let mut last = (before, tasks);
    wait::until("enough is acknowledged", PATIENCE, || {
        last = (load.count(), load.ended());
        let ((jobs, tags), ended) = last;
        (jobs >= before.0 + JOBS && tags >= before.1 + TAGS && ended >= tasks + TASKS).then_some(())
    })
    .with_context(|| format!("jobs and tags, tasks: before {before:?}, {tasks}; at last {last:?}"))
}

/// A lease whose VM is on none of the `doomed` nodes: `held`, if that is so, else another.
fn lease_beside(cluster: &VirtualCluster, held: Option<Held>, doomed: &[&str]) -> Result<Held> {
    let mut lease = held;
    for _ in 0..LEASES_MAX {
        match lease.take() {
            Some(held) if !doomed.contains(&held.node.as_str()) => return Ok(held),
            Some(held) => drop(cluster.run(&["lease", "release", &held.lease])?),
            None => {}
        }
        let said = cluster.run(&["lease", "acquire", "--json", "--for", "1h", "--ttl", "5m", pool::NAME])?;
        let said: Value = serde_json::from_str(&said)?;
        let word = |value: &Value| value.as_str().map(str::to_owned).with_context(|| said.to_string());
        lease = Some(Held { lease: word(&said["uuid"])?, node: word(&said["nodes"][0])? });
    }
    anyhow::bail!("{LEASES_MAX} leases, and all VMs were on nodes that are to die")
}

/// Not only as a word in a table: its user can renew it and work in its VM.
fn goes_on(cluster: &VirtualCluster, Held { lease, .. }: &Held) -> Result<()> {
    let rows = cluster.luxi()?.query("lease", &["state"], json!(["==", "uuid", lease]))?;
    let state = rows.first().and_then(|row| row[0].as_str()).unwrap_or("not there").to_owned();
    ensure!(state == "active", "{lease} is {state}");
    cluster.run(&["lease", "renew", lease])?;
    cluster.run(&["lease", "exec", lease, "--", "true"]).map(drop)
}
