//! Images made plain: a directory or an archive becomes a tar archive of regular files, directories and links,
//! without owners, times and special modes. Devices, pipes and sockets are left out and counted. An entry that no node
//! unpacks is refused.

use super::header;
use gantry_archive::image::{Kind, Names};
use gantry_model::task::IMAGE_BYTES_MAX;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use tar::EntryType;

/// Most entries of an image.
const ENTRIES_MAX: u64 = 1_000_000;

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageNotes {
    /// Entries of the archive made.
    pub entries: u64,
    /// Devices, pipes, sockets left out.
    pub left_out: u64,
    /// The first of them.
    pub first: Option<String>,
}

/// What was seen, and the names so far.
#[derive(Default)]
struct Seen {
    notes: ImageNotes,
    names: Names,
}

impl Seen {
    fn leave_out(&mut self, name: &Path) {
        self.notes.left_out += 1;
        self.notes.first.get_or_insert_with(|| name.display().to_string());
    }

    /// Takes an entry that every node can unpack.
    fn take(&mut self, name: &Path, kind: Kind<'_>) -> io::Result<()> {
        self.notes.entries += 1;
        if self.notes.entries > ENTRIES_MAX {
            return Err(io::Error::other(format!("more than {ENTRIES_MAX} files; import a smaller tree")));
        }
        self.names.take(name.as_os_str().as_bytes(), kind).map_err(io::Error::other)
    }
}

/// Writes the plain archive of what lies at `path`.
///
/// # Errors
/// It cannot be read, or is in a form that is not known: says how to convert it.
pub fn normalise(path: &Path, out: impl Write) -> io::Result<ImageNotes> {
    within(path, Bounded { out, left: IMAGE_BYTES_MAX })
}

fn within(path: &Path, out: Bounded<impl Write>) -> io::Result<ImageNotes> {
    let mut builder = tar::Builder::new(out);
    let mut seen = Seen::default();
    if fs::metadata(path)?.is_dir() {
        from_dir(path, Path::new(""), &mut builder, &mut seen)?;
    } else {
        match form(path)? {
            Form::Tar => from_tar(File::open(path)?, &mut builder, &mut seen)?,
            Form::Gzip => {
                from_tar(flate2::read::MultiGzDecoder::new(File::open(path)?), &mut builder, &mut seen)?;
            }
            Form::Other(convert) => return Err(io::Error::other(convert)),
        }
    }
    if seen.notes.entries == 0 {
        return Err(io::Error::other("it has no files"));
    }
    builder.into_inner()?.flush()?;
    Ok(seen.notes)
}

/// Takes so many bytes and no more, so that what is too large is told before the disk is full of it.
struct Bounded<W> {
    out: W,
    left: u64,
}

impl<W: Write> Write for Bounded<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written =
            self.out.write(&bytes[..bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX))])?;
        if written == 0 && !bytes.is_empty() && self.left == 0 {
            let most = IMAGE_BYTES_MAX >> 30;
            return Err(io::Error::other(format!(
                "its plain archive is over {most} GiB, the most an image may have; leave files out"
            )));
        }
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

enum Form {
    Tar,
    Gzip,
    Other(String),
}

