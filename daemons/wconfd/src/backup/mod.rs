//! `gantry-wconfd backup` and `restore`: the whole cluster as a directory, and a master made of one (docs/adr/0009).
//!
//! ```text
//!  DIR/manifest.json           what it is, where the logs stood, checksums; written last
//!      wconf.snapshot          configuration, slots, leases
//!      queue.snapshot          jobs, tasks, results, at the same moment
//!      secrets/ca.pem, ca.key  the CA: nodes go on trusting the restored master
//!      secrets/hmac.key        confd's key, where the cluster has one
//!      node.toml               the master's own settings
//!      blob/ab/HEX             bodies that tasks and images name
//! ```
//!
//! | room | what |
//! |---|---|
//! | `manifest` | the file that makes a directory a backup |
//! | `make` | making one |
//! | `check` | whether one is whole |
//! | `others` | what other nodes say before a restore |
//! | `still` | whether the node is still the master when one is made |
//! | `here` | what on this machine forbids a restore |
//! | `restore` | making this node the master of what a backup holds |
//!
//! Lines for people go to standard output, each at once; one that begins with [`PASSING`] is of the moment only.

pub mod check;
mod here;
pub mod make;
pub mod manifest;
pub mod others;
pub mod replaced;
pub mod restore;
pub mod still;

use crate::core::config;
use gantry_copies::link::chain;
use gantry_rpc::tls::{CA_KEY, CA_PEM, TlsError};
use gantry_rt::node_toml::NodeTomlError;
use gantry_store::{LogKind, StoreError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Begins a line that the next one replaces.
pub const PASSING: &str = "~ ";
/// The secrets a master needs and that no other node can give it.
pub const SECRETS: [&str; 2] = [CA_PEM, CA_KEY];
/// Confd's key, in a backup; one that was made before backups had it has none.
pub const HMAC_KEY: &str = "secrets/hmac.key";
/// The master's settings, in a backup.
pub const NODE_TOML: &str = "node.toml";

/// Why there is no backup, or why it is not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It would overwrite something.
    #[error("{} is there and not empty: name a new directory for the backup", dir.display())]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
    },
    /// Where it shall lie is not there.
    #[error("{} is no directory: mount what should be there, or make it first", parent.display())]
    NoParent {
        /// Where.
        parent: PathBuf,
    },
    /// No name that a directory can have.
    #[error("'{}' can't name a directory to be made: give it a name of its own, such as /srv/backup/monday", dir.display())]
    NoName {
        /// What was given.
        dir: PathBuf,
    },
    /// Somebody else is at it.
    #[error("another command writes in {} just now: wait for its end", dir.display())]
    Busy {
        /// Where.
        dir: PathBuf,
    },
    /// Only a master has all of it.
    #[error("{0}")]
    NotMaster(String),
    /// The disk is too small.
    #[error(
        "{} MiB are needed in {}, and {} MiB are free there: make room, or name a directory on another disk",
        need.div_ceil(1 << 20), dir.display(), free >> 20
    )]
    Room {
        /// Bytes needed.
        need: u64,
        /// Bytes free.
        free: u64,
        /// Where.
        dir: PathBuf,
    },
    /// The disk got full on the way.
    #[error(
        "no room is left in {} for the backup ({source}); nothing is kept of it: make room, or name a directory on another disk",
        dir.display()
    )]
    Full {
        /// Where.
        dir: PathBuf,
        /// What could not be done.
        source: Box<BackupError>,
    },
    /// No manifest.
    #[error(
        "{} holds no backup: there is no manifest.json in it. A backup that was interrupted has none; take another one",
        dir.display()
    )]
    NoBackup {
        /// The directory.
        dir: PathBuf,
    },
    /// Of another program.
    #[error(
        "the backup has format {found}, and this program reads format {}: restore it with the release that made it",
        manifest::FORMAT
    )]
    Format {
        /// Its format.
        found: u64,
    },
    /// A file is not there.
    #[error("the backup is not whole: {name} is missing; nothing was changed. Take another backup")]
    Missing {
        /// Which.
        name: String,
    },
    /// A file is not what was written.
    #[error("the backup is damaged: {name}: {what}; nothing was changed. Take another backup")]
    Changed {
        /// Which.
        name: String,
        /// How.
        what: String,
    },
    /// This node must not be touched.
    #[error("{0}")]
    Refused(String),
    /// `node.toml`.
    #[error("node.toml: {}", chain(.0))]
    NodeToml(#[from] NodeTomlError),
    /// Keys or certificates.
    #[error("certificates: {}", chain(.0))]
    Tls(#[from] TlsError),
    /// The store's word.
    #[error("{}", .0.chain())]
    Store(#[from] StoreError),
    /// No valid configuration.
    #[error("the configuration is not valid: {0}")]
    Config(#[from] config::LoadError),
    /// A file operation failed.
    #[error("can't {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl BackupError {
    /// Whether the disk has no room, or no place for another file.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            Self::Store(why) => why.is_full(),
            Self::NotEmpty { .. }
            | Self::NoName { .. }
            | Self::NoParent { .. }
            | Self::Busy { .. }
            | Self::NotMaster(_)
            | Self::Room { .. }
            | Self::Full { .. }
            | Self::NoBackup { .. }
            | Self::Format { .. }
            | Self::Missing { .. }
            | Self::Changed { .. }
            | Self::Refused(_)
            | Self::NodeToml(_)
            | Self::Tls(_)
            | Self::Config(_) => false,
        }
    }
}

/// An error of a file operation.
pub(crate) fn failed<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> BackupError + 'a {
    move |source| BackupError::Io { what, path: path.to_owned(), source }
}

/// Why it is not done, for people.
pub(crate) fn refused(text: impl Into<String>) -> BackupError {
    BackupError::Refused(text.into())
}

/// The file of a log's snapshot.
#[must_use]
pub fn snapshot_name(log: LogKind) -> &'static str {
    match log {
        LogKind::W => "wconf.snapshot",
        LogKind::Q => "queue.snapshot",
    }
}

/// A body's path in a backup.
#[must_use]
pub fn body_name(digest: &str) -> String {
    format!("blob/{}/{digest}", digest.get(..2).unwrap_or("__"))
}

/// Prints a line at once. Nobody may be there to read it.
pub fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Bytes as people read them.
#[must_use]
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} bytes"),
        1_024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1_024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

/// A count with its noun.
#[must_use]
pub fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// Refuses when less than `need` is free where `dir` is.
pub(crate) fn room(dir: &Path, need: u64) -> Result<(), BackupError> {
    let at = nix::sys::statvfs::statvfs(dir).map_err(|why| failed("look at", dir)(why.into()))?;
    let free = at.blocks_available() * at.fragment_size();
    if free < need { Err(BackupError::Room { need, free, dir: dir.to_owned() }) } else { Ok(()) }
}

/// Milliseconds since 1970.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is a whole number after 1970"
)]
pub(crate) fn unix_ms() -> u64 {
    (gantry_rt::clock::now().epoch() * 1000.0) as u64
}

/// How far long work is, said once a second.
pub(crate) struct Progress {
    what: &'static str,
    of: u64,
    done: u64,
    said: std::time::Instant,
}

impl Progress {
    pub(crate) fn new(what: &'static str, of: u64) -> Self {
        Self { what, of, done: 0, said: std::time::Instant::now() }
    }

    pub(crate) fn add(&mut self, bytes: u64) {
        self.done += bytes;
        if self.said.elapsed().as_millis() >= 1_000 {
            self.said = std::time::Instant::now();
            say(&format!("{PASSING}{}: {} of {}", self.what, size(self.done), size(self.of)));
        }
    }
}
