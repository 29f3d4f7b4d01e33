//! `gnt-blueprint`: how pools' virtual machines are made.

use super::node::print_changes;
use crate::error::CliError;
use crate::list::{JOINED, ListOptions, Listing, TableOptions};
use crate::opcode::SubmitOptions;
use crate::output::info::Info;
use crate::output::text::{comma_list, plain};
use crate::output::time::{from_epoch, parse_span};
use crate::output::units::{Units, parse_mib, shown};
use crate::params::key_values;
use crate::session::Session;
use serde_json::{Map, Value, json};

/// How pools' virtual machines are made
#[derive(Debug, clap::Args)]
pub struct Family {
    #[command(subcommand)]
    command: Blueprint,
}

#[derive(Debug, clap::Subcommand)]
enum Blueprint {
    /// Make a blueprint
    #[command(after_help = "Example:\n  gnt-blueprint add py -B memory=256M,vcpus=1 --disk 64M --pids 64")]
    Add(Add),
    /// Change a blueprint; machines made before are replaced as they become free
    #[command(after_help = "Example:\n  gnt-blueprint modify py -B memory=512M --image debian12")]
    Modify(Modify),
    /// Remove a blueprint that no pool uses
    #[command(after_help = "Example:\n  gnt-blueprint remove py")]
    Remove {
        /// The blueprint
        blueprint: String,
        #[command(flatten)]
        job: SubmitOptions,
    },
    /// List blueprints
    #[command(after_help = "Example:\n  gnt-blueprint list -o name,image,memory")]
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
    /// Show blueprints in full
    #[command(after_help = "Example:\n  gnt-blueprint info py")]
    Info {
        /// The blueprints; none = all
        blueprints: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Add {
    /// Its name: lower-case letters, digits and inner '-'
    blueprint: String,
    /// What its machines are: oci (containers) or fake (for trying Gantry out)
    #[arg(short = 'H', long, value_name = "WORD", value_parser = ["oci", "fake"], default_value = "oci")]
    driver: String,
    /// The image: host (this system's own files, read-only) or one of 'gnt-os list'
    #[arg(long, value_name = "IMAGE", default_value = "host")]
    image: String,
    /// Memory and CPUs
    #[arg(
        short = 'B',
        long = "backend-parameters",
        value_name = "memory=SIZE,vcpus=N",
        default_value = "memory=256M,vcpus=1"
    )]
    backend: String,
    /// Told how it is written: many try it first
    #[arg(long, hide = true, value_name = "SIZE", value_parser = |text: &str| in_backend("memory", text))]
    memory: Option<String>,
    /// Told how it is written
    #[arg(long, hide = true, value_name = "N", value_parser = |text: &str| in_backend("vcpus", text))]
    vcpus: Option<String>,
    /// Room for files
    #[arg(long, value_name = "SIZE", value_parser = parse_mib, default_value = "64M")]
    disk: u64,
    /// Most processes and threads
    #[arg(long, value_name = "N", default_value_t = 64)]
    pids: u64,
    /// Longest time a step of a task may ask for
    #[arg(long, value_name = "TIME", value_parser = parse_span, default_value = "1h")]
    wall_max: u64,
    /// Longest lease
    #[arg(long, value_name = "TIME", value_parser = parse_span, default_value = "24h")]
    lease_max: u64,
    #[command(flatten)]
    job: SubmitOptions,
}

