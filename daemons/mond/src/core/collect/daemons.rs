//! `daemon-status`: whether each of the node's daemons runs, and what all of them count. One that is away is started again by
//! boot; one that stays away needs somebody.

use crate::core::board::Millis;
use crate::core::exposition::{Family, merged};
use crate::core::format::{of_daemon, parse};
use crate::core::report::{Code, Gathered, Status};
use gantry_model::role::Role;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Every daemon that a node may have, in boot's order.
pub const DAEMONS: [&str; 8] = ["boot", "vmd", "noded", "rconfd", "mond", "wconfd", "luxid", "overseer"];
/// How long boot may take to bring a daemon back, ms: its longest pause is 5 s, and a start takes a few.
const AWAY_MS: Millis = 60_000;

/// What was heard of a daemon.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    /// Its name.
    pub name: &'static str,
    /// Whether it has a socket or a pid file, so that somebody wanted it here.
    pub known: bool,
    /// What it said of itself, if it answered.
    pub health: Option<Health>,
    /// Its metrics, if it answered.
    pub metrics: Option<String>,
}

/// What a daemon says of itself, and the kernel of its process.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Health {
    /// Its process.
    pub pid: u32,
    /// Whether it serves.
    pub ready: bool,
    /// Why not.
    pub why: String,
    /// Since it began, ms.
    pub uptime_ms: u64,
    /// Resident memory, bytes.
    pub rss: Option<u64>,
    /// CPU time, seconds.
    pub cpu_s: Option<f64>,
}

/// Whether every node of this role runs the daemon. vmd runs where there may be VMs: it is missed where it was seen only.
fn is_expected(name: &str, role: Option<Role>) -> bool {
    match name {
        "boot" | "noded" => true,
        "mond" => role.is_some(),
        "rconfd" => matches!(role, Some(Role::Master | Role::Candidate)),
        "wconfd" | "luxid" | "overseer" => role == Some(Role::Master),
        _ => false,
    }
}

#[derive(Debug, Clone, Default)]
struct Past {
    pid: Option<u32>,
    restarts: u64,
    /// Since when it has been away or not ready.
    bad_since: Option<Millis>,
}

