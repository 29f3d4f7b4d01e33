//! Where the files of an open database lie. A daemon goes on with its open handles of files that were removed or replaced, and
//! what it flushes there is gone with it: who confirms looks first whether the next start would find it.
//!
//! Decides nothing of what is in the files.

use super::aside::io;
use super::sql::damaged;
use crate::error::StoreError;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What SQLite keeps beside a file for as long as anybody has it open: it makes neither anew meanwhile.
const BESIDE: [&str; 2] = ["-wal", "-shm"];

/// Device and number of a file.
type Id = (u64, u64);

/// The open files of one database, by their paths.
#[derive(Debug, Default)]
pub struct Place(Vec<(PathBuf, Id)>);

impl Place {
    /// Of a database that is about to be opened: taken before, so that one that is replaced meanwhile is not taken for it.
    pub fn of(path: &Path) -> Result<Self, StoreError> {
        Ok(Self(id(path)?.map(|found| (path.to_owned(), found)).into_iter().collect()))
    }

    /// With what lies beside it, once it is open.
    pub fn opened(mut self, path: &Path) -> Result<Self, StoreError> {
        for end in BESIDE {
            let mut beside = path.as_os_str().to_owned();
            beside.push(end);
            let beside = PathBuf::from(beside);
            self.0.extend(id(&beside)?.map(|found| (beside, found)));
        }
        Ok(self)
    }

    /// That each path still leads to the file that is open.
    pub fn check(&self, file: &'static str) -> Result<(), StoreError> {
        for (path, open) in &self.0 {
            let found = id(path)?;
            if found == Some(*open) {
                continue;
            }
            let what = if found.is_some() { "replaced" } else { "removed" };
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            return Err(damaged(file, format!("{name} was {what} under the daemon that has it open")));
        }
        Ok(())
    }
}

/// None: there is no such file.
fn id(path: &Path) -> Result<Option<Id>, StoreError> {
    match std::fs::metadata(path) {
        Ok(facts) => Ok(Some((facts.dev(), facts.ino()))),
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(None),
        Err(why) => Err(io("look for", path)(why)),
    }
}
