//! Whether a backup is what was written: every file there, of its length, with its checksum.

use super::manifest::{Entry, Manifest, hex};
use super::{BackupError, Progress, body_name, failed};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path};

/// Read at once.
const PIECE: usize = 1 << 20;

/// The manifest of the backup in `dir`, of which every byte was checked.
///
/// # Errors
/// The first thing that is not as it was written.
pub fn check(dir: &Path) -> Result<Manifest, BackupError> {
    let manifest = Manifest::load(dir)?;
    let bodies = manifest.bodies.iter().map(|body| Entry {
        name: body_name(&body.digest),
        bytes: body.bytes,
        sha256: body.digest.clone(),
    });
    let all: Vec<Entry> = manifest.files.iter().cloned().chain(bodies).collect();
    let mut progress = Progress::new("checking the backup", all.iter().map(|entry| entry.bytes).sum());
    for entry in &all {
        one(dir, entry, &mut progress)?;
    }
    Ok(manifest)
}

fn one(dir: &Path, entry: &Entry, progress: &mut Progress) -> Result<(), BackupError> {
    let Entry { name, bytes, sha256 } = entry;
    let changed = |what: String| BackupError::Changed { name: name.clone(), what };
    if !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(changed("it is no file of a backup".to_owned()));
    }
    let path = dir.join(name);
    let mut file = File::open(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => BackupError::Missing { name: name.clone() },
        _ => failed("open", &path)(source),
    })?;
    let length = file.metadata().map_err(failed("look at", &path))?.len();
    if length != *bytes {
        return Err(changed(format!("it has {length} bytes, and had {bytes}")));
    }
    let found = digest(&mut file, |n| progress.add(n)).map_err(failed("read", &path))?;
    if found != *sha256 {
        return Err(changed("its content has changed".to_owned()));
    }
    Ok(())
}

/// sha256 of what is left to read, as hex.
///
/// # Errors
/// The reader's.
pub fn digest(from: &mut impl Read, mut read: impl FnMut(u64)) -> io::Result<String> {
    let (mut hash, mut piece) = (Sha256::new(), vec![0; PIECE]);
    loop {
        let n = from.read(&mut piece)?;
        if n == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&piece[..n]);
        read(n as u64);
    }
}
