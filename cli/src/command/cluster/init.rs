//! `gnt-cluster init`: makes the state, starts the daemons, runs job 1.

use super::destroy::stop_boot;
use super::settings::Settings;
use crate::error::CliError;
use crate::local;
use crate::opcode::SubmitOptions;
use crate::session::Session;
use gantry_model::names::is_host_name;
use gantry_proto::boot::{DaemonState, DaemonStatus, Status};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

/// How long the daemons may take until jobs are taken.
const START: Duration = Duration::from_secs(60);
/// Between looks.
const LOOK: Duration = Duration::from_millis(50);
/// How long boot may take to say how the daemons stand.
const STATUS: Duration = Duration::from_secs(5);

/// Options of `init`.
#[derive(Debug, clap::Args)]
pub struct Init {
    /// The cluster's name, formed like a host name
    cluster: String,
    /// Full name of this node; without it that of etc/gantry/node.toml, or the machine's
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Address of this node's daemons; without it that of etc/gantry/node.toml
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// Port of this node's noded, if not 1811
    #[arg(long, value_name = "PORT")]
    noded_port: Option<u16>,
    /// Secondary address of this node
    #[arg(short = 's', long, value_name = "IP")]
    secondary_ip: Option<IpAddr>,
    /// Enabled hypervisors, separated by commas; the first is the default
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    enabled_hypervisors: Vec<String>,
    #[command(flatten)]
    settings: Settings,
}

/// Makes this node the master of a new cluster and leaves its daemons running.
///
/// # Errors
/// What stands in the way, with what to do; what was begun is told.
pub async fn run(session: &mut Session, init: &Init) -> Result<(), CliError> {
    session.command = "init".to_owned();
    let settings = init.settings.given().map_err(CliError::Usage)?;
    // Refused here, before anything is made.
    session.op("OP_CLUSTER_SET_PARAMS", Value::Object(settings.clone()), &SubmitOptions::default())?;
    check(session, init)?;
    stop_unjoined(session).await?;
    make(session, init).await?;
    let half_made = format!(
        "Aborted. The cluster is made, but not all of its settings.\nUndo it with \"{}\", then begin anew.",
        session.typed("cluster", "destroy --yes-do-it")
    );
    tokio::select! {
        biased; // Following a job hears Ctrl-C too and would tell of the job only.
        _ = tokio::signal::ctrl_c() => return Err(CliError::Interrupted(half_made)),
        done = bring_up(session, settings) => done?,
    }
    session.screen.line(&next_steps(session, &init.cluster))
}

/// Starts the daemons and runs the first jobs.
async fn bring_up(session: &mut Session, settings: Map<String, Value>) -> Result<(), CliError> {
    start_boot(session).await?;
    wait_for_luxid(session).await?;
    let options = SubmitOptions::default();
    session.run_op("OP_CLUSTER_POST_INIT", json!({}), &options).await?;
    if !settings.is_empty() {
        session.run_op("OP_CLUSTER_SET_PARAMS", Value::Object(settings), &options).await?;
    }
    Ok(())
}

fn next_steps(session: &Session, cluster: &str) -> String {
    format!(
        "Cluster {cluster} is up; this node is its master.\n\
         Look at it:      {}\n\
         Check it:        {}\n\
         Add a node:      start gantry-boot there, then {}\n\
         The logs are in {}.",
        session.typed("node", "list"),
        session.typed("cluster", "verify"),
        session.typed("node", "add --join-secret-file FILE NAME"),
        session.root.log().display()
    )
}

fn check(session: &Session, init: &Init) -> Result<(), CliError> {
    if !is_host_name(&init.cluster) {
        return Err(CliError::Usage(format!(
            "'{}' cannot name a cluster; a name is formed like a host name, such as lab.example.test",
            init.cluster
        )));
    }
    if local::role(&session.root)?.is_some() {
        return Err(CliError::plain(format!(
            "This node already belongs to a cluster: {} exists.\nEnd that cluster first with \"{}\", or name another root with --root.",
            session.root.role_file().display(),
            session.typed("cluster", "destroy --yes-do-it")
        )));
    }
    let settings_file = session.root.node_toml();
    if init.address.is_none() && !settings_file.exists() {
        return Err(CliError::Usage(format!(
            "This node's address is not known: give --address IP (other nodes will connect to it), or write {}",
            settings_file.display()
        )));
    }
    Ok(())
}

/// Ends the daemons of a node that waits to be joined: it becomes a master instead.
async fn stop_unjoined(session: &Session) -> Result<(), CliError> {
    if stop_boot(session).await? {
        // The secret was noded's, for a join that does not come.
        let _ = std::fs::remove_file(session.root.join_secret());
    }
    Ok(())
}

