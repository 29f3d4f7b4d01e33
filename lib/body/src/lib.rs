//! Bodies on a disk, for all who read or write them: `blob/sha256/ab/HEX` holds the bytes with that SHA-256.
//!
//! ```text
//!  read ─▶ Reading: hashed on the way ─ not what it should be ─▶ blob/damaged/HEX ─▶ lacked here ─▶ taken from another copy
//!  write ─▶ temporary: locked while its writer lives ─▶ renamed; what a dead one left can be told
//! ```
//!
//! A body that is damaged is put where nobody looks for a body, so that it is lacked, which copies mend by themselves.
//! Everything here blocks.

mod damaged;
mod reading;
pub mod room;
pub mod temporary;
pub mod unnamed;

pub use damaged::{damaged, is_damaged, set_aside};
pub use reading::{BodyError, Reading};

use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes read at once.
const PIECE_BYTES: usize = 256 << 10;

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The SHA-256 of a file, as lower-case hex.
///
/// # Errors
/// What the system says.
pub fn digest_of(path: &Path) -> io::Result<String> {
    digest_of_file(&mut File::open(path)?)
}

fn digest_of_file(file: &mut File) -> io::Result<String> {
    let (mut hash, mut bytes) = (Sha256::new(), vec![0; PIECE_BYTES]);
    loop {
        let count = file.read(&mut bytes)?;
        if count == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&bytes[..count]);
    }
}
