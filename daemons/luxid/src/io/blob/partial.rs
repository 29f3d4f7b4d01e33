//! One upload under way: its file, what it has, its hash so far. Dropped before it is whole, its file goes.

use gantry_body::temporary;
use gantry_rt::files::sync_dir;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What a piece led to.
pub(super) enum Step {
    /// The offset wanted next.
    More(u64),
    /// The body is stored; its size.
    Done(u64),
    /// It can't become the body announced: why.
    Wrong(String),
}

pub(super) struct Partial {
    path: PathBuf,
    file: File,
    hash: Sha256,
    next: u64,
    total: u64,
    /// When its last piece came.
    heard: Instant,
}

impl Partial {
    /// Begins a body of `total` bytes. The file is locked, so that noded does not take it for a dead luxid's.
    pub fn create(path: PathBuf, total: u64) -> io::Result<Self> {
        let file = temporary::create(&path)?;
        Ok(Self { path, file, hash: Sha256::new(), next: 0, total, heard: Instant::now() })
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    /// Since when nothing came.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    pub fn next(&self) -> u64 {
        self.next
    }

    /// Adds a piece if it is the one wanted next; the offset wanted then.
    pub fn append(&mut self, offset: u64, bytes: &[u8]) -> io::Result<u64> {
        self.heard = Instant::now();
        if offset == self.next {
            self.file.write_all(bytes)?;
            self.hash.update(bytes);
            self.next += bytes.len() as u64;
        }
        Ok(self.next)
    }

    /// SHA-256 of what it has.
    pub fn digest(&self) -> String {
        self.hash.clone().finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// Makes it a body, durably.
    pub fn publish(&mut self, body: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        let dir = body.parent().ok_or(io::ErrorKind::InvalidInput)?;
        if !dir.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            sync_dir(dir.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
        }
        std::fs::rename(&self.path, body)?;
        sync_dir(dir)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Not there any more once it is a body.
        let _ = std::fs::remove_file(&self.path);
    }
}