async fn make(session: &Session, init: &Init) -> Result<(), CliError> {
    let mut command = Command::new(local::sibling("gantry-wconfd")?);
    command.arg("init").arg("--root").arg(session.root.path()).args(["--cluster-name", &init.cluster]);
    let mut option = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            command.arg(name).arg(value);
        }
    };
    option("--node-name", node_name(session, init));
    option("--address", init.address.map(|ip| ip.to_string()));
    option("--noded-port", init.noded_port.map(|port| port.to_string()));
    option("--secondary-address", init.secondary_ip.map(|ip| ip.to_string()));
    option(
        "--hypervisors",
        (!init.enabled_hypervisors.is_empty()).then(|| init.enabled_hypervisors.join(",")),
    );
    let output = command.stdin(Stdio::null()).output().await;
    let output = output.map_err(|error| CliError::plain(format!("cannot run gantry-wconfd: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(CliError::plain(format!(
        "The cluster was not made (gantry-wconfd init, {}):\n{}",
        output.status,
        said.trim_end()
    )))
}

/// The name given, or the machine's when node.toml does not say one.
fn node_name(session: &Session, init: &Init) -> Option<String> {
    let machine = || Some(std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?.trim().to_owned());
    match &init.node_name {
        Some(name) => Some(name.clone()),
        None if session.root.node_toml().exists() => None,
        None => machine(),
    }
}

/// Starts this node's boot, which starts the daemons.
///
/// # Errors
/// It does not start.
pub async fn start_boot(session: &Session) -> Result<(), CliError> {
    let mut command = Command::new(local::sibling("gantry-boot")?);
    command.arg("--root").arg(session.root.path()).arg("--daemonize").stdin(Stdio::null());
    let output = command.output().await;
    let output = output.map_err(|error| CliError::plain(format!("cannot run gantry-boot: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(CliError::plain(format!(
        "The cluster's state is there, but its daemons do not start:\n{}\nStart them with \"gantry-boot --root {} --daemonize\".",
        String::from_utf8_lossy(&output.stderr).trim_end(),
        session.root.path().display()
    )))
}

/// Waits until jobs are taken.
///
/// # Errors
/// They are not, after a minute: how the daemons stand.
pub async fn wait_for_luxid(session: &Session) -> Result<(), CliError> {
    let bar = if session.screen.is_watched() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    bar.set_style(ProgressStyle::default_spinner());
    let boot = local::boot(&session.root).await?;
    let until = Instant::now() + START;
    let mut last = Vec::new();
    while Instant::now() < until {
        if let Some(boot) = &boot {
            last = boot.call::<Status>(&(), STATUS).await.unwrap_or(last);
        }
        if last.iter().any(|daemon| daemon.name == "luxid" && daemon.state == DaemonState::Ready) {
            bar.finish_and_clear();
            return Ok(());
        }
        bar.set_message(format!("Starting the daemons: {}", stand(&last)));
        bar.tick();
        sleep(LOOK).await;
    }
    bar.finish_and_clear();
    Err(CliError::plain(format!(
        "The cluster's state is there, but its daemons are not ready after {} s: {}\nTheir logs are in {}. They are tried \
         again all the time; when they run, finish with \"{}\".",
        START.as_secs(),
        stand(&last),
        session.root.log().display(),
        session.typed("cluster", "verify")
    )))
}

/// How the daemons stand, in words.
fn stand(all: &[DaemonStatus]) -> String {
    let word = |daemon: &DaemonStatus| match daemon.state {
        DaemonState::Off => None,
        DaemonState::Ready => Some(format!("{} ready", daemon.name)),
        DaemonState::Stopped => Some(format!("{} stopped", daemon.name)),
        DaemonState::Starting | DaemonState::Waiting => {
            Some(format!("{} not yet ({})", daemon.name, daemon.why))
        }
    };
    all.iter().filter_map(word).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_said() {
        let daemon = |name: &str, state, why: &str| DaemonStatus {
            name: name.to_owned(),
            state,
            held: false,
            pid: None,
            starts: 0,
            why: why.to_owned(),
        };
        let all = [
            daemon("noded", DaemonState::Ready, ""),
            daemon("wconfd", DaemonState::Waiting, "ended with exit status 1"),
            daemon("vmd", DaemonState::Off, ""),
        ];
        assert_eq!(stand(&all), "noded ready, wconfd not yet (ended with exit status 1)");
    }
}
