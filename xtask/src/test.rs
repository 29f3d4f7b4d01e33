//! All tests, and what CI runs around them.

use crate::run::{cargo, run};
use crate::{build, foreign, tidy};
use anyhow::Result;

/// Installs what is missing, builds the programs, runs every test.
pub fn all(filter: Option<&str>) -> Result<()> {
    foreign::install()?;
    let programs = build::all(false)?;
    let mut args = vec!["test", "--workspace", "--quiet", "--no-fail-fast"];
    args.extend(filter);
    run(cargo(&args).env("GANTRY_BIN_DIR", programs))
}

/// Format, lints with warnings denied, the rules of the house. `.ci/run` runs the tests after it.
pub fn ci() -> Result<()> {
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    tidy::check()?;
    run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))
}
