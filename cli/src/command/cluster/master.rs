//! `gnt-cluster master-failover`, `master-ping`, `getmaster`, `drop-candidate`: who the master is, and who becomes it
//! (`spec/failover.md` §2). The ballot itself is boot's.

use crate::error::{CliError, EXIT_FAILURE};
use crate::local;
use crate::opcode::SubmitOptions;
use crate::session::Session;
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::role::{Role, RoleFile};
use gantry_proto::boot::{Failover, FailoverReply, FailoverRequest};
use gantry_rpc::{CallError, Client, Event};
use serde_json::json;

/// Longest `--timeout` of a failover: who would wait longer can first find out why the candidate does not answer.
const TIMEOUT_S_MAX: i64 = 60;

/// Options of `master-failover`.
#[derive(Debug, clap::Args)]
pub struct MasterFailover {
    /// Do not ask the other candidates: what this node lacks of the cluster's last changes is lost
    #[arg(long)]
    no_voting: bool,
    /// Do not ask whether --no-voting is meant
    #[arg(long)]
    yes_do_it: bool,
    /// Leave nodes that are marked offline out of the check beforehand
    #[arg(long)]
    ignore_offline_nodes: bool,
    /// How long to wait for candidates that do not answer. A master that is slower than that is not asked to stop: the ballot
    /// ends its rule all the same, but its jobs end in error
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=TIMEOUT_S_MAX))]
    timeout: u32,
}

/// Makes this node the master.
///
/// # Errors
/// It is no candidate, no boot runs here, or the ballot is not won.
pub async fn failover(session: &mut Session, options: &MasterFailover) -> Result<(), CliError> {
    session.command = "master-failover".to_owned();
    if options.yes_do_it && !options.no_voting {
        return Err(CliError::Usage(
            "--yes-do-it answers the question that --no-voting asks; give both".to_owned(),
        ));
    }
    check_candidate(session)?;
    let boot = local::boot(&session.root).await?.ok_or_else(|| {
        let root = session.root.path().display();
        CliError::plain(format!(
            "No boot runs on {root}.\nStart it with \"gantry-boot --root {root} --daemonize\" and run the command again."
        ))
    })?;
    let request = FailoverRequest {
        look: false,
        no_voting: options.no_voting,
        ignore_offline: options.ignore_offline_nodes,
        patience_ms: Some(options.timeout * 1_000),
    };
    if options.no_voting && !options.yes_do_it && !meant(session, &boot, request).await? {
        return Err(CliError::Told(EXIT_FAILURE));
    }
    let aborted = format!(
        "Aborted. A ballot that had begun goes on without you, one that had not is given up. See who the master is with \
         \"{}\".",
        session.typed("cluster", "getmaster")
    );
    let done = tokio::select! {
        done = follow(session, &boot, request) => done?,
        _ = tokio::signal::ctrl_c() => return Err(CliError::Interrupted(aborted)),
    };
    match done.epoch {
        Some(epoch) => {
            undrain(session).await;
            session.screen.line(&format!("This node is the master now (epoch {epoch})."))
        }
        None => Err(CliError::plain("boot only looked; this node is not the master")),
    }
}

/// Takes the queue's drain flag away, as Ganeti does: who drained the queue did so for the master that is gone. The node is
/// the master whatever comes of it.
async fn undrain(session: &mut Session) {
    let done = async {
        let answer = session.call("QueryConfigValues", json!([["drain_flag"]])).await?;
        if answer[0] != true {
            return Ok(false);
        }
        session.call("SetDrainFlag", json!([false])).await.map(|_| true)
    };
    match done.await {
        Ok(false) => {}
        Ok(true) => session.screen.note("The queue was drained; it takes jobs again."),
        Err(why) => {
            let text = "Warning: can't tell whether the queue is drained (gnt-cluster queue info)";
            session.screen.note(&format!("{text}: {why}"));
        }
    }
}

/// Only a candidate has what a master needs. Whether this is the master already, only the others can say.
fn check_candidate(session: &Session) -> Result<(), CliError> {
    match local::role(&session.root)? {
        None => Err(local::no_cluster(&session.root)),
        Some(RoleFile { role: Role::Master | Role::Candidate, .. }) => Ok(()),
        Some(RoleFile { role: Role::Regular, .. }) => {
            let list = local::ssconf(&session.root, "master_candidates").unwrap_or_default();
            let text = format!(
                "This node is not among the nominated master candidates. Only these nodes can become masters. Current list \
                 of master candidates is:\n{list}"
            );
            Err(CliError::Ganeti(GanetiError::prereq(text, Ecode::WrongState)))
        }
    }
}

/// Shows what the other candidates say, and asks.
async fn meant(session: &Session, boot: &Client, request: FailoverRequest) -> Result<bool, CliError> {
    session.screen.line("Looking at the other candidates, changing nothing:")?;
    if let Err(why) = follow(session, boot, FailoverRequest { look: true, ..request }).await {
        session.screen.line(&format!("The look ended early: {why}"))?;
    }
    session.confirm(
        "This will make this node the master without asking the others. Whatever was acknowledged and is not in this \
         node's copies is lost for good, and nodes that still follow the old master must join again. If the old master \
         still runs, stop it first. Continue?",
        "--yes-do-it",
    )
}

