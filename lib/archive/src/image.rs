//! Archives of images: which entries a node unpacks, told by names and kinds alone, in their order. A node asks its kernel
//! the same of each entry, and its tests hold both to the same answers. Contents, sizes and modes are not looked at.

use crate::Unfit;
use gantry_model::path::shown;
use std::collections::HashMap;

/// Deepest path of an image, and longest, bytes.
const DEPTH_MAX: usize = 64;
const PATH_BYTES_MAX: usize = 4_096;
/// Longest part of a path, bytes: the kernel's bound.
const PART_BYTES_MAX: usize = 255;
/// A directory of every VM, which is Gantry's alone.
const OURS: &[u8] = b".gantry";

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A directory.
    Dir,
    /// A regular file.
    File,
    /// A symbolic link, with where it points: anywhere, since it means something in a VM only.
    Symlink(&'a [u8]),
    /// A further name of a file, with the name that it has already.
    Link(&'a [u8]),
}

/// What a name is after the entries so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Dir,
    File,
    Symlink,
}

/// The names of an image so far.
#[derive(Debug, Default)]
pub struct Names(HashMap<Vec<u8>, Is>);

/// An error that names an entry.
fn wrong(path: &[u8], why: &str) -> Unfit {
    Unfit(format!("'{}': {why}", shown(&String::from_utf8_lossy(path))))
}

/// The parts of an entry's path; none for the root itself.
///
/// # Errors
/// It is absolute, has `..` or a zero byte, is too deep or too long.
pub fn parts(path: &[u8]) -> Result<Vec<&[u8]>, Unfit> {
    let all: Vec<&[u8]> =
        path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    if path.first() == Some(&b'/') || all.iter().any(|part| *part == b"..") || path.contains(&0) {
        return Err(wrong(path, "not a plain relative path"));
    }
    let long = path.len() > PATH_BYTES_MAX || all.iter().any(|part| part.len() > PART_BYTES_MAX);
    if all.len() > DEPTH_MAX || long {
        return Err(wrong(path, "too deep or too long"));
    }
    Ok(all)
}

/// The parts of a path that an entry may have.
///
/// # Errors
/// As of [`parts`]; the name is Gantry's.
pub fn entry_parts(path: &[u8]) -> Result<Vec<&[u8]>, Unfit> {
    let all = parts(path)?;
    if all.first() == Some(&OURS) {
        return Err(wrong(path, "this name is Gantry's"));
    }
    Ok(all)
}

impl Names {
    /// Takes the next entry.
    ///
    /// # Errors
    /// It can't be unpacked: its way leads over a link or a file, a directory has its name, or it is a hard link to
    /// something else than an earlier file.
    pub fn take(&mut self, path: &[u8], kind: Kind<'_>) -> Result<(), Unfit> {
        let to = entry_parts(path)?.join(&b'/');
        let is = match kind {
            Kind::Dir => return if self.enter(&to) { Ok(()) } else { Err(wrong(path, OVER)) },
            Kind::File => Is::File,
            Kind::Symlink(target) => {
                if target.is_empty() || target.len() >= PATH_BYTES_MAX || target.contains(&0) {
                    return Err(wrong(path, "a link to nothing"));
                }
                Is::Symlink
            }
            Kind::Link(target) => {
                let from = parts(target)?.join(&b'/');
                if !self.enter(above(&from)) || self.0.get(&from) != Some(&Is::File) {
                    let from = shown(&String::from_utf8_lossy(target));
                    let why =
                        format!("a hard link to '{from}', which is no file that the archive has before it");
                    return Err(wrong(path, &why));
                }
                if from == to {
                    return Ok(());
                }
                Is::File
            }
        };
        if !self.enter(above(&to)) {
            return Err(wrong(path, OVER));
        }
        if to.is_empty() || self.0.get(&to) == Some(&Is::Dir) {
            return Err(wrong(path, "a directory has this name"));
        }
        self.0.insert(to, is);
        Ok(())
    }

    /// Makes a directory and those above it, where nothing else has a name of theirs.
    fn enter(&mut self, dir: &[u8]) -> bool {
        let ends = (0..dir.len()).filter(|at| dir[*at] == b'/').chain([dir.len()]);
        ends.filter(|end| *end > 0).all(|end| match self.0.get(&dir[..end]) {
            Some(is) => *is == Is::Dir,
            None => self.0.insert(dir[..end].to_vec(), Is::Dir).is_none(),
        })
    }
}

/// Why most entries can't be unpacked.
const OVER: &str = "its way leads over a link or something else that is no directory";

fn above(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(&[], |at| &path[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(entries: &[(&str, Kind<'_>)]) -> Result<(), String> {
        let mut names = Names::default();
        entries
            .iter()
            .try_for_each(|(path, kind)| names.take(path.as_bytes(), *kind).map_err(|why| why.to_string()))
    }

    #[test]
    fn an_image_as_distributions_have_it_is_taken() {
        let entries = [
            ("./", Kind::Dir),
            ("usr/bin/", Kind::Dir),
            ("bin", Kind::Symlink(b"usr/bin")),
            ("sbin", Kind::Symlink(b"/usr/bin")),
            ("usr/bin/su", Kind::File),
            ("./usr/bin/sg", Kind::Link(b"usr/bin/su")),
            ("usr/bin/su", Kind::File),
            ("usr/bin/sh", Kind::Symlink(b"su")),
            ("usr/bin/sh", Kind::File),
        ];
        assert_eq!(taken(&entries), Ok(()));
    }

    #[test]
    fn what_no_node_unpacks_is_refused_by_its_name() {
        let deep = "d/".repeat(DEPTH_MAX + 1);
        let long = "x".repeat(PART_BYTES_MAX + 1);
        let link = ("d", Kind::Symlink(b"/tmp/x"));
        for (entries, told) in [
            (vec![link, ("d/pwn", Kind::File)], "'d/pwn': its way leads over a link"),
            (vec![link, ("d/pwn/", Kind::Dir)], "'d/pwn/': its way leads over a link"),
            (vec![link, ("d/", Kind::Dir)], "'d/': its way leads over a link"),
            (
                vec![("f", Kind::File), ("f/x", Kind::File)],
                "'f/x': its way leads over a link or something else",
            ),
            (vec![("a/b", Kind::File), ("a", Kind::File)], "'a': a directory has this name"),
            (vec![("h", Kind::Link(b"etc/shadow"))], "'h': a hard link to 'etc/shadow', which is no file"),
            (vec![("h", Kind::Link(b"/etc/shadow"))], "'/etc/shadow': not a plain relative path"),
            (vec![link, ("h", Kind::Link(b"d"))], "'h': a hard link to 'd'"),
            (vec![link, ("h", Kind::Link(b"d/x"))], "'h': a hard link to 'd/x'"),
            (vec![("l", Kind::Symlink(b""))], "'l': a link to nothing"),
            (vec![("../x", Kind::File)], "'../x': not a plain relative path"),
            (vec![(".", Kind::File)], "'.': a directory has this name"),
            (vec![(".gantry/init", Kind::File)], "'.gantry/init': this name is Gantry's"),
            (vec![(&deep, Kind::Dir)], "too deep or too long"),
            (vec![(&long, Kind::File)], "too deep or too long"),
        ] {
            let why = taken(&entries).unwrap_err();
            assert!(why.contains(told), "{why}");
        }
    }
}
