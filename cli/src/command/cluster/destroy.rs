//! `gnt-cluster destroy`: the last job, then this node's daemons and state.

use crate::error::CliError;
use crate::local;
use crate::opcode::SubmitOptions;
use crate::output::text::plain;
use crate::session::Session;
use gantry_proto::boot::Shutdown;
use gantry_rpc::CallError;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long stopping all daemons may take: boot gives each 10 s.
const STOP: Duration = Duration::from_secs(60);
/// Between looks whether boot is gone.
const LOOK: Duration = Duration::from_millis(20);

/// Options of `destroy`.
#[derive(Debug, clap::Args)]
pub struct Destroy {
    /// Needed: nothing of the cluster is kept
    #[arg(long)]
    yes_do_it: bool,
}

/// Ends the cluster: refused while it has instances, other nodes or unfinished jobs. `etc/gantry` and the logs stay.
///
/// # Errors
/// The refusal, the job's error, daemons that do not stop, files that cannot be removed.
pub async fn run(session: &mut Session, options: &Destroy) -> Result<(), CliError> {
    session.command = "destroy".to_owned();
    if !options.yes_do_it {
        return Err(CliError::Usage(
            "Destroying a cluster is irreversible. If you really want to destroy this cluster, supply the --yes-do-it option."
                .to_owned(),
        ));
    }
    refuse_if_used(session).await?;
    session.run_op("OP_CLUSTER_DESTROY", json!({}), &SubmitOptions::default()).await?;
    if !stop_boot(session).await? {
        return Err(CliError::plain(format!(
            "The cluster is destroyed, but no boot runs on this node, so its daemons were not stopped.\n\
             Stop them, then remove {} and {}.",
            session.root.lib().display(),
            session.root.run().display()
        )));
    }
    for dir in [session.root.lib(), session.root.run()] {
        remove(&dir)?;
    }
    session
        .screen
        .line("The cluster is destroyed; its state is removed from this node (settings and logs stay).")
}

async fn refuse_if_used(session: &mut Session) -> Result<(), CliError> {
    let names = |rows: &Value| -> Vec<String> {
        rows.as_array().into_iter().flatten().filter_map(|row| row[0].as_str().map(str::to_owned)).collect()
    };
    let instances = names(&session.call("QueryInstances", json!([[], ["name"], false])).await?);
    if !instances.is_empty() {
        let (slots, pools) = pooled(session).await?;
        let instances: Vec<String> = instances.into_iter().filter(|name| !slots.contains(name)).collect();
        if instances.is_empty() {
            return Err(CliError::plain(format!(
                "There are still {} pool(s) with slots in this cluster ({}); remove them first with \"{}\"",
                pools.len(),
                few(&pools),
                session.typed("pool", "remove NAME")
            )));
        }
        return Err(CliError::plain(format!(
            "There are still {} instance(s) in this cluster ({}); remove them first with \"{}\"",
            instances.len(),
            few(&instances),
            session.typed("instance", "remove NAME")
        )));
    }
    let nodes = session.call("QueryNodes", json!([[], ["name", "master"], false])).await?;
    let others: Value =
        nodes.as_array().into_iter().flatten().filter(|row| row[1] != true).cloned().collect();
    let others = names(&others);
    if !others.is_empty() {
        return Err(CliError::plain(format!(
            "There are still {} other node(s) in this cluster ({}); remove them first with \"{}\"",
            others.len(),
            few(&others),
            session.typed("node", "remove NAME")
        )));
    }
    refuse_if_busy(session).await
}

/// Names of all slots of pools, which are no instances to their users, and of the pools.
async fn pooled(session: &mut Session) -> Result<(BTreeSet<String>, Vec<String>), CliError> {
    let answer = session.call("Query", json!(["slot", ["name", "pool"], Value::Null])).await?;
    let column = |number: usize| -> BTreeSet<String> {
        let rows = answer["data"].as_array().into_iter().flatten();
        rows.map(|row| plain(&row[number][1])).collect()
    };
    Ok((column(0), column(1).into_iter().collect()))
}

/// Processes of unfinished jobs would outlive the cluster.
async fn refuse_if_busy(session: &mut Session) -> Result<(), CliError> {
    let live = ["queued", "waiting", "canceling", "running"].map(|word| json!(["==", "status", word]));
    let filter: Value = std::iter::once(json!("|")).chain(live).collect();
    let answer = session.call("Query", json!(["job", ["id"], filter])).await?;
    let rows = answer["data"].as_array().into_iter().flatten();
    let jobs: Vec<String> = rows.map(|row| plain(&row[0][1])).collect();
    if jobs.is_empty() {
        return Ok(());
    }
    Err(CliError::plain(format!(
        "There are still {} unfinished job(s) ({}); wait for them, or end them with \"{}\"",
        jobs.len(),
        few(&jobs),
        session.typed("job", "cancel NUMBER")
    )))
}

/// The first names.
fn few(names: &[String]) -> String {
    let shown = names.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > 5 { format!("{shown}, ...") } else { shown }
}

/// Stops all daemons and boot, and waits until it is gone; false if no boot runs.
///
/// # Errors
/// It does not stop in time.
pub async fn stop_boot(session: &Session) -> Result<bool, CliError> {
    let Some(boot) = local::boot(&session.root).await? else { return Ok(false) };
    session.screen.note("Stopping this node's daemons ...");
    match boot.call::<Shutdown>(&(), STOP).await {
        Ok(()) | Err(CallError::Closed(_)) => {}
        Err(error) => return Err(CliError::plain(format!("the daemons do not stop: {error}"))),
    }
    let until = Instant::now() + STOP;
    while Instant::now() < until {
        if boot_is_gone(&session.root.run().join("boot.lock")) {
            return Ok(true);
        }
        sleep(LOOK).await;
    }
    Err(CliError::plain(format!("boot does not end; see {}", session.root.log().join("boot.log").display())))
}

/// Whether nobody holds boot's lock.
fn boot_is_gone(path: &Path) -> bool {
    use nix::fcntl::{Flock, FlockArg};
    let Ok(file) = std::fs::File::open(path) else { return true };
    Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok()
}

fn remove(dir: &Path) -> Result<(), CliError> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(CliError::plain(format!("cannot remove {}: {error}; remove it by hand", dir.display())))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
