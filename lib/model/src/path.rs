//! Paths of files below a VM's home directory: which ones may be used. Whoever packs files, takes an archive or writes
//! into a VM asks here, so that nothing is refused late which could have been refused at once.

/// Longest path below a home, bytes.
pub const PATH_BYTES_MAX: usize = 1_024;
/// Longest name of a file or directory, bytes: the kernel's.
pub const NAME_BYTES_MAX: usize = 255;
/// Deepest path below a home: enough for source trees, too little to break a walker.
pub const DEPTH_MAX: usize = 16;
/// Most files and directories of an archive.
pub const ENTRIES_MAX: usize = 10_000;
/// Most characters of a name that a message shows: names may come from anywhere and messages are stored.
const SHOWN_MAX: usize = 200;

/// A name as a message shows it: escaped, and cut if it is long.
#[must_use]
pub fn shown(name: &str) -> String {
    let mut text: String = name.escape_debug().take(SHOWN_MAX).collect();
    if name.escape_debug().nth(SHOWN_MAX).is_some() {
        text.push('…');
    }
    text
}

/// The parts of a path that may be used below a home.
///
/// # Errors
/// When it is not plain and relative, too long or too deep; the text names it.
pub fn parts(path: &str) -> Result<Vec<&str>, String> {
    let parts: Vec<&str> = path.split('/').take(DEPTH_MAX + 1).collect();
    let plain =
        |part: &&str| !part.is_empty() && *part != "." && *part != ".." && part.len() <= NAME_BYTES_MAX;
    let fits = path.len() <= PATH_BYTES_MAX && parts.len() <= DEPTH_MAX;
    if fits && parts.iter().all(plain) && !path.contains(char::is_control) {
        return Ok(parts);
    }
    Err(format!(
        "'{}' is not a plain path below the VM's home: without '..', '.' and '/' in front, without control characters, \
         at most {DEPTH_MAX} deep and {PATH_BYTES_MAX} bytes long, each name at most {NAME_BYTES_MAX}",
        shown(path)
    ))
}

/// A path below a directory; either may be empty.
#[must_use]
pub fn join(dir: &str, path: &str) -> String {
    match (dir.is_empty(), path.is_empty()) {
        (true, _) => path.to_owned(),
        (_, true) => dir.to_owned(),
        _ => format!("{dir}/{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_relative_paths_may_be_used_and_no_others() {
        let deep = ["d"; DEPTH_MAX].join("/");
        assert_eq!(parts("a/b c/…").unwrap(), ["a", "b c", "…"]);
        assert_eq!(parts(&deep).unwrap().len(), DEPTH_MAX);
        let (deeper, name) = (format!("{deep}/d"), "x".repeat(NAME_BYTES_MAX));
        let long = format!("{name}/{name}/{name}/{name}/{name}");
        assert_eq!(parts(&name).unwrap().len(), 1);
        let wide = format!("a/{name}x");
        for odd in
            ["", "/", "/a", "a/", "a//b", ".", "a/./b", "..", "a/../b", "a\nb", "a\0b", &deeper, &long, &wide]
        {
            let why = parts(odd).unwrap_err();
            assert!(why.starts_with('\'') && why.len() < 500, "{odd:?}: {why}");
        }
    }

    #[test]
    fn a_message_shows_little_of_a_long_name() {
        assert_eq!(shown("a\n'b"), "a\\n\\'b");
        assert_eq!(shown(&"\u{1}".repeat(1 << 20)).chars().count(), SHOWN_MAX + 1);
        assert_eq!(shown(&"x".repeat(SHOWN_MAX)), "x".repeat(SHOWN_MAX));
    }
}