/// What is remembered from look to look: since when a daemon has been away, and how often it came back as another process.
#[derive(Debug, Clone, Default)]
pub struct Watch(BTreeMap<&'static str, Past>);

impl Watch {
    /// The report of a look.
    pub fn gathered(&mut self, now: Millis, role: Option<Role>, seen: &[Seen]) -> Gathered {
        // What was left behind by a role that is over, such as the socket of a killed daemon, is nobody's trouble.
        let left = |one: &Seen| one.known && one.name == "vmd";
        let wanted = |one: &&Seen| one.health.is_some() || left(one) || is_expected(one.name, role);
        let (mut rows, mut parts, mut families) = (Vec::new(), Vec::new(), own_families());
        for one in seen.iter().filter(wanted) {
            let past = self.note(now, one);
            let status = status(now, one, &past);
            rows.push(value(one, &past, &status));
            parts.push(status);
            add(&mut families, one, &past);
        }
        let gathered = seen.iter().filter_map(|one| Some((one.name, parse(one.metrics.as_ref()?).ok()?)));
        let theirs = gathered.flat_map(|(name, families)| of_daemon(name, families));
        let families = merged(families.into_iter().chain(theirs));
        Gathered::status(json!({ "daemons": rows }), Status::worst(&parts), families)
    }

    fn note(&mut self, now: Millis, one: &Seen) -> Past {
        let past = self.0.entry(one.name).or_default();
        if let Some(health) = &one.health {
            past.restarts += u64::from(past.pid.is_some_and(|pid| pid != health.pid));
            past.pid = Some(health.pid);
        }
        let good = one.health.as_ref().is_some_and(|health| health.ready);
        past.bad_since = if good { None } else { Some(past.bad_since.unwrap_or(now)) };
        past.clone()
    }
}

fn status(now: Millis, one: &Seen, past: &Past) -> Status {
    let text = match &one.health {
        Some(health) if health.ready => return Status::ok(),
        Some(health) => format!("{} runs and is not ready: {}", one.name, health.why),
        None => format!("{} does not answer", one.name),
    };
    let long = past.bad_since.is_some_and(|since| now.saturating_sub(since) >= AWAY_MS);
    Status::new(if long { Code::Bad } else { Code::Temporary }, text)
}

#[allow(clippy::cast_precision_loss, reason = "milliseconds of a process's life")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

fn value(one: &Seen, past: &Past, status: &Status) -> Value {
    let health = one.health.as_ref();
    json!({
        "name": one.name,
        "running": health.is_some(),
        "ready": health.is_some_and(|health| health.ready),
        "pid": health.map(|health| health.pid),
        "uptime": health.map(|health| seconds(health.uptime_ms)),
        "rss": health.and_then(|health| health.rss),
        "cpu": health.and_then(|health| health.cpu_s),
        "restarts": past.restarts,
        "status": status.value(),
    })
}

fn own_families() -> Vec<Family> {
    vec![
        Family::gauge("gantry_daemon_up", "Whether a daemon answers and is ready"),
        Family::counter("gantry_daemon_restarts", "Restarts of a daemon that this MonD saw"),
        Family::gauge("gantry_daemon_uptime_seconds", "How long a daemon has run"),
        Family::gauge("gantry_daemon_resident_memory_bytes", "Memory a daemon holds"),
        Family::counter("gantry_daemon_cpu_seconds", "CPU time of a daemon"),
    ]
}

fn add(families: &mut [Family], one: &Seen, past: &Past) {
    let of = [("daemon", one.name)];
    let ready = one.health.as_ref().is_some_and(|health| health.ready);
    families[0].add(&of, u8::from(ready));
    families[1].add(&of, past.restarts);
    if let Some(health) = &one.health {
        families[2].add(&of, seconds(health.uptime_ms));
        health.rss.into_iter().for_each(|bytes| families[3].add(&of, bytes));
        health.cpu_s.into_iter().for_each(|seconds| families[4].add(&of, seconds));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(name: &'static str, pid: Option<u32>, ready: bool) -> Seen {
        let health = pid.map(|pid| Health {
            pid,
            ready,
            why: "starting".into(),
            uptime_ms: 1500,
            rss: Some(7),
            cpu_s: Some(0.5),
        });
        let metrics = pid.map(|_| {
            format!("# HELP gantry_{name}_x X.\n# TYPE gantry_{name}_x gauge\ngantry_{name}_x 1\n# EOF\n")
        });
        Seen { name, known: false, health, metrics }
    }

    #[test]
    fn a_daemon_that_stays_away_needs_somebody() {
        let mut watch = Watch::default();
        let mut code = |now, seen: &[Seen]| {
            watch.gathered(now, Some(Role::Regular), seen).data["status"]["code"].clone()
        };
        assert_eq!(code(0, &[seen("noded", Some(1), true)]), 0);
        assert_eq!(code(1_000, &[seen("noded", None, false)]), 1);
        assert_eq!(code(60_999, &[seen("noded", Some(2), false)]), 1);
        assert_eq!(code(61_000, &[seen("noded", Some(2), false)]), 4);
        assert_eq!(code(61_001, &[seen("noded", Some(2), true)]), 0);
        let data = watch.gathered(61_002, Some(Role::Regular), &[seen("noded", Some(2), true)]).data;
        assert_eq!(
            data["daemons"][0],
            json!({
                "name": "noded", "running": true, "ready": true, "pid": 2, "uptime": 1.5, "rss": 7, "cpu": 0.5, "restarts": 1,
                "status": {"code": 0, "message": ""},
            })
        );
    }

    #[test]
    fn who_is_missed_depends_on_the_role() {
        let names = |role, seen: &[Seen]| {
            let data = Watch::default().gathered(0, role, seen).data;
            let names: Vec<String> = data["daemons"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one["name"].as_str().unwrap().to_owned())
                .collect();
            (names.join(" "), data["status"]["code"].as_u64().unwrap())
        };
        let none = DAEMONS.map(|name| seen(name, None, false));
        assert_eq!(names(Some(Role::Regular), &none), ("boot noded mond".into(), 1));
        assert_eq!(
            names(Some(Role::Master), &none),
            ("boot noded rconfd mond wconfd luxid overseer".into(), 1)
        );
        let left = [Seen { known: true, ..seen("wconfd", None, false) }];
        assert_eq!(names(Some(Role::Regular), &left), (String::new(), 0));
        let families = Watch::default().gathered(0, Some(Role::Candidate), &left).families;
        assert!(families[0].samples.is_empty(), "no alert for what ended with its role: {families:?}");
        assert_eq!(names(Some(Role::Master), &left), ("wconfd".into(), 1));
        assert_eq!(
            names(Some(Role::Regular), &[Seen { known: true, ..seen("vmd", None, false) }]),
            ("vmd".into(), 1)
        );
    }

    #[test]
    fn what_daemons_count_is_passed_on() {
        let found =
            Watch::default().gathered(0, None, &[seen("noded", Some(1), true), seen("vmd", None, false)]);
        let names: Vec<&str> = found.families.iter().map(|family| family.name.as_str()).collect();
        assert!(names.contains(&"gantry_noded_x") && !names.contains(&"gantry_vmd_x"), "{names:?}");
        let mut broken = seen("noded", Some(1), true);
        broken.metrics = Some("nonsense".into());
        let found = Watch::default().gathered(0, None, &[broken]);
        assert!(found.families.iter().any(|family| family.name == "gantry_daemon_up"));
    }
}
