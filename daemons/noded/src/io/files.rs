//! The small files of a node: secrets, join secret, role, ssconf, and their removal. Everything here blocks on the
//! disk and is durable when it returns; async callers use `spawn_blocking`.

use crate::core::join::{SECRET_BYTES, SECRET_MS_MAX};
use crate::core::master_ip::Record;
use crate::io::data;
use gantry_model::root::Root;
use gantry_rpc::tls::{CA_KEY, CA_PEM, NEXT_KEY, NODE_KEY, NODE_PEM};
use gantry_rt::files::{atomic_write, sync_dir};
use gantry_store::FLUSHED;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A failed file operation.
#[derive(Debug, thiserror::Error)]
#[error("can't {what} {}", path.display())]
pub struct FileError {
    /// What was tried.
    pub what: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub source: io::Error,
}

fn at(what: &'static str, path: &Path) -> impl Fn(io::Error) -> FileError {
    move |source| FileError { what, path: path.to_owned(), source }
}

/// Keeps a second noded away from this root for as long as the value lives.
///
/// # Errors
/// When another has it.
pub fn lock(root: &Root) -> Result<Flock<File>, FileError> {
    let path = root.run().join("noded.lock");
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(at("open", &path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error)| at("lock (does another noded serve this root?)", &path)(error.into()))
}

/// The join secret of an unjoined node: the one on disk while it is young enough, else a new one.
///
/// # Errors
/// When the file can't be written or the machine has no randomness.
pub fn join_secret(root: &Root) -> Result<[u8; SECRET_BYTES], FileError> {
    let path = root.join_secret();
    match young_secret(&path) {
        Some(secret) => Ok(secret),
        None => new_join_secret(root),
    }
}

fn young_secret(path: &Path) -> Option<[u8; SECRET_BYTES]> {
    let age = std::fs::metadata(path).ok()?.modified().ok()?.elapsed().ok()?;
    if age >= Duration::from_millis(SECRET_MS_MAX) {
        return None;
    }
    from_hex(std::fs::read_to_string(path).ok()?.trim())
}

/// Replaces the join secret.
///
/// # Errors
/// As [`join_secret`].
pub fn new_join_secret(root: &Root) -> Result<[u8; SECRET_BYTES], FileError> {
    let path = root.join_secret();
    let mut secret = [0; SECRET_BYTES];
    getrandom::fill(&mut secret)
        .map_err(|error| at("draw random bytes for", &path)(io::Error::other(error.to_string())))?;
    let text = format!("{}\n", to_hex(&secret));
    atomic_write(&path, text.as_bytes(), 0o600).map_err(at("write", &path))?;
    Ok(secret)
}

