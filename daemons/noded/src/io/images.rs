//! Imported images: `image/HEX/`, unpacked once, shared read-only by all VMs that use it. Archives come in pieces into
//! `image/staged/HEX`; a whole one (`staged/HEX.whole`) whose digest fits is unpacked into `image/new.HEX`, flushed, and put in place by a
//! rename. What else is there was left by a crash, and goes at the next start.

use super::uploads::failed;
use super::{room, rootfs};
use gantry_model::root::Root;
use gantry_model::task::IMAGE_BYTES_MAX;
use gantry_proto::envelope::{Code, Fail};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// Archives on their way at once: more are a mistake, and each may fill the disk.
pub const STAGED_MAX: usize = 8;
/// Names of other entries; digests have only hexadecimal digits.
const STAGED: &str = "staged";
/// Ends the name of an archive that is whole.
const WHOLE: &str = ".whole";
const NEW: &str = "new.";
const OLD: &str = "old.";

/// See the module. Clones share the directory.
#[derive(Debug, Clone)]
pub struct Images {
    dir: PathBuf,
    /// Read by those who make VMs, written by what changes the images.
    turn: Arc<RwLock<()>>,
    /// Held by the one who unpacks.
    unpacking: Arc<Mutex<()>>,
    reserve: u64,
}

/// What became of a piece; with the offset wanted next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The image is here.
    Known(u64),
    /// More is to come.
    Part(u64),
    /// The archive is whole and waits for [`Images::put_in_place`].
    Whole(u64),
}

/// Where a node's imported images are.
#[must_use]
pub fn dir(root: &Root) -> PathBuf {
    root.lib().join("image")
}

