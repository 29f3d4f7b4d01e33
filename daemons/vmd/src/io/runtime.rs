//! The container runtime's command line: crun, or runc. One foreground `run` per VM, nothing else but `delete` after a
//! run that died.

use super::stage;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// What is looked for, best first.
const NAMES: [&str; 2] = ["crun", "runc"];
/// Where.
const DIRS: [&str; 4] = ["/usr/bin", "/usr/local/bin", "/usr/sbin", "/usr/local/sbin"];
/// Tail of the runtime's messages that errors quote, bytes.
const TAIL_BYTES: u64 = 2048;
/// How long `delete` may take.
const DELETE_TIME: Duration = Duration::from_secs(5);

/// A runtime that is there.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// Its program.
    pub program: PathBuf,
    /// Whether it is crun.
    crun: bool,
}

impl Runtime {
    /// The best one there.
    #[must_use]
    pub fn find() -> Option<Self> {
        NAMES.iter().find_map(|name| {
            let program = DIRS.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())?;
            Some(Self { program, crun: *name == "crun" })
        })
    }

    /// First line of what it says of itself.
    ///
    /// # Errors
    /// When it can't be run.
    pub async fn version(&self) -> io::Result<String> {
        let output = Command::new(&self.program).arg("--version").stdin(Stdio::null()).output().await?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(stage::STATE);
        if self.crun {
            // vmd's own groups do all the work.
            command.arg("--cgroup-manager=disabled");
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Runs a VM in the foreground; `stdin` becomes PID 1's.
    ///
    /// # Errors
    /// When the process can't be started.
    pub fn run(&self, vm: &str, stdin: OwnedFd) -> io::Result<Child> {
        let log = File::create(stage::log(vm))?;
        let mut command = self.command();
        command.arg("run").arg("--bundle").arg(stage::bundle(vm)).arg(vm);
        command.stdin(stdin).stderr(log).spawn()
    }

    /// Removes what a run that did not end by itself left in the runtime's own state.
    pub async fn delete(&self, vm: &str) {
        if !Path::new(stage::STATE).join(vm).exists() {
            return;
        }
        let mut command = self.command();
        command.arg("delete").arg("--force").arg(vm).kill_on_drop(true);
        let ended = tokio::time::timeout(DELETE_TIME, command.status()).await;
        if !matches!(ended, Ok(Ok(status)) if status.success()) {
            tracing::warn!(vm, ?ended, "the runtime could not delete what is left");
        }
    }
}

/// The end of what the runtime and init said.
#[must_use]
pub fn tail(vm: &str) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(stage::log(vm))?;
        let length = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    read().unwrap_or_default()
}
