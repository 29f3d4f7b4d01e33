//! The overseer's command line and periods.

use crate::core::pass::Pass;
use clap::Parser;
use gantry_model::root::{ROOT_ENV, Root};
use gantry_rt::node_toml::{self, NodeTomlError, OverseerToml};
use std::io;
use std::path::PathBuf;

/// Keeps pools full, used VMs gone, and nodes honest, by jobs it submits to luxid. Started by gantry-boot on the master
#[derive(Debug, Clone, Parser)]
#[command(name = "gantry-overseer", version)]
pub struct Args {
    /// Root directory of this node
    #[arg(long, env = ROOT_ENV, default_value = "/")]
    pub root: PathBuf,
    /// Run passes once, say what they submitted, and end
    #[arg(long)]
    pub once: bool,
    /// With --once: only this pass
    #[arg(long, value_name = "PASS", requires = "once")]
    pub only: Option<Pass>,
    /// Log to this file instead of standard error
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
}

/// Default periods, seconds (`model.md` §2.8).
const fn default_s(pass: Pass) -> u64 {
    match pass {
        Pass::DestroyDirty | Pass::CreateSlots | Pass::ExpandPools | Pass::DrainSlots | Pass::NodeRepair => {
            60
        }
        Pass::HealthCheck => 300,
        Pass::AuditNodes => 900,
    }
}

/// How long a node may be away before its leases are broken, seconds: longer than a reboot, shorter than a lunch.
const NODE_LOST_S: u64 = 300;

/// Why there are no periods.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// node.toml.
    #[error(transparent)]
    NodeToml(NodeTomlError),
    /// A period of nothing.
    #[error("node.toml: [overseer] {0} must be at least 1")]
    Zero(&'static str),
}

/// How often what is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Periods(OverseerToml);

impl Periods {
    /// Those of this node's settings; without a file the defaults.
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn load(root: &Root) -> Result<Self, ConfigError> {
        let own = match node_toml::load(root) {
            Ok(settings) => settings.overseer,
            Err(NodeTomlError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                OverseerToml::default()
            }
            Err(error) => return Err(ConfigError::NodeToml(error)),
        };
        Self::new(own)
    }

    fn new(own: OverseerToml) -> Result<Self, ConfigError> {
        for (name, value) in [
            ("destroy_dirty_s", own.destroy_dirty_s),
            ("create_slots_s", own.create_slots_s),
            ("expand_pools_s", own.expand_pools_s),
            ("drain_slots_s", own.drain_slots_s),
            ("health_check_s", own.health_check_s),
            ("node_repair_s", own.node_repair_s),
            ("audit_nodes_s", own.audit_nodes_s),
            ("node_lost_s", own.node_lost_s),
        ] {
            if value == Some(0) {
                return Err(ConfigError::Zero(name));
            }
        }
        Ok(Self(own))
    }

    /// Of one pass, milliseconds.
    #[must_use]
    pub fn period_ms(&self, pass: Pass) -> u64 {
        let set = match pass {
            Pass::DestroyDirty => self.0.destroy_dirty_s,
            Pass::CreateSlots => self.0.create_slots_s,
            Pass::ExpandPools => self.0.expand_pools_s,
            Pass::DrainSlots => self.0.drain_slots_s,
            Pass::HealthCheck => self.0.health_check_s,
            Pass::NodeRepair => self.0.node_repair_s,
            Pass::AuditNodes => self.0.audit_nodes_s,
        };
        set.unwrap_or(default_s(pass)).saturating_mul(1_000)
    }

    /// How long a node may be away.
    #[must_use]
    pub fn lost_s(&self) -> u64 {
        self.0.node_lost_s.unwrap_or(NODE_LOST_S)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_replace_defaults_and_nothing_is_never() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        gantry_rt::files::make_dirs(&root).unwrap();
        assert_eq!(Periods::load(&root).unwrap().period_ms(Pass::HealthCheck), 300_000);
        let write = |text: &str| {
            let text = format!("name = \"n1\"\naddress = \"127.0.0.2\"\n[overseer]\n{text}\n");
            std::fs::write(root.node_toml(), text).unwrap();
        };
        write("health_check_s = 1\nnode_lost_s = 2");
        let periods = Periods::load(&root).unwrap();
        assert_eq!((periods.period_ms(Pass::HealthCheck), periods.lost_s()), (1_000, 2));
        assert_eq!(periods.period_ms(Pass::AuditNodes), 900_000);
        write("audit_nodes_s = 0");
        assert!(Periods::load(&root).unwrap_err().to_string().contains("audit_nodes_s must be at least 1"));
        write("audit_node_s = 1");
        assert!(Periods::load(&root).unwrap_err().to_string().contains("audit_node_s"));
    }
}