#[derive(Debug, clap::Args)]
struct Modify {
    /// The blueprint
    blueprint: String,
    /// The image: host or one of 'gnt-os list'
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Memory and CPUs
    #[arg(short = 'B', long = "backend-parameters", value_name = "memory=SIZE,vcpus=N")]
    backend: Option<String>,
    /// Told how it is written
    #[arg(long, hide = true, value_name = "SIZE", value_parser = |text: &str| in_backend("memory", text))]
    memory: Option<String>,
    /// Told how it is written
    #[arg(long, hide = true, value_name = "N", value_parser = |text: &str| in_backend("vcpus", text))]
    vcpus: Option<String>,
    /// Room for files
    #[arg(long, value_name = "SIZE", value_parser = parse_mib)]
    disk: Option<u64>,
    /// Most processes and threads
    #[arg(long, value_name = "N")]
    pids: Option<u64>,
    /// Longest time a step of a task may ask for
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    wall_max: Option<u64>,
    /// Longest lease
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    lease_max: Option<u64>,
    /// Whether new machines are made of it: yes or no
    #[arg(long, value_name = "YES|NO", value_parser = crate::params::yes_no)]
    enabled: Option<bool>,
    #[command(flatten)]
    job: SubmitOptions,
}

const LIST: Listing = Listing {
    what: "blueprint",
    fields: &["name", "driver", "image", "memory", "vcpus", "disk", "pids", "enabled", "pools"],
    key: "name",
    numeric: false,
    overrides: &[("pools", JOINED), ("tags", JOINED)],
};

/// What the server calls what is given here, and what it is given as.
const GIVEN: &[(&str, &str)] = &[
    ("memory_mib", "-B memory, in MiB,"),
    ("vcpus", "-B vcpus"),
    ("disk_mib", "--disk, in MiB,"),
    ("pids", "--pids"),
    ("wall_s_max", "--wall-max, in seconds,"),
    ("lease_s_max", "--lease-max, in seconds,"),
];

/// What the server calls what has changed, and what is printed for it.
const SHOWN: &[(&str, &str)] = &[
    ("memory_mib", "memory (MiB)"),
    ("disk_mib", "disk (MiB)"),
    ("wall_s_max", "wall-max (s)"),
    ("lease_s_max", "lease-max (s)"),
];

/// Runs one command.
///
/// # Errors
/// The command's.
pub async fn run(mut session: Session, family: Family) -> Result<(), CliError> {
    let session = &mut session;
    match family.command {
        Blueprint::Add(add) => self::add(session, add).await,
        Blueprint::Modify(change) => modify(session, change).await,
        Blueprint::Remove { blueprint, job } => {
            session.command = "remove".to_owned();
            let given = json!({"blueprint_name": blueprint});
            session.run_op("OP_BLUEPRINT_REMOVE", given, &job).await.map(drop)
        }
        Blueprint::List { names, list } => session.list(&LIST, &list, &names).await,
        Blueprint::ListFields { fields, table } => session.list_fields("blueprint", &fields, &table).await,
        Blueprint::Info { blueprints, json } => {
            session.info("blueprint", INFO, &blueprints, json, blueprint_info).await
        }
    }
}

async fn add(session: &mut Session, add: Add) -> Result<(), CliError> {
    session.command = "add".to_owned();
    let mut given = backend(&add.backend).map_err(CliError::Usage)?;
    let rest = json!({
        "blueprint_name": add.blueprint, "driver": add.driver, "image": add.image, "disk_mib": add.disk,
        "pids": add.pids, "wall_s_max": add.wall_max, "lease_s_max": add.lease_max,
    });
    given.extend(rest.as_object().cloned().unwrap_or_default());
    let done = session.run_op("OP_BLUEPRINT_ADD", given.into(), &add.job).await;
    done.map(drop).map_err(|error| error.naming(GIVEN))
}

