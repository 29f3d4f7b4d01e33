//! Runs `lvs`. A machine without it has no logical volumes.

use crate::core::collect::lv;
use std::io;
use std::path::Path;
use std::process::Stdio;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// Most bytes it may print: some ten thousand volumes.
const BYTES_MAX: u64 = 4 << 20;

/// What it prints; None: it is not there. Killed when this is dropped.
///
/// # Errors
/// Why it failed, for people.
pub async fn run(program: &Path) -> Result<Option<String>, String> {
    let mut command = Command::new(program);
    command.args(lv::arguments()).env("LC_ALL", "C").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("lvs cannot be run: {error}")),
    };
    let (out, err) = (child.stdout.take().expect("is piped"), child.stderr.take().expect("is piped"));
    let (mut text, mut said) = (String::new(), String::new());
    let (mut out, mut err) = (out.take(BYTES_MAX), err.take(BYTES_MAX));
    let (read, heard) = tokio::join!(out.read_to_string(&mut text), err.read_to_string(&mut said));
    let status = child.wait().await;
    match (status, read.and(heard)) {
        (Ok(status), Ok(_)) if status.success() => Ok(Some(text)),
        (Ok(status), Ok(_)) => Err(format!("lvs: {status}: {}", said.lines().next().unwrap_or_default())),
        (Err(error), _) | (_, Err(error)) => Err(format!("lvs: {error}")),
    }
}
