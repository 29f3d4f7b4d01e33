//! RConfD's command line, and what node.toml says of it.

use crate::core::gate::{Limits, Rate};
use crate::error::StartError;
use clap::Parser;
use gantry_confd::core::reply::CLOCK_S;
use gantry_confd::files;
use gantry_model::root::{ROOT_ENV, Root};
use gantry_rt::node_toml::{self, ConfdToml};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Requests remembered for each form. A Ganeti cluster's watchers and monitors ask some ten a second; this is their
/// ten minutes several times over, and 2 MiB.
const REPLAY_ENTRIES: u64 = 65_536;
/// Most that may be asked for: 64 million MACs have 1.5 GiB.
const REPLAY_ENTRIES_MAX: u64 = 64 << 20;
/// Requests of one source.
const RATE: Rate = Rate { per_s: 50, burst: 200 };
/// Bytes of all answers: a sixth of a gigabit link.
const BYTES_PER_S: u64 = 20_000_000;
/// Narrowest window for the clock of who asks, s.
const CLOCK_S_MIN: u64 = 30;

/// Answers ConfD queries from this node's copy of the configuration. Started by gantry-boot on master candidates
#[derive(Debug, Clone, Parser)]
#[command(name = "gantry-rconfd", version)]
pub struct Args {
    /// Root directory of this node
    #[arg(long, env = ROOT_ENV, default_value = "/")]
    pub root: PathBuf,
    /// Listen on this address instead of the node's own; may be given several times
    #[arg(short, long, value_name = "IP")]
    pub bind: Vec<IpAddr>,
    /// Listen on this port instead of that of node.toml
    #[arg(short, long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Log to this file instead of standard error
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
}

/// What holds for this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The node's name.
    pub node: String,
    /// Where to listen.
    pub addrs: Vec<SocketAddr>,
    /// Bounds of the gate.
    pub limits: Limits,
    /// How far clocks may be apart, s.
    pub clock_s: u64,
}

impl Settings {
    /// Those of this node.
    ///
    /// # Errors
    /// node.toml can't be used.
    pub fn load(root: &Root, args: &Args) -> Result<Self, StartError> {
        let own = node_toml::load(root)?;
        let port = args.port.unwrap_or_else(|| files::port(own.confd_port));
        let given = [&args.bind, &own.confd.bind].into_iter().find(|bind| !bind.is_empty());
        let ips = given.cloned().unwrap_or_else(|| vec![own.address]);
        // Replies must come from the address that was asked; a socket of its own for each sees to that.
        if let Some(ip) = ips.iter().find(|ip| ip.is_unspecified()) {
            let text =
                format!("bind: {ip} is no address of this machine: name those to listen on one by one");
            return Err(StartError::Setting(text));
        }
        let addrs = ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
        Ok(Self { node: own.name, addrs, limits: limits(&own.confd)?, clock_s: clock(&own.confd)? })
    }
}

fn limits(own: &ConfdToml) -> Result<Limits, StartError> {
    let at_least_one = |name: &str, value: u64| match value {
        0 => Err(StartError::Setting(format!("{name} must be at least 1"))),
        more => Ok(more),
    };
    let entries = at_least_one("replay_entries", own.replay_entries.unwrap_or(REPLAY_ENTRIES))?;
    if entries > REPLAY_ENTRIES_MAX {
        return Err(StartError::Setting(format!("replay_entries must be at most {REPLAY_ENTRIES_MAX}")));
    }
    let per_s = at_least_one("rate", own.rate.unwrap_or(RATE.per_s))?;
    // A rate that was raised is not throttled by the default burst.
    let burst = at_least_one("burst", own.burst.unwrap_or(RATE.burst.max(per_s)))?;
    let bytes = at_least_one("bytes_per_s", own.bytes_per_s.unwrap_or(BYTES_PER_S))?;
    Ok(Limits {
        replays: usize::try_from(entries).unwrap_or(usize::MAX),
        requests: Rate { per_s, burst },
        bytes: Rate { per_s: bytes, burst: bytes },
    })
}

fn clock(own: &ConfdToml) -> Result<u64, StartError> {
    let clock_s = own.clock_s.unwrap_or(CLOCK_S);
    if (CLOCK_S_MIN..=CLOCK_S).contains(&clock_s) {
        return Ok(clock_s);
    }
    Err(StartError::Setting(format!("clock_s must be from {CLOCK_S_MIN} to {CLOCK_S}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_replace_defaults_within_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        gantry_rt::files::make_dirs(&root).unwrap();
        let args = |more: &[&str]| Args::parse_from([&["x"], more].concat());
        let load = |text: &str, more: &[&str]| {
            let text = format!("name = \"n1\"\naddress = \"127.0.0.2\"\nconfd_port = 7\n[confd]\n{text}\n");
            std::fs::write(root.node_toml(), text).unwrap();
            Settings::load(&root, &args(more)).map_err(|why| why.to_string())
        };
        let plain = load("", &[]).unwrap();
        assert_eq!(plain.addrs, ["127.0.0.2:7".parse().unwrap()]);
        assert_eq!((plain.limits.replays, plain.limits.requests, plain.clock_s), (65_536, RATE, 300));
        let set = load("bind = [\"::1\", \"127.0.0.1\"]\nrate = 1000\nclock_s = 30", &["-p", "9"]).unwrap();
        assert_eq!(set.addrs, ["[::1]:9".parse().unwrap(), "127.0.0.1:9".parse().unwrap()]);
        assert_eq!((set.limits.requests, set.clock_s), (Rate { per_s: 1000, burst: 1000 }, 30));
        assert_eq!(load("", &["-b", "127.0.0.9"]).unwrap().addrs, ["127.0.0.9:7".parse().unwrap()]);
        for (text, wanted) in [
            ("rate = 0", "rate must be at least 1"),
            ("replay_entries = 99999999", "at most"),
            ("clock_s = 29", "from 30 to 300"),
            ("clock_s = 301", "from 30 to 300"),
            ("bind = [\"0.0.0.0\"]", "one by one"),
            ("rates = 1", "rates"),
        ] {
            assert!(load(text, &[]).unwrap_err().contains(wanted), "{text}");
        }
    }
}
