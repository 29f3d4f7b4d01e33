//! The elector's process: `gantry-wconfd elect`, started for one failover, read to its end.
//!
//! Boot takes the ends of all its children ([`super::process::reap`]), so its end is known by its last line.

use super::process::{self, Identity};
use crate::core::elect::Said;
use gantry_model::root::Root;
use gantry_proto::boot::FailoverRequest;
use nix::sys::signal::Signal;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines, Take};
use tokio::process::ChildStdout;

/// All that an elector may print: some lines for each of at most ten candidates.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;

/// A running elector.
#[derive(Debug)]
pub struct Elector {
    identity: Option<Identity>,
    lines: Lines<BufReader<Take<ChildStdout>>>,
}

impl Elector {
    /// Starts one. What it says beside its lines goes to `elect.log`.
    ///
    /// # Errors
    /// The program cannot be run, or its log not be opened.
    pub fn start(root: &Root, libexec: &Path, request: FailoverRequest) -> io::Result<Self> {
        let path = root.log().join("elect.log");
        let log = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
        let mut child = Command::new(libexec.join("gantry-wconfd"))
            .arg("elect")
            .arg("--root")
            .arg(root.path())
            .args(options(request))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0)
            .spawn()?;
        let identity = Identity::of(child.id());
        let out = child.stdout.take().ok_or_else(|| io::Error::other("the elector has no output"))?;
        let out = ChildStdout::from_std(out)?.take(OUTPUT_BYTES_MAX);
        Ok(Self { identity, lines: BufReader::new(out).lines() })
    }

    /// Its next line; None: it has ended. Safe to drop.
    pub async fn next(&mut self) -> Option<Said> {
        match self.lines.next_line().await {
            Ok(line) => line.map(|line| Said::of(&line)),
            Err(error) => {
                tracing::warn!(%error, "cannot read the elector's lines");
                None
            }
        }
    }

    /// Ends it, if it still runs.
    pub fn kill(&self) {
        if let Some(identity) = self.identity.as_ref().filter(|identity| identity.lives()) {
            process::send(identity.pid, Signal::SIGKILL);
        }
    }
}

fn options(request: FailoverRequest) -> impl Iterator<Item = String> {
    let FailoverRequest { look, no_voting, ignore_offline, patience_ms } = request;
    let all = [
        (look, "--look"),
        (no_voting, "--no-voting"),
        (no_voting, "--yes-do-it"),
        (ignore_offline, "--ignore-offline-nodes"),
    ];
    let on = all.into_iter().filter(|(on, _)| *on).map(|(_, option)| option.to_owned());
    on.chain(patience_ms.map(|ms| format!("--patience-ms={ms}")))
}
