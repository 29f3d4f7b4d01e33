//! What restores replaced: a directory in `aside/` for each, so that a person can go back to what the node had. Each is as
//! large as the logs it holds, so only the newest are kept.

use super::{BackupError, failed, say};
use gantry_rt::files;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Where goes what was there.
const ASIDE: &str = "aside";
/// How the directories begin; a number follows.
const REPLACED: &str = "restore-";
/// How many are kept: that of the restore just done, of some that were interrupted before it, and of one before these.
const REPLACED_MAX: usize = 8;

/// A new directory for what a restore replaces.
///
/// # Errors
/// The disk's.
pub fn fresh(lib: &Path) -> Result<PathBuf, BackupError> {
    let base = lib.join(ASIDE);
    DirBuilder::new().recursive(true).mode(0o700).create(&base).map_err(failed("make", &base))?;
    let newest = all(&base)?.last().map_or(0, |(number, _)| *number);
    let dir = base.join(format!("{REPLACED}{}", newest.saturating_add(1)));
    DirBuilder::new().mode(0o700).create(&dir).map_err(failed("make", &dir))?;
    files::sync_dir(&base).map_err(failed("flush", &base))?;
    Ok(dir)
}

/// What restores replaced, the oldest first. By number, not by any clock; those of a program that gave none come before.
fn all(aside: &Path) -> Result<Vec<(u64, PathBuf)>, BackupError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(aside).map_err(failed("list", aside))? {
        let path = entry.map_err(failed("list", aside))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let number =
            name.and_then(|name| name.strip_prefix(REPLACED)).map(|number| number.parse().unwrap_or(0));
        found.extend(number.map(|number| (number, path)));
    }
    found.sort();
    Ok(found)
}

/// Removes what the oldest restores replaced. Once a restore is done: the pieces that interrupted ones left are what the node
/// had, too. The node is the master already, so what can't be removed is told and no more.
pub fn forget_oldest(lib: &Path) {
    let found = match all(&lib.join(ASIDE)) {
        Ok(found) => found,
        Err(why) => return say(&format!("warning: {why}")),
    };
    let surplus = found.len().saturating_sub(REPLACED_MAX);
    for (_, old) in found.into_iter().take(surplus) {
        match fs::remove_dir_all(&old) {
            Ok(()) => say(&format!("Removed what an older restore had replaced: {}", old.display())),
            Err(why) => say(&format!("warning: can't remove {}: {why}", old.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_newest_restores_replaced_is_kept_and_the_oldest_goes() {
        let dir = tempfile::tempdir().expect("a directory");
        let lib = dir.path();
        let named = |path: &Path| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        let first = fresh(lib).expect("made");
        assert_eq!(named(&first).as_deref(), Some("restore-1"));
        let aside = lib.join(ASIDE);
        for old in ["restore-0f8fad5b-d9cb-469f-a165-70867728950e", "W-copy", "W-1-5"] {
            fs::create_dir(aside.join(old)).expect("made");
        }
        for nth in 2..=12 {
            let made = fresh(lib).expect("made");
            fs::write(made.join("role.json"), "").expect("written");
            assert_eq!(named(&made), Some(format!("restore-{nth}")), "no name comes back");
            if nth == 11 {
                assert!(first.exists(), "a restore that is not done removes nothing");
            }
            if nth >= 11 {
                forget_oldest(lib);
            }
        }
        let kept: Vec<u64> = all(&aside).expect("listed").into_iter().map(|(number, _)| number).collect();
        assert_eq!(kept, (5..=12).collect::<Vec<_>>());
        assert!(aside.join("W-copy").exists() && aside.join("W-1-5").exists(), "they are none of them");
    }
}
