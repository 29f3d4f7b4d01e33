//! Disposable runs: how many per second beside what the runtime alone and podman do in the same minute, how long a lease
//! takes to its first output, how long a VM takes from nothing to clean.

use crate::bare::{self, Bare};
use crate::cost::Meter;
use crate::figure::{Figure, spread};
use crate::link::{self, Link};
use anyhow::{Context, Result, ensure};
use gantry_tests::leak::Site;
use gantry_tests::{Luxi, Options, VirtualCluster, pool, task};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Clients of the throughput run, as many as containers of the floors at once.
const AT_ONCE: usize = 2;
/// VMs of the pool: those in use, and those being made anew.
const SIZE: usize = 6;
/// Runs of the throughput run: many times the pool, so that what was ready before does not count.
const RUNS: u32 = 400;
/// Rounds of floor, runs, floor.
const ROUNDS: usize = 3;
/// Leases of the latency run.
const LEASES: usize = 60;
/// More than any step here takes.
const LONG: Duration = Duration::from_secs(120);

/// All figures of this bench.
pub fn measure() -> Result<Vec<Figure>> {
    let cluster = VirtualCluster::start(&Options::oci(1).run_in_memory())?;
    let site = Site::of(&cluster)?;
    pool::add(&cluster, "oci", SIZE)?;
    site.rests(&cluster, SIZE, LONG)?;
    let rounds = (0..ROUNDS).map(|_| Round::measure(&cluster, &site)).collect::<Result<Vec<_>>>()?;
    let (mut first_bytes, mut fresh) = latencies(&cluster)?;
    site.rests(&cluster, SIZE, LONG)?;
    let mut results = results(&cluster)?;
    let rate = |of: fn(&Round) -> f64| format!("{:.1}/s", median(&rounds, of));
    let mut figures = vec![
        Figure {
            name: "floor: crun run of `true`, same bundle, 2 at once",
            value: rate(|round| round.runtime),
            aim: String::new(),
        },
        Figure {
            name: "floor: podman run --rm of `true`, 2 at once",
            value: rate(|round| round.podman),
            aim: String::new(),
        },
        Figure {
            name: "disposable runs, submit → result → VM replaced, 2 at once",
            value: rate(|round| round.runs),
            aim: format!("medians of {ROUNDS} rounds"),
        },
        Figure {
            name: "  as a part of the bare runtime",
            value: format!("{:.2}", median(&rounds, |round| round.runs / round.runtime)),
            aim: "aim ≥ 0.5".to_owned(),
        },
        Figure {
            name: "  as times of podman",
            value: format!("{:.1} ×", median(&rounds, |round| round.runs / round.podman)),
            aim: "aim ≥ 8".to_owned(),
        },
    ];
    figures.extend(rounds.iter().map(|round| Figure {
        name: "  processor time of a run, ms",
        value: format!("{:.1}", round.cost),
        aim: round.costs.clone(),
    }));
    figures.push(Figure {
        name: "lease → first output byte, warm pool",
        value: spread(&mut first_bytes),
        aim: "aim p50 ≤ 20 ms".to_owned(),
    });
    figures.push(Figure {
        name: "submit → result of `true`, one at a time, pool at rest",
        value: spread(&mut results),
        aim: String::new(),
    });
    figures.push(Figure {
        name: "a clean VM from nothing",
        value: spread(&mut fresh),
        aim: "aim p50 ≤ 40 ms".to_owned(),
    });
    Ok(figures)
}

/// Floors and runs of one time, so that what others do on the machine meets all of them.
struct Round {
    runtime: f64,
    podman: f64,
    runs: f64,
    cost: f64,
    costs: String,
}

impl Round {
    fn measure(cluster: &VirtualCluster, site: &Site) -> Result<Self> {
        let before = bare::rate(Bare::Runtime)?;
        let (runs, (costs, cost)) = throughput(cluster)?;
        site.rests(cluster, SIZE, LONG)?;
        let after = bare::rate(Bare::Runtime)?;
        let podman = bare::rate(Bare::Podman)?;
        Ok(Self { runtime: f64::midpoint(before, after), podman, runs, cost, costs })
    }
}