/// By the first bytes, not by the name.
fn form(path: &Path) -> io::Result<Form> {
    let mut head = Vec::new();
    File::open(path)?.take(512).read_to_end(&mut head)?;
    let shown = path.display();
    let convert = |tool: &str| {
        Form::Other(format!(
            "it is compressed with {tool}, which is not read here; convert it with \"{tool} -dc {shown} > image.tar\" \
             and import image.tar"
        ))
    };
    Ok(match head.as_slice() {
        [0x1f, 0x8b, ..] => Form::Gzip,
        [0xfd, b'7', b'z', b'X', b'Z', ..] => convert("xz"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => convert("zstd"),
        [b'B', b'Z', b'h', ..] => convert("bzip2"),
        head if head.get(257..262) == Some(b"ustar") => Form::Tar,
        _ => Form::Other(
            "it is no directory and no tar archive (plain or gzip); make one with \"tar -C DIR -cf image.tar .\""
                .to_owned(),
        ),
    })
}

fn from_dir(
    top: &Path,
    below: &Path,
    builder: &mut tar::Builder<impl Write>,
    seen: &mut Seen,
) -> io::Result<()> {
    let named =
        |path: &Path, error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let dir = top.join(below);
    let read = fs::read_dir(&dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut children = read.map_err(|error| named(&dir, error))?;
    children.sort_by_key(fs::DirEntry::file_name);
    for child in children {
        let (path, name) = (child.path(), below.join(child.file_name()));
        let meta = fs::symlink_metadata(&path).map_err(|error| named(&path, error))?;
        let mode = meta.permissions().mode() & 0o777;
        if meta.is_dir() {
            seen.take(&name, Kind::Dir)?;
            builder.append_data(&mut header(EntryType::Directory, mode, 0), &name, io::empty())?;
            from_dir(top, &name, builder, seen)?;
        } else if meta.is_symlink() {
            let target = fs::read_link(&path).map_err(|error| named(&path, error))?;
            seen.take(&name, Kind::Symlink(target.as_os_str().as_bytes()))?;
            builder.append_link(&mut header(EntryType::Symlink, 0o777, 0), &name, target)?;
        } else if meta.is_file() {
            seen.take(&name, Kind::File)?;
            let file = File::open(&path).map_err(|error| named(&path, error))?;
            let mut exact = file.take(meta.len()).chain(io::repeat(0)).take(meta.len());
            builder.append_data(&mut header(EntryType::Regular, mode, meta.len()), &name, &mut exact)?;
        } else {
            seen.leave_out(&name);
        }
    }
    Ok(())
}

fn from_tar(from: impl Read, builder: &mut tar::Builder<impl Write>, seen: &mut Seen) -> io::Result<()> {
    let mut archive = tar::Archive::new(from);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = plain_name(&entry.path()?)?;
        if name.as_os_str().is_empty() {
            continue; // The top itself.
        }
        let mode = entry.header().mode()? & 0o777;
        let size = entry.size();
        match entry.header().entry_type() {
            EntryType::Directory => {
                seen.take(&name, Kind::Dir)?;
                builder.append_data(&mut header(EntryType::Directory, mode, 0), &name, io::empty())?;
            }
            EntryType::Regular | EntryType::Continuous => {
                seen.take(&name, Kind::File)?;
                builder.append_data(&mut header(EntryType::Regular, mode, size), &name, &mut entry)?;
            }
            kind @ (EntryType::Symlink | EntryType::Link) => {
                let target = entry.link_name()?.ok_or_else(|| io::Error::other("a link without target"))?;
                let target = if kind == EntryType::Link { plain_name(&target)? } else { target.into_owned() };
                let to = target.as_os_str().as_bytes();
                let is = if kind == EntryType::Link { Kind::Link(to) } else { Kind::Symlink(to) };
                seen.take(&name, is)?;
                builder.append_link(&mut header(kind, 0o777, 0), &name, target)?;
            }
            _ => seen.leave_out(&name),
        }
    }
    Ok(())
}

/// Without `./` and a leading `/`.
fn plain_name(name: &Path) -> io::Result<PathBuf> {
    let mut out = PathBuf::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => out.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::other(format!(
                    "the archive names '{}', which has '..'",
                    name.display()
                )));
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(bytes: &[u8]) -> Vec<(String, EntryType, u32)> {
        let mut archive = tar::Archive::new(bytes);
        let one = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
            let entry = entry.unwrap();
            let header = entry.header();
            (entry.path().unwrap().display().to_string(), header.entry_type(), header.mode().unwrap())
        };
        archive.entries().unwrap().map(one).collect()
    }

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        fs::write(dir.path().join("bin/su"), "x").unwrap();
        fs::set_permissions(dir.path().join("bin/su"), fs::Permissions::from_mode(0o4755)).unwrap();
        std::os::unix::fs::symlink("su", dir.path().join("bin/sh")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        dir
    }

    #[test]
    fn a_directory_becomes_plain() {
        let mut out = Vec::new();
        let notes = normalise(tree().path(), &mut out).unwrap();
        assert_eq!(notes, ImageNotes { entries: 3, left_out: 1, first: Some("pipe".to_owned()) });
        let found = names(&out);
        assert_eq!(found[1], ("bin/sh".to_owned(), EntryType::Symlink, 0o777));
        assert_eq!(found[2], ("bin/su".to_owned(), EntryType::Regular, 0o755), "no setuid bit");
    }

    #[test]
    fn what_no_node_unpacks_is_not_imported() {
        let dir = tempfile::tempdir().unwrap();
        let tar = dir.path().join("bad.tar");
        let one = |entries: &[(EntryType, &str, &str)]| {
            let mut builder = tar::Builder::new(File::create(&tar).unwrap());
            for (kind, name, target) in entries {
                if target.is_empty() {
                    builder.append_data(&mut header(*kind, 0o644, 0), name, io::empty()).unwrap();
                } else {
                    builder.append_link(&mut header(*kind, 0o777, 0), name, target).unwrap();
                }
            }
            builder.into_inner().unwrap();
            normalise(&tar, io::sink()).map(|notes| notes.entries).map_err(|why| why.to_string())
        };
        let (file, link, hard) = (EntryType::Regular, EntryType::Symlink, EntryType::Link);
        let good = [
            (link, "bin", "usr/bin"),
            (link, "sbin", "/bin"),
            (file, "usr/bin/su", ""),
            (hard, "su", "usr/bin/su"),
        ];
        assert_eq!(one(&good), Ok(4));
        for (entries, told) in [
            (&[(link, "d", "/tmp/x"), (file, "d/pwn", "")][..], "'d/pwn': its way leads over a link"),
            (
                &[(hard, "h", "/etc/shadow")],
                "'h': a hard link to 'etc/shadow', which is no file that the archive has before",
            ),
            (&[(hard, "h", "../etc/shadow")], "'../etc/shadow', which has '..'"),
            (&[(link, "l", "/etc/shadow"), (hard, "h", "l")], "'h': a hard link to 'l'"),
            (&[(file, ".gantry/init", "")], "this name is Gantry's"),
        ] {
            let why = one(entries).unwrap_err();
            assert!(why.contains(told), "{why}");
        }
    }

    #[test]
    fn archives_plain_and_gzip_become_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let mut plain = Vec::new();
        normalise(tree().path(), &mut plain).unwrap();
        let tar = dir.path().join("a.tar");
        fs::write(&tar, &plain).unwrap();
        let mut again = Vec::new();
        normalise(&tar, &mut again).unwrap();
        assert_eq!(names(&again), names(&plain));
        let gz = dir.path().join("a.whatever");
        let mut encoder =
            flate2::write::GzEncoder::new(File::create(&gz).unwrap(), flate2::Compression::fast());
        encoder.write_all(&plain).unwrap();
        encoder.finish().unwrap();
        let mut third = Vec::new();
        normalise(&gz, &mut third).unwrap();
        assert_eq!(third, again);
    }

    #[test]
    fn no_more_is_written_than_an_image_may_have() {
        let mut bounded = Bounded { out: Vec::new(), left: 5 };
        bounded.write_all(b"abc").unwrap();
        let error = bounded.write_all(b"def").unwrap_err().to_string();
        assert!(error.contains("over 8 GiB"), "{error}");
        assert_eq!(bounded.out, b"abcde");
        let error = within(tree().path(), Bounded { out: io::sink(), left: 600 }).unwrap_err().to_string();
        assert!(error.contains("over 8 GiB"), "{error}");
    }

    #[test]
    fn other_forms_say_how_to_convert_them() {
        let dir = tempfile::tempdir().unwrap();
        for (head, hint) in [(&b"\xfd7zXZ\0"[..], "xz -dc"), (b"hello", "tar -C DIR")] {
            let path = dir.path().join("x");
            fs::write(&path, head).unwrap();
            let error = normalise(&path, io::sink()).unwrap_err().to_string();
            assert!(error.contains(hint), "{error}");
        }
        assert!(normalise(&dir.path().join("none"), io::sink()).is_err());
    }
}
