//! Running programs that are not ours (Ganeti's Python client, htools) with a time limit, so that one that hangs is a
//! failed test and no hanging one.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Debian's Python: that which Ganeti's packages are installed for.
pub const PYTHON: &str = "/usr/bin/python3";
/// How long one foreign program may take. The longest of them polls dozens of jobs on a busy machine.
const SECONDS_MAX: u32 = 120;

/// Runs a program for at most two minutes; whatever it says.
///
/// # Errors
/// When it can't be started.
pub fn output(program: &str, args: &[&str]) -> Result<Output> {
    let mut command = Command::new("timeout");
    command.args(["-k", "5", &SECONDS_MAX.to_string(), program]).args(args);
    command.env_remove("GANTRY_ROOT").stdin(Stdio::null());
    command.output().with_context(|| format!("{program} {args:?}"))
}

/// Runs a program that must succeed; all it printed.
///
/// # Errors
/// When it fails: with all it said.
pub fn run(program: &str, args: &[&str]) -> Result<String> {
    let output = output(program, args)?;
    let text = said(&output);
    if !output.status.success() {
        bail!("{program} {}: {}\n{text}", args.join(" "), output.status);
    }
    Ok(text)
}

/// Standard output and error of a program, one after the other.
#[must_use]
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The path of a Python script of these tests.
#[must_use]
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("it/python").join(name)
}

/// Runs one of these tests' Python scripts, which must succeed; all it printed. It leaves no compiled files behind.
///
/// # Errors
/// When it fails: with all it said.
pub fn python(name: &str, args: &[&str]) -> Result<String> {
    let script = script(name).display().to_string();
    run(PYTHON, &[&["-B", script.as_str()], args].concat())
}
