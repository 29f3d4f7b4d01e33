//! The room on the node's disk that nobody's uploads may take: noded's records, vmd's spool and all logs need it, and a
//! node whose disk is full can do nothing more.

pub use gantry_body::room::{RESERVE_BYTES, look};
use gantry_proto::envelope::{Code, Fail};
use std::io;
use std::path::Path;

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
