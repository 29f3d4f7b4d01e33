//! Rules of the house that no compiler knows (CONTRIBUTING.md): pure cores, bounded files, no promises left open,
//! versions in one place, nothing of somebody's machine.

use crate::run::top;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Longest source file, without its tests.
const FILE_LINES_MAX: usize = 800;
/// What a pure core must not name.
const IMPURE: [&str; 12] = [
    "tokio::",
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::os::unix::net",
    "std::env::var",
    "std::env::args",
    "std::process",
    "Instant::now",
    "SystemTime::now",
    "rand::",
    "getrandom::",
];
/// Marks of work left undone. Spelled in halves, so that this file passes its own rule.
const UNDONE: [&str; 5] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("#[ign", "ore"),
];
/// Where unsafe code may stand: nowhere yet. (The system-call module of noded comes with its containers.)
const UNSAFE_IN: [&str; 0] = [];
/// How unsafe code begins. In halves, as above.
const UNSAFE: [&str; 2] = [concat!("unsa", "fe {"), concat!("unsa", "fe fn")];
/// Paths of one machine.
const MACHINE: [&str; 3] = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
/// Texts that may name a user's home: what lies inside VMs.
const HOME_OF_VMS: &str = concat!("/ho", "me/tester");
/// gantry-job and what it builds on stay lean: these must not be linked.
const LEAN_WITHOUT: [&str; 5] = ["clap", "rusqlite", "regex", "tracing-subscriber", "rcgen"];

/// Checks everything; all findings at once.
pub fn check() -> Result<()> {
    let mut found = Vec::new();
    for file in tracked()? {
        let Ok(text) = fs::read_to_string(top().join(&file)) else { continue };
        texts(&file, &text, &mut found);
        if file.extension().is_some_and(|end| end == "rs") {
            source(&file, &text, &mut found);
        }
        if file.file_name().is_some_and(|name| name == "Cargo.toml") && file != Path::new("Cargo.toml") {
            manifest(&file, &text, &mut found);
        }
    }
    lean(&mut found)?;
    if found.is_empty() {
        return Ok(());
    }
    for line in &found {
        eprintln!("tidy: {line}");
    }
    bail!("tidy found {} thing(s)", found.len())
}

/// Files under version control, and new ones that are not ignored.
fn tracked() -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(top())
        .output()
        .context("git ls-files")?;
    Ok(String::from_utf8(output.stdout)?.lines().map(PathBuf::from).collect())
}

fn is_golden(file: &Path) -> bool {
    file.components().any(|part| part.as_os_str() == "golden")
}

fn texts(file: &Path, text: &str, found: &mut Vec<String>) {
    if is_golden(file) || file == Path::new("Cargo.lock") {
        return;
    }
    for (number, line) in text.lines().enumerate() {
        let line = line.replace(HOME_OF_VMS, "");
        for path in MACHINE.iter().filter(|path| line.contains(**path)) {
            found.push(format!("{}:{}: a path of one machine ({path})", file.display(), number + 1));
        }
    }
}

fn source(file: &Path, text: &str, found: &mut Vec<String>) {
    let name = file.display();
    let mut say = |what: String| found.push(format!("{name}: {what}"));
    if !text.starts_with("//!") && !is_test(file) {
        say("does not begin with //! (what it owns, what it must not do)".to_owned());
    }
    let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or(text);
    let lines = code.lines().count();
    if lines > FILE_LINES_MAX && !is_test(file) {
        say(format!("{lines} lines; one idea per file, {FILE_LINES_MAX} at most"));
    }
    for mark in UNDONE.iter().filter(|mark| text.contains(**mark)) {
        say(format!("{mark} is a promise not kept"));
    }
    if file.components().any(|part| part.as_os_str() == "core") && !is_test(file) {
        for word in IMPURE.iter().filter(|word| names(code, word)) {
            say(format!("a core is pure, but names {word}"));
        }
    }
    let unsafe_blocks = code.matches(UNSAFE[0]).count() + code.matches(UNSAFE[1]).count();
    if unsafe_blocks > 0 && !UNSAFE_IN.contains(&name.to_string().as_str()) {
        say(format!("{unsafe_blocks} unsafe block(s) outside the one module that may have them"));
    }
    // A function called `until` looks for a condition again and again: the one place that may sleep.
    if is_test(file) && text.matches("thread::sleep(").count() > text.matches("fn until").count() {
        say("sleeps; wait for a condition instead".to_owned());
    }
}

/// Whether `code` has `word` where no longer name ends in it.
fn names(code: &str, word: &str) -> bool {
    let begins = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    code.match_indices(word).any(|(at, _)| begins(at))
}

fn is_test(file: &Path) -> bool {
    file.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "it")
        && !file.starts_with("tests/src")
        || file.file_name().is_some_and(|name| name == "tests.rs")
}

/// Versions stand in the root manifest only.
fn manifest(file: &Path, text: &str, found: &mut Vec<String>) {
    if file.starts_with("fuzz") {
        return; // Not in the workspace.
    }
    let dependencies = text.split("[dependencies]").nth(1).unwrap_or("");
    for line in dependencies.lines().filter(|line| line.contains(" = ")) {
        let pinned = line.contains("version =")
            || line.contains("= \"0")
            || line.contains("= \"1")
            || line.contains("path = \"..");
        if pinned && !line.starts_with("path = \"") {
            found.push(format!("{}: `{line}`: versions stand in the root Cargo.toml", file.display()));
        }
    }
}

/// The job program stays lean.
fn lean(found: &mut Vec<String>) -> Result<()> {
    let output = Command::new("cargo")
        .args(["tree", "--package", "gantry-job", "--edges", "normal", "--prefix", "none", "--offline"])
        .current_dir(top())
        .output()
        .context("cargo tree")?;
    let tree = String::from_utf8(output.stdout)?;
    for name in LEAN_WITHOUT {
        if tree.lines().any(|line| line.split(' ').next() == Some(name)) {
            found.push(format!("gantry-job links {name}: it must stay lean"));
        }
    }
    Ok(())
}
