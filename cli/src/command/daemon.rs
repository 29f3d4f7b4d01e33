//! `gantry daemon`: this node's daemons, through boot. Works on every node, with or without a cluster.

use crate::error::CliError;
use crate::local;
use crate::output::table::laid_out;
use crate::session::Session;
use gantry_proto::boot::{DaemonState, DaemonStatus, Hold, Start, Status, Stop};
use gantry_rpc::Client;
use serde_json::json;
use std::time::Duration;

/// How long boot may take to answer at once.
const ANSWER: Duration = Duration::from_secs(5);
/// How long starting or stopping may take: boot gives each daemon 10 s to stop.
const DONE: Duration = Duration::from_secs(60);

/// This node's daemons
#[derive(Debug, clap::Args)]
pub struct Family {
    #[command(subcommand)]
    command: Daemon,
}

#[derive(Debug, clap::Subcommand)]
enum Daemon {
    /// Show how the daemons stand
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Start daemons that were stopped or held, and wait until they are ready
    Start {
        /// Names, such as luxid; none = all
        names: Vec<String>,
    },
    /// Stop daemons and keep them stopped
    Stop {
        /// Names, such as luxid; none = all
        names: Vec<String>,
    },
    /// Let daemons run on, but do not restart them when they die
    Hold {
        /// Names, such as luxid; none = all
        names: Vec<String>,
    },
}

/// Runs one command.
///
/// # Errors
/// No boot runs here, or it refuses.
pub async fn run(session: &Session, family: Family) -> Result<(), CliError> {
    let boot = local::boot(&session.root).await?.ok_or_else(|| {
        CliError::plain(format!(
            "No boot runs on {0}.\nStart it with \"gantry-boot --root {0} --daemonize\"; where systemd runs the daemons, ask systemctl.",
            session.root.path().display()
        ))
    })?;
    let refused = |error: gantry_rpc::CallError| CliError::plain(format!("boot: {error}"));
    match family.command {
        Daemon::Status { json } => status(session, &boot, json).await,
        Daemon::Start { names } => boot.call::<Start>(&names, DONE).await.map_err(refused),
        Daemon::Stop { names } => boot.call::<Stop>(&names, DONE).await.map_err(refused),
        Daemon::Hold { names } => boot.call::<Hold>(&names, ANSWER).await.map_err(refused),
    }
}

async fn status(session: &Session, boot: &Client, as_json: bool) -> Result<(), CliError> {
    let all = boot.call::<Status>(&(), ANSWER).await;
    let all = all.map_err(|error| CliError::plain(format!("boot: {error}")))?;
    if as_json {
        return session.screen.line(&json!(all).to_string());
    }
    table(&all).iter().try_for_each(|line| session.screen.line(line))
}

fn table(all: &[DaemonStatus]) -> Vec<String> {
    let titles = ["Daemon", "State", "PID", "Starts", "Why"].map(str::to_owned).to_vec();
    let row = |daemon: &DaemonStatus| {
        let pid = daemon.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let held = if daemon.held { ", held" } else { "" };
        let why = if daemon.why.is_empty() { "-" } else { &daemon.why };
        vec![
            daemon.name.clone(),
            format!("{}{held}", word(daemon.state)),
            pid,
            daemon.starts.to_string(),
            why.to_owned(),
        ]
    };
    let rows: Vec<_> = std::iter::once(titles).chain(all.iter().map(row)).collect();
    laid_out(&rows, &[false, false, true, true, false], None)
}

fn word(state: DaemonState) -> &'static str {
    match state {
        DaemonState::Off => "off",
        DaemonState::Stopped => "stopped",
        DaemonState::Starting => "starting",
        DaemonState::Ready => "ready",
        DaemonState::Waiting => "waiting",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemons_are_shown_with_their_reasons() {
        let daemon = |name: &str, state, held, pid, why: &str| DaemonStatus {
            name: name.to_owned(),
            state,
            held,
            pid,
            starts: 2,
            why: why.to_owned(),
        };
        let all = [
            daemon("noded", DaemonState::Ready, true, Some(17), ""),
            daemon("luxid", DaemonState::Waiting, false, None, "ended with exit status 1"),
        ];
        let want = [
            "Daemon State       PID Starts Why",
            "noded  ready, held  17      2 -",
            "luxid  waiting       -      2 ended with exit status 1",
        ];
        assert_eq!(table(&all), want);
    }
}
