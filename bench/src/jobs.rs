//! Trivial jobs: how many per second with fifty in flight, and how long one takes alone.

use crate::figure::{Figure, spread};
use crate::floor;
use anyhow::{Context, Result, ensure};
use gantry_tests::luxi::delay;
use gantry_tests::{Options, VirtualCluster};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Clients at once.
pub const IN_FLIGHT: usize = 50;
/// Jobs of the throughput run.
const JOBS: u32 = 8000;
/// Jobs of the latency run.
const ALONE: usize = 500;
/// More than any job here takes.
const LONG: Duration = Duration::from_secs(120);

/// Throughput and latency.
pub fn measure() -> Result<Vec<Figure>> {
    let mut options = Options::new(1);
    options.init = vec!["--max-running-jobs".to_owned(), IN_FLIGHT.to_string()];
    let cluster = VirtualCluster::start(&options)?;
    let mut alone = latencies(&cluster)?;
    let floor = floor::spawn_rate()?;
    let rate = throughput_of(&cluster, JOBS)?;
    Ok(vec![
        Figure {
            name: "one trivial job, submit → success",
            value: spread(&mut alone),
            aim: "aim p50 ≤ 5 ms; Ganeti 225 ms".to_owned(),
        },
        Figure {
            name: "trivial jobs per second, 50 in flight",
            value: format!("{rate:.0}/s"),
            aim: "aim ≥ 800/s; Ganeti 5.6/s".to_owned(),
        },
        Figure {
            name: "  as a part of the spawn floor just before",
            value: format!("{:.2} of {floor:.0}/s", rate / floor),
            aim: "aim ≥ 0.3".to_owned(),
        },
    ])
}

fn latencies(cluster: &VirtualCluster) -> Result<Vec<Duration>> {
    let mut luxi = cluster.luxi()?;
    let mut times = Vec::with_capacity(ALONE);
    for round in 0..ALONE + 50 {
        let begin = Instant::now();
        let job = luxi.submit(&[delay(0.0)])?;
        ensure!(luxi.wait(job, LONG)? == "success", "job {job} failed");
        if round >= 50 {
            times.push(begin.elapsed()); // The first fifty warm up.
        }
    }
    Ok(times)
}

/// Jobs per second while so many are run and archived.
pub fn throughput_of(cluster: &VirtualCluster, jobs: u32) -> Result<f64> {
    let left = AtomicU32::new(jobs);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..IN_FLIGHT).map(|_| scope.spawn(|| client(cluster, &left))).collect();
        clients.into_iter().try_for_each(|client| client.join().ok().context("a client panicked")?)
    })?;
    Ok(f64::from(jobs) / begin.elapsed().as_secs_f64())
}

/// Submits one job after the other until none is left.
fn client(cluster: &VirtualCluster, left: &AtomicU32) -> Result<()> {
    let mut luxi = cluster.luxi()?;
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        let job = luxi.submit(&[delay(0.0)])?;
        let status = luxi.wait(job, LONG)?;
        ensure!(status == "success", "job {job}: {status}");
        luxi.call("ArchiveJob", serde_json::json!([job]))?;
    }
    Ok(())
}
