//! `gnt-cluster backup` and `restore`: both are done by `gantry-wconfd`, which knows the store; its lines are shown.

use super::destroy::stop_boot;
use super::init::{start_boot, wait_for_luxid};
use crate::error::{CliError, EXIT_FAILURE};
use crate::local;
use crate::progress::Progress;
use crate::session::Session;
use gantry_model::role::Role;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;

/// Begins a line that is of the moment only.
const PASSING: &str = "~ ";
/// Longest error that is shown.
const ERROR_BYTES_MAX: u64 = 64 << 10;

/// Options of `backup`.
#[derive(Debug, clap::Args)]
pub struct Backup {
    /// The directory to make; it must not be there, or be empty
    dir: PathBuf,
}

/// Options of `restore`.
#[derive(Debug, clap::Args)]
pub struct Restore {
    /// What gnt-cluster backup made
    dir: PathBuf,
    /// Check the backup, look at the other nodes and say what would be done; change nothing
    #[arg(long)]
    look: bool,
    /// Do not ask whether going back to the backup is meant
    #[arg(long)]
    yes_do_it: bool,
}

/// Makes a backup.
///
/// # Errors
/// This is not the master, the directory is in use or too small, the disk's.
pub async fn backup(session: &mut Session, options: &Backup) -> Result<(), CliError> {
    session.command = "backup".to_owned();
    local::check_master(&session.root)?;
    wconfd(session, [OsStr::new("backup"), options.dir.as_os_str()]).await
}

/// Restores one: looks, asks, stops this node's daemons, has it done, starts them.
///
/// # Errors
/// Why not. Until the daemons are stopped nothing is changed.
pub async fn restore(session: &mut Session, options: &Restore) -> Result<(), CliError> {
    session.command = "restore".to_owned();
    let dir = options.dir.as_os_str();
    let before = local::role(&session.root);
    if options.look || !options.yes_do_it {
        wconfd(session, [OsStr::new("restore"), OsStr::new("--look"), dir]).await?;
    }
    if options.look {
        return Ok(());
    }
    let question = "This will make this node the master of what the backup holds. Whatever was acknowledged after it was \
                    made is lost for good, and VMs the backup does not know are destroyed. Continue?";
    if !options.yes_do_it && !session.confirm(question, "--yes-do-it")? {
        return Err(CliError::Told(EXIT_FAILURE));
    }
    if options.yes_do_it {
        // Refused before the daemons are stopped, not after.
        wconfd_quietly(session, [OsStr::new("restore"), OsStr::new("--look"), dir]).await?;
    }
    // A master at work was refused by the look.
    let stopped = stop_boot(session).await?;
    let done = wconfd(session, [OsStr::new("restore"), OsStr::new("--yes-do-it"), dir]).await;
    if let Err(why) = done {
        // What ran before goes on, when it can.
        if stopped && before.is_ok_and(|role| role.is_some_and(|role| role.role != Role::Master)) {
            start_boot(session).await?;
        }
        return Err(why);
    }
    start_boot(session).await?;
    wait_for_luxid(session).await?;
    session.screen.line("This node is the master now, with the state of the backup.")?;
    session.screen.line(&format!("Look at the nodes and their VMs:  {}", session.typed("node", "list")))?;
    session.screen.line(&format!("Check everything:                 {}", session.typed("cluster", "verify")))
}

/// Runs it and shows its lines.
async fn wconfd<'a>(session: &Session, args: impl IntoIterator<Item = &'a OsStr>) -> Result<(), CliError> {
    run(session, args, true).await
}

/// Runs it for its errors only.
async fn wconfd_quietly<'a>(
    session: &Session,
    args: impl IntoIterator<Item = &'a OsStr>,
) -> Result<(), CliError> {
    run(session, args, false).await
}

async fn run<'a>(
    session: &Session,
    args: impl IntoIterator<Item = &'a OsStr>,
    show: bool,
) -> Result<(), CliError> {
    let failed = |error: std::io::Error| CliError::plain(format!("cannot run gantry-wconfd: {error}"));
    let mut command = Command::new(local::sibling("gantry-wconfd")?);
    command.arg("--root").arg(session.root.path()).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let errors = tokio::spawn(async move {
        let mut text = String::new();
        if let Some(err) = err {
            // What is no text is lost, the exit status says that it failed.
            let _ = err.take(ERROR_BYTES_MAX).read_to_string(&mut text).await;
        }
        text
    });
    if let Some(out) = out {
        show_lines(session, BufReader::new(out), show).await?;
    }
    let status = child.wait().await.map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    let said = errors.await.unwrap_or_default();
    match said.trim_end() {
        "" => Err(CliError::plain(format!(
            "gantry-wconfd ended without a word ({status}); run the command again"
        ))),
        said => Err(CliError::plain(said)),
    }
}

async fn show_lines(
    session: &Session,
    out: BufReader<tokio::process::ChildStdout>,
    show: bool,
) -> Result<(), CliError> {
    let mut lines = out.lines();
    let mut progress: Option<Progress> = None;
    let failed =
        |error: std::io::Error| CliError::plain(format!("cannot read what gantry-wconfd says: {error}"));
    while let Some(line) = lines.next_line().await.map_err(failed)? {
        match line.strip_prefix(PASSING) {
            Some(passing) => progress.get_or_insert_with(|| Progress::new(&session.screen)).say(passing),
            None if show => {
                progress = None;
                session.screen.line(&line)?;
            }
            None => {}
        }
    }
    Ok(())
}
