//! `gnt-pool`: how many virtual machines of a blueprint are kept ready.

use super::node::print_changes;
use crate::error::{CliError, EXIT_FAILURE};
use crate::list::{JOINED, ListOptions, Listing, TableOptions};
use crate::opcode::SubmitOptions;
use crate::output::info::Info;
use crate::output::text::{comma_list, plain, safe};
use crate::output::time::{from_epoch, parse_span};
use crate::progress::Progress;
use crate::session::Session;
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

/// How many virtual machines are kept ready
#[derive(Debug, clap::Args)]
pub struct Family {
    #[command(subcommand)]
    command: Pool,
}

#[derive(Debug, clap::Subcommand)]
enum Pool {
    /// Make a pool
    #[command(after_help = "Example:\n  gnt-pool add py --blueprint py --size 4 --wait")]
    Add(Add),
    /// Change a pool
    #[command(
        after_help = "A pool keeps its blueprint: for another one, add another pool.\n\nExample:\n  gnt-pool modify py --spare 2 --lifetime 6h"
    )]
    Modify(Modify),
    /// Ask for another number of machines
    #[command(after_help = "Example:\n  gnt-pool resize py 8 --wait")]
    Resize {
        /// The pool
        pool: String,
        /// How many
        size: u64,
        /// Wait until so many are ready
        #[arg(long, conflicts_with_all = ["submit", "dry_run"])]
        wait: bool,
        #[command(flatten)]
        job: SubmitOptions,
    },
    /// Make no new machines and grant no new leases; free ones go
    #[command(after_help = "Example:\n  gnt-pool drain py\n  gnt-pool drain py --undo")]
    Drain {
        /// The pool
        pool: String,
        /// Take it into use again
        #[arg(long)]
        undo: bool,
        #[command(flatten)]
        job: SubmitOptions,
    },
    /// Remove a pool and its machines
    #[command(after_help = "Example:\n  gnt-pool remove py")]
    Remove {
        /// The pool
        pool: String,
        /// Even if machines are leased: their leases are broken
        #[arg(short, long)]
        force: bool,
        #[command(flatten)]
        job: SubmitOptions,
    },
    /// List pools
    #[command(after_help = "Example:\n  gnt-pool list -F 'stuck > 0'")]
    List {
        /// Names, or one filter
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
    /// Show pools in full
    #[command(after_help = "Example:\n  gnt-pool info py")]
    Info {
        /// The pools; none = all
        pools: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Add {
    /// Its name: lower-case letters, digits and inner '-'; its slots are called NAME-1, NAME-2, ...
    pool: String,
    /// What its machines are
    #[arg(long, value_name = "BLUEPRINT")]
    blueprint: String,
    /// How many to keep
    #[arg(long, value_name = "N")]
    size: u64,
    /// Fewest that 'resize' may ask for
    #[arg(long, value_name = "N", default_value_t = 0)]
    min: u64,
    /// Most there may be, and the most that one lease can ask for; without it the size, and after a resize that makes it larger that one
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    /// Clean machines to keep beyond the leased ones
    #[arg(long, value_name = "N", default_value_t = 0)]
    spare: u64,
    /// Only on nodes of this group; without it on all
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Oldest a clean machine gets: it is replaced a little before; 0 = any age
    #[arg(long, value_name = "TIME", value_parser = parse_span, default_value = "0")]
    lifetime: u64,
    /// Longest time from the start of a machine to clean
    #[arg(long, value_name = "TIME", value_parser = parse_span, default_value = "2m")]
    connect_timeout: u64,
    /// Wait until so many are ready
    #[arg(long, conflicts_with_all = ["submit", "dry_run"])]
    wait: bool,
    #[command(flatten)]
    job: SubmitOptions,
}

#[derive(Debug, clap::Args)]
struct Modify {
    /// The pool
    pool: String,
    /// Fewest that 'resize' may ask for
    #[arg(long, value_name = "N")]
    min: Option<u64>,
    /// Most there may be
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    /// Clean machines to keep beyond the leased ones
    #[arg(long, value_name = "N")]
    spare: Option<u64>,
    /// Only on nodes of this group; an empty name = all
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Oldest a clean machine gets: it is replaced a little before; 0 = any age
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    lifetime: Option<u64>,
    /// Longest time from the start of a machine to clean
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    connect_timeout: Option<u64>,
    #[command(flatten)]
    job: SubmitOptions,
}

const LIST: Listing = Listing {
    what: "pool",
    fields: &[
        "name",
        "blueprint",
        "state",
        "amount",
        "slots",
        "creating",
        "clean",
        "leased",
        "dirty",
        "stuck",
        "waiting",
        "why",
    ],
    key: "name",
    numeric: false,
    overrides: &[("tags", JOINED), ("why", SHORT)],
};

/// The reason without what each node said, which 'info' shows.
const SHORT: fn(&Value, &jiff::tz::TimeZone) -> String = |value, zone| {
    let text = DASH(value, zone);
    text.split_once(" (").map_or(text.clone(), |(short, _)| short.to_owned())
};

const DASH: fn(&Value, &jiff::tz::TimeZone) -> String =
    |value, _| if value.is_null() || value == "" { "-".to_owned() } else { plain(value) };

/// What the server calls what is given here, and what it is given as.
const GIVEN: &[(&str, &str)] = &[
    ("amount", "the size"),
    ("min", "--min"),
    ("max", "--max (without it the size)"),
    ("spare", "--spare"),
    ("lifetime_s", "--lifetime, in seconds,"),
    ("connect_timeout_s", "--connect-timeout, in seconds,"),
];

/// Between looks at a pool that is waited for.
const LOOK: Duration = Duration::from_millis(500);
/// How long a pool that found no room may stand still before it is given up: what the server says may be of before a
/// change, and the next look for room is due by then.
const STILL: Duration = Duration::from_secs(5);

/// Runs one command.
///
/// # Errors
/// The command's.
pub async fn run(mut session: Session, family: Family) -> Result<(), CliError> {
    let session = &mut session;
    match family.command {
        Pool::Add(add) => self::add(session, add).await,
        Pool::Modify(change) => modify(session, change).await,
        Pool::Resize { pool, size, wait, job } => {
            session.command = "resize".to_owned();
            let given = json!({"pool_name": pool, "amount": size});
            session.run_op("OP_POOL_RESIZE", given, &job).await?;
            if wait { wait_full(session, &pool, size).await } else { Ok(()) }
        }
        Pool::Drain { pool, undo, job } => {
            session.command = "drain".to_owned();
            let given = json!({"pool_name": pool, "drain": !undo});
            session.run_op("OP_POOL_DRAIN", given, &job).await.map(drop)
        }
        Pool::Remove { pool, force, job } => {
            session.command = "remove".to_owned();
            let given = json!({"pool_name": pool, "force": force});
            session.run_op("OP_POOL_REMOVE", given, &job).await.map(drop)
        }
        Pool::List { names, list } => session.list(&LIST, &list, &names).await,
        Pool::ListFields { fields, table } => session.list_fields("pool", &fields, &table).await,
        Pool::Info { pools, json } => session.info("pool", INFO, &pools, json, pool_info).await,
    }
}

async fn add(session: &mut Session, add: Add) -> Result<(), CliError> {
    session.command = "add".to_owned();
    let given = json!({
        "pool_name": add.pool, "blueprint": add.blueprint, "group_name": add.group, "min": add.min, "max": add.max,
        "amount": add.size, "spare": add.spare, "lifetime_s": add.lifetime,
        "connect_timeout_s": add.connect_timeout,
    });
    session.run_op("OP_POOL_ADD", given, &add.job).await.map_err(|error| error.naming(GIVEN))?;
    if add.wait { wait_full(session, &add.pool, add.size).await } else { Ok(()) }
}

async fn modify(session: &mut Session, change: Modify) -> Result<(), CliError> {
    session.command = "modify".to_owned();
    let given = [
        ("min", json!(change.min)),
        ("max", json!(change.max)),
        ("spare", json!(change.spare)),
        ("lifetime_s", json!(change.lifetime)),
        ("connect_timeout_s", json!(change.connect_timeout)),
    ];
    let given = given.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.to_owned(), v));
    let mut set: Map<String, Value> = given.collect();
    if let Some(group) = &change.group {
        set.insert("group".to_owned(), if group.is_empty() { Value::Null } else { json!(group) });
    }
    if set.is_empty() {
        return Err(CliError::Usage("Please give at least one of the parameters; see --help".to_owned()));
    }
    let given = json!({"pool_name": change.pool, "set": set});
    let result = session.run_op("OP_POOL_MODIFY", given, &change.job).await;
    let result = result.map_err(|error| error.naming(GIVEN))?;
    print_changes(session, &format!("Modified pool {}", change.pool), result.as_ref())
}

