//! The room on the node's disk that nobody's uploads may take: noded's records, vmd's spool and all logs need it, and a
//! node whose disk is full can do nothing more.

use gantry_proto::envelope::{Code, Fail};
use std::io;
use std::path::Path;

/// Bytes that stay free: the largest outputs of many commands, and records of years.
pub const RESERVE_BYTES: u64 = 512 << 20;

fn free(dir: &Path) -> io::Result<u64> {
    let found = nix::sys::statvfs::statvfs(dir)?;
    Ok(found.blocks_available() * found.fragment_size())
}

/// Whether `wanted` bytes more leave `reserve` free on the disk of `dir`.
///
/// # Errors
/// `StorageFull` when they don't, with what to do; the disk's.
pub fn look(dir: &Path, wanted: u64, reserve: u64) -> io::Result<()> {
    let free = free(dir)?;
    if free.saturating_sub(wanted) >= reserve {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let text = format!(
        "the node's disk has {} MiB free, {} MiB more would go below the {} MiB it keeps for itself: make room there",
        mib(free),
        mib(wanted),
        mib(reserve)
    );
    Err(io::Error::new(io::ErrorKind::StorageFull, text))
}

/// As [`look`], for an answer.
///
/// # Errors
/// `Busy`: it is the node's matter, not the sender's.
pub fn check(dir: &Path, wanted: u64, reserve: u64) -> Result<(), Fail> {
    look(dir, wanted, reserve).map_err(|error| {
        let code = if error.kind() == io::ErrorKind::StorageFull { Code::Busy } else { Code::Internal };
        Fail::new(code, format!("{}: {error}", dir.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        check(dir.path(), 1, 1).unwrap();
        let fail = check(dir.path(), 1 << 20, u64::MAX).unwrap_err();
        assert_eq!((fail.code, fail.body.len()), (Code::Busy, 0), "{}", fail.text);
        assert!(fail.text.contains("make room there"), "{}", fail.text);
        assert_eq!(check(dir.path(), u64::MAX, 1).unwrap_err().code, Code::Busy);
    }
}