fn median(rounds: &[Round], of: fn(&Round) -> f64) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Runs per second, each with a VM made for it; and what one costs.
fn throughput(cluster: &VirtualCluster) -> Result<(f64, (String, f64))> {
    let left = AtomicU32::new(RUNS);
    let (begin, before) = (Instant::now(), Meter::read(cluster.master())?);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(|| client(cluster, &left))).collect();
        clients.into_iter().try_for_each(|client| client.join().ok().context("a client panicked")?)
    })?;
    let rate = f64::from(RUNS) / begin.elapsed().as_secs_f64();
    Ok((rate, Meter::read(cluster.master())?.since(&before, RUNS)))
}

fn client(cluster: &VirtualCluster, left: &AtomicU32) -> Result<()> {
    let mut luxi = cluster.luxi()?;
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        run(&mut luxi)?;
    }
    Ok(())
}

/// A task from its submission to its result.
fn run(luxi: &mut Luxi) -> Result<()> {
    let spec = json!({
        "pool": pool::NAME, "execute": [{"command": "true"}],
        "limits": {"wall_s": 30, "cpu_s": 10, "memory_mib": 64, "pids": 16, "disk_mib": 8, "output_kib": 64},
    });
    let id = task::submit(luxi, &spec)?;
    let record = ended(luxi, id)?;
    ensure!(record["state"] == json!(5), "task {id}: {record}");
    Ok(())
}

/// Times of tasks that each find all VMs clean.
fn results(cluster: &VirtualCluster) -> Result<Vec<Duration>> {
    let (link, mut luxi) = (Link::new(cluster)?, cluster.luxi()?);
    let (events, mut making) = (link.watch_slots()?, Making::default());
    let mut times = Vec::with_capacity(LEASES);
    for round in 0..LEASES + 5 {
        let begin = Instant::now();
        run(&mut luxi)?;
        if round >= 5 {
            times.push(begin.elapsed());
        }
        making.one_more(&events)?;
    }
    Ok(times)
}

/// Waits as a client does, by being told.
fn ended(luxi: &mut Luxi, id: u64) -> Result<Value> {
    let mut rev = json!(0);
    loop {
        let record = luxi.call("WaitForTaskChange", json!([id, rev, 60]))?;
        ensure!(!record.is_null(), "task {id} does not change");
        if !record["end"].is_null() {
            return Ok(record);
        }
        rev = record["rev"].clone();
    }
}

/// Times from asking for a lease to the first byte of a command in its VM; and of the VMs made meanwhile, from the moment
/// their slots are told to be made until they are clean.
fn latencies(cluster: &VirtualCluster) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let link = Link::new(cluster)?;
    let events = link.watch_slots()?;
    let mut luxi = cluster.luxi()?;
    let mut first_bytes = Vec::with_capacity(LEASES);
    let mut making = Making::default();
    for round in 0..LEASES + 5 {
        let begin = Instant::now();
        let request = json!({"pool": pool::NAME, "count": 1, "for_s": 60, "user": "bench", "priority": 0});
        let lease = luxi.call("LeaseRequest", json!([request]))?;
        let mut state = Value::Null;
        while state != json!("granted") {
            let known = if state.is_null() { Value::Null } else { state };
            let answer = luxi.call("WaitForLease", json!([lease, known, 60]))?;
            ensure!(answer["state"] != json!("over"), "{answer}");
            state = answer["state"].clone();
        }
        let uuid = lease.as_str().context("a uuid")?;
        link.first_byte(uuid)?;
        if round >= 5 {
            first_bytes.push(begin.elapsed());
        }
        luxi.call("LeaseRelease", json!([lease]))?;
        making.one_more(&events)?;
    }
    Ok((first_bytes, making.times))
}

/// VMs being made, as the watch tells.
#[derive(Default)]
struct Making {
    begun: BTreeMap<String, Instant>,
    times: Vec<Duration>,
}

impl Making {
    /// Waits until one more is clean.
    fn one_more(&mut self, events: &mpsc::Receiver<link::Told>) -> Result<()> {
        let before = self.times.len();
        while self.times.len() == before {
            let told = events.recv_timeout(LONG).context("no VM becomes clean")?;
            match told.state.to_uppercase().as_str() {
                "CREATING" => drop(self.begun.insert(told.slot, told.at)),
                "CLEAN" => self.times.extend(self.begun.remove(&told.slot).map(|begun| told.at - begun)),
                _ => {}
            }
        }
        Ok(())
    }
}