/// Removes the join secret; none is fine.
///
/// # Errors
/// When it is there and stays.
pub fn remove_join_secret(root: &Root) -> Result<(), FileError> {
    remove(&root.join_secret())?;
    sync(&root.lib())
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<[u8; SECRET_BYTES]> {
    if text.len() != 2 * SECRET_BYTES || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; SECRET_BYTES];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

/// Stores a node's certificate, key and CA.
///
/// # Errors
/// When one can't be written.
pub fn store_secrets(root: &Root, certificate: &str, key: &str, ca: &str) -> Result<(), FileError> {
    for (name, text) in [(CA_PEM, ca), (NODE_KEY, key), (NODE_PEM, certificate)] {
        let path = root.secrets().join(name);
        atomic_write(&path, text.as_bytes(), 0o600).map_err(at("write", &path))?;
    }
    Ok(())
}

/// Stores files of `secrets/` by name.
///
/// # Errors
/// When one can't be written.
pub fn store_named(root: &Root, files: &[(String, String)]) -> Result<(), FileError> {
    for (name, text) in files {
        let path = root.secrets().join(name);
        atomic_write(&path, text.as_bytes(), 0o600).map_err(at("write", &path))?;
    }
    Ok(())
}

/// Stores `hmac.key`. Another one that was there goes to `hmac.key.old`, where it counts for a while: a renewal reaches the
/// nodes one after the other.
///
/// # Errors
/// When one can't be written.
pub fn store_hmac(root: &Root, text: &str) -> Result<(), FileError> {
    let path = root.hmac_key();
    let old = read_if_there(&path)?;
    if let Some(old) = old.filter(|old| old != text.as_bytes()) {
        let path = root.old_hmac_key();
        atomic_write(&path, &old, 0o640).map_err(at("write", &path))?;
    }
    // Readable by its group: confd and its clients run as other users.
    atomic_write(&path, text.as_bytes(), 0o640).map_err(at("write", &path))
}

/// Removes the CA's key, which only candidates keep, and one of a renewal; none is fine.
///
/// # Errors
/// When it is there and stays.
pub fn remove_ca_key(root: &Root) -> Result<(), FileError> {
    remove_secret(root, CA_KEY)?;
    remove_next_key(root)
}

/// Removes the key of a renewal that this node made as a master; none is fine.
///
/// # Errors
/// When it is there and stays.
pub fn remove_next_key(root: &Root) -> Result<(), FileError> {
    remove_secret(root, NEXT_KEY)
}

/// Removes one file of `secrets/`; none is fine.
///
/// # Errors
/// When it is there and stays.
pub fn remove_secret(root: &Root, name: &str) -> Result<(), FileError> {
    remove(&root.secrets().join(name))?;
    sync(&root.secrets())
}

/// A file's content; None when there is none.
///
/// # Errors
/// When it is there and can't be read.
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at("read", path)(error)),
    }
}

/// Writes those ssconf files whose content differs; under Ganeti's own directory too if `ganeti_paths`.
///
/// # Errors
/// At the first that can't be written.
pub fn write_ssconf(root: &Root, ganeti_paths: bool, values: &[(String, String)]) -> Result<(), FileError> {
    let ganeti = root.path().join("var/lib/ganeti");
    if ganeti_paths {
        std::fs::create_dir_all(&ganeti).map_err(at("make", &ganeti))?;
    }
    for (key, value) in values {
        write_if_new(&root.ssconf(key), value)?;
        if ganeti_paths {
            write_if_new(&ganeti.join(format!("ssconf_{key}")), value)?;
        }
    }
    Ok(())
}

fn write_if_new(path: &Path, value: &str) -> Result<(), FileError> {
    if std::fs::read(path).is_ok_and(|old| old == value.as_bytes()) {
        return Ok(());
    }
    atomic_write(path, value.as_bytes(), 0o444).map_err(at("write", path))
}

/// What is known of the cluster's address on this node; nothing before it was ever put here.
///
/// # Errors
/// When the file is there and is not to be read: nobody may guess then what is on the machine.
pub fn read_master_ip(root: &Root) -> Result<Record, FileError> {
    let path = root.master_ip_file();
    let Some(bytes) = read_if_there(&path)? else { return Ok(Record::default()) };
    serde_json::from_slice(&bytes).map_err(|why| at("understand", &path)(why.into()))
}

/// Replaces it.
///
/// # Errors
/// When it can't be written.
pub fn write_master_ip(root: &Root, record: &Record) -> Result<(), FileError> {
    let path = root.master_ip_file();
    let text = serde_json::to_vec(record).map_err(|why| at("write", &path)(why.into()))?;
    atomic_write(&path, &text, 0o644).map_err(at("write", &path))
}

fn leaving_mark(root: &Root) -> PathBuf {
    root.lib().join("leaving")
}

/// Notes durably that this node leaves its cluster: from here on the removal is carried on after any crash.
///
/// # Errors
/// When the mark can't be written; the node is then still a member.
pub fn mark_leaving(root: &Root) -> Result<(), FileError> {
    let path = leaving_mark(root);
    atomic_write(&path, b"", 0o600).map_err(at("write", &path))
}