const COUNTS: &[&str] =
    &["state", "wanted", "slots", "absent", "creating", "clean", "leased", "dirty", "stuck", "why"];

/// Waits until `size` machines of the pool are clean or leased. Ctrl-C ends only the waiting.
async fn wait_full(session: &mut Session, pool: &str, size: u64) -> Result<(), CliError> {
    let text = format!(
        "Aborted. Pool {pool} is filled in the background; look with \"{}\".",
        session.typed("pool", "list")
    );
    tokio::select! {
        done = filled(session, pool, size) => done,
        _ = tokio::signal::ctrl_c() => Err(CliError::Interrupted(text)),
    }
}

async fn filled(session: &mut Session, pool: &str, size: u64) -> Result<(), CliError> {
    let mut progress = Progress::new(&session.screen);
    let mut still: Option<Instant> = None;
    loop {
        let rows = session.rows("pool", COUNTS, json!(["==", "name", pool])).await?;
        let Some(row) = rows.first() else {
            return Err(CliError::plain(format!("Pool {pool} is gone while it was waited for")));
        };
        let count = |key: &str| row[key].as_u64().unwrap_or(0);
        let ready = count("clean") + count("leased");
        if ready >= size && count("slots") <= size.max(count("wanted")) {
            drop(progress);
            return session.screen.line(&format!("Pool {pool}: {ready} of {size} ready"));
        }
        if row["state"] != "active" {
            return Err(CliError::plain(format!(
                "Pool {pool} is {}: no machines are made.\nTake it into use with \"{}\".",
                plain(&row["state"]),
                session.typed("pool", &format!("drain {pool} --undo"))
            )));
        }
        let stuck = count("stuck");
        if stuck > 0 && ready + stuck >= size {
            drop(progress);
            return tell_stuck(session, pool, ready, size).await;
        }
        let moving = count("creating") + count("absent") + count("dirty") > 0;
        let short = row["why"].as_str().filter(|_| !moving).map(safe);
        still = if short.is_some() { still.or_else(|| Some(Instant::now())) } else { None };
        if let Some(short) = short.filter(|_| still.is_some_and(|since| since.elapsed() >= STILL)) {
            drop(progress);
            return Err(no_room(session, pool, (ready, size), &short));
        }
        let mut text = waiting_text(pool, size, row);
        if count("creating") == 0 && count("absent") + count("dirty") > 0 {
            text.push_str(&failing(session, pool).await?);
        }
        progress.say(&text);
        tokio::time::sleep(LOOK).await;
    }
}

