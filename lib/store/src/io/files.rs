//! Which files a log has, and which object lives in which of them.

use std::path::{Path, PathBuf};

/// One of the two logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogKind {
    /// The configuration and what is held of it: `wconf.log`, `config.data`, `locks.data`. Writer: wconfd.
    W,
    /// Jobs, tasks and results: `queue.data` holds the log and its objects. Writer: luxid.
    Q,
}

/// One file of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSpec {
    /// Its name in the directory.
    pub name: &'static str,
    /// It holds the log and the vote.
    pub log: bool,
    /// It holds objects.
    pub objects: bool,
    /// It holds local rows.
    pub local: bool,
    /// The mode it is made with: the configuration may be read by the group.
    pub mode: u32,
}

/// W's log.
pub const WCONF_LOG: FileSpec =
    FileSpec { name: "wconf.log", log: true, objects: false, local: false, mode: 0o600 };
/// W's desired state.
pub const CONFIG_DATA: FileSpec =
    FileSpec { name: "config.data", log: false, objects: true, local: false, mode: 0o640 };
/// W's holdings, and the job locks.
pub const LOCKS_DATA: FileSpec =
    FileSpec { name: "locks.data", log: false, objects: true, local: true, mode: 0o640 };
/// Q's log and objects.
pub const QUEUE_DATA: FileSpec =
    FileSpec { name: "queue.data", log: true, objects: true, local: false, mode: 0o600 };

/// The kinds of objects that are holdings: they change with every test run, the configuration seldom.
const HOLDINGS: [&str; 5] = ["slot", "lease", "ended_lease", "lease_clock", "applied"];

/// The file of W in which objects of this kind live. (In Q all live in `queue.data`.)
#[must_use]
pub fn file_of(kind: &str) -> &'static str {
    if HOLDINGS.contains(&kind) { LOCKS_DATA.name } else { CONFIG_DATA.name }
}

impl LogKind {
    /// The file of the log.
    #[must_use]
    pub fn log_file(self) -> &'static FileSpec {
        match self {
            LogKind::W => &WCONF_LOG,
            LogKind::Q => &QUEUE_DATA,
        }
    }

    /// The files of objects beside the log's own.
    #[must_use]
    pub fn projections(self) -> &'static [FileSpec] {
        match self {
            LogKind::W => &[CONFIG_DATA, LOCKS_DATA],
            LogKind::Q => &[],
        }
    }

    /// The file whose lock the one writer holds.
    #[must_use]
    pub fn lock_name(self) -> &'static str {
        match self {
            LogKind::W => "wconf.lock",
            LogKind::Q => "queue.lock",
        }
    }
}

impl FileSpec {
    /// The file in `dir`.
    #[must_use]
    pub fn path(&self, dir: &Path) -> PathBuf {
        dir.join(self.name)
    }

    /// Whether this file takes part in a change of an object of `kind`.
    #[must_use]
    pub fn holds(&self, kind: &str) -> bool {
        self.objects && (self.log || file_of(kind) == self.name)
    }
}
