//! Options that set the cluster's parameters: the same for `init` and `modify`.

use super::policy::PolicyOptions;
use crate::params::{backend, guessed, key_values, named, yes_no};
use serde_json::{Map, Value, json};
use std::net::Ipv4Addr;

/// Intervals up to here are read at all; the cluster has its own bound.
const SECONDS_MAX: f64 = 1e9;

/// Settings of the cluster.
#[derive(Debug, clap::Args)]
pub struct Settings {
    /// How many nodes hold copies of the configuration
    #[arg(short = 'C', long, value_name = "NUMBER")]
    candidate_pool_size: Option<u32>,
    /// How many jobs run at once
    #[arg(long, value_name = "NUMBER")]
    max_running_jobs: Option<u32>,
    /// How many running jobs are watched closely
    #[arg(long, value_name = "NUMBER")]
    max_tracked_jobs: Option<u32>,
    /// Enabled disk templates, separated by commas
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    enabled_disk_templates: Option<Vec<String>>,
    /// Default parameters of a hypervisor, such as fake:migration_mode=live; may be given several times
    #[arg(short = 'H', long = "hypervisor-parameters", value_name = "NAME:KEY=VALUE,...")]
    hvparams: Vec<String>,
    /// Default backend parameters, such as memory=256,vcpus=1
    #[arg(short = 'B', long = "backend-parameters", value_name = "KEY=VALUE,...")]
    beparams: Option<String>,
    /// Default parameters of network interfaces
    #[arg(short = 'N', long = "nic-parameters", value_name = "KEY=VALUE,...")]
    nicparams: Option<String>,
    /// Default node parameters
    #[arg(long = "node-parameters", value_name = "KEY=VALUE,...", allow_hyphen_values = true)]
    ndparams: Option<String>,
    /// Allocator used when none is named; empty = none
    #[arg(short = 'I', long, value_name = "NAME")]
    default_iallocator: Option<String>,
    /// Start of generated MAC addresses, such as aa:00:00
    #[arg(short = 'm', long, value_name = "PREFIX")]
    mac_prefix: Option<String>,
    /// Address of the cluster itself (IPv4), which the master has beside its own; empty = none
    #[arg(long, value_name = "IP", value_parser = master_ip)]
    master_ip: Option<String>,
    /// Network device of the cluster's address
    #[arg(long, value_name = "DEVICE")]
    master_netdev: Option<String>,
    /// Bits of the network of the cluster's address
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u8).range(1..=32))]
    master_netmask: Option<u8>,
    /// Whether instances may be shut down from inside for good: yes or no
    #[arg(long, value_name = "YES|NO", value_parser = yes_no)]
    user_shutdown: Option<bool>,
    /// Whether nodes stop their instances when they are marked offline: yes or no
    #[arg(long, value_name = "YES|NO", value_parser = yes_no)]
    maintain_node_health: Option<bool>,
    /// Where disks in files lie
    #[arg(long, value_name = "DIR")]
    file_storage_dir: Option<String>,
    /// Data collectors of MonD to turn on or off, such as lv=false,drbd=true
    #[arg(long, value_name = "NAME=true|false,...")]
    enabled_data_collectors: Option<String>,
    /// How often data collectors look, in seconds, such as diskstats=10,lv=60
    #[arg(long, value_name = "NAME=SECONDS,...")]
    data_collector_interval: Option<String>,
    /// Forms of ConfD that are spoken: sha1 (Ganeti's alone), both, or sha256 (Gantry's alone)
    #[arg(long, value_name = "FORMS", value_parser = ["sha1", "both", "sha256"])]
    confd_digest: Option<String>,
    /// Whether instances unknown to Ganeti's programs are left out of ConfD's answers to them: yes or no
    #[arg(long, value_name = "YES|NO", value_parser = yes_no)]
    confd_strict_ganeti: Option<bool>,
    /// Who may ask ConfD for parts of the configuration: off (nobody), local (programs of the node), or on
    #[arg(long, value_name = "WHO", value_parser = ["off", "local", "on"])]
    confd_config_query: Option<String>,
    /// Networks that ConfD answers, separated by commas; empty = those of the nodes
    #[arg(long, value_name = "NETWORK,...", value_parser = comma_separated)]
    confd_allowed_networks: Option<Texts>,
    /// Networks in which Ganeti's form of ConfD may be used, separated by commas; empty = all that ConfD answers
    #[arg(long, value_name = "NETWORK,...", value_parser = comma_separated)]
    confd_legacy_networks: Option<Texts>,
    #[command(flatten)]
    policy: PolicyOptions,
}

/// Texts of one option, perhaps none.
#[derive(Debug, Clone)]
struct Texts(Vec<String>);

fn comma_separated(text: &str) -> Result<Texts, String> {
    Ok(Texts(text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()))
}

