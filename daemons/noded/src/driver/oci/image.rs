//! Images. The built-in `host`: the node's /usr, read-only, and a root of its own with a private /etc (DESIGN §7). Others
//! are imported, and unpacked by noded before a VM names them.

use crate::driver::{Class, DriverError};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// The built-in image.
pub const HOST: &str = "host";
/// Changes when what [`build`] makes changes.
const FORM: &str = "2";
/// Directories of its root; the last ones are mount points.
const DIRS: [&str; 15] = [
    "etc",
    "opt",
    "root",
    "run",
    "srv",
    "sys",
    "var",
    "var/lib",
    "home",
    "home/tester",
    ".gantry",
    "usr",
    "proc",
    "dev",
    "tmp",
];
/// Names that Debian keeps as links into /usr.
const USR_LINKS: [&str; 6] = ["bin", "sbin", "lib", "lib64", "lib32", "libx32"];
/// Generated files of /etc.
const FILES: [(&str, &str); 6] = [
    (
        "passwd",
        "root:x:0:0:root:/root:/usr/sbin/nologin\ntester:x:1000:1000:tester:/home/tester:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    ("group", "root:x:0:\ntty:x:5:\ntester:x:1000:\nnogroup:x:65534:\n"),
    ("hosts", "127.0.0.1 localhost vm\n::1 localhost vm\n"),
    ("hostname", "vm\n"),
    ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
    ("resolv.conf", ""),
];
/// Copied from the host's /etc where they are: what the dynamic linker and Debian's links need, and the time zone.
const COPIES: [&str; 5] = ["ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime"];
/// Most entries of a copied directory: /etc/alternatives has some hundreds.
const ENTRIES_MAX: usize = 10_000;

/// An image ready to be used.
#[derive(Debug, Clone)]
pub struct Image {
    /// Becomes the VM's root, read-only.
    pub root: PathBuf,
    /// Directories of the host that are seen in it.
    pub host_dirs: &'static [&'static str],
    /// It was made just now: earlier ones may be of no use any more, see [`prune`].
    pub made: bool,
}

/// The image of that name, made if need be below `dir` with what `etc` has, or the one unpacked at `imported`. Blocks on
/// the disk. One caller at a time.
///
/// # Errors
/// [`Class::BadImage`] for a name that is not known, and when the host's files can't be used.
pub fn open(dir: &Path, etc: &Path, name: &str, imported: Option<PathBuf>) -> Result<Image, DriverError> {
    if let Some(root) = imported {
        let text = || format!("image {name} is not at {}", root.display());
        return if root.is_dir() {
            Ok(Image { root, host_dirs: &[], made: false })
        } else {
            Err(DriverError::new(Class::BadImage, text()))
        };
    }
    if name != HOST {
        let text = format!("this node has the image '{HOST}', not '{name}'");
        return Err(DriverError::new(Class::BadImage, text));
    }
    let root = dir.join(format!("{HOST}.{}", stamp(etc)));
    let made = !root.is_dir();
    if made {
        let text = |error: io::Error| DriverError::new(Class::BadImage, format!("image {HOST}: {error}"));
        build(dir, etc, &root).map_err(text)?;
    }
    Ok(Image { root, host_dirs: &["/usr"], made })
}

/// Names what the image is made from: another host, another name. A VM's root is a mount of the very directory, so one
/// that is there is never changed and never takes another's place.
fn stamp(etc: &Path) -> String {
    let mut stamp = FORM.to_owned();
    for name in COPIES {
        let found = fs::symlink_metadata(etc.join(name)).ok();
        let at = found.map(|found| (found.mtime(), found.mtime_nsec(), found.size()));
        stamp.push_str(&format!(" {name} {at:?}"));
    }
    let digest = Sha256::digest(stamp);
    digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What names a directory, wherever it is mounted: its file system and inode.
#[must_use]
pub fn identity(at: &Path) -> Option<(u64, u64)> {
    fs::metadata(at).ok().map(|found| (found.dev(), found.ino()))
}

/// Removes images `host` of earlier times that are no VM's root.
///
/// # Errors
/// The disk's; what is left goes next time.
pub fn prune(dir: &Path, current: &Path, used: &HashSet<(u64, u64)>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let at = entry?.path();
        let is_host = at.file_name().is_some_and(|name| name.to_string_lossy().starts_with(HOST));
        let in_use = identity(&at).is_none_or(|id| used.contains(&id));
        if is_host && at != current && !in_use {
            fs::remove_dir_all(at)?;
        }
    }
    Ok(())
}

/// Makes it beside and puts it in place.
fn build(dir: &Path, etc: &Path, root: &Path) -> io::Result<()> {
    let new = dir.join("host.new");
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir_all(&new)?;
    fs::set_permissions(&new, Permissions::from_mode(0o755))?;
    for name in DIRS {
        fs::create_dir(new.join(name))?;
        fs::set_permissions(new.join(name), Permissions::from_mode(0o755))?;
    }
    for name in USR_LINKS.iter().filter(|name| Path::new("/usr").join(name).exists()) {
        symlink(format!("usr/{name}"), new.join(name))?;
    }
    symlink("../tmp", new.join("var/tmp"))?;
    fs::write(new.join(".gantry/init"), "")?;
    for (name, text) in FILES {
        fs::write(new.join("etc").join(name), text)?;
    }
    for name in COPIES {
        copy(&etc.join(name), &new.join("etc").join(name))?;
    }
    fs::rename(&new, root)
}

/// A file by content, a directory by its entries, links within directories as links. Not there: nothing.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let Ok(found) = fs::metadata(from) else { return Ok(()) };
    if found.is_file() {
        fs::write(to, fs::read(from)?)?;
        return fs::set_permissions(to, Permissions::from_mode(0o644));
    }
    fs::create_dir(to)?;
    fs::set_permissions(to, Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(from)?.take(ENTRIES_MAX) {
        let entry = entry?;
        let at = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            symlink(fs::read_link(entry.path())?, at)?;
        } else if kind.is_file() {
            fs::write(&at, fs::read(entry.path())?)?;
            fs::set_permissions(&at, Permissions::from_mode(0o644))?;
        }
    }
    Ok(())
}
