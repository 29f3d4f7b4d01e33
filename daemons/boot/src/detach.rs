//! `--daemonize`: starts boot again in the background, in a session of its own, and waits until it runs.

use crate::config::Args;
use gantry_model::root::Root;
use gantry_proto::boot::{PROTOCOL, Status};
use gantry_rpc::{Client, Hello};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long boot may take until it answers.
const ANSWER: Duration = Duration::from_secs(10);
/// Between looks.
const LOOK: Duration = Duration::from_millis(20);

/// Starts a boot that outlives the caller's terminal; its log is `var/log/gantry/boot.log`. Blocks until it
/// answers on `boot.sock` or has failed.
#[must_use]
pub fn detach(args: &Args) -> ExitCode {
    match start(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gantry-boot: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Leaves the session of the process that started this one, so that its terminal's signals stay away.
pub fn leave_session() {
    // It fails only for the leader of a process group, who has one of its own already.
    let _ = nix::unistd::setsid();
}

fn start(args: &Args) -> anyhow::Result<()> {
    let root = args.root();
    std::fs::create_dir_all(root.log())?;
    let log_path = root.log().join("boot.log");
    let log = OpenOptions::new().append(true).create(true).mode(0o640).open(&log_path)?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--detached", "--root"])
        .arg(root.path())
        .arg("--libexec")
        .arg(args.libexec())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let until = Instant::now() + ANSWER;
        while Instant::now() < until {
            if answers(&root, child.id()).await {
                return Ok(());
            }
            if let Some(status) = child.try_wait()? {
                anyhow::bail!("boot ended at once ({status}): {}", last_line(&log_path));
            }
            sleep(LOOK).await;
        }
        anyhow::bail!("boot does not answer yet; see {}", log_path.display())
    })
}

/// What boot said last, and where.
fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    format!("{} (from {})", text.lines().last().unwrap_or("nothing said"), log.display())
}

/// Whether this very boot serves `boot.sock`.
async fn answers(root: &Root, pid: u32) -> bool {
    let hello = Hello::new(PROTOCOL, "gantry-boot");
    let Ok(client) = Client::unix(&root.socket("boot.sock"), &hello).await else { return false };
    let own = client.peer_cred().is_some_and(|(peer, _)| u32::try_from(peer) == Ok(pid));
    own && client.call::<Status>(&(), ANSWER).await.is_ok()
}
