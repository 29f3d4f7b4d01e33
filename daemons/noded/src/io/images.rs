//! Imported images: `image/HEX/`, unpacked once, shared read-only by all VMs that use it. Archives come in pieces into
//! `image/staged/HEX`; a whole one whose digest fits is unpacked into `image/new.HEX`, flushed, and put in place by a
//! rename. What else is there was left by a crash, and goes at the next start.

use super::rootfs;
use super::uploads::failed;
use gantry_model::root::Root;
use gantry_model::task::IMAGE_BYTES_MAX;
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::noded::PieceReply;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// Archives on their way at once: more are a mistake, and each may fill the disk.
pub const STAGED_MAX: usize = 8;
/// Names of other entries; digests have only hexadecimal digits.
const STAGED: &str = "staged";
const NEW: &str = "new.";
const OLD: &str = "old.";

/// See the module. Clones share the directory.
#[derive(Debug, Clone)]
pub struct Images {
    dir: PathBuf,
    /// Read by those who make VMs, written by what changes the images.
    turn: Arc<RwLock<()>>,
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
    /// Those of a node; what a crash left is removed.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(root: &Root) -> io::Result<Self> {
        let dir = dir(root);
        DirBuilder::new().recursive(true).mode(0o755).create(&dir)?;
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(is_digest) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        DirBuilder::new().mode(0o700).create(dir.join(STAGED))?;
        Ok(Self { dir, turn: Arc::default() })
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

    /// Takes a piece; with the last one the image is checked and unpacked. The caller has the turn. Blocks.
    ///
    /// # Errors
    /// `BadRequest` for a wrong digest or an archive that can't be unpacked; `Busy` for lack of room; the disk's.
    pub fn take(&self, digest: &str, offset: u64, bytes: &[u8], last: bool) -> Result<PieceReply, Fail> {
        if !is_digest(digest) {
            return Err(Fail::new(Code::BadRequest, "an image is named by its SHA-256 in lower-case hex"));
        }
        let end = offset.saturating_add(bytes.len() as u64);
        if self.dir.join(digest).is_dir() {
            return Ok(PieceReply { next: end, done: true });
        }
        let path = self.dir.join(STAGED).join(digest);
        let next = self.append(&path, offset, bytes).map_err(|error| failed(&path, &error))?;
        if !last || next != end {
            return Ok(PieceReply { next, done: false });
        }
        let unpacked = self.unpack(&path, digest);
        // Good or bad, it is of no more use.
        fs::remove_file(&path).map_err(|error| failed(&path, &error))?;
        unpacked.map(|()| PieceReply { next, done: true })
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
        let made = rootfs::unpack(file, &new).and_then(|()| {
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
