//! One boot per root: a lock on `run/gantry/boot.lock`, free again when the process is gone.

use anyhow::Context;
use gantry_model::root::Root;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the lock of a boot that is gone may stay taken: from a fork to its exec, on a busy machine.
const FREED_MAX: Duration = Duration::from_secs(2);
/// Between two tries.
const AGAIN: Duration = Duration::from_millis(10);

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
    let mut lock = take(file, &path).map_err(|pid| {
        anyhow::anyhow!("another boot (pid {}) runs on {}", pid.trim(), root.path().display())
    })?;
    lock.set_len(0)
        .and_then(|()| writeln!(lock, "{}", std::process::id()))
        .context("cannot write boot.lock")?;
    Ok(Held { _lock: lock })
}

/// Takes the lock. That of a boot that was killed while it started a daemon is held by the new process until it has become
/// another program: so it is tried again while who is noted is gone. Else the noted pid.
fn take(mut file: File, path: &Path) -> Result<Flock<File>, String> {
    let begun = Instant::now();
    loop {
        let pid = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, _)) => {
                file = back;
                std::fs::read_to_string(path).unwrap_or_default()
            }
        };
        if lives(pid.trim()) || begun.elapsed() > FREED_MAX {
            return Err(pid);
        }
        std::thread::sleep(AGAIN);
    }
}

/// Whether a process is there and no zombie.
fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locked_by(root: &Root, pid: u32) -> Flock<File> {
        std::fs::create_dir_all(root.run()).unwrap();
        let path = root.run().join("boot.lock");
        std::fs::write(&path, format!("{pid}\n")).unwrap();
        Flock::lock(File::open(&path).unwrap(), FlockArg::LockExclusiveNonblock).unwrap()
    }

    #[test]
    fn a_living_boot_keeps_another_away() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let _lock = locked_by(&root, std::process::id());
        let why = hold(&root).unwrap_err().to_string();
        assert!(why.contains(&format!("another boot (pid {})", std::process::id())), "{why}");
    }

    #[test]
    fn what_a_killed_boot_was_starting_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let mut gone = std::process::Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let lock = locked_by(&root, gone.id());
        let (begun, freed) = (Instant::now(), FREED_MAX / 10);
        let frees = std::thread::spawn(move || {
            while begun.elapsed() < freed {
                std::thread::yield_now();
            }
            drop(lock);
        });
        assert!(hold(&root).is_ok());
        assert!(begun.elapsed() >= freed);
        frees.join().unwrap();
    }
}
