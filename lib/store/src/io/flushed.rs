//! How far a log was flushed, told in a small file beside it (`queue.data.flushed`). SQLite takes a damaged frame of its WAL for the
//! end of it, whatever comes after: without this, rows that were acknowledged, or a promise, would be gone without a word where no
//! other copy knows better (docs/adr/0008).
//!
//! noded's own record keeps one too, with the number of its last flushed transaction for that of a row.
//!
//! It is written after each flush and not flushed itself: on the disk it may be behind the log, never before it. Only when rows
//! are to go it is flushed, before they do.

use super::aside::io;
use crate::core::row::{Index, Term};
use crate::error::StoreError;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Its name is the log's, with this at its end.
pub const END: &str = ".flushed";
/// Begins it; the number is that of the format.
const MAGIC: [u8; 4] = *b"GFL1";
/// Magic, three numbers, crc.
const BYTES: usize = 4 + 3 * 8 + 4;

/// What was flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flushed {
    /// The newest promise.
    pub promised: Term,
    /// The last row.
    pub last: Index,
}

impl Flushed {
    fn encode(&self) -> [u8; BYTES] {
        let numbers = [self.promised.epoch, self.promised.run, self.last.0].map(u64::to_le_bytes).concat();
        let mut bytes = [0; BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..BYTES - 4].copy_from_slice(&numbers);
        let crc = crc32fast::hash(&bytes[..BYTES - 4]).to_le_bytes();
        bytes[BYTES - 4..].copy_from_slice(&crc);
        bytes
    }

    /// None when it is torn, damaged or of another format: then it says nothing.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
        let number = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let promised = Term { epoch: number(4)?, run: number(12)? };
        let said = Self { promised, last: Index(number(20)?) };
        (said.encode() == *bytes).then_some(said)
    }

    /// What of this a log lacks that stands at `now`, in words. After a newer promise rows may have gone that nobody had
    /// acknowledged.
    #[must_use]
    pub fn lost(&self, now: Self) -> Option<String> {
        let what = if self.promised > now.promised {
            format!("the promise of term {} was flushed here and is gone", self.promised)
        } else if self.promised == now.promised && self.last > now.last {
            format!("rows {} to {} were flushed here and are gone", now.last.next(), self.last)
        } else {
            return None;
        };
        Some(format!("{what}: the end of its -wal file is damaged, or an older file was put in its place"))
    }
}

/// The file of one log.
#[derive(Debug)]
pub struct Mark {
    path: PathBuf,
    file: Option<File>,
}

impl Mark {
    /// Of the log at `log`; touches nothing.
    #[must_use]
    pub fn of(log: &Path) -> Self {
        let mut path = log.as_os_str().to_owned();
        path.push(END);
        Self { path: path.into(), file: None }
    }

    /// What it says, if anything. Blocks.
    ///
    /// # Errors
    /// When it is there and can't be read.
    pub fn read(&self) -> Result<Option<Flushed>, StoreError> {
        match std::fs::read(&self.path) {
            Ok(bytes) => Ok(Flushed::decode(&bytes)),
            Err(why) if why.kind() == ErrorKind::NotFound => Ok(None),
            Err(why) => Err(io("read", &self.path)(why)),
        }
    }

    /// Says what has just been flushed. One that can't be written says less than it could, which is no reason to fail.
    pub fn note(&mut self, now: Flushed) {
        if let Err(why) = self.write(now) {
            tracing::debug!(path = %self.path.display(), %why, "how far the log is flushed can't be noted");
        }
    }

    /// Says, before rows after `last` go, that they may; durable when this returns. Of the promise it goes on to say what was
    /// flushed: that of the transaction in which they go is not yet.
    ///
    /// # Errors
    /// When it can't be said: then they must stay.
    pub fn lower(&mut self, last: Index) -> Result<(), StoreError> {
        match self.read()? {
            Some(before) if before.last > last => {
                let lowered = self.write(Flushed { last, ..before });
                lowered.and_then(|file| file.sync_data()).map_err(io("write", &self.path))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn write(&mut self, now: Flushed) -> std::io::Result<&File> {
        if self.file.is_none() {
            let options =
                OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path);
            self.file = Some(options?);
        }
        let file = self.file.as_ref().ok_or(ErrorKind::NotFound)?;
        file.write_all_at(&now.encode(), 0)?;
        Ok(file)
    }
}

/// Removes what is said of the log at `log`, which is made anew; durable when this returns.
///
/// # Errors
/// When it stays.
pub fn forget(log: &Path) -> Result<(), StoreError> {
    let Mark { path, .. } = Mark::of(log);
    match std::fs::remove_file(&path) {
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(()),
        done => done.map_err(io("remove", &path))?,
    }
    let dir = path.parent().unwrap_or(Path::new("/"));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io("flush", dir))
}
