//! What boot is told: the root, where the programs lie, and the table of daemons.

use crate::core::supervise::STOP_MS;
use anyhow::Context;
use clap::Parser;
use gantry_model::role::Role;
use gantry_model::root::{ROOT_ENV, Root};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Names the directory of the programs, for boot and for the daemons it starts.
pub const LIBEXEC_ENV: &str = "GANTRY_LIBEXEC";

/// On which nodes a daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runs {
    /// On members that make real VMs. It holds nobody up for longer than its first try: a node whose VMs cannot be had
    /// still answers its master.
    WithVms,
    /// Everywhere.
    Always,
    /// On master candidates, the master among them. It holds nobody up either: who can't answer questions can still lead.
    Candidates,
    /// On members. It holds nobody up either: a node that cannot be looked at still does its work.
    Members,
    /// On the master.
    Master,
}

/// The daemons, in order of starting, and where they run.
pub const DAEMONS: &[(&str, Runs)] = &[
    ("vmd", Runs::WithVms),
    ("noded", Runs::Always),
    ("rconfd", Runs::Candidates),
    ("mond", Runs::Members),
    ("wconfd", Runs::Master),
    ("luxid", Runs::Master),
    ("overseer", Runs::Master),
];

/// How long stopping everything may take: each daemon its time, one after the other, and some for boot.
pub const STOP_ALL: Duration = Duration::from_millis((DAEMONS.len() as u64 + 1) * STOP_MS);

/// Starts a node's daemons, keeps them running, and stops them
#[derive(Debug, Clone, Parser)]
#[command(name = "gantry-boot", version)]
pub struct Args {
    /// Root of the node: DIR/{etc,run,var/lib,var/log}/gantry [default: GANTRY_ROOT, else /]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Directory of the daemons' programs [default: GANTRY_LIBEXEC, else where this program lies]
    #[arg(long, value_name = "DIR")]
    pub libexec: Option<PathBuf>,
    /// Go to the background once boot runs
    #[arg(long)]
    pub daemonize: bool,
    /// Leave the caller's session (what --daemonize starts)
    #[arg(long, hide = true)]
    pub detached: bool,
}

impl Runs {
    /// Whether those after it in the table can do without it.
    #[must_use]
    pub fn is_spared(self) -> bool {
        matches!(self, Self::WithVms | Self::Candidates | Self::Members)
    }
}

impl Args {
    /// With the defaults of the environment, and paths that hold in any directory.
    ///
    /// # Errors
    /// A directory that is not there.
    pub fn resolved(mut self) -> anyhow::Result<Self> {
        let root = self.root.or_else(|| std::env::var_os(ROOT_ENV).map(PathBuf::from));
        self.root = Some(whole(&root.unwrap_or_else(|| PathBuf::from("/")))?);
        let own = || std::env::current_exe().ok()?.parent().map(Path::to_path_buf);
        let libexec = self.libexec.or_else(|| std::env::var_os(LIBEXEC_ENV).map(PathBuf::from)).or_else(own);
        self.libexec =
            Some(whole(&libexec.context("cannot find the programs; name their directory with --libexec")?)?);
        Ok(self)
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> Root {
        self.root.clone().map_or_else(Root::default, Root::new)
    }

    /// The directory of the programs.
    #[must_use]
    pub fn libexec(&self) -> PathBuf {
        self.libexec.clone().unwrap_or_default()
    }
}

fn whole(path: &Path) -> anyhow::Result<PathBuf> {
    std::fs::canonicalize(path).with_context(|| format!("cannot use the directory {}", path.display()))
}

/// Whether a node of this role (none: not joined), which makes real VMs or not, runs a daemon of [`DAEMONS`].
#[must_use]
pub fn wants(role: Option<Role>, vms: bool, runs: Runs) -> bool {
    match (runs, role) {
        (Runs::Always, _)
        | (Runs::Members, Some(_))
        | (Runs::Candidates, Some(Role::Master | Role::Candidate))
        | (Runs::Master, Some(Role::Master)) => true,
        (Runs::WithVms, Some(_)) => vms,
        (Runs::Master, Some(Role::Candidate | Role::Regular))
        | (Runs::Candidates, Some(Role::Regular))
        | (Runs::Master | Runs::Candidates | Runs::Members | Runs::WithVms, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_where() {
        let named = |role, vms| -> Vec<&str> {
            DAEMONS.iter().filter(|(_, runs)| wants(role, vms, *runs)).map(|(name, _)| *name).collect()
        };
        assert_eq!(named(None, true), ["noded"]);
        assert_eq!(named(Some(Role::Regular), false), ["noded", "mond"]);
        assert_eq!(named(Some(Role::Candidate), true), ["vmd", "noded", "rconfd", "mond"]);
        assert_eq!(
            named(Some(Role::Master), false),
            ["noded", "rconfd", "mond", "wconfd", "luxid", "overseer"]
        );
        assert_eq!(
            named(Some(Role::Master), true),
            ["vmd", "noded", "rconfd", "mond", "wconfd", "luxid", "overseer"]
        );
    }
}
