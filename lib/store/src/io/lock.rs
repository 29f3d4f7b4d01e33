//! One writer at a time: an exclusive lock on a file of its own, freed by the system when the holder dies.
//! The lock is not on a database file: closing such a file would drop SQLite's own locks.

use super::files::LogKind;
use crate::error::StoreError;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Held as long as the writer lives.
#[derive(Debug)]
pub struct WriterLock(File);

impl Drop for WriterLock {
    /// Closing would do, but for a child process that was forked a moment ago and has not yet reached its
    /// exec: it shares the lock. Unlocking frees it for all who share it.
    fn drop(&mut self) {
        if let Err(e) = self.0.unlock() {
            tracing::warn!(error = %e, "cannot unlock; the lock ends with this process");
        }
    }
}

/// Takes the lock of `log` and writes the own pid into it, for whoever finds it taken. Does not wait.
pub fn take(dir: &Path, log: LogKind) -> Result<WriterLock, StoreError> {
    let path = dir.join(log.lock_name());
    let fail = |what| {
        let path = path.clone();
        move |source| StoreError::Io { what, path, source }
    };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&path).map_err(fail("open"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(StoreError::Busy { pid: holder(&mut file), path }),
        Err(TryLockError::Error(source)) => return Err(fail("lock")(source)),
    }
    file.set_len(0).map_err(fail("empty"))?;
    file.write_all(std::process::id().to_string().as_bytes()).map_err(fail("write"))?;
    Ok(WriterLock(file))
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
