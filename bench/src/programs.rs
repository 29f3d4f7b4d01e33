//! Which programs are measured: said with every report, and those built for debugging only when asked for.

use anyhow::{Context, Result, ensure};
use std::process::Command;

/// The option that has programs built for debugging measured, too.
pub const DEBUG_TOO: &str = "--debug-programs";

/// Prints where the programs are and how they were built.
pub fn check(debug_too: bool) -> Result<()> {
    let dir = gantry_tests::cluster::programs();
    let program = dir.join("gantry");
    let output = Command::new(&program).arg("--version").output();
    let output = output.with_context(|| format!("{}: run `cargo xtask bench`", program.display()))?;
    let version = String::from_utf8(output.stdout)?;
    // All programs of a directory are built in one go; `gantry --version` says how.
    let debug = version.trim_end().ends_with("(debug)");
    ensure!(
        debug_too || !debug,
        "the programs in {} were built for debugging, and their figures mean nothing: run `cargo xtask bench`, or name \
         others in GANTRY_BIN_DIR, or add {DEBUG_TOO}",
        dir.display()
    );
    let dir = dir.canonicalize().unwrap_or(dir);
    println!("programs: {}, {}", dir.display(), if debug { "built for debugging" } else { "release" });
    Ok(())
}
