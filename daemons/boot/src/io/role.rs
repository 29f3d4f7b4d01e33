//! Watches `role.json`: which daemons this node should run.

use crate::config::{DAEMONS, wants};
use crate::core::supervise::Index;
use gantry_model::root::Root;
use gantry_rt::node_toml::{self, NodeToml};
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// How often it is looked at. A role changes by hand or by failover; nobody notices this delay.
pub const LOOK: Duration = Duration::from_millis(200);

/// The driver whose VMs vmd owns.
const VMD_DRIVER: &str = "oci";
/// The runtimes that vmd can use; without one it could only fail.
const RUNTIMES: [&str; 2] = ["crun", "runc"];

/// What a file was when it was last looked at: changes with every replacement.
type Stamp = Option<(u64, i64, i64, u64)>;

/// The role file of one root, looked at again and again.
#[derive(Debug)]
pub struct RoleWatch {
    root: Root,
    seen: Option<Stamp>,
}

impl RoleWatch {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(root: Root) -> Self {
        Self { root, seen: None }
    }

    /// Which daemons are wanted, if that may have changed since the last look. A file that cannot be read
    /// changes nothing and is logged once.
    pub fn look(&mut self) -> Option<BTreeSet<Index>> {
        let stamp = self.stamp();
        if self.seen == Some(stamp) {
            return None;
        }
        self.seen = Some(stamp);
        match gantry_rt::files::read_role(&self.root) {
            Ok(role) => {
                let role = role.map(|file| file.role);
                let vms = role.is_some() && self.makes_vms();
                tracing::info!(?role, vms, "role");
                let wanted = DAEMONS.iter().enumerate().filter(|(_, (_, runs))| wants(role, vms, *runs));
                Some(wanted.map(|(index, _)| index).collect())
            }
            Err(error) => {
                tracing::error!(%error, "role.json cannot be read; the daemons stay as they are");
                None
            }
        }
    }

    /// Whether this node makes VMs that need vmd. Settings that cannot be read make none: noded says what is wrong.
    fn makes_vms(&self) -> bool {
        match node_toml::load(&self.root) {
            Ok(settings) => needs_vmd(&settings, || RUNTIMES.iter().any(|name| in_path(name))),
            Err(error) => {
                tracing::warn!(%error, "node.toml cannot be read; no vmd is started");
                false
            }
        }
    }

    fn stamp(&self) -> Stamp {
        let facts = std::fs::metadata(self.root.role_file()).ok()?;
        Some((facts.ino(), facts.mtime(), facts.mtime_nsec(), facts.len()))
    }
}

/// Whether the settings name the driver, or name none and its tools are found.
fn needs_vmd(settings: &NodeToml, found: impl FnOnce() -> bool) -> bool {
    match settings.drivers.as_slice() {
        [] => found(),
        named => named.iter().any(|name| name == VMD_DRIVER),
    }
}

/// Whether a program of this name lies in a directory of `PATH`.
fn in_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fake_alone_needs_no_vmd_and_no_driver_named_means_what_is_found() {
        let mut settings = NodeToml::new("n1", std::net::IpAddr::from([127, 0, 0, 2]));
        for (drivers, found, needs) in [
            (&["fake"][..], true, false),
            (&["oci"], false, true),
            (&["fake", "oci"], false, true),
            (&[], true, true),
            (&[], false, false),
        ] {
            settings.drivers = drivers.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(needs_vmd(&settings, || found), needs, "{drivers:?}");
        }
    }
}
