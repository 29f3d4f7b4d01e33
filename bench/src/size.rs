//! Memory: a running job, and the idle master's daemons together.

use crate::figure::Figure;
use anyhow::{Context, Result};
use gantry_tests::luxi::delay;
use gantry_tests::{Options, VirtualCluster, process, wait};
use std::time::Duration;

/// Resident sizes.
pub fn measure() -> Result<Vec<Figure>> {
    let cluster = VirtualCluster::start(&Options::new(1))?;
    let mut luxi = cluster.luxi()?;
    let daemons: Vec<(u32, String)> = process::with_root(&cluster.master().root);
    let mut total = 0;
    for (pid, _) in &daemons {
        total += process::rss_kib(*pid)?;
    }
    let job = luxi.submit(&[delay(600.0)])?;
    let root = cluster.master().root.clone();
    let pid = wait::until("the job's process", Duration::from_secs(20), || {
        process::jobs(&root).into_iter().find(|found| found.id == job).map(|found| found.pid)
    })?;
    luxi.call("WaitForJobChange", serde_json::json!([job, ["status"], ["queued"], null, 10]))?;
    let running = process::rss_kib(pid).context("the job's process")?;
    luxi.call("CancelJob", serde_json::json!([job, true]))?;
    let names: Vec<&str> = daemons.iter().filter_map(|(_, name)| name.rsplit('/').next()).collect();
    eprintln!("daemons counted: {}", names.join(", "));
    #[allow(clippy::cast_precision_loss, reason = "KiB of a few processes")]
    let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
    Ok(vec![
        Figure {
            name: "RSS of a running job",
            value: mib(running),
            aim: "aim ≤ 4 MiB; Ganeti 41 MiB".to_owned(),
        },
        Figure {
            name: "RSS of the idle master's daemons together",
            value: mib(total),
            aim: "aim ≤ 80 MiB; Ganeti 198 MiB".to_owned(),
        },
    ])
}
