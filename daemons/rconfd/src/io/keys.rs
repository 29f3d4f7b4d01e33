//! `hmac.key` and, for a while after a renewal, `hmac.key.old`. Read again whenever they may have changed.

use gantry_confd::Keys;
use gantry_confd::core::keys::KeyError;
use gantry_model::root::Root;
use gantry_model::time;
use gantry_rt::secret::{self, SecretError};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The key before a renewal counts for so long, seconds: twice the window of the clocks, and long enough for a renewal to
/// reach all nodes. Whoever wants it dead at once removes the file.
pub const OLD_KEY_S: u64 = 600;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum NoKey {
    /// The node has none.
    #[error(
        "this node has no hmac.key; \"gnt-cluster redist-conf\" gives it the master's, \"gnt-cluster renew-crypto --new-confd-hmac-key\" makes another"
    )]
    Missing,
    /// It can't be read, or others could.
    #[error(transparent)]
    Secret(SecretError),
    /// It is no key.
    #[error("hmac.key is no key")]
    Key(#[source] KeyError),
}

/// The contents of the key files that count, the newest first.
pub type Files = Vec<Vec<u8>>;

/// Reads what counts now.
///
/// # Errors
/// There is no key.
pub fn read(root: &Root) -> Result<(Files, Vec<Keys>), NoKey> {
    let missing = |why: SecretError| if why.is_missing() { NoKey::Missing } else { NoKey::Secret(why) };
    let new = secret::read(&root.hmac_key()).map_err(missing)?;
    let mut keys = vec![Keys::new(&new).map_err(NoKey::Key)?];
    let mut files = vec![new];
    // One that is no key, or that others could read, is as good as none.
    if let Some(old) = fresh(&root.old_hmac_key())
        && let Ok(more) = Keys::new(&old)
        && files[0] != old
    {
        keys.push(more);
        files.push(old);
    }
    Ok((files, keys))
}

/// The old key's file, if it was put aside not long ago.
fn fresh(path: &Path) -> Option<Vec<u8>> {
    let since = u64::try_from(fs::metadata(path).ok()?.mtime()).ok()?;
    if time::now().0.abs_diff(since) > OLD_KEY_S {
        return None;
    }
    secret::read(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, UNIX_EPOCH};

    fn put(path: &Path, text: &str, mode: u32) {
        gantry_rt::files::atomic_write(path, text.as_bytes(), mode).unwrap();
    }

    #[test]
    fn the_old_key_counts_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        gantry_rt::files::make_dirs(&root).unwrap();
        assert!(matches!(read(&root), Err(NoKey::Missing)));
        put(&root.hmac_key(), "short\n", 0o640);
        assert!(matches!(read(&root), Err(NoKey::Key(_))));
        put(&root.hmac_key(), "0123456789abcdef\n", 0o400);
        assert_eq!(read(&root).unwrap().1.len(), 1);
        put(&root.old_hmac_key(), "fedcba9876543210\n", 0o640);
        assert_eq!(read(&root).unwrap().0.len(), 2);
        let set = |age: u64| {
            let time = UNIX_EPOCH + Duration::from_secs(time::now().0 - age);
            fs::File::options().write(true).open(root.old_hmac_key()).unwrap().set_modified(time).unwrap();
        };
        set(OLD_KEY_S - 30);
        assert_eq!(read(&root).unwrap().1.len(), 2);
        set(OLD_KEY_S + 30);
        assert_eq!(read(&root).unwrap().1.len(), 1);
    }
    #[test]
    fn a_key_that_others_can_read_or_change_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        gantry_rt::files::make_dirs(&root).unwrap();
        put(&root.hmac_key(), "0123456789abcdef\n", 0o640);
        put(&root.old_hmac_key(), "fedcba9876543210\n", 0o644);
        assert_eq!(read(&root).unwrap().1.len(), 1, "the old one is left out");
        for mode in [0o644, 0o660] {
            fs::set_permissions(root.hmac_key(), fs::Permissions::from_mode(mode)).unwrap();
            let why = read(&root).unwrap_err().to_string();
            assert!(why.contains("chmod 0640") && why.contains("hmac.key"), "{why}");
        }
    }
}
