//! `gnt-cluster`: making, showing, changing, verifying and ending the cluster.

mod backup;
mod copies;
mod crypto;
mod destroy;
mod info;
mod init;
mod master;
pub mod policy;
mod settings;

use super::tags::{self, Change, Tags};
use crate::error::{CliError, EXIT_FAILURE};
use crate::job::submitted;
use crate::local;
use crate::opcode::SubmitOptions;
use crate::output::text::plain;
use crate::session::Session;
use serde_json::{Value, json};

/// The cluster as a whole
#[derive(Debug, clap::Args)]
pub struct Family {
    #[command(subcommand)]
    command: Cluster,
}

#[derive(Debug, clap::Subcommand)]
enum Cluster {
    /// Make this node the master of a new cluster
    Init(Box<init::Init>),
    /// End the cluster and remove its state from this node
    Destroy(destroy::Destroy),
    /// Show the cluster's settings
    Info {
        /// Print the server's answer as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the versions
    Version,
    /// Print the master's name, also on other nodes
    Getmaster,
    /// Say whether the master answers and is the master still
    MasterPing,
    /// Make this node, a master candidate, the master
    MasterFailover(master::MasterFailover),
    /// Take a silent or suspect master candidate out when no majority of them answers
    DropCandidate(master::DropCandidate),
    /// Write all of the cluster's state into a new directory
    ///
    /// Run it on the master, which may work on meanwhile or be stopped. The directory holds the configuration and the job
    /// queue as they were at one moment, the inputs, outputs and images they name, and the cluster's keys: keep it as
    /// safe as the master itself. It is there when it is whole, and not before; nothing is ever overwritten.
    Backup(backup::Backup),
    /// Make this node the master of what a backup holds
    ///
    /// For when no master candidate is left that could take over: as long as one is, gnt-cluster master-failover loses
    /// less. Run it on a node of the backed up cluster, or on a machine with the name and address of a lost one (without an
    /// etc/gantry/node.toml it becomes the node that made the backup). Every byte of the backup is checked, and the other nodes
    /// are looked at, before anything is changed; what this node had is put into aside/. A master of before is refused
    /// by all nodes from then on.
    Restore(backup::Restore),
    /// Give the cluster a new CA, or its nodes new certificates
    ///
    /// Nothing is restarted, and jobs, tasks and leases go on. At every moment any two nodes trust each other: whatever dies
    /// on the way, run the same command again, on the new master if need be, and it goes on. Nodes that are down hold up a
    /// change of the CA until they are back or removed; all others work on meanwhile.
    RenewCrypto(crypto::RenewCrypto),
    /// Check the configuration and all nodes
    Verify(Verify),
    /// Change settings of the cluster
    Modify(Box<Modify>),
    /// Show, drain and reopen the job queue
    Queue {
        #[command(subcommand)]
        command: Queue,
    },
    /// Send the configuration's extracts to all nodes again
    RedistConf {
        #[command(flatten)]
        job: SubmitOptions,
    },
    /// Put the cluster's address up on the master
    ActivateMasterIp {
        #[command(flatten)]
        job: SubmitOptions,
    },
    /// Take the cluster's address down
    ///
    /// It stays down until it is activated again, or another node becomes the master.
    DeactivateMasterIp {
        /// Do not ask
        #[arg(long)]
        yes_do_it: bool,
        #[command(flatten)]
        job: SubmitOptions,
    },
    /// Add tags to the cluster
    AddTags(Tags),
    /// Remove tags from the cluster
    RemoveTags(Tags),
    /// List the cluster's tags
    ListTags,
}

#[derive(Debug, clap::Subcommand)]
enum Queue {
    /// Refuse new jobs
    Drain,
    /// Take new jobs again
    Undrain,
    /// Say whether new jobs are refused
    Info,
}

#[derive(Debug, clap::Args)]
struct Modify {
    #[command(flatten)]
    settings: settings::Settings,
    /// Do it even where it is refused without
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    job: SubmitOptions,
}

#[derive(Debug, clap::Args)]
struct Verify {
    /// Print errors in a form for programs
    #[arg(long)]
    error_codes: bool,
    /// Say more
    #[arg(short, long)]
    verbose: bool,
    /// Treat errors with this code as warnings; may be given several times
    #[arg(short = 'I', long, value_name = "CODE")]
    ignore_errors: Vec<String>,
    /// Leave out the check for room after a node's failure
    #[arg(long)]
    no_nplus1_mem: bool,
    /// Pretend that everything is wrong, to see all messages
    #[arg(long)]
    debug_simulate_errors: bool,
    /// Only this node group
    #[arg(long = "node-group", value_name = "GROUP")]
    group: Option<String>,
    #[command(flatten)]
    job: SubmitOptions,
}

/// Runs one command.
///
/// # Errors
/// The command's.
pub async fn run(mut session: Session, family: Family) -> Result<(), CliError> {
    let session = &mut session;
    match family.command {
        Cluster::Init(init) => Box::pin(init::run(session, &init)).await,
        Cluster::Destroy(destroy) => Box::pin(destroy::run(session, &destroy)).await,
        Cluster::Info { json } => show(session, json).await,
        Cluster::Version => version(session).await,
        Cluster::Getmaster => master::name(session).await,
        Cluster::MasterPing => master::ping(session).await,
        Cluster::MasterFailover(options) => Box::pin(master::failover(session, &options)).await,
        Cluster::DropCandidate(options) => master::drop_candidate(session, &options).await,
        Cluster::Backup(options) => backup::backup(session, &options).await,
        Cluster::Restore(options) => Box::pin(backup::restore(session, &options)).await,
        Cluster::RenewCrypto(options) => Box::pin(crypto::renew(session, &options)).await,
        Cluster::Verify(options) => Box::pin(verify(session, &options)).await,
        Cluster::Modify(modify) => self::modify(session, &modify).await,
        Cluster::Queue { command } => queue(session, &command).await,
        Cluster::RedistConf { job } => {
            session.command = "redist-conf".to_owned();
            session.run_op("OP_CLUSTER_REDIST_CONF", json!({}), &job).await.map(drop)
        }
        Cluster::ActivateMasterIp { job } => {
            session.command = "activate-master-ip".to_owned();
            session.run_op("OP_CLUSTER_ACTIVATE_MASTER_IP", json!({}), &job).await.map(drop)
        }
        Cluster::DeactivateMasterIp { yes_do_it, job } => {
            session.command = "deactivate-master-ip".to_owned();
            master::deactivate_ip(session, yes_do_it, &job).await
        }
        Cluster::AddTags(tags) => {
            session.command = "add-tags".to_owned();
            tags::change(session, Change::Add, "cluster", None, &tags).await
        }
        Cluster::RemoveTags(tags) => {
            session.command = "remove-tags".to_owned();
            tags::change(session, Change::Remove, "cluster", None, &tags).await
        }
        Cluster::ListTags => tags::list(session, "cluster", "").await,
    }
}

/// The settings, and in the form for people how the copies stand.
async fn show(session: &mut Session, as_json: bool) -> Result<(), CliError> {
    let answer = session.call("QueryClusterInfo", json!([])).await?;
    if as_json {
        return session.screen.raw(&format!("{answer}\n"));
    }
    // Not in the answer, which is Ganeti's; what the master's node was told last is good enough for people.
    let address = local::ssconf(&session.root, "master_ip");
    session.screen.raw(&info::info(&answer, address, &session.zone).render())?;
    let members = session.call("QueryMembers", json!([])).await?;
    session.screen.raw(&copies::info(&members).render())?;
    let certificates = session.call("QueryCrypto", json!([])).await?;
    let now = jiff::Timestamp::now().as_second();
    session.screen.raw(&crypto::info(&certificates, &session.zone, now).render())
}

async fn version(session: &mut Session) -> Result<(), CliError> {
    let answer = session.call("QueryClusterInfo", json!([])).await?;
    for (title, key) in [
        ("Software version", "software_version"),
        ("Internode protocol", "protocol_version"),
        ("Configuration format", "config_version"),
        ("OS api version", "os_api_version"),
        ("Export interface", "export_version"),
        ("VCS version", "vcs_version"),
    ] {
        session.screen.line(&format!("{title}: {}", plain(&answer[key])))?;
    }
    Ok(())
}

async fn modify(session: &mut Session, modify: &Modify) -> Result<(), CliError> {
    session.command = "modify".to_owned();
    let mut given = modify.settings.given().map_err(CliError::Usage)?;
    if given.is_empty() {
        return Err(CliError::Usage("Please give at least one of the parameters; see --help".to_owned()));
    }
    given.insert("force".to_owned(), json!(modify.force));
    let result = session.run_op("OP_CLUSTER_SET_PARAMS", Value::Object(given), &modify.job).await?;
    let jobs = result.map(|result| submitted(&result["jobs"])).unwrap_or_default();
    let jobs: Vec<_> = jobs.into_iter().map(|job| (job, String::new())).collect();
    let all = session.follow_all(&jobs, true).await?;
    if all.iter().all(Result::is_ok) { Ok(()) } else { Err(CliError::Told(EXIT_FAILURE)) }
}

async fn queue(session: &mut Session, command: &Queue) -> Result<(), CliError> {
    let drain = match command {
        Queue::Info => {
            let answer = session.call("QueryConfigValues", json!([["drain_flag"]])).await?;
            let word = if answer[0] == true { "set" } else { "unset" };
            return session.screen.line(&format!("The drain flag is {word}"));
        }
        Queue::Drain => true,
        Queue::Undrain => false,
    };
    session.call("SetDrainFlag", json!([drain])).await.map(drop)
}

/// The job that submits the checks, then the checks: each says true when it found nothing.
async fn verify(session: &mut Session, options: &Verify) -> Result<(), CliError> {
    session.command = "verify".to_owned();
    let skip: &[&str] = if options.no_nplus1_mem { &["nplusone_mem"] } else { &[] };
    let given = json!({
        "verbose": options.verbose,
        "error_codes": options.error_codes,
        "debug_simulate_errors": options.debug_simulate_errors,
        "skip_checks": skip,
        "ignore_errors": options.ignore_errors,
        "group_name": options.group,
    });
    let Some(result) = session.run_op("OP_CLUSTER_VERIFY", given, &options.job).await? else { return Ok(()) };
    let jobs: Vec<_> = submitted(&result["jobs"]).into_iter().map(|job| (job, String::new())).collect();
    let numbers: Vec<String> =
        jobs.iter().filter_map(|(job, _)| job.as_ref().ok().map(u64::to_string)).collect();
    session.screen.line(&format!("Submitted jobs {}", numbers.join(", ")))?;
    let results = session.follow_all(&jobs, true).await?;
    let failed = results.iter().filter(|result| result.is_err()).count();
    let unclean = results.iter().flatten().filter(|values| values.first() != Some(&json!(true))).count();
    if failed > 0 {
        session.screen.line(&format!("{failed} job(s) failed while verifying the cluster."))?;
    }
    if failed + unclean == 0 { Ok(()) } else { Err(CliError::Told(EXIT_FAILURE)) }
}
