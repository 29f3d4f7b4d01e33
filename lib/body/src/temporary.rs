//! Files that come to be a body. Whoever writes one holds its lock, so that another process can tell a dead writer's from a
//! living one's, by no clock.

use crate::damaged::is_same;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Makes the file, with its directory if that is new, and locks it. One that a dead writer left under that name is replaced.
/// The lock lasts as long as the file is open.
///
/// # Errors
/// `AlreadyExists`: its writer lives. Else what the system says.
pub fn create(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    loop {
        let file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::AlreadyExists && remove_dead(path)? => continue,
            Err(error) => return Err(error),
        };
        file.lock()?;
        // Between the two it may have been taken for a dead writer's.
        if is_same(&file, path)? {
            return Ok(file);
        }
    }
}

/// Removes the file if nobody writes it any more. True: it is gone.
///
/// # Errors
/// What the system says.
pub fn remove_dead(path: &Path) -> io::Result<bool> {
    let file = match OpenOptions::new().write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(false),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    // With the lock in hand: a living writer looks for its file once it has the lock.
    if is_same(&file, path)? {
        fs::remove_file(path)?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_writers_file_stays_and_a_dead_ones_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blob/.one.tmp");
        let living = create(&path).unwrap();
        assert!(!remove_dead(&path).unwrap());
        assert_eq!(create(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
        drop(living);
        assert!(path.exists());
        let again = create(&path).unwrap();
        assert!(is_same(&again, &path).unwrap());
        drop(again);
        assert!(remove_dead(&path).unwrap() && !path.exists());
        assert!(remove_dead(&path).unwrap(), "gone is gone");
    }
}