fn no_room(session: &Session, pool: &str, (ready, size): (u64, u64), why: &str) -> CliError {
    CliError::plain(format!(
        "Pool {pool}: only {ready} of {size} ready, and there is no room for more: {why}\nIt is tried again by itself. \
         Add nodes, or make the pool smaller with \"{}\".",
        session.typed("pool", &format!("resize {pool} {ready}"))
    ))
}

/// Why the first of those slots is not ready that failed, if one did.
async fn failing(session: &mut Session, pool: &str) -> Result<String, CliError> {
    let filter = json!(["&", ["==", "pool", pool], [">", "failures", 0]]);
    let rows = session.rows("slot", &["name", "failures", "why"], filter).await?;
    let Some(row) = rows.first() else { return Ok(String::new()) };
    let why = row["why"].as_str().unwrap_or("its jobs say why");
    let times =
        if row["failures"] == 1 { "once".to_owned() } else { format!("{} times", plain(&row["failures"])) };
    Ok(safe(&format!("; {} failed {times}: {why}", plain(&row["name"]))))
}

fn waiting_text(pool: &str, size: u64, row: &Map<String, Value>) -> String {
    let count = |key: &str| row[key].as_u64().unwrap_or(0);
    let parts = ["creating", "absent", "dirty", "stuck"].map(|key| (key, count(key)));
    let parts: Vec<String> =
        parts.iter().filter(|(_, n)| *n > 0).map(|(key, n)| format!("{n} {key}")).collect();
    let ready = count("clean") + count("leased");
    let missing = row["why"].as_str().map(|why| format!("the others are missing: {}", safe(why)));
    let parts: Vec<String> = parts.into_iter().chain(missing).collect();
    let slots = if count("slots") == 0 { "no slots yet" } else { "the others are not there yet" };
    let why = if parts.is_empty() { slots.to_owned() } else { parts.join(", ") };
    format!("Pool {pool}: {ready} of {size} ready, {why}")
}

