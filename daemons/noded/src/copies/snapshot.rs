//! Snapshots on their way: files of the store's making, moved in pieces by offset. What a crash leaves of one is removed
//! when the next begins. Everything here blocks.

use gantry_proto::copies::{Bits, SnapshotId};
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::noded::PIECE_BYTES_MAX;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

fn failed(path: &Path, error: &io::Error) -> Fail {
    Fail::new(Code::Internal, format!("{}: {error}", path.display()))
}

/// A snapshot on its way here.
pub struct Incoming {
    path: PathBuf,
    file: File,
    of: SnapshotId,
    /// The writer's start: another one begins anew.
    nonce: Bits,
    next: u64,
    crc: crc32fast::Hasher,
}

impl Incoming {
    /// Begins at `path`; what is there is replaced.
    ///
    /// # Errors
    /// The disk's.
    pub fn create(path: PathBuf, of: SnapshotId, nonce: Bits) -> Result<Self, Fail> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = file.map_err(|error| failed(&path, &error))?;
        Ok(Self { path, file, of, nonce, next: 0, crc: crc32fast::Hasher::new() })
    }

    /// Whether it is the one meant.
    #[must_use]
    pub fn is(&self, of: &SnapshotId, nonce: &Bits) -> bool {
        (&self.of, &self.nonce) == (of, nonce)
    }

    /// The offset wanted next.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Takes a piece if it is the next. True: it is whole, checked and flushed.
    ///
    /// # Errors
    /// `BadRequest` for a piece too long, or a whole that is not what was announced; the disk's.
    pub fn take(&mut self, offset: u64, bytes: &[u8]) -> Result<bool, Fail> {
        if bytes.len() > PIECE_BYTES_MAX || offset.saturating_add(bytes.len() as u64) > self.of.bytes {
            return Err(Fail::new(
                Code::BadRequest,
                "a piece has 1 MiB at most and lies within its snapshot",
            ));
        }
        if offset == self.next {
            self.file.write_all(bytes).map_err(|error| failed(&self.path, &error))?;
            self.crc.update(bytes);
            self.next += bytes.len() as u64;
        }
        if self.next < self.of.bytes {
            return Ok(false);
        }
        if self.crc.clone().finalize() != self.of.crc {
            return Err(Fail::new(Code::BadRequest, "the snapshot was damaged on its way"));
        }
        self.file.sync_all().map_err(|error| failed(&self.path, &error))?;
        Ok(true)
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A snapshot on its way from here. The file goes with it.
pub struct Outgoing {
    path: PathBuf,
    of: SnapshotId,
}

impl Outgoing {
    /// A file that the store has written.
    #[must_use]
    pub fn new(path: PathBuf, of: SnapshotId) -> Self {
        Self { path, of }
    }

    /// Which.
    #[must_use]
    pub fn of(&self) -> SnapshotId {
        self.of
    }

    /// A piece; none at the end.
    ///
    /// # Errors
    /// The disk's.
    pub fn piece(&self, offset: u64) -> Result<Vec<u8>, Fail> {
        let told = |error: io::Error| failed(&self.path, &error);
        let mut file = File::open(&self.path).map_err(told)?;
        file.seek(SeekFrom::Start(offset)).map_err(told)?;
        let mut bytes = Vec::new();
        file.take(PIECE_BYTES_MAX as u64).read_to_end(&mut bytes).map_err(told)?;
        Ok(bytes)
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        // One that stays is overwritten by the next.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_proto::copies::Place;

    fn id(bytes: &[u8]) -> SnapshotId {
        SnapshotId { at: Place::default(), bytes: bytes.len() as u64, crc: crc32fast::hash(bytes) }
    }

    #[test]
    fn pieces_make_the_whole_in_order_only() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("s");
        let mut incoming = Incoming::create(path.clone(), id(b"abcdef"), [1; 16]).expect("begun");
        assert!(!incoming.take(0, b"abc").expect("taken"));
        assert!(!incoming.take(0, b"abc").expect("known"));
        assert!(!incoming.take(5, b"f").expect("too early"));
        assert_eq!(incoming.next(), 3);
        assert!(incoming.take(3, b"def").expect("whole"));
        assert_eq!(std::fs::read(&path).expect("there"), b"abcdef");
        assert!(incoming.take(6, b"x").is_err());
        let outgoing = Outgoing::new(path.clone(), id(b"abcdef"));
        assert_eq!(outgoing.piece(4).expect("read"), b"ef");
        assert!(outgoing.piece(6).expect("read").is_empty());
        drop(outgoing);
        assert!(!path.exists());
    }

    #[test]
    fn damage_on_the_way_is_noticed() {
        let dir = tempfile::tempdir().expect("dir");
        let mut incoming = Incoming::create(dir.path().join("s"), id(b"abc"), [1; 16]).expect("begun");
        assert_eq!(incoming.take(0, b"abd").expect_err("refused").code, Code::BadRequest);
    }
}
