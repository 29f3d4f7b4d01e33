//! Bodies that are not what their names say: `blob/damaged/HEX`.

use crate::digest_of_file;
use gantry_model::root::Root;
use gantry_model::task::is_digest;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Seek};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

/// Puts a body aside if it is damaged, durably; whether it is. It is read whole once more: a reader that saw other bytes may
/// have been wrong itself. One that was replaced meanwhile stays, and so does one that is not there.
///
/// # Errors
/// What the system says. Then it lies where it was.
pub fn set_aside(root: &Root, digest: &str) -> io::Result<bool> {
    let path = root.blob(digest);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    file.rewind()?;
    if digest_of_file(&mut file)? == digest || !is_same(&file, &path)? {
        return Ok(false);
    }
    let dir = root.damaged_dir();
    if !dir.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        sync_dir(dir.parent().unwrap_or(&dir))?;
    }
    let to = dir.join(digest);
    fs::rename(&path, &to)?;
    if !is_same(&file, &to)? {
        // A whole one took its place in between.
        fs::rename(&to, &path)?;
        return Ok(false);
    }
    sync_dir(&dir)?;
    sync_dir(path.parent().unwrap_or(&path))?;
    Ok(true)
}

/// Whether a body was put aside and no whole one has come since.
#[must_use]
pub fn is_damaged(root: &Root, digest: &str) -> bool {
    root.damaged_dir().join(digest).exists() && !root.blob(digest).exists()
}

/// The digests of all bodies that were put aside and of which no whole one has come since, in order.
///
/// # Errors
/// What the system says.
pub fn damaged(root: &Root) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(root.damaged_dir()) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if is_digest(&name) && is_damaged(root, &name) {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a path is the file that is open.
pub(crate) fn is_same(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (open.dev(), open.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hex;
    use sha2::{Digest, Sha256};

    #[test]
    fn only_what_is_damaged_is_put_aside_and_a_whole_one_cures_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let digest = hex(&Sha256::digest(b"whole"));
        let path = root.blob(&digest);
        assert!(!set_aside(&root, &digest).unwrap(), "there is none");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "whole").unwrap();
        assert!(!set_aside(&root, &digest).unwrap());
        assert!(damaged(&root).unwrap().is_empty());
        for wrong in ["whale", "who", "", "wholes"] {
            fs::write(&path, wrong).unwrap();
            assert!(set_aside(&root, &digest).unwrap(), "{wrong}");
            assert!(!path.exists() && is_damaged(&root, &digest));
            assert_eq!(damaged(&root).unwrap(), std::slice::from_ref(&digest));
        }
        fs::write(&path, "whole").unwrap();
        assert!(!is_damaged(&root, &digest));
        assert!(damaged(&root).unwrap().is_empty());
    }
}
