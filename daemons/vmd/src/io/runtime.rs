//! The container runtime's command line: crun, or runc. One `run` per VM, and `delete` for what a run leaves: crun stays
//! in the foreground and cleans up. runc does not let a VM have its own standard input that way, so it is told to go
//! (`--detach`); PID 1 then is vmd's child, as vmd is the subreaper.
//!
//! It is run from a sealed copy in memory ([`sealed`]), which no VM can write to through `/proc/PID/exe`. Runtimes guard themselves
//! in this very way, by copying themselves and starting anew each time; they see that this one is guarded already.

mod sealed;

use super::stage;
use sealed::Sealed;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
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

/// How long a runtime may take to end after its VM's last process.
const END_TIME: Duration = Duration::from_secs(5);

/// The runtime's process of one VM.
#[derive(Debug)]
pub struct Process {
    child: Child,
    detaches: bool,
}

impl Process {
    /// Waits until the runtime says that the VM is over or could not be started. One that detaches never says so after
    /// a good start. May be dropped and called again.
    pub async fn over(&mut self) {
        let ended = self.child.wait().await;
        if self.detaches && ended.is_ok_and(|status| status.success()) {
            std::future::pending::<()>().await;
        }
    }

    /// Waits for its end, and kills it if that takes long. Its VM has ended.
    pub async fn end(mut self) {
        if tokio::time::timeout(END_TIME, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

/// A runtime that is there.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// Its program.
    pub program: PathBuf,
    /// Whether it is crun.
    crun: bool,
    sealed: Arc<Sealed>,
}

impl Runtime {
    /// The best one there, or the one of that name.
    #[must_use]
    pub fn find(wanted: Option<&str>) -> Option<Self> {
        NAMES.iter().filter(|name| wanted.is_none_or(|wanted| wanted == **name)).find_map(|name| {
            let program = DIRS.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())?;
            let sealed = Arc::new(Sealed::new(program.clone(), stage::runtime(name)));
            Some(Self { program, crun: *name == "crun", sealed })
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
        let mut command = Command::new(self.sealed.path());
        command.arg0(&self.program).arg("--root").arg(stage::STATE);
        if self.crun {
            // vmd's own groups do all the work.
            command.arg("--cgroup-manager=disabled");
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Runs a VM; `stdin` becomes PID 1's.
    ///
    /// # Errors
    /// When the process can't be started.
    pub fn run(&self, vm: &str, stdin: OwnedFd) -> io::Result<Process> {
        let log = File::create(stage::log(vm))?;
        let mut command = self.command();
        command.arg("run").arg("--bundle").arg(stage::bundle(vm));
        if !self.crun {
            command.arg("--detach");
        }
        let child = command.arg(vm).stdin(stdin).stderr(log).spawn()?;
        Ok(Process { child, detaches: !self.crun })
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