/// Whether that is a SHA-256 in lower-case hexadecimal digits.
#[must_use]
pub fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl Images {
    /// Those of a node, on whose disk `reserve` bytes stay free; what a crash left is removed.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(root: &Root, reserve: u64) -> io::Result<Self> {
        let dir = dir(root);
        DirBuilder::new().recursive(true).mode(0o755).create(&dir)?;
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(is_digest) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        DirBuilder::new().mode(0o700).create(dir.join(STAGED))?;
        Ok(Self { dir, turn: Arc::default(), unpacking: Arc::default(), reserve })
    }

    /// Keeps an image that is here from going while the guard lives.
    ///
    /// # Errors
    /// `NotFound` when it is not here: it must be sent.
    pub async fn hold(&self, digest: &str) -> Result<OwnedRwLockReadGuard<()>, Fail> {
        let guard = Arc::clone(&self.turn).read_owned().await;
        if is_digest(digest) && self.dir.join(digest).is_dir() {
            return Ok(guard);
        }
        let text = format!("image {} is not on this node: send it", digest.escape_default());
        Err(Fail::new(Code::NotFound, text))
    }

    /// The right to change images.
    pub async fn turn(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.turn).write_owned().await
    }

    /// Takes a piece. The caller has the turn. Blocks.
    ///
    /// # Errors
    /// `BadRequest` for what is no digest; `Busy` for lack of room; the disk's.
    pub fn take(&self, digest: &str, offset: u64, bytes: &[u8], last: bool) -> Result<Taken, Fail> {
        if !is_digest(digest) {
            return Err(Fail::new(Code::BadRequest, "an image is named by its SHA-256 in lower-case hex"));
        }
        let end = offset.saturating_add(bytes.len() as u64);
        if self.dir.join(digest).is_dir() {
            return Ok(Taken::Known(end));
        }
        let whole = self.whole(digest);
        if let Ok(found) = fs::metadata(&whole) {
            // It is being unpacked; whoever has its end may wait for that.
            let next = found.len();
            return Ok(if last && end == next { Taken::Whole(next) } else { Taken::Part(next) });
        }
        let path = self.dir.join(STAGED).join(digest);
        let next = self.append(&path, offset, bytes).map_err(|error| failed(&path, &error))?;
        if !last || next != end {
            return Ok(Taken::Part(next));
        }
        fs::rename(&path, &whole).map_err(|error| failed(&path, &error))?;
        Ok(Taken::Whole(next))
    }

    /// Checks and unpacks an archive that is whole; one at a time, which [`Images::unpacking`] sees to. False = its bytes
    /// are not here any more: they were no good. Blocks for minutes when it is large.
    ///
    /// # Errors
    /// `BadRequest` for a wrong digest or an archive that can't be unpacked; `Busy` for lack of room; the disk's.
    pub fn put_in_place(&self, digest: &str) -> Result<bool, Fail> {
        let whole = self.whole(digest);
        if self.dir.join(digest).is_dir() || !whole.exists() {
            return Ok(self.dir.join(digest).is_dir());
        }
        let unpacked = self.unpack(&whole, digest);
        // Good or bad, it is of no more use.
        fs::remove_file(&whole).map_err(|error| failed(&whole, &error))?;
        unpacked.map(|()| true)
    }

    /// The right to unpack. Not the one to change images: those who make VMs of others need not wait.
    pub async fn unpacking(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.unpacking).lock_owned().await
    }

    fn whole(&self, digest: &str) -> PathBuf {
        self.dir.join(STAGED).join(format!("{digest}{WHOLE}"))
    }

    fn append(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<u64> {
        if !path.exists() && fs::read_dir(self.dir.join(STAGED))?.count() >= STAGED_MAX {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "too many images are on their way"));
        }
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let next = file.metadata()?.len();
        if offset != next || bytes.is_empty() {
            return Ok(next);
        }
        if next.saturating_add(bytes.len() as u64) > IMAGE_BYTES_MAX {
            fs::remove_file(path)?;
            let text = format!("an image of more than {IMAGE_BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, text));
        }
        room::look(&self.dir, bytes.len() as u64, self.reserve)?;
        file.write_all(bytes)?;
        Ok(next + bytes.len() as u64)
    }

    fn unpack(&self, archive: &Path, digest: &str) -> Result<(), Fail> {
        let told = |error: io::Error| failed(archive, &error);
        let mut file = File::open(archive).map_err(told)?;
        let mut hash = Hashing(Sha256::new());
        io::copy(&mut file, &mut hash).map_err(told)?;
        let found: String = hash.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if found != digest {
            let text = format!("the archive's SHA-256 is {found}, not {digest}: send it again");
            return Err(Fail::new(Code::BadRequest, text));
        }
        file.seek(SeekFrom::Start(0)).map_err(told)?;
        let new = self.dir.join(format!("{NEW}{digest}"));
        let made = rootfs::unpack(file, &new, self.reserve).and_then(|()| {
            // A directory in place is believed for ever: its files must be on the disk before its name is.
            nix::unistd::syncfs(File::open(&new)?)?;
            fs::rename(&new, self.dir.join(digest))?;
            gantry_rt::files::sync_dir(&self.dir)
        });
        made.map_err(|error| {
            let _ = fs::remove_dir_all(&new);
            let code = match error.kind() {
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::Other => {
                    Code::BadRequest
                }
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::Busy,
                _ => Code::Internal,
            };
            Fail::new(code, format!("image {digest} can't be unpacked: {error}"))
        })
    }

    /// Removes images not named. The caller has the turn. Blocks.
    ///
    /// # Errors
    /// The disk's.
    pub fn keep(&self, wanted: &HashSet<String>) -> Result<(), Fail> {
        let told = |error: io::Error| failed(&self.dir, &error);
        for entry in fs::read_dir(&self.dir).map_err(told)? {
            let entry = entry.map_err(told)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !is_digest(&name) || wanted.contains(&name) {
                continue;
            }
            // Half an image must never look like one.
            let old = self.dir.join(format!("{OLD}{name}"));
            fs::rename(entry.path(), &old).and_then(|()| fs::remove_dir_all(&old)).map_err(told)?;
        }
        Ok(())
    }
}

struct Hashing(Sha256);

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "images_tests.rs"]
mod tests;
