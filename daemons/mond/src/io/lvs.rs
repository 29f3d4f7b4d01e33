//! Runs `lvs`. A machine without it has no logical volumes.

use crate::core::collect::lv;
use std::io;
use std::path::Path;
use std::process::Stdio;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

/// Most bytes it may print: some ten thousand volumes.
const BYTES_MAX: u64 = 4 << 20;

/// What it prints; None: it is not there. Killed when `given_up` is over, and then waited for: on a disk that is gone it can't
/// be killed, and a second one would hang beside it.
///
/// # Errors
/// Why it failed, for people.
pub async fn run(program: &Path, given_up: impl Future<Output = ()>) -> Result<Option<String>, String> {
    let mut command = Command::new(program);
    command.args(lv::arguments()).env("LC_ALL", "C").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("lvs cannot be run: {error}")),
    };
    tokio::select! {
        said = heard(&mut child) => return said.map(Some),
        () = given_up => {}
    }
    let _ = child.start_kill();
    let _ = child.wait().await;
    Err("lvs did not end in time".to_owned())
}

/// All that it prints, once it has ended well.
async fn heard(child: &mut Child) -> Result<String, String> {
    let (out, err) = (child.stdout.take().expect("is piped"), child.stderr.take().expect("is piped"));
    let (mut text, mut said) = (String::new(), String::new());
    let (mut out, mut err) = (out.take(BYTES_MAX), err.take(BYTES_MAX));
    let (read, heard) = tokio::join!(out.read_to_string(&mut text), err.read_to_string(&mut said));
    let status = child.wait().await;
    match (status, read.and(heard)) {
        (Ok(status), Ok(_)) if status.success() => Ok(text),
        (Ok(status), Ok(_)) => Err(format!("lvs: {status}: {}", said.lines().next().unwrap_or_default())),
        (Err(error), _) | (_, Err(error)) => Err(format!("lvs: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn script(dir: &Path, text: &str) -> std::path::PathBuf {
        let path = dir.join("lvs");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("set");
        path
    }

    /// The answer comes after its end: until then nobody starts another.
    #[tokio::test]
    async fn one_that_is_given_up_has_ended_when_that_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let pid = dir.path().join("pid");
        let program =
            script(dir.path(), &format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000", pid.display()));
        let begun = async {
            while !pid.exists() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        assert_eq!(run(&program, begun).await, Err("lvs did not end in time".to_owned()));
        let pid = std::fs::read_to_string(pid).expect("a pid");
        assert!(!Path::new("/proc").join(pid.trim()).exists(), "it lives on");
    }

    #[tokio::test]
    async fn no_program_is_no_volumes() {
        let none = run(Path::new("/no/such/lvs"), std::future::pending()).await;
        assert_eq!(none, Ok(None));
    }
}
