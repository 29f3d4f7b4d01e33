//! Small files that must be whole: written aside, flushed, renamed. And the directories of a root.

pub use crate::role_file::{encode_role, mend_role, read_role, write_role};
use gantry_model::root::Root;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Distinguishes temporary files of one process.
static TEMPORARIES: AtomicU64 = AtomicU64::new(0);

/// Puts `bytes` at `path` with `mode`: a reader, also after a crash, sees the old file or the new one, whole.
/// Durable when this returns. Blocks for two flushes.
///
/// # Errors
/// What the system says; the old file is then unchanged, unless only the last flush failed.
pub fn atomic_write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let dir = parent(path);
    let temporary = temporary(path)?;
    let written = write_new(&temporary, bytes, mode).and_then(|()| std::fs::rename(&temporary, path));
    if let Err(error) = written {
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    sync_dir(dir)
}

/// Makes the names in `dir` durable.
///
/// # Errors
/// What the system says.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// A name beside `path` that nobody else uses.
fn temporary(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let number = TEMPORARIES.fetch_add(1, Ordering::Relaxed);
    let name = format!(".{}.{}.{number}.tmp", name.to_string_lossy(), std::process::id());
    Ok(parent(path).join(name))
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // A leftover of a dead process with the same pid is overwritten.
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(mode & 0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes the directories of `root` that are missing; `secrets` is for root alone.
///
/// # Errors
/// What the system says.
pub fn make_dirs(root: &Root) -> io::Result<()> {
    let open =
        [root.etc(), root.run(), root.run().join("admin"), root.run().join("pid"), root.lib(), root.log()];
    let closed = [root.job_dir(), root.vm_dir(), root.spool_dir(), root.secrets()];
    let open = open.iter().map(|dir| (dir, 0o755));
    let closed = closed.iter().map(|dir| (dir, 0o700));
    for (dir, mode) in open.chain(closed) {
        DirBuilder::new().recursive(true).mode(mode).create(dir)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().expect("a directory");
        let root = Root::new(dir.path());
        make_dirs(&root).expect("made");
        (dir, root)
    }

    #[test]
    fn a_write_replaces_and_leaves_nothing_behind() {
        let (_dir, root) = root();
        let path = root.lib().join("x");
        atomic_write(&path, b"one", 0o600).expect("written");
        atomic_write(&path, b"two", 0o640).expect("written");
        assert_eq!(std::fs::read(&path).expect("there"), b"two");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o640);
        std::fs::create_dir(root.lib().join("d")).expect("made");
        std::fs::write(root.lib().join("d/f"), "").expect("written");
        assert!(atomic_write(&root.lib().join("d"), b"no", 0o600).is_err());
        let mut names: Vec<_> = std::fs::read_dir(root.lib())
            .expect("there")
            .map(|entry| entry.expect("read").file_name().into_string().expect("text"))
            .collect();
        names.sort();
        assert_eq!(names, ["d", "secrets", "spool", "x"]);
    }

    #[test]
    fn secrets_are_closed() {
        let (_dir, root) = root();
        let mode = std::fs::metadata(root.secrets()).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        make_dirs(&root).expect("twice is no error");
    }
}
