//! `gnt-lease`: borrowed machines.

mod acquire;
mod exec;
mod files;
mod hold;

use crate::error::{CliError, EXIT_FAILURE};
use crate::list::{JOINED, ListOptions, Listing, TableOptions};
use crate::output::info::Info;
use crate::output::text::{comma_list, plain};
use crate::output::time::from_epoch;
use crate::session::Session;
use gantry_model::ids::LeaseUuid;
use serde_json::{Map, Value, json};

/// Borrowed machines
#[derive(Debug, clap::Args)]
pub struct Family {
    #[command(subcommand)]
    command: Lease,
}

#[derive(Debug, clap::Subcommand)]
enum Lease {
    /// Lease clean machines of a pool
    #[command(after_help = acquire::HELP)]
    Acquire(acquire::Acquire),
    /// Say that a lease with a ttl is still in use
    #[command(after_help = "Example:\n  gnt-lease renew 3f0c")]
    Renew {
        /// The lease: its uuid, or enough of its beginning
        lease: String,
    },
    /// End leases, or withdraw requests; machines that were used are destroyed
    #[command(after_help = "Example:\n  gnt-lease release 3f0c")]
    Release {
        /// The leases: uuids, or enough of their beginnings
        #[arg(required = true)]
        leases: Vec<String>,
    },
    /// List leases and the requests that wait
    #[command(after_help = "Example:\n  gnt-lease list -F 'owner == \"ann\"'")]
    List {
        /// Uuids, or one filter
        leases: Vec<String>,
        #[command(flatten)]
        list: ListOptions,
    },
    /// List the fields that 'list' can show
    ListFields {
        /// Only these
        fields: Vec<String>,
        #[command(flatten)]
        table: TableOptions,
    },
    /// Show leases in full
    #[command(after_help = "Example:\n  gnt-lease info 3f0c")]
    Info {
        /// The leases: uuids, or enough of their beginnings; none = all
        leases: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Run a command in a leased machine; its output and its exit code are this command's
    #[command(after_help = exec::HELP)]
    Exec(exec::Exec),
    /// Copy files and directories into a leased machine
    #[command(
        after_help = "Example:\n  gnt-lease put 3f0c src/ tests/ work\n\nAs with cp, the last of several arguments is where to: a directory below the machine's home, made if need be. A single one goes to the home itself, and several with --to . do."
    )]
    Put(files::Put),
    /// Copy a file or a directory out of a leased machine
    #[command(after_help = "Example:\n  gnt-lease get 3f0c work/result ./result")]
    Get(files::Get),
}

const DASH: fn(&Value, &jiff::tz::TimeZone) -> String =
    |value, _| if value.is_null() || value == "" { "-".to_owned() } else { plain(value) };
const SPAN: fn(&Value, &jiff::tz::TimeZone) -> String =
    |value, _| value.as_f64().map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.0}s"));

const LIST: Listing = Listing {
    what: "lease",
    fields: &["uuid", "owner", "pool", "state", "vms", "ends_in", "why"],
    key: "uuid",
    numeric: false,
    overrides: &[("vms", JOINED), ("nodes", JOINED), ("ends_in", SPAN), ("ttl", SPAN), ("why", DASH)],
};

/// Runs one command.
///
/// # Errors
/// The command's.
pub async fn run(mut session: Session, family: Family) -> Result<(), CliError> {
    let session = &mut session;
    match family.command {
        Lease::Acquire(acquire) => acquire::run(session, acquire).await,
        Lease::Renew { lease } => {
            let lease = find(session, &lease).await?;
            session.call("LeaseRenew", json!([lease])).await.map(drop)
        }
        Lease::Release { leases } => release(session, &leases).await,
        Lease::List { leases, list } => self::list(session, leases, &list).await,
        Lease::ListFields { fields, table } => session.list_fields("lease", &fields, &table).await,
        Lease::Info { leases, json } => {
            let mut found = Vec::new();
            for lease in &leases {
                found.push(find(session, lease).await?.to_string());
            }
            session.info("lease", INFO, &found, json, lease_info).await
        }
        Lease::Exec(exec) => exec::run(session, exec).await,
        Lease::Put(put) => files::put(session, put).await,
        Lease::Get(get) => files::get(session, get).await,
    }
}

/// Lists leases; those named may be named by the beginnings of their uuids.
async fn list(session: &mut Session, mut leases: Vec<String>, list: &ListOptions) -> Result<(), CliError> {
    let is_name = |text: &String| text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    if !list.forces_filter() && leases.iter().all(is_name) {
        for lease in &mut leases {
            *lease = find(session, lease).await?.to_string();
        }
    }
    session.list(&LIST, list, &leases).await
}

/// The lease that a uuid or its beginning names.
async fn find(session: &mut Session, text: &str) -> Result<LeaseUuid, CliError> {
    if let Ok(lease) = text.parse() {
        return Ok(lease);
    }
    let begins = text.to_ascii_lowercase();
    if begins.is_empty() || !begins.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') {
        return Err(CliError::Usage(format!("'{text}' is no uuid of a lease and no beginning of one")));
    }
    let rows = session.rows("lease", &["uuid", "owner", "pool"], Value::Null).await?;
    let matching: Vec<&Map<String, Value>> = rows
        .iter()
        .filter(|row| row["uuid"].as_str().is_some_and(|uuid| uuid.starts_with(&begins)))
        .collect();
    match matching.as_slice() {
        [one] => plain(&one["uuid"])
            .parse()
            .map_err(|error| CliError::Protocol(format!("the answer is no lease: {error}"))),
        [] => Err(CliError::plain(format!(
            "No lease begins with '{text}': it is over, or there was none; look with \"{}\"",
            session.typed("lease", "list")
        ))),
        many => {
            let all: Vec<String> = many
                .iter()
                .map(|row| format!("  {} of {}", plain(&row["uuid"]), plain(&row["owner"])))
                .collect();
            Err(CliError::plain(format!(
                "Several leases begin with '{text}'; give more of one:\n{}",
                all.join("\n")
            )))
        }
    }
}

async fn release(session: &mut Session, leases: &[String]) -> Result<(), CliError> {
    let mut all = true;
    for lease in leases {
        let lease = find(session, lease).await?;
        let answer = session.call("LeaseRelease", json!([lease])).await?;
        all &= answer[0] == true;
        session.screen.line(&plain(&answer[1]))?;
    }
    if all { Ok(()) } else { Err(CliError::Told(EXIT_FAILURE)) }
}

const INFO: &[&str] = &["uuid", "owner", "pool", "state", "why", "vms", "nodes", "since", "ends_in", "ttl"];

fn lease_info(row: &Map<String, Value>, zone: &jiff::tz::TimeZone) -> Info {
    let text = |key: &str| Info::text(DASH(&row[key], zone));
    let list = |key: &str| Info::text(comma_list(&row[key]));
    Info::named([
        ("Lease", text("uuid")),
        ("Owner", text("owner")),
        ("Pool", text("pool")),
        ("State", text("state")),
        ("Why", text("why")),
        ("Machines", list("vms")),
        ("Nodes", list("nodes")),
        ("Since", Info::text(from_epoch(&row["since"], zone))),
        ("Ends in", Info::text(SPAN(&row["ends_in"], zone))),
        ("Renewal needed within", Info::text(SPAN(&row["ttl"], zone))),
    ])
}
