//! Tar archives that go into a VM's home and come out of it. An archive is checked whole before its first file is
//! written; files are written and read through [`Home`], which follows nothing. Regular files and directories only.

use super::home::{self, Home};
use super::{Class, DriverError};
use gantry_archive::{Unfit, plain, read, unreadable};
use gantry_proto::noded::VmGetReply;
use std::fs::File;
use std::io::{self, Read, Write};
use tar::EntryType;

/// Most bytes of all names that an answer tells: half a frame.
const NAMES_BYTES_MAX: usize = 2 << 20;

impl From<Unfit> for DriverError {
    fn from(why: Unfit) -> Self {
        Self::new(Class::Refused, why.to_string())
    }
}

/// Checks a whole archive that is to be unpacked in directory `below` of a home (empty = the home itself) of which `free`
/// bytes are free. What it replaces comes free: a try that was cut short has left files where these belong.
///
/// # Errors
/// [`Class::Refused`] for what [`gantry_archive::check`] refuses; [`Class::NoSpace`].
pub fn check(file: &mut File, home: &Home, below: &str, free: u64) -> Result<(), DriverError> {
    let content = gantry_archive::check(file, below)?;
    if content.bytes <= free {
        return Ok(());
    }
    let held = content.files.iter().map(|path| home.held(&home::join(below, path)));
    let room = held.fold(free, u64::saturating_add);
    if content.bytes > room {
        let text = format!(
            "its files have {} bytes, the machine has room for {room}: leave some out",
            content.bytes
        );
        return Err(DriverError::new(Class::NoSpace, text));
    }
    Ok(())
}

/// Unpacks a checked archive. What has a file's name is replaced. When the room ends after all (files take more than
/// their bytes, and what runs inside writes, too), what was unpacked is removed again; directories stay.
///
/// # Errors
/// As of [`Home::put`].
pub fn unpack(file: &mut File, home: &Home, below: &str) -> Result<(), DriverError> {
    let mut begun = Vec::new();
    let done = unpack_noting(file, home, below, &mut begun);
    match done {
        Err(why) if why.class == Class::NoSpace => {
            begun.iter().for_each(|path| home.remove(path));
            let text = format!("the machine's room ended at {}: leave some out", why.text);
            Err(DriverError::new(Class::NoSpace, text))
        }
        other => other,
    }
}

fn unpack_noting(
    file: &mut File,
    home: &Home,
    below: &str,
    begun: &mut Vec<String>,
) -> Result<(), DriverError> {
    if !below.is_empty() {
        home.make_dir(below)?;
    }
    for entry in read(file)?.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let (path, is_dir) = plain(&entry, below)?;
        let whole = home::join(below, &path);
        if is_dir {
            if !path.is_empty() {
                home.make_dir(&whole)?;
            }
            continue;
        }
        let executable = entry.header().mode().is_ok_and(|mode| mode & 0o111 != 0);
        begun.push(whole);
        home.put_from(&begun[begun.len() - 1], &mut entry, executable)?;
        gantry_rt::crash::point("put-unpacking");
    }
    Ok(())
}

/// Writes the regular files below `path` of a home, or the one file there, as an archive.
///
/// # Errors
/// [`Class::NotFound`] when nothing is there; [`Class::Lost`] when `out` takes no more.
pub fn pack(home: &Home, path: &str, bytes_max: u64, out: impl Write) -> Result<VmGetReply, DriverError> {
    let file = if path.is_empty() { None } else { home.open_file(path).ok() };
    let (listing, below) = match file {
        Some((_, bytes)) => {
            let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
            let found = home::Found { path: name.to_owned(), bytes };
            (home::Listing { files: vec![found], ..home::Listing::default() }, above)
        }
        None => (home.list(path)?, path),
    };
    let refused = listing.refused + u64::from(listing.truncated);
    let mut reply = VmGetReply { files: Vec::new(), refused };
    let mut names_left = NAMES_BYTES_MAX;
    let mut builder = tar::Builder::new(out);
    let mut left = bytes_max;
    for found in listing.files {
        // It may have become something else since it was listed.
        let Ok((file, bytes)) = home.open_file(&home::join(below, &found.path)) else {
            reply.refused += 1;
            continue;
        };
        if bytes > left || found.path.len() > names_left {
            reply.refused += 1;
            continue;
        }
        left -= bytes;
        names_left -= found.path.len();
        append(&mut builder, &found.path, file, bytes)
            .map_err(|error| DriverError::new(Class::Lost, format!("{}: {error}", found.path)))?;
        reply.files.push((found.path, bytes));
    }
    builder.finish().map_err(|error| DriverError::new(Class::Lost, error.to_string()))?;
    Ok(reply)
}

/// Exactly `bytes` of the file, whatever it does meanwhile.
fn append<W: Write>(builder: &mut tar::Builder<W>, path: &str, file: File, bytes: u64) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let executable = file.metadata()?.permissions().mode() & 0o111 != 0;
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes);
    header.set_mode(if executable { 0o755 } else { 0o644 });
    header.set_entry_type(EntryType::Regular);
    builder.append_data(&mut header, path, file.chain(io::repeat(0)).take(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As after a node that died while it unpacked: what lies there is no longer free, and is what shall lie there.
    #[test]
    fn an_archive_fits_where_its_own_first_files_are() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::at(dir.path(), nix::unistd::getuid().as_raw()).expect("a home");
        let mut file = tempfile::tempfile().expect("a file");
        let mut builder = tar::Builder::new(&mut file);
        for name in ["a", "b"] {
            append(&mut builder, name, tempfile::tempfile().expect("a file"), 1 << 20).expect("added");
        }
        builder.into_inner().expect("whole");
        let mut class = |free: u64| check(&mut file, &home, "in", free).map_err(|why| why.class);
        assert_eq!(class(2 << 20), Ok(()));
        assert_eq!(class(1 << 20), Err(Class::NoSpace));
        home.put("in/a", &vec![1; 1 << 20], false).expect("put");
        assert_eq!(class(1 << 20), Ok(()));
        home.put("in/other", &vec![1; 1 << 20], false).expect("put");
        assert_eq!(class(1 << 19), Err(Class::NoSpace));
    }
}
