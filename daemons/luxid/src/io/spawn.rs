//! Starting a job's process: a fresh executable with one end of a socketpair as stdin (P4.1).

use gantry_model::ids::{ClusterUuid, JobOwner};
use gantry_model::root::Root;
use gantry_proto::job::Ready;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

/// Longest ready line, in bytes.
const READY_BYTES_MAX: u64 = 4096;

/// What every start needs to know.
#[derive(Debug)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// Where files lie.
    pub root: Root,
    /// The cluster.
    pub cluster: ClusterUuid,
    /// Where the job's stderr goes.
    pub log: File,
}

/// A process that was started and has not said ready.
pub struct Started {
    /// It.
    pub child: Child,
    /// luxid's end of the socketpair. Dropped before go, it makes the job leave.
    pub pair: BufReader<UnixStream>,
}

impl Program {
    /// Starts the process for one start of a job. It makes itself a session of its own (it must not be the leader of
    /// a group for that): signals to luxid's group do not reach it, and the kernel sends no SIGHUP to a stopped
    /// one when luxid dies.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(&self, owner: JobOwner) -> io::Result<Started> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let pair = BufReader::new(UnixStream::from_std(ours)?);
        // No pre_exec: it would force a real fork of this threaded process.
        let child = Command::new(&self.path)
            .arg("--root")
            .arg(self.root.path())
            .arg(owner.job.to_string())
            .arg(owner.start.to_string())
            .arg(self.cluster.to_string())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::from(self.log.try_clone()?))
            .spawn()?;
        Ok(Started { child, pair })
    }
}

/// Reads the ready line.
///
/// # Errors
/// When the process closed its end first, or wrote something else.
pub async fn ready(pair: &mut BufReader<UnixStream>) -> io::Result<Ready> {
    let mut line = String::new();
    pair.take(READY_BYTES_MAX).read_line(&mut line).await?;
    if line.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it left before it said ready"));
    }
    Ok(serde_json::from_str(&line)?)
}
