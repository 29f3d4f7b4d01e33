//! What a large configuration costs: one tag change and one query, at two sizes.

use crate::figure::{Figure, spread};
use crate::seed;
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// More than any step here takes.
const LONG: Duration = Duration::from_secs(120);

/// The 14 fields htools ask for (`spec/luxi.md` §1).
const FIELDS: [&str; 14] = [
    "name",
    "disk_usage",
    "be/memory",
    "be/vcpus",
    "status",
    "pnode",
    "snodes",
    "tags",
    "be/auto_balance",
    "disk_template",
    "be/spindle_use",
    "disk.sizes",
    "disk.spindles",
    "forthcoming",
];
/// The same without the one live field.
const STATIC_FIELDS: [&str; 14] = [
    "name",
    "disk_usage",
    "be/memory",
    "be/vcpus",
    "admin_state",
    "pnode",
    "snodes",
    "tags",
    "be/auto_balance",
    "disk_template",
    "be/spindle_use",
    "disk.sizes",
    "disk.spindles",
    "forthcoming",
];

/// Tag changes at 10 and 50,000 instances, queries at 10,000.
pub fn measure() -> Result<Vec<Figure>> {
    let mut figures = vec![tags(10, "a tag change at 10 instances")?];
    figures.extend(queries()?);
    figures.push(tags(50_000, "a tag change at 50,000 instances")?);
    Ok(figures)
}

fn tags(count: u32, name: &'static str) -> Result<Figure> {
    let cluster = seed::cluster(count)?;
    let mut luxi = cluster.luxi()?;
    let mut times = Vec::new();
    for round in 0..220_u32 {
        let op = json!({
            "OP_ID": "OP_TAGS_SET", "kind": "instance", "name": seed::name(round % count),
            "tags": [format!("round-{round}")], "reason": [],
        });
        let begin = Instant::now();
        let job = luxi.submit(&[op])?;
        let status = luxi.wait(job, LONG)?;
        ensure!(status == "success", "job {job}: {status}");
        if round >= 20 {
            times.push(begin.elapsed());
        }
    }
    let aim = "aim: same within 20 %, ≤ 15 ms; Ganeti 0.23 s, at 10,000: 9 s".to_owned();
    Ok(Figure { name, value: spread(&mut times), aim })
}

fn queries() -> Result<Vec<Figure>> {
    let cluster = seed::cluster(10_000)?;
    let aim = || "aim ≤ 60 ms; Ganeti 15.6 s".to_owned();
    Ok(vec![
        Figure {
            name: "Query of 14 static fields at 10,000 instances",
            value: query(&cluster, &STATIC_FIELDS)?,
            aim: aim(),
        },
        Figure {
            name: "  the 14 of htools (with the live `status`)",
            value: query(&cluster, &FIELDS)?,
            aim: aim(),
        },
    ])
}

fn query(cluster: &gantry_tests::VirtualCluster, fields: &[&str]) -> Result<String> {
    let mut luxi = cluster.luxi()?;
    let mut times = Vec::new();
    let request = json!({"method": "Query", "args": ["instance", fields, null]}).to_string() + "\u{3}";
    for _ in 0..22 {
        let begin = Instant::now();
        luxi.send(request.as_bytes())?;
        let size = luxi.receive_raw()?.len();
        times.push(begin.elapsed());
        ensure!(size > 1_000_000, "10,000 rows take more than {size} bytes");
    }
    let answer: Value = luxi.call("Query", json!(["instance", fields, null]))?;
    ensure!(answer["data"].as_array().is_some_and(|rows| rows.len() == 10_000), "10,000 rows");
    Ok(spread(&mut times[2..]))
}