/// Says which slots are stuck and why.
async fn tell_stuck(session: &mut Session, pool: &str, ready: u64, size: u64) -> Result<(), CliError> {
    let filter = json!(["&", ["==", "pool", pool], ["?", "stuck"]]);
    for row in session.rows("slot", &["name", "node", "failures", "why"], filter).await? {
        let why = row["why"].as_str().map_or_else(
            || format!("{} failures in a row; its jobs say why", plain(&row["failures"])),
            str::to_owned,
        );
        let text = safe(&format!("{} on {}: {why}", plain(&row["name"]), plain(&row["node"])));
        session.screen.note(&text);
    }
    session.screen.note(&format!(
        "Pool {pool}: only {ready} of {size} ready, the other slots are stuck.\nRemove the cause, then run \"{}\".",
        session.typed("slot", &format!("recycle --pool {pool} --all"))
    ));
    Err(CliError::Told(EXIT_FAILURE))
}

const INFO: &[&str] = &[
    "name",
    "uuid",
    "blueprint",
    "group",
    "state",
    "min",
    "max",
    "amount",
    "spare",
    "wanted",
    "slots",
    "absent",
    "creating",
    "clean",
    "leased",
    "dirty",
    "stuck",
    "waiting",
    "why",
    "lifetime",
    "connect_timeout",
    "serial_no",
    "ctime",
    "mtime",
    "tags",
];

fn pool_info(row: &Map<String, Value>, zone: &jiff::tz::TimeZone) -> Info {
    let text = |key: &str| Info::text(plain(&row[key]));
    let all = |key: &str| Info::text(if row[key].is_null() { "all".to_owned() } else { plain(&row[key]) });
    let states = ["absent", "creating", "clean", "leased", "dirty", "stuck"];
    let life = row["lifetime"].as_u64().filter(|s| *s > 0);
    Info::named([
        ("Pool", text("name")),
        ("UUID", text("uuid")),
        ("Blueprint", text("blueprint")),
        ("Node group", all("group")),
        ("State", text("state")),
        (
            "Size",
            Info::named([
                ("asked for", text("amount")),
                ("min", text("min")),
                ("max", text("max")),
                ("spare", text("spare")),
                ("wanted now", text("wanted")),
            ]),
        ),
        (
            "Slots",
            Info::Named(
                [("all", "slots")]
                    .into_iter()
                    .chain(states.map(|s| (s, s)))
                    .map(|(name, key)| (name.to_owned(), text(key)))
                    .collect(),
            ),
        ),
        ("Slots missing because", Info::text(DASH(&row["why"], zone))),
        ("Requests waiting", text("waiting")),
        ("Lifetime", Info::text(life.map_or_else(|| "for ever".to_owned(), |s| format!("{s} s")))),
        ("Connect timeout", Info::text(format!("{} s", plain(&row["connect_timeout"])))),
        ("Serial number", text("serial_no")),
        ("Creation time", Info::text(from_epoch(&row["ctime"], zone))),
        ("Modification time", Info::text(from_epoch(&row["mtime"], zone))),
        ("Tags", Info::text(comma_list(&row["tags"]))),
    ])
}
