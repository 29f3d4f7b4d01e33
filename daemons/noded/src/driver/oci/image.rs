//! Images. The built-in `host`: the node's /usr, read-only, and a root of its own with a private /etc (DESIGN §7). Others
//! are imported, and unpacked by noded before a VM names them.

use crate::driver::{Class, DriverError};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// The built-in image.
pub const HOST: &str = "host";
/// Changes when what [`build`] makes changes.
const FORM: &str = "1";
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
}

/// The image of that name, made if need be below `dir`, or the one unpacked at `imported`. Blocks on the disk.
///
/// # Errors
/// [`Class::BadImage`] for a name that is not known, and when the host's files can't be used.
pub fn open(dir: &Path, name: &str, imported: Option<PathBuf>) -> Result<Image, DriverError> {
    if let Some(root) = imported {
        let text = || format!("image {name} is not at {}", root.display());
        return if root.is_dir() {
            Ok(Image { root, host_dirs: &[] })
        } else {
            Err(DriverError::new(Class::BadImage, text()))
        };
    }
    if name != HOST {
        let text = format!("this node has the image '{HOST}', not '{name}'");
        return Err(DriverError::new(Class::BadImage, text));
    }
    let root = dir.join(HOST);
    let made = current(&root).and_then(|stamp| match stamp {
        None => Ok(()),
        Some(stamp) => build(dir, &root, &stamp),
    });
    made.map_err(|error| DriverError::new(Class::BadImage, format!("image {HOST}: {error}")))?;
    Ok(Image { root, host_dirs: &["/usr"] })
}

/// What the image is made from; None when it is up to date.
fn current(root: &Path) -> io::Result<Option<String>> {
    let mut stamp = FORM.to_owned();
    for name in COPIES {
        let found = fs::symlink_metadata(Path::new("/etc").join(name)).ok();
        let at = found.map(|found| (found.mtime(), found.mtime_nsec(), found.size()));
        stamp.push_str(&format!(" {name} {at:?}"));
    }
    match fs::read_to_string(root.join(".gantry/stamp")) {
        Ok(old) if old == stamp => Ok(None),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(Some(stamp)),
    }
}

/// Makes it beside and puts it in place. VMs that run keep the one they have.
fn build(dir: &Path, root: &Path, stamp: &str) -> io::Result<()> {
    let (new, old) = (dir.join("host.new"), dir.join("host.old"));
    for left in [&new, &old] {
        match fs::remove_dir_all(left) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
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
        copy(&Path::new("/etc").join(name), &new.join("etc").join(name))?;
    }
    fs::write(new.join(".gantry/stamp"), stamp)?;
    if root.exists() {
        fs::rename(root, &old)?;
    }
    fs::rename(&new, root)?;
    match fs::remove_dir_all(&old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
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
