//! What MonD's answers cost, and that the size of the configuration does not matter to them.

use crate::figure::{Figure, ms, percentile, spread};
use crate::seed;
use anyhow::{Result, ensure};
use gantry_tests::{VirtualCluster, mond, wait};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Until every collector has looked.
const PATIENCE: Duration = Duration::from_secs(60);
/// Answers measured, after as many that are not.
const ROUNDS: usize = 500;

/// report/all and metrics, at two sizes.
pub fn measure() -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (count, names) in [
        (10, ["MonD report/all, one connection, at 10 instances", "  /metrics"]),
        (10_000, ["MonD report/all, one connection, at 10,000 instances", "  /metrics"]),
    ] {
        let cluster = seed::cluster(count)?;
        wait::until("every collector has looked", PATIENCE, || {
            let all = mond::json(cluster.master(), "/1/report/all").ok()?;
            let listed = mond::json(cluster.master(), "/1/list/collectors").ok()?;
            let settled = !all.to_string().contains("it has not looked yet")
                && !all.to_string().contains("not enough samples");
            (settled && all.as_array()?.len() == listed.as_array()?.len()).then_some(())
        })?;
        for (name, path) in names.into_iter().zip(["/1/report/all", "/metrics"]) {
            let (mut times, bytes) = times(&cluster, path)?;
            let p99 = ms(percentile(&mut times, 0.99));
            let aim = if path == "/metrics" { "" } else { "aim ≤ 5 ms; same within 20 % at both sizes" };
            figures.push(Figure {
                name,
                value: format!("{} p99 {p99}, {bytes} bytes", spread(&mut times)),
                aim: aim.to_owned(),
            });
        }
    }
    Ok(figures)
}

fn times(cluster: &VirtualCluster, path: &str) -> Result<(Vec<Duration>, usize)> {
    let stream = TcpStream::connect((cluster.master().address.as_str(), mond::PORT))?;
    stream.set_nodelay(true)?;
    let (mut out, mut answers) = (stream.try_clone()?, BufReader::new(stream));
    let (mut times, mut bytes) = (Vec::new(), 0);
    for round in 0..2 * ROUNDS {
        let begin = Instant::now();
        write!(out, "GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n")?;
        bytes = read(&mut answers)?;
        if round >= ROUNDS {
            times.push(begin.elapsed());
        }
    }
    Ok((times, bytes))
}

/// Bytes of one answer's body.
fn read(answers: &mut impl BufRead) -> Result<usize> {
    let (mut length, mut line) = (0, String::new());
    while answers.read_line(&mut line)? > 2 {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
            length = value.trim().parse()?;
        }
        line.clear();
    }
    let mut body = vec![0; length];
    answers.read_exact(&mut body)?;
    ensure!(length > 1_000, "an answer of {length} bytes");
    Ok(length)
}
