//! Files that are secret: nobody but their owner and, to read, their group may open them. One that others could read may be
//! known to anybody on the machine, and one that others could write may be anybody's.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What nobody but the owner may do: others anything, the group write or execute.
const TOO_OPEN: u32 = 0o037;
/// Longest secret that is read, bytes. A key has a hundred.
const BYTES_MAX: u64 = 1 << 16;

/// Why a secret is not used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It can't be read.
    #[error("can't read {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no secret.
    #[error(
        "{file} has mode {mode:04o}, so that others than its owner could change it or others than its group read it: \
         \"chmod 0640 {file}\" mends that; renew it if somebody may have",
        file = path.display()
    )]
    Open {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

impl SecretError {
    /// Whether there is no such file.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Reads a secret file.
///
/// # Errors
/// It can't be read, or is no secret.
pub fn read(path: &Path) -> Result<Vec<u8>, SecretError> {
    let io = |source| SecretError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    // Of the file that is open, not of the name.
    let mode = file.metadata().map_err(io)?.permissions().mode() & 0o7777;
    if mode & TOO_OPEN != 0 {
        return Err(SecretError::Open { path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions, write};

    #[test]
    fn what_others_can_open_is_no_secret() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("key");
        assert!(read(&path).expect_err("none").is_missing());
        write(&path, "s").expect("written");
        let with = |mode| {
            set_permissions(&path, Permissions::from_mode(mode)).expect("set");
            read(&path)
        };
        for good in [0o600, 0o640, 0o400, 0o440] {
            assert_eq!(with(good).expect("secret"), b"s", "{good:o}");
        }
        for bad in [0o644, 0o660, 0o604, 0o602, 0o601, 0o650] {
            let why = with(bad).expect_err("too open");
            let said = why.to_string();
            assert!(!why.is_missing() && said.contains(&format!("mode {bad:04o}")), "{said}");
            assert!(said.contains(&format!("\"chmod 0640 {}\"", path.display())), "{said}");
        }
    }
}
