//! A body that is read in pieces, and hashed on the way.

use crate::hex;
use gantry_model::root::Root;
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

/// Bytes hashed at once that nobody asked for.
const GAP_BYTES: u64 = 256 << 10;

/// Why a body can't be read.
#[derive(Debug)]
pub enum BodyError {
    /// The system's.
    Io(io::Error),
    /// It is not what its digest says. It was put aside, so that it counts as lacked from now on.
    Damaged {
        /// Its digest.
        digest: String,
    },
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(why) => why.fmt(f),
            Self::Damaged { digest } => {
                write!(
                    f,
                    "body {digest} is damaged on this disk: its bytes have another SHA-256; it was put into blob/damaged"
                )
            }
        }
    }
}

impl std::error::Error for BodyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(why) => Some(why),
            Self::Damaged { .. } => None,
        }
    }
}

impl From<io::Error> for BodyError {
    fn from(why: io::Error) -> Self {
        Self::Io(why)
    }
}

/// A body that is read by offsets. Its last byte is given only when all of it is what the digest says, so whoever takes a
/// body whole never has a damaged one.
pub struct Reading {
    root: Root,
    digest: String,
    file: File,
    total: u64,
    hash: Sha256,
    hashed: u64,
    sound: bool,
}

impl Reading {
    /// Begins to read.
    ///
    /// # Errors
    /// What the system says; `NotFound` when it is not here.
    pub fn open(root: &Root, digest: &str) -> io::Result<Self> {
        let file = File::open(root.blob(digest))?;
        let total = file.metadata()?.len();
        let (root, digest) = (root.clone(), digest.to_owned());
        Ok(Self { root, digest, file, total, hash: Sha256::new(), hashed: 0, sound: false })
    }

    /// Its bytes on the disk.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Up to `most` bytes from `offset`; none at its end.
    ///
    /// # Errors
    /// What the system says; that it is damaged, which is found with the last byte at the latest.
    pub fn piece(&mut self, offset: u64, most: usize) -> Result<Vec<u8>, BodyError> {
        let from = offset.min(self.total);
        let length = (self.total - from).min(most as u64);
        self.catch_up(from)?;
        let bytes = self.read(from, length)?;
        let end = from + length;
        if end > self.hashed {
            let known = usize::try_from(self.hashed - from).unwrap_or(bytes.len());
            self.hash.update(&bytes[known..]);
            self.hashed = end;
        }
        if end == self.total && !self.sound {
            self.judge()?;
        }
        Ok(bytes)
    }

    /// Hashes what a reader that goes on further back has already.
    fn catch_up(&mut self, to: u64) -> io::Result<()> {
        while self.hashed < to {
            let bytes = self.read(self.hashed, (to - self.hashed).min(GAP_BYTES))?;
            self.hash.update(&bytes);
            self.hashed += bytes.len() as u64;
        }
        Ok(())
    }

    fn read(&mut self, from: u64, length: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.file.seek(SeekFrom::Start(from))?;
        self.file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn judge(&mut self) -> Result<(), BodyError> {
        let hash = std::mem::take(&mut self.hash);
        self.sound = hex(&hash.finalize()) == self.digest;
        if self.sound {
            return Ok(());
        }
        crate::set_aside(&self.root, &self.digest)?;
        Err(BodyError::Damaged { digest: self.digest.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn put(root: &Root, bytes: &[u8]) -> String {
        let digest = hex(&Sha256::digest(bytes));
        let path = root.blob(&digest);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        digest
    }

    #[test]
    fn a_body_is_read_from_anywhere() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let body: Vec<u8> = (0..=250).cycle().take(600_000).collect();
        let digest = put(&root, &body);
        let mut reading = Reading::open(&root, &digest).unwrap();
        for (offset, most) in
            [(0, 10), (5, 3), (400_000, 7), (20, 30), (599_000, 5_000), (600_000, 1), (3, 9), (700_000, 1)]
        {
            let end = (offset + most).min(body.len());
            let want = body.get(offset..end).unwrap_or_default();
            assert_eq!(reading.piece(offset as u64, most).unwrap(), want, "{offset}");
        }
        assert!(root.blob(&digest).exists());
        assert!(Reading::open(&root, &put(&root, b"")).unwrap().piece(0, 9).unwrap().is_empty());
    }

    #[test]
    fn a_flipped_byte_is_found_before_the_last_byte_is_given() {
        for flipped in [0, 150, 299] {
            let dir = tempfile::tempdir().unwrap();
            let root = Root::new(dir.path());
            let mut body = vec![7; 300];
            let digest = put(&root, &body);
            body[flipped] ^= 1;
            fs::write(root.blob(&digest), &body).unwrap();
            let mut reading = Reading::open(&root, &digest).unwrap();
            assert_eq!(reading.piece(0, 100).unwrap().len(), 100);
            let why = reading.piece(100, 200).unwrap_err();
            assert!(matches!(&why, BodyError::Damaged { digest: of } if *of == digest), "{why}");
            assert!(!root.blob(&digest).exists() && crate::is_damaged(&root, &digest));
        }
    }
}
