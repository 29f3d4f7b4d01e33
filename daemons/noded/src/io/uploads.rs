//! Archives on their way into VMs: `put/SLOT.GENERATION/` with `staged/NAME` while pieces come and `done/NAME` once it
//! was unpacked. Not flushed: at a crash of the machine the VMs are gone, too. Removed with the VM.

use super::room;
use crate::driver::{Class, DriverError};
use crate::error;
use gantry_proto::envelope::{Code, Fail};
use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Uploads of one VM, done and under way: each has a file.
pub const UPLOADS_MAX: usize = 1_024;

/// See the module. Clones share the directory.
#[derive(Debug, Clone)]
pub struct Uploads {
    dir: PathBuf,
    reserve: u64,
}

/// One upload.
#[derive(Debug, Clone)]
pub struct Staged {
    dir: PathBuf,
    reserve: u64,
    name: String,
}

/// A file could not be worked on.
pub fn failed(path: &Path, error: &io::Error) -> Fail {
    let code = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::Busy,
        _ => Code::Internal,
    };
    Fail::new(code, format!("{}: {error}", path.display()))
}

fn remove_all(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Uploads {
    /// Those in `dir`, on whose disk `reserve` bytes stay free.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn open(dir: &Path, reserve: u64) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        Ok(Self { dir: dir.to_owned(), reserve })
    }

    /// Removes those of VMs not named in `live`, and what was on its way: whoever sent it begins anew.
    ///
    /// # Errors
    /// The disk's.
    pub fn keep(&self, live: &HashSet<String>) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let lives = entry.file_name().to_str().is_some_and(|name| live.contains(name));
            remove_all(&if lives { entry.path().join("staged") } else { entry.path() })?;
        }
        Ok(())
    }

    /// Removes those of VMs not named in `live`.
    ///
    /// # Errors
    /// The disk's.
    pub fn keep_of(&self, live: &HashSet<String>) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|name| live.contains(name)) {
                remove_all(&entry.path())?;
            }
        }
        Ok(())
    }

    /// The upload of that name for a VM.
    #[must_use]
    pub fn staged(&self, vm: &str, name: &str) -> Staged {
        Staged { dir: self.dir.join(vm), reserve: self.reserve, name: name.to_owned() }
    }

    /// Removes all of a VM.
    ///
    /// # Errors
    /// The disk's.
    pub fn forget(&self, vm: &str) -> Result<(), Fail> {
        let dir = self.dir.join(vm);
        remove_all(&dir).map_err(|error| failed(&dir, &error))
    }
}

impl Staged {
    fn staged(&self) -> PathBuf {
        self.dir.join("staged").join(&self.name)
    }

    fn mark(&self) -> PathBuf {
        self.dir.join("done").join(&self.name)
    }

    /// Its length, if it was unpacked.
    #[must_use]
    pub fn done(&self) -> Option<u64> {
        fs::read_to_string(self.mark()).ok()?.trim().parse().ok()
    }

    /// Takes a piece if it is the next one. The offset wanted next.
    ///
    /// # Errors
    /// `Busy` above `bytes_max`, of class no-space, with too many uploads, or when the node's disk is short; the disk's.
    pub fn append(&self, offset: u64, bytes: &[u8], bytes_max: u64) -> Result<u64, Fail> {
        let path = self.staged();
        let told = |error: io::Error| failed(&path, &error);
        for name in ["staged", "done"] {
            DirBuilder::new().recursive(true).mode(0o700).create(self.dir.join(name)).map_err(told)?;
        }
        if !path.exists() {
            let count = |name| fs::read_dir(self.dir.join(name)).map_or(0, Iterator::count);
            if count("staged") + count("done") >= UPLOADS_MAX {
                return Err(Fail::new(Code::Busy, format!("{UPLOADS_MAX} uploads were made to this VM")));
            }
        }
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(told)?;
        let next = file.metadata().map_err(told)?.len();
        // A repeated last piece finds its bytes there and is put to use.
        if offset.saturating_add(bytes.len() as u64) == next || offset != next {
            return Ok(next);
        }
        if next.saturating_add(bytes.len() as u64) > bytes_max {
            self.remove()?;
            let text =
                format!("the archive has more than {bytes_max} bytes, the most that may fit: leave some out");
            return Err(error::driver(&DriverError::new(Class::NoSpace, text)));
        }
        room::check(&self.dir, bytes.len() as u64, self.reserve)?;
        file.write_all(bytes).map_err(told)?;
        Ok(next + bytes.len() as u64)
    }

    /// The archive.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(&self) -> Result<File, Fail> {
        let path = self.staged();
        File::open(&path).map_err(|error| failed(&path, &error))
    }

    /// Notes that it was unpacked.
    ///
    /// # Errors
    /// The disk's.
    pub fn finish(&self) -> Result<(), Fail> {
        let (path, mark) = (self.staged(), self.mark());
        let length = fs::metadata(&path).map_err(|error| failed(&path, &error))?.len();
        fs::write(&mark, length.to_string()).map_err(|error| failed(&mark, &error))?;
        self.remove()
    }

    /// Takes it away.
    ///
    /// # Errors
    /// The disk's.
    pub fn remove(&self) -> Result<(), Fail> {
        let path = self.staged();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&path, &error)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_that_does_not_fit_is_told_as_its_senders_fault() {
        let dir = tempfile::tempdir().unwrap();
        let staged = Uploads::open(dir.path(), 0).unwrap().staged("vm", "in");
        assert_eq!(staged.append(0, b"four", 6).unwrap(), 4);
        let fail = staged.append(4, b"four", 6).unwrap_err();
        assert_eq!((fail.code, fail.body), (Code::Busy, b"no-space".to_vec()), "{}", fail.text);
        assert_eq!(staged.append(0, b"fits", 6).unwrap(), 4, "nothing is left of it");
    }

    #[test]
    fn a_short_disk_is_told_as_the_nodes_fault() {
        let dir = tempfile::tempdir().unwrap();
        let staged = Uploads::open(dir.path(), u64::MAX).unwrap().staged("vm", "in");
        let fail = staged.append(0, b"four", 6).unwrap_err();
        assert_eq!((fail.code, fail.body.len()), (Code::Busy, 0), "{}", fail.text);
        let staged = Uploads::open(dir.path(), 0).unwrap().staged("vm", "in");
        assert_eq!(staged.append(0, b"four", 6).unwrap(), 4, "it goes on once there is room");
    }
}
