//! `gnt-group`: node groups.

use super::cluster::policy::{PolicyOptions, policy_info};
use super::node::{missing, named_rows, print_changes};
use super::tags::{self, Change, Tags};
use crate::error::{CliError, EXIT_FAILURE};
use crate::list::{JOINED, ListOptions, Listing, TableOptions};
use crate::opcode::SubmitOptions;
use crate::output::info::{Info, params};
use crate::output::text::plain;
use crate::params::{guessed, key_values};
use crate::session::Session;
use serde_json::{Value, json};

/// Node groups
#[derive(Debug, clap::Args)]
pub struct Family {
    #[command(subcommand)]
    command: Group,
}

#[derive(Debug, clap::Subcommand)]
enum Group {
    /// Make a group
    Add(Settings),
    /// Change a group
    Modify(Settings),
    /// Remove an empty group
    Remove {
        /// The group
        group: String,
        #[command(flatten)]
        job: SubmitOptions,
    },
    /// Rename a group
    Rename {
        /// The group
        group: String,
        /// Its new name
        new_name: String,
        #[command(flatten)]
        job: SubmitOptions,
    },
    /// Move nodes into a group
    AssignNodes {
        /// The group
        group: String,
        /// The nodes
        #[arg(required = true)]
        nodes: Vec<String>,
        /// Do it even if an instance's nodes come to lie in different groups
        #[arg(short, long)]
        force: bool,
        #[command(flatten)]
        job: SubmitOptions,
    },
    /// List groups
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
    /// Show groups in full
    Info {
        /// The groups; none = all
        groups: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Add tags to a group
    AddTags {
        /// The group
        group: String,
        #[command(flatten)]
        tags: Tags,
    },
    /// Remove tags from a group
    RemoveTags {
        /// The group
        group: String,
        #[command(flatten)]
        tags: Tags,
    },
    /// List a group's tags
    ListTags {
        /// The group
        group: String,
    },
}

/// What may be set at a group.
#[derive(Debug, clap::Args)]
struct Settings {
    /// The group
    group: String,
    /// Whether instances are placed here: preferred, last_resort or unallocable
    #[arg(long, value_name = "WORD", value_parser = ["preferred", "last_resort", "unallocable"])]
    alloc_policy: Option<String>,
    /// Node parameters, such as spindle_count=2; -NAME goes back to the default
    #[arg(long, value_name = "KEY=VALUE,...", allow_hyphen_values = true)]
    node_parameters: Option<String>,
    #[command(flatten)]
    policy: PolicyOptions,
    #[command(flatten)]
    job: SubmitOptions,
}

const LIST: Listing = Listing {
    what: "group",
    fields: &["name", "node_cnt", "pinst_cnt", "alloc_policy", "ndparams"],
    key: "name",
    numeric: false,
    overrides: &[("node_list", JOINED), ("pinst_list", JOINED), ("tags", JOINED), ("ndparams", PAIRS)],
};

/// An object as `key=value, key=value`.
const PAIRS: fn(&Value, &jiff::tz::TimeZone) -> String = |value, _| {
    let pairs = value.as_object().filter(|map| !map.is_empty());
    pairs.map_or_else(
        || "(empty)".to_owned(),
        |map| map.iter().map(|(k, v)| format!("{k}={}", plain(v))).collect::<Vec<_>>().join(", "),
    )
};

/// Runs one command.
///
/// # Errors
/// The command's.
pub async fn run(mut session: Session, family: Family) -> Result<(), CliError> {
    let session = &mut session;
    match family.command {
        Group::Add(change) => set(session, "add", "OP_GROUP_ADD", change).await,
        Group::Modify(change) => set(session, "modify", "OP_GROUP_SET_PARAMS", change).await,
        Group::Remove { group, job } => {
            session.command = "remove".to_owned();
            session.run_op("OP_GROUP_REMOVE", json!({"group_name": group}), &job).await.map(drop)
        }
        Group::Rename { group, new_name, job } => {
            session.command = "rename".to_owned();
            let given = json!({"group_name": group, "new_name": new_name});
            session.run_op("OP_GROUP_RENAME", given, &job).await.map(drop)
        }
        Group::AssignNodes { group, nodes, force, job } => {
            session.command = "assign-nodes".to_owned();
            let given = json!({"group_name": group, "nodes": nodes, "force": force});
            session.run_op("OP_GROUP_ASSIGN_NODES", given, &job).await.map(drop)
        }
        Group::List { names, list } => session.list(&LIST, &list, &names).await,
        Group::ListFields { fields, table } => session.list_fields("group", &fields, &table).await,
        Group::Info { groups, json } => info(session, &groups, json).await,
        Group::AddTags { group, tags } => {
            session.command = "add-tags".to_owned();
            tags::change(session, Change::Add, "nodegroup", Some(&group), &tags).await
        }
        Group::RemoveTags { group, tags } => {
            session.command = "remove-tags".to_owned();
            tags::change(session, Change::Remove, "nodegroup", Some(&group), &tags).await
        }
        Group::ListTags { group } => tags::list(session, "nodegroup", &group).await,
    }
}

async fn set(session: &mut Session, command: &str, id: &str, change: Settings) -> Result<(), CliError> {
    session.command = command.to_owned();
    let ndparams = change.node_parameters.as_deref().map(key_values).transpose().map_err(CliError::Usage)?;
    let given = json!({
        "group_name": change.group,
        "alloc_policy": change.alloc_policy,
        "ndparams": ndparams.map(guessed),
        "ipolicy": change.policy.value().map_err(CliError::Usage)?,
    });
    let empty = ["alloc_policy", "ndparams", "ipolicy"].iter().all(|key| given[*key].is_null());
    if command == "modify" && empty {
        return Err(CliError::Usage("Please give at least one of the parameters; see --help".to_owned()));
    }
    let result = session.run_op(id, given, &change.job).await?;
    if command == "modify" {
        print_changes(session, &format!("Modified node group {}", change.group), result.as_ref())?;
    }
    Ok(())
}

const INFO_FIELDS: [&str; 7] =
    ["name", "ndparams", "custom_ndparams", "diskparams", "custom_diskparams", "ipolicy", "custom_ipolicy"];

async fn info(session: &mut Session, groups: &[String], json: bool) -> Result<(), CliError> {
    let rows = session.call("QueryGroups", json!([groups, INFO_FIELDS, false])).await?;
    let rows = rows.as_array().cloned().unwrap_or_default();
    if json {
        return session.screen.line(&named_rows(&INFO_FIELDS, &rows).to_string());
    }
    if !rows.is_empty() {
        session.screen.raw(&Info::List(rows.iter().map(group_info).collect()).render())?;
    }
    if rows.len() < groups.len() {
        session.screen.note(&format!("No such groups: {}", missing(groups, &rows).join(", ")));
        return Err(CliError::Told(EXIT_FAILURE));
    }
    Ok(())
}

fn group_info(row: &Value) -> Info {
    Info::named([
        ("Node group", Info::text(plain(&row[0]))),
        ("Node parameters", params(&row[2], &row[1])),
        ("Disk parameters", params(&row[4], &row[3])),
        ("Instance policy", policy_info(&row[6], &row[5], false)),
    ])
}