/// Carries out a marked removal: secrets, role, ssconf and records go, the mark last. Nothing to do without a mark.
///
/// # Errors
/// At the first file that stays; it may be repeated.
pub fn finish_leaving(root: &Root, ganeti_paths: bool) -> Result<(), FileError> {
    let mark = leaving_mark(root);
    if !mark.exists() {
        return Ok(());
    }
    // Without role.json its spare says nothing.
    remove(&root.role_file())?;
    remove(&root.role_spare())?;
    remove(&root.master_ip_file())?;
    for path in list(&root.secrets())? {
        remove(&path)?;
    }
    sync(&root.secrets())?;
    remove(&root.hmac_key())?;
    remove(&root.old_hmac_key())?;
    let ganeti = root.path().join("var/lib/ganeti");
    for dir in if ganeti_paths { vec![root.lib(), ganeti] } else { vec![root.lib()] } {
        for path in list(&dir)?.into_iter().filter(|path| name_begins(path, "ssconf_")) {
            remove(&path)?;
        }
    }
    let records = data::file(&root.lib());
    for end in RECORDS {
        let mut name = records.clone().into_os_string();
        name.push(end);
        remove(Path::new(&name))?;
    }
    sync(&root.lib())?;
    remove(&mark)?;
    sync(&root.lib())
}

/// Ends of the names of the files that hold this node's records.
const RECORDS: [&str; 4] = ["", "-wal", "-shm", FLUSHED];

/// Moves the records of another membership aside, under a name that says whose they were not.
///
/// # Errors
/// When they stay.
pub fn set_records_aside(root: &Root) -> Result<(), FileError> {
    let path = data::file(&root.lib());
    for end in RECORDS {
        let mut from = path.clone().into_os_string();
        from.push(end);
        let mut to = path.clone().into_os_string();
        to.push(".old");
        to.push(end);
        match std::fs::rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(at("move", Path::new(&from)))?,
        }
    }
    sync(&root.lib())
}

fn name_begins(path: &Path, begin: &str) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(begin))
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, FileError> {
    match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(at("list", dir)(error)),
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(at("list", dir))?.path())).collect(),
    }
}

fn remove(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(at("remove", path)),
    }
}

fn sync(dir: &Path) -> Result<(), FileError> {
    match sync_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(at("flush", dir)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().expect("dir");
        let root = Root::new(dir.path());
        gantry_rt::files::make_dirs(&root).expect("made");
        (dir, root)
    }

    #[test]
    fn a_young_join_secret_is_kept_and_closed() {
        let (_dir, root) = root();
        let secret = join_secret(&root).expect("made");
        assert_eq!(join_secret(&root).expect("kept"), secret);
        let mode = std::fs::metadata(root.join_secret()).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let file = File::options().write(true).open(root.join_secret()).expect("opened");
        file.set_modified(std::time::UNIX_EPOCH).expect("aged");
        assert_ne!(join_secret(&root).expect("made"), secret);
    }

    #[test]
    fn only_one_noded_serves_a_root() {
        let (_dir, root) = root();
        let held = lock(&root).expect("locked");
        assert!(lock(&root).is_err());
        drop(held);
        lock(&root).expect("free again");
    }

    #[test]
    fn leaving_is_carried_on_after_a_crash_at_any_file() {
        let (_dir, root) = root();
        finish_leaving(&root, true).expect("nothing to do");
        write_ssconf(&root, true, &[("master_node".into(), "n1\n".into())]).expect("written");
        store_secrets(&root, "c", "k", "a").expect("written");
        std::fs::write(root.role_file(), "{}").expect("written");
        std::fs::write(root.role_spare(), "{}").expect("written");
        std::fs::write(data::file(&root.lib()), "").expect("written");
        mark_leaving(&root).expect("marked");
        std::fs::remove_file(root.role_file()).expect("the first step was done before the crash");
        finish_leaving(&root, true).expect("finished");
        let left: Vec<_> =
            list(&root.lib()).expect("listed").into_iter().filter(|path| path.is_file()).collect();
        assert_eq!(left, Vec::<PathBuf>::new());
        assert_eq!(list(&root.secrets()).expect("listed"), Vec::<PathBuf>::new());
        assert_eq!(list(&root.path().join("var/lib/ganeti")).expect("listed"), Vec::<PathBuf>::new());
    }
}
