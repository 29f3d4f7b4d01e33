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
    /// The stamp whose file could not be read: said once.
    unread: Option<Stamp>,
    /// Whether it made VMs when that was last known.
    vms: bool,
}

impl RoleWatch {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(root: Root) -> Self {
        Self { root, seen: None, unread: None, vms: false }
    }

    /// Which daemons are wanted, if that may have changed since the last look. A file that cannot be read
    /// changes nothing, is logged once and looked at again: a master must not stay one for want of a descriptor.
    pub fn look(&mut self) -> Option<BTreeSet<Index>> {
        let stamp = self.stamp();
        if self.seen == Some(stamp) {
            return None;
        }
        match gantry_rt::files::read_role(&self.root) {
            Ok(role) => {
                self.seen = Some(stamp);
                let role = role.map(|file| file.role);
                let vms = role.is_some() && self.makes_vms();
                tracing::info!(?role, vms, "role");
                let wanted = DAEMONS.iter().enumerate().filter(|(_, (_, runs))| wants(role, vms, *runs));
                Some(wanted.map(|(index, _)| index).collect())
            }
            Err(error) => {
                if self.unread.replace(stamp) != Some(stamp) {
                    tracing::error!(%error, "role.json cannot be read; the daemons stay as they are");
                }
                None
            }
        }
    }

    /// Whether this node makes VMs that need vmd. Settings that cannot be read change nothing, for vmd ends its VMs when it
    /// stops; noded says what is wrong.
    fn makes_vms(&mut self) -> bool {
        match node_toml::load(&self.root) {
            Ok(settings) => self.vms = needs_vmd(&settings, || RUNTIMES.iter().any(|name| in_path(name))),
            Err(error) => {
                tracing::warn!(%error, vmd = self.vms, "node.toml cannot be read; vmd runs or not as before");
            }
        }
        self.vms
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
    use gantry_model::ids::{ClusterUuid, NodeUuid};
    use gantry_model::role::{Role, RoleFile};

    fn runs_vmd(wanted: &BTreeSet<Index>) -> bool {
        wanted.iter().any(|index| DAEMONS[*index].0 == "vmd")
    }

    #[test]
    fn settings_that_cannot_be_read_stop_no_vm() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let mut settings = NodeToml::new("n1", std::net::IpAddr::from([127, 0, 0, 2]));
        settings.drivers = vec!["oci".to_owned()];
        std::fs::create_dir_all(root.node_toml().parent().unwrap()).unwrap();
        settings.save(&root).unwrap();
        let (node, cluster) = (NodeUuid(uuid::Uuid::from_u128(1)), ClusterUuid(uuid::Uuid::from_u128(2)));
        let write = |role, epoch| {
            std::fs::create_dir_all(root.lib()).unwrap();
            gantry_rt::files::write_role(&root, &RoleFile { node, cluster, role, epoch }).unwrap();
        };
        write(Role::Candidate, 1);
        let mut watch = RoleWatch::new(root.clone());
        assert!(runs_vmd(&watch.look().unwrap()));
        std::fs::write(root.node_toml(), "drivers = [").unwrap();
        write(Role::Master, 2);
        assert!(runs_vmd(&watch.look().unwrap()), "vmd ends its VMs when it is stopped");
        settings.drivers = vec!["fake".to_owned()];
        settings.save(&root).unwrap();
        write(Role::Candidate, 3);
        assert!(!runs_vmd(&watch.look().unwrap()));
    }

    #[test]
    fn a_role_that_could_not_be_read_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let mut watch = RoleWatch::new(root.clone());
        assert!(watch.look().is_some(), "none is a role, too");
        std::fs::create_dir_all(root.lib()).unwrap();
        // What can't be read without changing its stamp: a directory in its place.
        std::fs::create_dir(root.role_file()).unwrap();
        assert!(watch.look().is_none() && watch.look().is_none());
        assert_ne!(watch.seen, Some(watch.stamp()), "the next look tries again");
        std::fs::remove_dir(root.role_file()).unwrap();
        assert!(watch.look().is_none(), "as before");
    }

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
