//! `node-resources`: memory, load, pressure, file systems and networks of the node.

use super::LABELS_MAX;
use crate::core::exposition::Family;
use crate::core::report::Gathered;
use serde_json::{Map, Value, json};

/// Lines of `/proc/meminfo` that are told, and their labels in metrics.
const MEMORY: [(&str, &str); 7] = [
    ("MemTotal", "total"),
    ("MemFree", "free"),
    ("MemAvailable", "available"),
    ("Buffers", "buffers"),
    ("Cached", "cached"),
    ("SwapTotal", "swap_total"),
    ("SwapFree", "swap_free"),
];

/// A file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// Where it is mounted.
    pub mount: String,
    /// Its size, bytes.
    pub total: u64,
    /// What is free of it for anybody, bytes.
    pub free: u64,
}

/// What is read for it.
#[derive(Debug, Clone, Default)]
pub struct Texts {
    /// `/proc/meminfo`.
    pub meminfo: String,
    /// `/proc/loadavg`.
    pub loadavg: String,
    /// `/proc/net/dev`.
    pub net: String,
    /// `/proc/stat`.
    pub stat: String,
    /// `/proc/version`.
    pub version: String,
    /// `/proc/pressure/cpu`, `memory`, `io`; empty where the kernel has none.
    pub pressure: [(&'static str, String); 3],
    /// Those on which the node keeps something.
    pub file_systems: Vec<FileSystem>,
}

/// The report.
///
/// # Errors
/// What cannot be read.
pub fn gathered(texts: &Texts) -> Result<Gathered, String> {
    let memory = memory(&texts.meminfo)?;
    let loads = loads(&texts.loadavg).ok_or("loadavg cannot be read")?;
    let nics = nics(&texts.net);
    let mut pressure = Map::new();
    let mut stalled = Family::counter(
        "gantry_node_pressure_stalled_seconds",
        "Time in which some or all work waited for a resource",
    );
    for (resource, text) in &texts.pressure {
        let lines = pressures(text);
        for (kind, line) in &lines {
            #[allow(clippy::cast_precision_loss, reason = "microseconds of a machine's life")]
            let seconds = line["total"].as_u64().unwrap_or(0) as f64 / 1e6;
            stalled.add(&[("resource", resource), ("kind", kind)], seconds);
        }
        if !lines.is_empty() {
            pressure.insert((*resource).to_owned(), Value::Object(lines));
        }
    }
    let boot = boot_time(&texts.stat);
    let file_systems = &texts.file_systems;
    let mut families = vec![memory_family(&memory), load_family(&loads), stalled, boot_family(boot)];
    families.extend([file_system_family(file_systems)]);
    families.extend(nic_families(&nics));
    let listed =
        |system: &FileSystem| json!({"mount": system.mount, "total": system.total, "free": system.free});
    let data = json!({
        "memory": memory,
        "loadavg": loads,
        "pressure": pressure,
        "filesystem": file_systems.iter().map(listed).collect::<Vec<_>>(),
        "nics": nics.iter().map(Nic::value).collect::<Vec<_>>(),
        "versions": {"gantry": env!("CARGO_PKG_VERSION"), "kernel": kernel(&texts.version)},
        "boot_time": boot,
    });
    Ok(Gathered::figures(data, families))
}

fn memory(text: &str) -> Result<Map<String, Value>, String> {
    let bytes = |key: &str| -> Option<u64> {
        let rest = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        Some(rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.saturating_mul(1024))
    };
    let row = |(key, _): &(&str, &str)| {
        let bytes = bytes(key).ok_or_else(|| format!("meminfo has no {key}"))?;
        Ok(((*key).to_owned(), Value::from(bytes)))
    };
    MEMORY.iter().map(row).collect()
}

fn memory_family(memory: &Map<String, Value>) -> Family {
    let mut family = Family::gauge("gantry_node_memory_bytes", "Memory of the node");
    for (key, label) in MEMORY {
        family.add(&[("kind", label)], &memory[key]);
    }
    family
}

fn loads(text: &str) -> Option<[f64; 3]> {
    let mut words = text.split_whitespace().map(|word| word.parse::<f64>().ok());
    Some([words.next()??, words.next()??, words.next()??])
}

fn load_family(loads: &[f64; 3]) -> Family {
    let mut family = Family::gauge("gantry_node_load_average", "Processes that ran or waited, on average");
    for (minutes, load) in ["1", "5", "15"].iter().zip(loads) {
        family.add(&[("minutes", minutes)], load);
    }
    family
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=123` by its first word.
fn pressures(text: &str) -> Map<String, Value> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let kind = words.next()?.to_owned();
        let number = |text: &str| -> Option<Value> {
            text.parse::<u64>().map(Value::from).or_else(|_| text.parse::<f64>().map(Value::from)).ok()
        };
        let pair =
            |word: &str| word.split_once('=').and_then(|(key, value)| Some((key.to_owned(), number(value)?)));
        Some((kind, Value::Object(words.filter_map(pair).collect())))
    };
    text.lines().filter_map(line).collect()
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Nic {
    name: String,
    /// Received, then sent: bytes, packets, errors.
    counts: [[u64; 3]; 2],
}

impl Nic {
    fn value(&self) -> Value {
        let side = |[bytes, packets, errors]: [u64; 3]| json!({"bytes": bytes, "packets": packets, "errors": errors});
        json!({"name": self.name, "rx": side(self.counts[0]), "tx": side(self.counts[1])})
    }
}

fn nics(text: &str) -> Vec<Nic> {
    let nic = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let numbers: Vec<u64> = rest.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let side = |at: usize| Some([*numbers.get(at)?, *numbers.get(at + 1)?, *numbers.get(at + 2)?]);
        Some(Nic { name: name.trim().to_owned(), counts: [side(0)?, side(8)?] })
    };
    text.lines().filter_map(nic).collect()
}

/// Bytes that a process's network devices carried: received and sent, without what it said to itself.
#[must_use]
pub fn carried(net: &str) -> (u64, u64) {
    let all = nics(net);
    let others = all.iter().filter(|nic| nic.name != "lo");
    others.fold((0, 0), |(rx, tx), nic| (rx + nic.counts[0][0], tx + nic.counts[1][0]))
}

fn nic_families(nics: &[Nic]) -> [Family; 6] {
    let names = [
        [
            "gantry_node_network_receive_bytes",
            "gantry_node_network_receive_packets",
            "gantry_node_network_receive_errors",
        ],
        [
            "gantry_node_network_transmit_bytes",
            "gantry_node_network_transmit_packets",
            "gantry_node_network_transmit_errors",
        ],
    ];
    let what = [
        ["Bytes received", "Packets received", "Packets not received"],
        ["Bytes sent", "Packets sent", "Packets not sent"],
    ];
    let family = |side: usize, place: usize| {
        let mut family = Family::counter(names[side][place], what[side][place]);
        for nic in nics.iter().take(LABELS_MAX) {
            family.add(&[("device", &nic.name)], nic.counts[side][place]);
        }
        family
    };
    [family(0, 0), family(0, 1), family(0, 2), family(1, 0), family(1, 1), family(1, 2)]
}

fn file_system_family(all: &[FileSystem]) -> Family {
    let mut family = Family::gauge(
        "gantry_node_filesystem_bytes",
        "Room of the file systems on which the node keeps something",
    );
    for system in all.iter().take(LABELS_MAX) {
        family.add(&[("mount", &system.mount), ("kind", "total")], system.total);
        family.add(&[("mount", &system.mount), ("kind", "free")], system.free);
    }
    family
}

fn boot_time(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

fn boot_family(boot: Option<u64>) -> Family {
    let family =
        Family::gauge("gantry_node_boot_time_seconds", "When the node's kernel started, since the epoch");
    boot.map_or_else(|| family.clone(), |boot| family.clone().with(&[], boot))
}

fn kernel(version: &str) -> &str {
    version.split_whitespace().nth(2).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts() -> Texts {
        let memory: String =
            MEMORY.iter().enumerate().map(|(n, (key, _))| format!("{key}:   {n} kB\n")).collect();
        Texts {
            meminfo: memory,
            loadavg: "0.50 1.25 2.00 1/100 12345\n".into(),
            net: "Inter-| Receive\n face |bytes\n    lo: 1 2 3 0 0 0 0 0 4 5 6 0 0 0 0 0\n  eth0:10 20 30 0 0 0 0 0 40 50 60 0 0 0 0 0\n".into(),
            stat: "cpu 1\nbtime 1700000000\n".into(),
            version: "Linux version 6.1.0 (x)".into(),
            pressure: [
                ("cpu", "some avg10=0.50 avg60=0.00 avg300=0.00 total=2500000\n".into()),
                ("memory", String::new()),
                ("io", String::new()),
            ],
            file_systems: vec![FileSystem { mount: "/srv".into(), total: 10, free: 4 }],
        }
    }

    #[test]
    fn the_node_is_told() {
        let found = gathered(&texts()).unwrap();
        let data = &found.data;
        assert_eq!(data["memory"]["SwapFree"], 6 * 1024);
        assert_eq!(data["loadavg"], json!([0.5, 1.25, 2.0]));
        assert_eq!(
            data["pressure"],
            json!({"cpu": {"some": {"avg10": 0.5, "avg60": 0.0, "avg300": 0.0, "total": 2_500_000}}})
        );
        assert_eq!(
            data["nics"][1],
            json!({
                "name": "eth0", "rx": {"bytes": 10, "packets": 20, "errors": 30}, "tx": {"bytes": 40, "packets": 50, "errors": 60},
            })
        );
        assert_eq!(data["filesystem"], json!([{"mount": "/srv", "total": 10, "free": 4}]));
        assert_eq!(
            (&data["boot_time"], &data["versions"]["kernel"]),
            (&json!(1_700_000_000), &json!("6.1.0"))
        );
        let value = |name: &str| {
            found.families.iter().find(|family| family.name == name).unwrap().samples[0].value.clone()
        };
        assert_eq!(value("gantry_node_pressure_stalled_seconds"), "2.5");
        assert_eq!(value("gantry_node_boot_time_seconds"), "1700000000");
        assert_eq!(carried(&texts().net), (10, 40));
    }

    #[test]
    fn what_is_missing_is_said() {
        let error = gathered(&Texts { meminfo: "MemTotal: 1 kB\n".into(), ..texts() }).unwrap_err();
        assert_eq!(error, "meminfo has no MemFree");
        assert!(gathered(&Texts { loadavg: "x".into(), ..texts() }).is_err());
    }
}
