//! An image's archive becomes a root, and nothing else is touched.

use super::*;
use std::os::unix::fs::MetadataExt;

struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// Raw names: the library's own setters would refuse the bad ones.
    fn add(mut self, name: &str, kind: EntryType, mode: u32, link: &str, content: &str) -> Self {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().expect("gnu").name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_gnu_mut().expect("gnu").linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content.as_bytes()).expect("added");
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.add(name, EntryType::Regular, 0o644, "", content)
    }

    /// What an import says of it.
    fn imports(&self) -> bool {
        let mut names = image::Names::default();
        let mut archive = Archive::new(&self.0.get_ref()[..]);
        archive.entries().expect("entries").all(|entry| {
            let entry = entry.expect("an entry");
            let target = entry.link_name_bytes().unwrap_or_default();
            let kind = match entry.header().entry_type() {
                EntryType::Directory => image::Kind::Dir,
                EntryType::Regular => image::Kind::File,
                EntryType::Symlink => image::Kind::Symlink(&target),
                EntryType::Link => image::Kind::Link(&target),
                other => panic!("{other:?}"),
            };
            names.take(&entry.path_bytes(), kind).is_ok()
        })
    }

    fn unpack(self, to: &Path) -> io::Result<()> {
        let mut file = tempfile::tempfile()?;
        io::Write::write_all(&mut file, &self.0.into_inner()?)?;
        io::Seek::rewind(&mut file)?;
        super::unpack(file, to, 0)
    }
}

#[test]
fn a_root_is_unpacked_without_devices_and_rights() {
    let dir = tempfile::tempdir().expect("dir");
    let to = dir.path().join("root");
    Tar::new()
        .add("./", EntryType::Directory, 0o755, "", "")
        .add("bin/", EntryType::Directory, 0o555, "", "")
        .add("bin/su", EntryType::Regular, 0o4755, "", "program")
        .add("bin/sh", EntryType::Link, 0o755, "bin/su", "")
        .add("sbin", EntryType::Symlink, 0o777, "bin", "")
        .add("out", EntryType::Symlink, 0o777, "/etc/passwd", "")
        .add("tmp", EntryType::Symlink, 0o777, "/", "")
        .add("dev/null", EntryType::Char, 0o666, "", "")
        .file("etc/x", "1")
        .file("etc/x", "22")
        .unpack(&to)
        .expect("unpacked");
    let su = fs::symlink_metadata(to.join("bin/su")).expect("there");
    assert_eq!((su.mode() & 0o7777, su.uid(), su.nlink()), (0o755, nix::unistd::geteuid().as_raw(), 2));
    assert_eq!(fs::read_link(to.join("out")).expect("a link"), Path::new("/etc/passwd"));
    assert_eq!(fs::read_to_string(to.join("etc/x")).expect("read"), "22");
    assert!(!to.join("dev/null").exists());
    for dir in DIRS {
        assert!(fs::symlink_metadata(to.join(dir)).expect("there").is_dir(), "{dir}");
    }
    assert!(to.join(".gantry/init").is_file());
}

#[test]
fn what_leads_out_is_refused_and_touches_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let secret = dir.path().join("secret");
    fs::write(&secret, "secret").expect("written");
    let out = dir.path().to_str().expect("text");
    type Step = fn(Tar, &str) -> Tar;
    let bad: [(&str, Step); 10] = [
        ("absolute", |tar, out| tar.file(&format!("{out}/x"), "x")),
        ("above", |tar, _| tar.file("../x", "x")),
        ("within", |tar, _| tar.file("a/../../x", "x")),
        ("over a link", |tar, out| tar.add("l", EntryType::Symlink, 0o777, out, "").file("l/x", "x")),
        ("over a link above", |tar, _| tar.add("l", EntryType::Symlink, 0o777, "..", "").file("l/x", "x")),
        ("hard link out", |tar, out| tar.add("h", EntryType::Link, 0o644, &format!("{out}/secret"), "")),
        ("hard link above", |tar, _| tar.add("h", EntryType::Link, 0o644, "../secret", "")),
        ("hard link over a link", |tar, out| {
            tar.add("l", EntryType::Symlink, 0o777, out, "").add("h", EntryType::Link, 0o644, "l/secret", "")
        }),
        ("hard link to a link", |tar, out| {
            let target = format!("{out}/secret");
            tar.add("l", EntryType::Symlink, 0o777, &target, "").add("h", EntryType::Link, 0o644, "l", "")
        }),
        ("ours", |tar, _| tar.file(".gantry/init", "x")),
    ];
    for (what, step) in bad {
        assert!(!step(Tar::new(), out).imports(), "{what}");
        let error = step(Tar::new(), out).unpack(&dir.path().join("root")).expect_err(what);
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{what}: {error}");
    }
    assert_eq!(fs::read_to_string(&secret).expect("read"), "secret");
    assert_eq!(fs::metadata(&secret).expect("there").nlink(), 1);
    let names: Vec<_> =
        fs::read_dir(dir.path()).expect("read").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

/// Import and unpacking know of each other by this alone: every archive of up to three entries over these names, the
/// last of which may be refused.
#[test]
fn an_import_takes_exactly_what_is_unpacked() {
    const KINDS: [(EntryType, &str); 6] = [
        (EntryType::Directory, ""),
        (EntryType::Regular, ""),
        (EntryType::Symlink, "b"),
        (EntryType::Symlink, ""),
        (EntryType::Link, "a"),
        (EntryType::Link, "a/b"),
    ];
    let all: Vec<_> = ["a", "a/b", "b"].iter().flat_map(|name| KINDS.map(|kind| (*name, kind))).collect();
    let dir = tempfile::tempdir().expect("dir");
    let (mut good, mut counts) = (vec![Vec::new()], (0, 0));
    for _ in 0..3 {
        let longer = good.iter().flat_map(|first| all.iter().map(|last| [&first[..], &[*last]].concat()));
        let (mut next, mut refused) = (Vec::new(), 0);
        for entries in longer {
            let tar = entries
                .iter()
                .fold(Tar::new(), |tar, (name, (kind, link))| tar.add(name, *kind, 0o755, link, ""));
            let (imports, unpacked) = (tar.imports(), tar.unpack(&dir.path().join("root")));
            assert_eq!(imports, unpacked.is_ok(), "{entries:?}: {unpacked:?}");
            if imports { next.push(entries) } else { refused += 1 }
        }
        counts = (next.len(), refused);
        good = next;
    }
    assert!(counts.0 > 100 && counts.1 > 100, "{counts:?}");
}
