use super::*;
use std::io::{Cursor, Write};
use tar::{Builder, Header};

fn add(builder: &mut Builder<Vec<u8>>, kind: EntryType, name: &[u8], bytes: &[u8]) {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(bytes.len() as u64);
    header.set_cksum();
    builder.append(&header, bytes).unwrap();
}

fn archive(entries: &[(EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, name, bytes) in entries {
        add(&mut builder, *kind, name.as_bytes(), bytes);
    }
    builder.into_inner().unwrap()
}

fn checked(bytes: Vec<u8>) -> Result<Content, String> {
    check(&mut Cursor::new(bytes), "").map_err(|why| why.to_string())
}

const FILE: EntryType = EntryType::Regular;
const DIR: EntryType = EntryType::Directory;
const LONG: EntryType = EntryType::GNULongName;
const PAX: EntryType = EntryType::XHeader;

#[test]
fn files_and_directories_are_taken() {
    let long = format!("{}/f\0", "d".repeat(200));
    let bytes = archive(&[
        (DIR, "./", b""),
        (DIR, "a/", b""),
        (FILE, "./a/b", b"two"),
        (LONG, "", long.as_bytes()),
        (FILE, "x", b"1"),
    ]);
    let content = checked(bytes).unwrap();
    assert_eq!((content.entries, content.bytes), (4, 4));
    let mut files: Vec<_> = content.files.into_iter().collect();
    files.sort();
    assert_eq!(files, ["a/b".to_owned(), long.trim_end_matches('\0').to_owned()]);
}

#[test]
fn each_odd_entry_is_refused_by_its_name() {
    let deep = ["d"; 17].join("/");
    for (entries, told) in [
        (vec![(FILE, "../x", &b""[..])], "'../x' is not a plain path"),
        (vec![(FILE, "/x", b"")], "'/x' is not a plain path"),
        (vec![(FILE, "a/./b", b"")], "'a/./b' is not a plain path"),
        (vec![(FILE, "a\nb", b"")], "'a\\nb' is not a plain path"),
        (vec![(FILE, &deep, b"")], "at most 16 deep"),
        (vec![(EntryType::Symlink, "l", b"")], "'l' is neither a regular file nor a directory"),
        (vec![(EntryType::Link, "l", b"")], "'l' is neither"),
        (vec![(EntryType::Char, "c", b"")], "'c' is neither"),
        (vec![(EntryType::GNUSparse, "s", b"")], "a sparse file"),
        (vec![(FILE, "a", b""), (FILE, "a/b", b"")], "'a' is a file and a directory"),
        (vec![(FILE, "a", b""), (DIR, "a/", b"")], "'a' is a file and a directory"),
        (vec![(FILE, "./", b"")], "an entry without a name"),
    ] {
        let why = checked(archive(&entries)).unwrap_err();
        assert!(why.contains(told), "{why}");
    }
    assert!(checked(b"no archive".to_vec()).is_err());
    let mut cut = archive(&[(FILE, "a", &[7; 2048])]);
    cut.truncate(1024);
    assert_eq!(checked(cut).unwrap_err(), "the archive can't be used: it ends within 'a'");
}

#[test]
fn too_many_entries_are_refused() {
    let many = vec![(FILE, "a", &b""[..]); ENTRIES_MAX + 1];
    assert!(checked(archive(&many)).unwrap_err().contains("more than 10000 entries"));
    let words = vec![(EntryType::GNULongLink, "", &b"x"[..]); HEADERS_MAX + 1];
    assert!(checked(archive(&words)).unwrap_err().contains("more than 10000 entries"));
}

#[test]
fn long_names_cost_neither_memory_nor_long_messages() {
    let long = vec![1u8; 4 << 20];
    for kind in [LONG, PAX, EntryType::GNULongLink, EntryType::XGlobalHeader] {
        let why = checked(archive(&[(kind, "", &long), (FILE, "x", b"")])).unwrap_err();
        assert!(why.contains("a name or a header of 4194304 bytes") && why.len() < 200, "{why}");
    }
    let name = vec![1u8; 8 << 10];
    let why = checked(archive(&[(LONG, "", &name), (FILE, "x", b"")])).unwrap_err();
    assert!(why.contains("is not a plain path") && why.len() < 600, "{why}");
}

/// An archive that is short by its headers' sizes and long by those of an extension: one reader sees a file, another
/// what is in it.
#[test]
fn a_size_in_an_extended_header_hides_nothing() {
    let mut hidden = Builder::new(Vec::new());
    add(&mut hidden, LONG, b"", &vec![b'n'; 1 << 20]);
    add(&mut hidden, FILE, b"x", b"");
    let hidden = hidden.into_inner().unwrap();
    let why = checked(archive(&[(PAX, "", b"10 size=0\n"), (FILE, "f", &hidden)])).unwrap_err();
    assert!(why.contains("size stands in an extended header"), "{why}");
    let mut plain = Vec::new();
    plain.write_all(&archive(&[(PAX, "", b"12 path=a/b\n"), (FILE, "f", b"")])).unwrap();
    assert!(checked(plain).unwrap().files.contains("a/b"));
}