async fn modify(session: &mut Session, change: Modify) -> Result<(), CliError> {
    session.command = "modify".to_owned();
    let mut set = match &change.backend {
        Some(text) => backend(text).map_err(CliError::Usage)?,
        None => Map::new(),
    };
    let given = [
        ("image", json!(change.image)),
        ("disk_mib", json!(change.disk)),
        ("pids", json!(change.pids)),
        ("wall_s_max", json!(change.wall_max)),
        ("lease_s_max", json!(change.lease_max)),
        ("enabled", json!(change.enabled)),
    ];
    set.extend(given.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.to_owned(), v)));
    if set.is_empty() {
        return Err(CliError::Usage("Please give at least one of the parameters; see --help".to_owned()));
    }
    let given = json!({"blueprint_name": change.blueprint, "set": set});
    let result = session.run_op("OP_BLUEPRINT_MODIFY", given, &change.job).await;
    let mut result = result.map_err(|error| error.naming(GIVEN))?;
    for pair in result.iter_mut().filter_map(Value::as_array_mut).flatten() {
        if let Some((_, shown)) = SHOWN.iter().find(|(field, _)| pair[0] == **field) {
            pair[0] = json!(shown);
        }
    }
    print_changes(session, &format!("Modified blueprint {}", change.blueprint), result.as_ref())
}

/// Refuses an option that is written otherwise, as Ganeti's are.
fn in_backend(name: &str, text: &str) -> Result<String, String> {
    Err(format!("write -B {name}={text}"))
}

/// `memory=256M,vcpus=1` as fields of a blueprint.
fn backend(text: &str) -> Result<Map<String, Value>, String> {
    let mut out = Map::new();
    for (key, value) in key_values(text)? {
        let text = value.as_str().unwrap_or_default();
        let (field, value) = match key.as_str() {
            "memory" => ("memory_mib", parse_mib(text).map_err(|e| format!("memory: {e}"))?),
            "vcpus" => ("vcpus", text.parse().map_err(|_| format!("vcpus: '{text}' is no whole number"))?),
            _ => {
                return Err(format!(
                    "there is no backend parameter '{key}' here; there are memory and vcpus"
                ));
            }
        };
        out.insert(field.to_owned(), json!(value));
    }
    Ok(out)
}

const INFO: &[&str] = &[
    "name",
    "uuid",
    "driver",
    "image",
    "memory",
    "vcpus",
    "disk",
    "pids",
    "recycle",
    "wall_max",
    "lease_max",
    "enabled",
    "pools",
    "serial_no",
    "ctime",
    "mtime",
    "tags",
];

fn blueprint_info(row: &Map<String, Value>, zone: &jiff::tz::TimeZone) -> Info {
    let text = |key: &str| Info::text(plain(&row[key]));
    let size = |key: &str| Info::text(row[key].as_f64().map_or_else(String::new, |mib| shown(mib, Units::H)));
    let span = |key: &str| Info::text(format!("{} s", plain(&row[key])));
    Info::named([
        ("Blueprint", text("name")),
        ("UUID", text("uuid")),
        ("Driver", text("driver")),
        ("Image", text("image")),
        ("Memory", size("memory")),
        ("CPUs", text("vcpus")),
        ("Room for files", size("disk")),
        ("Processes", text("pids")),
        ("After a lease", text("recycle")),
        ("Longest step", span("wall_max")),
        ("Longest lease", span("lease_max")),
        ("Enabled", text("enabled")),
        ("Pools", Info::text(comma_list(&row["pools"]))),
        ("Serial number", text("serial_no")),
        ("Creation time", Info::text(from_epoch(&row["ctime"], zone))),
        ("Modification time", Info::text(from_epoch(&row["mtime"], zone))),
        ("Tags", Info::text(comma_list(&row["tags"]))),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_backend_parameter_is_told_so() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            add: Add,
        }
        for (option, want) in [("--memory=1G", "write -B memory=1G"), ("--vcpus=2", "write -B vcpus=2")] {
            let error = <Line as clap::Parser>::try_parse_from(["add", "py", option]).err().unwrap();
            assert!(error.to_string().contains(want), "{error}");
        }
    }

    #[test]
    fn backend_parameters_are_fields() {
        let map = backend("memory=1G,vcpus=2").unwrap();
        assert_eq!(Value::Object(map), json!({"memory_mib": 1024, "vcpus": 2}));
        for bad in ["memory=x", "vcpus=-1", "vcpus", "maxmem=1G"] {
            assert!(backend(bad).is_err(), "{bad}");
        }
    }
}
