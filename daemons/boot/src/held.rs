//! One boot per root: a lock on `run/gantry/boot.lock`, free again when the process is gone.

use anyhow::Context;
use gantry_model::root::Root;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::io::Write;

/// The root is this boot's as long as the value lives. Children do not inherit it.
#[derive(Debug)]
pub struct Held {
    _lock: Flock<File>,
}

/// Takes the root, and notes the pid for whoever comes second.
///
/// # Errors
/// Another boot runs on it, or the file cannot be written.
pub fn hold(root: &Root) -> anyhow::Result<Held> {
    let path = root.run().join("boot.lock");
    std::fs::create_dir_all(root.run()).with_context(|| format!("cannot make {}", root.run().display()))?;
    let open = OpenOptions::new().read(true).append(true).create(true).open(&path);
    let file = open.with_context(|| format!("cannot open {}", path.display()))?;
    let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
        let pid = std::fs::read_to_string(&path).unwrap_or_default();
        anyhow::anyhow!("another boot (pid {}) runs on {}", pid.trim(), root.path().display())
    })?;
    lock.set_len(0)
        .and_then(|()| writeln!(lock, "{}", std::process::id()))
        .context("cannot write boot.lock")?;
    Ok(Held { _lock: lock })
}
