//! Asks every daemon of the node for its health and its metrics, all at once, on their admin sockets.

use crate::core::collect::daemons::{DAEMONS, Health, Seen};
use gantry_model::root::Root;
use gantry_proto::admin::{self, PROTOCOL};
use gantry_rpc::{Client, Hello};
use std::path::Path;
use std::time::Duration;
use tokio::task::JoinSet;

/// How long one daemon may take: less than a look.
const ANSWER: Duration = Duration::from_secs(2);
/// Place of user and system time in `/proc/PID/stat`, counted after the command's closing parenthesis (proc(5)).
const TIME_FIELDS: [usize; 2] = [11, 12];

/// What the kernel counts in.
#[derive(Debug, Clone, Copy)]
pub struct Units {
    /// Clock ticks a second.
    pub ticks_per_s: u64,
    /// Bytes of a page.
    pub page_bytes: u64,
}

/// What was heard of all of them.
pub async fn ask(root: &Root, proc: &Path, units: Units) -> Vec<Seen> {
    let mut asked = JoinSet::new();
    for name in DAEMONS {
        asked.spawn(one(root.clone(), name));
    }
    let mut seen = asked.join_all().await;
    seen.sort_by_key(|one| DAEMONS.iter().position(|name| *name == one.name));
    for health in seen.iter_mut().filter_map(|one| one.health.as_mut()) {
        measure(health, proc, units);
    }
    seen
}

async fn one(root: Root, name: &'static str) -> Seen {
    let known = root.admin_socket(name).exists() || root.pid_file(name).exists();
    let answered =
        if known { tokio::time::timeout(ANSWER, answer(&root, name)).await.ok().flatten() } else { None };
    let (health, metrics) = answered.map_or((None, None), |(health, metrics)| (Some(health), metrics));
    Seen { name, known, health, metrics }
}

async fn answer(root: &Root, name: &str) -> Option<(Health, Option<String>)> {
    let client = Client::unix(&root.admin_socket(name), &Hello::new(PROTOCOL, "gantry-mond")).await.ok()?;
    let health = client.call::<admin::Health>(&(), ANSWER).await.ok()?;
    let metrics = client.call::<admin::Metrics>(&(), ANSWER).await.ok();
    let (pid, ready, why, uptime_ms) = (health.pid, health.ready, health.why, health.uptime_ms);
    Some((Health { pid, ready, why, uptime_ms, rss: None, cpu_s: None }, metrics))
}

fn measure(health: &mut Health, proc: &Path, units: Units) {
    let dir = proc.join(health.pid.to_string());
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
    let pages = read("statm").and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    health.rss = pages.map(|pages| pages.saturating_mul(units.page_bytes));
    health.cpu_s = read("stat").and_then(|stat| {
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = TIME_FIELDS.iter().map(|at| fields.get(*at)?.parse::<u64>().ok());
        let ticks = ticks.sum::<Option<u64>>()?;
        #[allow(clippy::cast_precision_loss, reason = "ticks of a process's life")]
        Some(ticks as f64 / units.ticks_per_s as f64)
    });
}
