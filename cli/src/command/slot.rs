//! `gnt-slot`: the places of pools and the virtual machines in them.

use crate::error::CliError;
use crate::list::{ListOptions, Listing, TableOptions};
use crate::opcode::SubmitOptions;
use crate::output::info::Info;
use crate::output::text::plain;
use crate::output::time::from_epoch;
use crate::session::Session;
use gantry_model::config::SlotState;
use serde_json::{Map, Value, json};

/// A pool's places and the machines in them
#[derive(Debug, clap::Args)]
pub struct Family {
    #[command(subcommand)]
    command: Slot,
}

#[derive(Debug, clap::Subcommand)]
enum Slot {
    /// List slots
    #[command(after_help = "Example:\n  gnt-slot list py\n  gnt-slot list -F 'state == \"DIRTY\"'")]
    List {
        /// Only this pool's; or names of slots, or one filter
        names: Vec<String>,
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
    /// Show slots in full
    #[command(after_help = "Example:\n  gnt-slot info py-1")]
    Info {
        /// The slots; none = all
        slots: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Destroy machines and make new ones in their place
    #[command(after_help = "Example:\n  gnt-slot recycle py-1\n  gnt-slot recycle --pool py --all")]
    Recycle {
        /// The slots
        #[arg(required_unless_present = "pool", conflicts_with = "pool")]
        slots: Vec<String>,
        /// The slots of this pool; leased ones only with --force
        #[arg(long, value_name = "POOL", requires = "all")]
        pool: Option<String>,
        /// Needed with --pool: all of them
        #[arg(long, requires = "pool")]
        all: bool,
        /// Leased ones too: their leases are broken
        #[arg(short, long)]
        force: bool,
        #[command(flatten)]
        job: SubmitOptions,
    },
}

const DASH: fn(&Value, &jiff::tz::TimeZone) -> String =
    |value, _| if value.is_null() || value == "" { "-".to_owned() } else { plain(value) };

const LIST: Listing = Listing {
    what: "slot",
    fields: &["name", "pool", "node", "state", "generation", "owner", "why"],
    key: "name",
    numeric: false,
    overrides: &[("owner", DASH), ("why", DASH), ("lease", DASH)],
};

/// Runs one command.
///
/// # Errors
/// The command's.
pub async fn run(mut session: Session, family: Family) -> Result<(), CliError> {
    let session = &mut session;
    match family.command {
        Slot::List { names, list } => match names.as_slice() {
            [pool] if gantry_model::pool::is_name(pool) && !list.forces_filter() => {
                let either = json!(["|", ["==", "pool", pool], ["==", "name", pool]]);
                let listed = session.listed(&LIST, &list, either).await?;
                // A refusal has no header above it.
                if listed.is_empty() && !list.json {
                    return none_of(session, pool).await;
                }
                session.show_listed(&LIST, &list, &listed)
            }
            _ => session.list(&LIST, &list, &names).await,
        },
        Slot::ListFields { fields, table } => session.list_fields("slot", &fields, &table).await,
        Slot::Info { slots, json } => session.info("slot", INFO, &slots, json, slot_info).await,
        Slot::Recycle { slots, pool, force, job, .. } => {
            session.command = "recycle".to_owned();
            let slots = match pool {
                Some(pool) => of_pool(session, &pool, force).await?,
                None => slots,
            };
            if slots.is_empty() {
                return Ok(());
            }
            let given = json!({"slots": slots, "force": force, "why": job.reason.as_deref().unwrap_or("recycled by operator")});
            session.run_op("OP_SLOT_RECYCLE", given, &job).await.map(drop)
        }
    }
}

/// What is said of a name that no slot bears and no slot's pool: a pool without slots is told, another name refused.
async fn none_of(session: &mut Session, name: &str) -> Result<(), CliError> {
    // With a field that is no name in it, it is a filter, to which no row is an answer.
    let filter = json!(["&", ["==", "name", name], [">=", "amount", 0]]);
    let rows = session.rows("pool", &["name", "why"], filter).await?;
    let Some(row) = rows.first() else {
        return Err(CliError::plain(format!(
            "No pool and no slot is called '{name}'; look with \"{}\"",
            session.typed("pool", "list")
        )));
    };
    let why = row["why"].as_str().map_or_else(String::new, |why| format!(": {why}"));
    session.screen.note(&crate::output::text::safe(&format!("Pool {name} has no slots{why}")));
    Ok(())
}

/// The slots of a pool; those that are leased only with `force`, and it says which it leaves out.
async fn of_pool(session: &mut Session, pool: &str, force: bool) -> Result<Vec<String>, CliError> {
    let rows = session.rows("slot", &["name", "state", "owner"], json!(["==", "pool", pool])).await?;
    if rows.is_empty() {
        session.screen.note(&format!("Pool {pool} has no slots; nothing to do"));
    }
    let (leased, free): (Vec<_>, Vec<_>) =
        rows.iter().partition(|row| !force && row["state"] == SlotState::Leased.as_str());
    for row in leased {
        session.screen.note(&format!(
            "{} is leased by {} and left alone; give --force to break its lease",
            plain(&row["name"]),
            plain(&row["owner"])
        ));
    }
    Ok(free.iter().map(|row| plain(&row["name"])).collect())
}

const INFO: &[&str] = &[
    "name",
    "uuid",
    "pool",
    "node",
    "node_usable",
    "state",
    "generation",
    "lease",
    "owner",
    "opened",
    "drained",
    "stuck",
    "why",
    "failures",
    "backoff_until",
    "revision",
    "wanted_revision",
    "ready_at",
    "holder",
];

fn slot_info(row: &Map<String, Value>, zone: &jiff::tz::TimeZone) -> Info {
    let text = |key: &str| Info::text(DASH(&row[key], zone));
    let time = |key: &str| Info::text(from_epoch(&row[key], zone));
    Info::named([
        ("Slot", text("name")),
        ("UUID", text("uuid")),
        ("Pool", text("pool")),
        ("Node", text("node")),
        ("Node usable", text("node_usable")),
        ("State", text("state")),
        ("Why", text("why")),
        ("Generation", text("generation")),
        ("Lease", text("lease")),
        ("Owner", text("owner")),
        ("Touched by its lease", text("opened")),
        ("Drained", text("drained")),
        ("Stuck", text("stuck")),
        ("Failures in a row", text("failures")),
        ("Not tried before", time("backoff_until")),
        ("Revision", text("revision")),
        ("Revision wanted", text("wanted_revision")),
        ("Ready since", time("ready_at")),
        ("Worked on by", text("holder")),
    ])
}
