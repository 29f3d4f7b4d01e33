//! `manifest.json`: what a backup is of, where its logs stood, and what each of its files must be. It is written last, so
//! a directory that has it is whole; its own checksum is in it, so a damaged one is never followed.

use super::BackupError;
use gantry_model::ids::{ClusterUuid, NodeUuid};
use gantry_rt::files;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Its name.
pub const NAME: &str = "manifest.json";
/// The format this program writes and reads.
pub const FORMAT: u64 = 1;
/// Longest manifest: a hundred bytes for each of a million bodies.
const BYTES_MAX: u64 = 128 << 20;

/// Where a log stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Epoch of the last row.
    pub epoch: u64,
    /// The last row.
    pub row: u64,
}

impl Place {
    /// Of a position in a log.
    #[must_use]
    pub fn of(at: gantry_store::Position) -> Self {
        Self { epoch: at.term.epoch, row: at.idx.0 }
    }
}

/// A file of the backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its path in the backup.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its checksum.
    pub sha256: String,
}

/// A body: its name is its checksum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// sha256 of its content.
    pub digest: String,
    /// Its length.
    pub bytes: u64,
}

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The cluster.
    pub cluster: ClusterUuid,
    /// Its name.
    pub cluster_name: String,
    /// When it was made: seconds since 1970.
    pub made_at: u64,
    /// By which release.
    pub release: String,
    /// The master that made it.
    pub node: NodeUuid,
    /// Its name.
    pub node_name: String,
    /// The epoch it was master of.
    pub epoch: u64,
    /// Where the configuration's log stood.
    pub config: Place,
    /// Where the queue's log stood.
    pub queue: Place,
    /// All files but bodies.
    pub files: Vec<Entry>,
    /// The bodies that tasks and images name.
    pub bodies: Vec<Body>,
    /// Bodies that are named, and were not whole on the master's disk.
    pub absent: Vec<String>,
}

impl Manifest {
    /// Writes it into `dir`; durable when it returns.
    ///
    /// # Errors
    /// The disk's.
    pub fn store(&self, dir: &Path) -> io::Result<()> {
        let backup = serde_json::to_value(self)?;
        let sha256 = checksum(&backup)?;
        let whole = json!({ "format": FORMAT, "sha256": sha256, "backup": backup });
        let mut text = serde_json::to_vec_pretty(&whole)?;
        text.push(b'\n');
        files::atomic_write(&dir.join(NAME), &text, 0o600)
    }

    /// Reads the one in `dir`.
    ///
    /// # Errors
    /// There is none, it is of another format, or not what was written.
    pub fn load(dir: &Path) -> Result<Self, BackupError> {
        let path = dir.join(NAME);
        let none = || BackupError::NoBackup { dir: dir.to_owned() };
        let file = File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => none(),
            _ => BackupError::Io { what: "open", path: path.clone(), source },
        })?;
        let mut text = Vec::new();
        let read = file.take(BYTES_MAX).read_to_end(&mut text);
        read.map_err(|source| BackupError::Io { what: "read", path: path.clone(), source })?;
        let changed = |what: &str| BackupError::Changed { name: NAME.to_owned(), what: what.to_owned() };
        let mut whole: Value = serde_json::from_slice(&text).map_err(|_| changed("it is no JSON"))?;
        let format = whole["format"].as_u64().ok_or_else(|| changed("it names no format"))?;
        if format != FORMAT {
            return Err(BackupError::Format { found: format });
        }
        let backup = whole["backup"].take();
        if checksum(&backup).ok().as_deref() != whole["sha256"].as_str() {
            return Err(changed("its checksum is another"));
        }
        serde_json::from_value(backup).map_err(|_| changed("something is missing in it"))
    }
}

/// Of the value's compact text, whose keys are in one order.
fn checksum(value: &Value) -> io::Result<String> {
    Ok(hex(&Sha256::digest(serde_json::to_vec(value)?)))
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
