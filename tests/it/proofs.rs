//! docs/PROOFS.md names tests; one that was renamed or removed is missed here.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Every function of the Rust files below a directory.
fn functions(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            functions(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = fs::read_to_string(&path).expect("readable");
            let names = text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
            found.extend(names.map(str::to_owned));
        }
    }
}

#[test]
fn every_proof_that_is_named_is_there() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(top.join("docs/PROOFS.md")).expect("readable");
    let is_test = |word: &&str| {
        word.matches('_').count() > 1 && !word.contains(|c: char| !(c.is_alphanumeric() || c == '_'))
    };
    let named: Vec<&str> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(is_test)
        .filter(|word| word.to_lowercase() == **word)
        .collect();
    assert!(named.len() > 50, "{named:?}");
    let mut there = BTreeSet::new();
    for part in ["daemons", "lib", "cli", "proto", "tests"] {
        functions(&top.join(part), &mut there);
    }
    let missing: Vec<_> = named.iter().filter(|name| !there.contains(**name)).collect();
    assert!(missing.is_empty(), "docs/PROOFS.md names tests that are not there: {missing:?}");
}