impl Settings {
    /// What was set, as parameters of OP_CLUSTER_SET_PARAMS.
    ///
    /// # Errors
    /// A value that is none of its kind, for people.
    pub fn given(&self) -> Result<Map<String, Value>, String> {
        let mut hvparams = Map::new();
        for text in &self.hvparams {
            let (name, params) = named(text)?;
            hvparams.insert(name, Value::Object(guessed(params)));
        }
        let nicparams = self.nicparams.as_deref().map(key_values).transpose()?;
        let ndparams = self.ndparams.as_deref().map(key_values).transpose()?;
        let all = json!({
            "candidate_pool_size": self.candidate_pool_size,
            "max_running_jobs": self.max_running_jobs,
            "max_tracked_jobs": self.max_tracked_jobs,
            "enabled_disk_templates": self.enabled_disk_templates,
            "hvparams": (!hvparams.is_empty()).then_some(hvparams),
            "beparams": self.beparams.as_deref().map(backend).transpose()?,
            "nicparams": nicparams,
            "ndparams": ndparams.map(guessed),
            "default_iallocator": self.default_iallocator,
            "mac_prefix": self.mac_prefix,
            "master_ip": self.master_ip,
            "master_netdev": self.master_netdev,
            "master_netmask": self.master_netmask,
            "enabled_user_shutdown": self.user_shutdown,
            "maintain_node_health": self.maintain_node_health,
            "file_storage_dir": self.file_storage_dir,
            "enabled_data_collectors": self.enabled_data_collectors.as_deref().map(switches).transpose()?,
            "data_collector_interval": self.data_collector_interval.as_deref().map(intervals).transpose()?,
            "confd_digest": self.confd_digest,
            "confd_strict_ganeti": self.confd_strict_ganeti,
            "confd_config_query": self.confd_config_query,
            "confd_allowed_networks": self.confd_allowed_networks.as_ref().map(|texts| &texts.0),
            "confd_legacy_networks": self.confd_legacy_networks.as_ref().map(|texts| &texts.0),
            "ipolicy": self.policy.value()?,
        });
        let Value::Object(all) = all else { return Ok(Map::new()) };
        Ok(all.into_iter().filter(|(_, value)| !value.is_null()).collect())
    }
}

/// Names with true or false.
fn switches(text: &str) -> Result<Map<String, Value>, String> {
    let switch = |(name, value): (String, Value)| match (value.as_str(), value.as_bool()) {
        (Some("true" | "True"), _) | (_, Some(true)) => Ok((name, Value::Bool(true))),
        (Some("false" | "False"), _) | (_, Some(false)) => Ok((name, Value::Bool(false))),
        _ => Err(format!("{name} must be true or false")),
    };
    key_values(text)?.into_iter().map(switch).collect()
}

/// Names with seconds, as microseconds.
fn intervals(text: &str) -> Result<Map<String, Value>, String> {
    let interval = |(name, value): (String, Value)| {
        let seconds = value.as_str().and_then(|text| text.parse::<f64>().ok());
        let seconds = seconds.filter(|seconds| (0.0..=SECONDS_MAX).contains(seconds));
        let seconds = seconds.ok_or_else(|| format!("the interval of {name} must be a number of seconds"))?;
        #[allow(clippy::cast_possible_truncation, reason = "bounded above")]
        let us = (seconds * 1e6).round() as i64;
        Ok::<_, String>((name, Value::from(us)))
    };
    key_values(text)?.into_iter().map(interval).collect()
}

/// An IPv4 address, or nothing.
fn master_ip(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    text.parse::<Ipv4Addr>().map(|ip| ip.to_string()).map_err(|_| "not an IPv4 address".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        settings: Settings,
    }

    #[test]
    fn only_what_was_given_is_set() {
        let given = |args: &[&str]| Only::try_parse_from([&["x"], args].concat()).unwrap().settings.given();
        assert_eq!(given(&[]), Ok(Map::new()));
        let args = ["-C", "1", "-B", "vcpus=2", "-H", "fake:a=1", "-H", "lxc:b=x", "--user-shutdown", "yes"];
        let want = json!({
            "candidate_pool_size": 1, "beparams": {"vcpus": 2}, "hvparams": {"fake": {"a": 1}, "lxc": {"b": "x"}},
            "enabled_user_shutdown": true
        });
        assert_eq!(given(&args).map(Value::Object), Ok(want));
        assert!(given(&["-B", "vcpus=x"]).is_err());
        let address = given(&["--master-ip", "", "--master-netdev", "eth1", "--master-netmask", "24"]);
        let want = json!({"master_ip": "", "master_netdev": "eth1", "master_netmask": 24});
        assert_eq!(address.map(Value::Object), Ok(want));
        let collectors = given(&[
            "--enabled-data-collectors",
            "lv=false,drbd=true",
            "--data-collector-interval",
            "lv=60,diskstats=0.5",
        ]);
        let want = json!({
            "enabled_data_collectors": {"lv": false, "drbd": true},
            "data_collector_interval": {"lv": 60_000_000, "diskstats": 500_000}
        });
        assert_eq!(collectors.map(Value::Object), Ok(want));
        assert!(given(&["--enabled-data-collectors", "lv=perhaps"]).is_err());
        assert!(given(&["--data-collector-interval", "lv=soon"]).is_err());
        for wrong in [["--master-ip", "x"], ["--master-netmask", "33"]] {
            assert!(Only::try_parse_from([&["x"][..], &wrong[..]].concat()).is_err(), "{wrong:?}");
        }
    }
}
