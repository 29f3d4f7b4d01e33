//! What a master does that nobody can refuse afterwards (P1.10): the cluster's address, and hooks. That it happens, that it
//! stops no failover, and that a master which was replaced does none of it.

mod address;
mod hooks;

use anyhow::Result;
use gantry_tests::Node;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// Puts a hook on a node.
fn put_hook(node: &Node, dir: &str, name: &str, text: &str) -> Result<PathBuf> {
    let dir = node.root.join("etc/gantry/hooks").join(dir);
    std::fs::create_dir_all(&dir)?;
    let path = dir.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n"))?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
    Ok(path)
}

/// A hook that notes its variables, one line a run begun by `begin`, in the node's `notes-NAME`.
fn noting(name: &str) -> String {
    format!("(echo begin; env | sort) >> \"$GANETI_DATA_DIR/notes-{name}\"")
}

/// What hooks noted; empty when none ran.
fn notes(node: &Node, name: &str) -> String {
    let path = node.root.join("var/lib/gantry").join(format!("notes-{name}"));
    std::fs::read_to_string(path).unwrap_or_default()
}

/// How often they ran.
fn runs(node: &Node, name: &str) -> usize {
    notes(node, name).lines().filter(|line| *line == "begin").count()
}
