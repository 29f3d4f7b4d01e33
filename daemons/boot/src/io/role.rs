//! Watches `role.json`: which daemons this node should run.

use crate::config::{DAEMONS, wants};
use crate::core::supervise::Index;
use gantry_model::root::Root;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// How often it is looked at. A role changes by hand or by failover; nobody notices this delay.
pub const LOOK: Duration = Duration::from_millis(200);

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
                tracing::info!(?role, "role");
                let wanted = DAEMONS.iter().enumerate().filter(|(_, (_, master))| wants(role, *master));
                Some(wanted.map(|(index, _)| index).collect())
            }
            Err(error) => {
                tracing::error!(%error, "role.json cannot be read; the daemons stay as they are");
                None
            }
        }
    }

    fn stamp(&self) -> Stamp {
        let facts = std::fs::metadata(self.root.role_file()).ok()?;
        Some((facts.ino(), facts.mtime(), facts.mtime_nsec(), facts.len()))
    }
}
