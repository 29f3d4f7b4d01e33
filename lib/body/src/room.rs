//! The room on a disk that bodies may not take: the daemons' own records and logs need it, and one whose disk is full can
//! do nothing more.

use std::io;
use std::path::Path;

/// Bytes that stay free: the largest outputs of many commands, and records of years.
pub const RESERVE_BYTES: u64 = 512 << 20;
/// On a small disk this part of it is enough.
const RESERVE_PART: u64 = 16;

/// What stays free on the disk of `dir`: [`RESERVE_BYTES`], or less on a small one.
///
/// # Errors
/// The disk's.
pub fn reserve(dir: &Path) -> io::Result<u64> {
    Ok(RESERVE_BYTES.min(size(dir)? / RESERVE_PART))
}

/// The size of the disk of `dir`, bytes.
///
/// # Errors
/// The disk's.
pub fn size(dir: &Path) -> io::Result<u64> {
    let found = nix::sys::statvfs::statvfs(dir)?;
    Ok(found.blocks() * found.fragment_size())
}

/// Whether `wanted` bytes more leave `reserve` free on the disk of `dir`.
///
/// # Errors
/// `StorageFull` when they don't, with what to do; the disk's.
pub fn look(dir: &Path, wanted: u64, reserve: u64) -> io::Result<()> {
    let found = nix::sys::statvfs::statvfs(dir)?;
    let free = found.blocks_available() * found.fragment_size();
    if free.saturating_sub(wanted) >= reserve {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let text = format!(
        "the disk has {} MiB free, {} MiB more would go below the {} MiB that Gantry keeps for its records: make room there",
        mib(free),
        mib(wanted),
        mib(reserve)
    );
    Err(io::Error::new(io::ErrorKind::StorageFull, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        look(dir.path(), 1, 1).unwrap();
        let error = look(dir.path(), 1 << 20, u64::MAX).unwrap_err();
        assert!(
            error.kind() == io::ErrorKind::StorageFull && error.to_string().contains("make room there"),
            "{error}"
        );
        assert!(look(dir.path(), u64::MAX, 1).is_err());
        let (size, reserve) = (size(dir.path()).unwrap(), reserve(dir.path()).unwrap());
        assert!(reserve > 0 && reserve <= size / RESERVE_PART && reserve <= RESERVE_BYTES);
    }
}