/// Runs it in boot, showing its lines.
async fn follow(
    session: &Session,
    boot: &Client,
    request: FailoverRequest,
) -> Result<FailoverReply, CliError> {
    let failed = |why: CallError| match why {
        CallError::Fail(fail) => match fail.as_ganeti() {
            Some(error) => CliError::Ganeti(error),
            None => CliError::plain(fail.text),
        },
        CallError::Closed(_) | CallError::Deadline { .. } | CallError::Protocol(_) => {
            CliError::plain(format!(
                "boot: {why}\nWhether this node has become the master is not known: run the command again"
            ))
        }
    };
    let mut stream = boot.open::<Failover>(&request).await.map_err(failed)?;
    loop {
        match stream.next().await.map_err(failed)? {
            Event::Item(line) => session.screen.line(&line.text)?,
            Event::End(reply) => return Ok(reply),
        }
    }
}

/// Whether the master answers, and is the master still: a majority of the candidates has just said so.
///
/// # Errors
/// This is not the master's node, it does not answer, or it is the master no longer.
pub async fn ping(session: &mut Session) -> Result<(), CliError> {
    session.command = "master-ping".to_owned();
    local::check_master(&session.root)?;
    session.call("ConfirmMaster", json!([])).await.map(drop)
}

/// The master's name: confirmed by a majority on the master, what this node was told elsewhere.
///
/// # Errors
/// As [`ping`] on the master; no cluster, or no master that this node knows of, elsewhere.
pub async fn name(session: &mut Session) -> Result<(), CliError> {
    if is_master(session)? {
        session.command = "getmaster".to_owned();
        match confirmed(session).await {
            Ok(name) => return session.screen.line(&name),
            Err(why) if is_master(session)? => return Err(why),
            // Replaced while it was asked: as on any other node.
            Err(_) => {}
        }
    }
    match local::role(&session.root)? {
        Some(_) => session.screen.line(&local::other_master(&session.root)?),
        None => Err(local::no_cluster(&session.root)),
    }
}

fn is_master(session: &Session) -> Result<bool, CliError> {
    Ok(local::role(&session.root)?.is_some_and(|file| file.role == Role::Master))
}

async fn confirmed(session: &mut Session) -> Result<String, CliError> {
    session.call("ConfirmMaster", json!([])).await?;
    let answer = session.call("QueryConfigValues", json!([["master_node"]])).await?;
    let name = answer[0].as_str();
    name.map(str::to_owned).ok_or_else(|| CliError::Protocol(format!("{answer} names no master")))
}

/// Takes the cluster's address down.
///
/// # Errors
/// The job's, or the question was not answered with yes.
pub async fn deactivate_ip(
    session: &mut Session,
    yes_do_it: bool,
    job: &SubmitOptions,
) -> Result<(), CliError> {
    let question = "This will disable the master IP. All connections to it will be lost, yours too if it came that way. \
                    Continue?";
    if !yes_do_it && !session.confirm(question, "--yes-do-it")? {
        return Err(CliError::Told(EXIT_FAILURE));
    }
    session.run_op("OP_CLUSTER_DEACTIVATE_MASTER_IP", json!({}), job).await.map(drop)
}

/// Options of `drop-candidate`.
#[derive(Debug, clap::Args)]
pub struct DropCandidate {
    /// Do not ask whether it is meant
    #[arg(long)]
    yes_do_it: bool,
    /// The candidate that is silent or suspect
    node: String,
}

/// Takes a candidate out on the master, without a job: jobs can't be stored while no majority answers.
///
/// # Errors
/// This is not the master's node, or the server's reason, which names the command that helps.
pub async fn drop_candidate(session: &mut Session, options: &DropCandidate) -> Result<(), CliError> {
    session.command = "drop-candidate".to_owned();
    local::check_master(&session.root)?;
    let node = &options.node;
    let copies = session.call("QueryMembers", json!([])).await?;
    let of = |log: &str| copies[log].as_array().into_iter().flatten().any(|copy| copy["name"] == **node);
    if !of("config") && !of("queue") {
        return Err(CliError::plain(format!(
            "{node} is no master candidate; \"{}\" ends with those that are",
            session.typed("cluster", "info")
        )));
    }
    let question = format!(
        "This will take the copies of {node} out of those that count. Nothing acknowledged is lost by that. From then on \
         what is acknowledged lies on the candidates that are left; if only this node is left, on its disk alone. {node} \
         can't become master until it is a candidate again. Continue?"
    );
    if !options.yes_do_it && !session.confirm(&question, "--yes-do-it")? {
        return Err(CliError::Told(EXIT_FAILURE));
    }
    session.call("DropCandidate", json!([node])).await?;
    session.screen.line(&format!(
        "{node} is no master candidate any more. When it is back, make it one again: gnt-node modify -C yes {node}"
    ))
}
