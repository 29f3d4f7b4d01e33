//! A file without a name for what is too large for memory: archives before they are sent, bodies before they are
//! unpacked. It goes when it is closed, however the program ends.

use crate::error::CliError;
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

/// Read at once while hashing.
const READ_BYTES: usize = 64 << 10;

/// An open file without a name in the directory for temporary files.
///
/// # Errors
/// The directory cannot be written.
pub fn file() -> Result<File, CliError> {
    let dir = std::env::temp_dir();
    let path = dir.join(format!("gantry-{}", uuid::Uuid::new_v4()));
    let open = || {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    };
    open().map_err(|error: io::Error| {
        CliError::plain(format!(
            "cannot make a temporary file in {}: {error}; name another directory in TMPDIR",
            dir.display()
        ))
    })
}

/// SHA-256 in lower-case hex and size of the whole file; it is then read from its start.
///
/// # Errors
/// It cannot be read.
pub fn digest(file: &mut File) -> io::Result<(String, u64)> {
    file.seek(SeekFrom::Start(0))?;
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        bytes += n as u64;
    }
    file.seek(SeekFrom::Start(0))?;
    Ok((hex(&hash.finalize()), bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_is_hashed_from_its_start() {
        let mut file = file().unwrap();
        file.write_all(b"abc").unwrap();
        let want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest(&mut file).unwrap(), (want.to_owned(), 3));
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
    }
}
