//! `gnt-node`: the cluster's hosts.

use super::tags::{self, Change, Tags};
use crate::error::{CliError, EXIT_FAILURE};
use crate::list::{JOINED, ListOptions, Listing, TableOptions};
use crate::opcode::SubmitOptions;
use crate::output::info::{Info, params};
use crate::output::text::plain;
use crate::params::{guessed, key_values, yes_no};
use crate::session::Session;
use serde_json::{Value, json};
use std::io::{IsTerminal, Read};
use std::net::IpAddr;
use std::path::PathBuf;

/// The cluster's hosts
#[derive(Debug, clap::Args)]
pub struct Family {
    #[command(subcommand)]
    command: Node,
}

#[derive(Debug, clap::Subcommand)]
enum Node {
    /// Add a node that waits to be joined
    Add(Add),
    /// Remove a node without instances; slots of pools on one that is marked offline are given up
    Remove {
        /// The node
        node: String,
        #[command(flatten)]
        job: SubmitOptions,
    },
    /// List nodes
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
    /// Change a node's role and parameters
    Modify(Modify),
    /// Show nodes in full
    Info {
        /// The nodes; none = all
        nodes: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Add tags to a node
    AddTags {
        /// The node
        node: String,
        #[command(flatten)]
        tags: Tags,
    },
    /// Remove tags from a node
    RemoveTags {
        /// The node
        node: String,
        #[command(flatten)]
        tags: Tags,
    },
    /// List a node's tags
    ListTags {
        /// The node
        node: String,
    },
}

#[derive(Debug, clap::Args)]
struct Add {
    /// The new node's full name
    node: String,
    /// File with the join secret that the node's noded wrote (var/lib/gantry/join-secret there); - is the
    /// standard input. Without it the secret is asked for
    #[arg(long, value_name = "FILE")]
    join_secret_file: Option<PathBuf>,
    /// The node's address; without it the name is looked up
    #[arg(long, value_name = "IP")]
    node_ip: Option<IpAddr>,
    /// Port of its noded, if not 1811
    #[arg(long, value_name = "PORT")]
    noded_port: Option<u16>,
    /// Secondary address, if it has one
    #[arg(short = 's', long, value_name = "IP")]
    secondary_ip: Option<IpAddr>,
    /// Node group; without it the only one
    #[arg(short = 'g', long = "node-group", value_name = "GROUP")]
    group: Option<String>,
    /// The node was in the cluster before: keep its record
    #[arg(long)]
    readd: bool,
    /// Whether it may become master or candidate: yes or no
    #[arg(long, value_name = "YES|NO", value_parser = yes_no)]
    master_capable: Option<bool>,
    /// Whether it may run instances: yes or no
    #[arg(long, value_name = "YES|NO", value_parser = yes_no)]
    vm_capable: Option<bool>,
    /// Node parameters, such as spindle_count=2
    #[arg(long, value_name = "KEY=VALUE,...")]
    node_parameters: Option<String>,
    #[command(flatten)]
    job: SubmitOptions,
}

#[derive(Debug, clap::Args)]
struct Modify {
    /// The node
    node: String,
    /// Whether it is a master candidate: yes or no
    #[arg(short = 'C', long, value_name = "YES|NO", value_parser = yes_no)]
    master_candidate: Option<bool>,
    /// Whether it is offline (nothing is asked of it): yes or no
    #[arg(short = 'O', long, value_name = "YES|NO", value_parser = yes_no)]
    offline: Option<bool>,
    /// Whether it is drained (nothing new is placed on it, and VMs of pools that nobody has leased go): yes or no
    #[arg(short = 'D', long, value_name = "YES|NO", value_parser = yes_no)]
    drained: Option<bool>,
    /// Promote other nodes when the pool of candidates gets too small
    #[arg(long)]
    auto_promote: bool,
    /// Whether it may become master or candidate: yes or no
    #[arg(long, value_name = "YES|NO", value_parser = yes_no)]
    master_capable: Option<bool>,
    /// Whether it may run instances: yes or no
    #[arg(long, value_name = "YES|NO", value_parser = yes_no)]
    vm_capable: Option<bool>,
    /// What the cluster believes about its power: yes or no
    #[arg(long, value_name = "YES|NO", value_parser = yes_no)]
    node_powered: Option<bool>,
    /// New secondary address
    #[arg(short = 's', long, value_name = "IP")]
    secondary_ip: Option<IpAddr>,
    /// Node parameters, such as spindle_count=2; -NAME goes back to the default
    #[arg(long, value_name = "KEY=VALUE,...", allow_hyphen_values = true)]
    node_parameters: Option<String>,
    /// Do it even where it is refused without
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    job: SubmitOptions,
}

const LIST: Listing = Listing {
    what: "node",
    fields: &["name", "dtotal", "dfree", "mtotal", "mnode", "mfree", "pinst_cnt", "sinst_cnt"],
    key: "name",
    numeric: false,
    overrides: &[("pinst_list", JOINED), ("sinst_list", JOINED), ("tags", JOINED)],
};

/// Runs one command.
///
/// # Errors
/// The command's.
pub async fn run(mut session: Session, family: Family) -> Result<(), CliError> {
    match family.command {
        Node::Add(add) => {
            session.command = "add".to_owned();
            Box::pin(self::add(&mut session, add)).await
        }
        Node::Remove { node, job } => {
            session.command = "remove".to_owned();
            session.run_op("OP_NODE_REMOVE", json!({"node_name": node}), &job).await.map(drop)
        }
        Node::List { names, list } => session.list(&LIST, &list, &names).await,
        Node::ListFields { fields, table } => session.list_fields("node", &fields, &table).await,
        Node::Modify(modify) => {
            session.command = "modify".to_owned();
            self::modify(&mut session, modify).await
        }
        Node::Info { nodes, json } => info(&mut session, &nodes, json).await,
        Node::AddTags { node, tags } => {
            session.command = "add-tags".to_owned();
            tags::change(&mut session, Change::Add, "node", Some(&node), &tags).await
        }
        Node::RemoveTags { node, tags } => {
            session.command = "remove-tags".to_owned();
            tags::change(&mut session, Change::Remove, "node", Some(&node), &tags).await
        }
        Node::ListTags { node } => tags::list(&mut session, "node", &node).await,
    }
}

async fn add(session: &mut Session, add: Add) -> Result<(), CliError> {
    let known = session.call("QueryNodes", json!([[add.node], ["name"], false])).await?;
    let is_known = known.as_array().is_some_and(|rows| !rows.is_empty());
    if is_known && !add.readd {
        return Err(CliError::plain(format!(
            "Node {} is already in the cluster; give --readd to join it again, or remove it first with \"{}\"",
            add.node,
            session.typed("node", &format!("remove {}", add.node))
        )));
    }
    if !is_known && add.readd {
        return Err(CliError::plain(format!("Node {} is not in the cluster; leave --readd out", add.node)));
    }
    let secret = join_secret(&add)?;
    let ip = address(&add).await?;
    let ndparams = add.node_parameters.as_deref().map(key_values).transpose().map_err(CliError::Usage)?;
    let given = json!({
        "node_name": add.node,
        "primary_ip": ip,
        "noded_port": add.noded_port,
        "secondary_ip": add.secondary_ip,
        "readd": add.readd,
        "group": add.group,
        "master_capable": add.master_capable,
        "vm_capable": add.vm_capable,
        "ndparams": ndparams.map(guessed),
        "join_secret": secret,
    });
    session.run_op("OP_NODE_ADD", given, &add.job).await.map(drop)
}

/// The node's address: given, or what its name resolves to (IPv4 first).
async fn address(add: &Add) -> Result<IpAddr, CliError> {
    if let Some(ip) = add.node_ip {
        return Ok(ip);
    }
    let failed = |why: String| {
        CliError::plain(format!(
            "Failure: can't resolve hostname '{}': {why}\nGive the address with --node-ip.",
            add.node
        ))
    };
    let found = tokio::net::lookup_host((add.node.as_str(), 0)).await.map_err(|e| failed(e.to_string()))?;
    let mut all: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    all.sort_by_key(IpAddr::is_ipv6);
    all.first().copied().ok_or_else(|| failed("it has no address".to_owned()))
}

/// Longest join secret read: 64 hex digits and white space around them.
const SECRET_BYTES_MAX: u64 = 256;

/// The secret from its file, the standard input or the terminal. Never shown, never in an error.
fn join_secret(add: &Add) -> Result<String, CliError> {
    let mut text = String::new();
    match &add.join_secret_file {
        Some(path) if path.as_os_str() != "-" => {
            let failed = |error: std::io::Error| {
                CliError::plain(format!("cannot read the join secret from {}: {error}", path.display()))
            };
            let file = std::fs::File::open(path).map_err(failed)?;
            file.take(SECRET_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
        }
        given => {
            let stdin = std::io::stdin();
            if given.is_none() && !stdin.is_terminal() {
                return Err(CliError::Usage(
                    "The node's join secret is wanted: give --join-secret-file FILE, or - and the secret on the standard input.\n\
                     The new node keeps it in var/lib/gantry/join-secret, for one hour."
                        .to_owned(),
                ));
            }
            text = if given.is_none() { ask_secret(&add.node)? } else { read_stdin()? };
        }
    }
    let secret = text.trim().to_owned();
    if secret.is_empty() {
        return Err(CliError::plain(format!("the join secret of {} is empty", add.node)));
    }
    Ok(secret)
}

fn read_stdin() -> Result<String, CliError> {
    let mut text = String::new();
    let read = std::io::stdin().take(SECRET_BYTES_MAX).read_to_string(&mut text);
    read.map(|_| text).map_err(|error| CliError::plain(format!("cannot read the join secret: {error}")))
}

/// Asks at the terminal with echo off.
fn ask_secret(node: &str) -> Result<String, CliError> {
    use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
    let stdin = std::io::stdin();
    eprint!("Join secret of {node} (from var/lib/gantry/join-secret there): ");
    let failed =
        |error: nix::Error| CliError::plain(format!("cannot switch the terminal's echo off: {error}"));
    let before = tcgetattr(&stdin).map_err(failed)?;
    let mut quiet = before.clone();
    quiet.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(&stdin, SetArg::TCSANOW, &quiet).map_err(failed)?;
    let mut text = String::new();
    let read = stdin.read_line(&mut text);
    let back = tcsetattr(&stdin, SetArg::TCSANOW, &before);
    eprintln!();
    read.map_err(|error| CliError::plain(format!("cannot read the join secret: {error}")))?;
    back.map_err(failed)?;
    Ok(text)
}

async fn modify(session: &mut Session, modify: Modify) -> Result<(), CliError> {
    let ndparams = modify.node_parameters.as_deref().map(key_values).transpose().map_err(CliError::Usage)?;
    let given = json!({
        "node_name": modify.node,
        "force": modify.force,
        "master_candidate": modify.master_candidate,
        "offline": modify.offline,
        "drained": modify.drained,
        "auto_promote": modify.auto_promote,
        "master_capable": modify.master_capable,
        "vm_capable": modify.vm_capable,
        "powered": modify.node_powered,
        "secondary_ip": modify.secondary_ip,
        "ndparams": ndparams.map(guessed),
    });
    let changes = [
        "master_candidate",
        "offline",
        "drained",
        "master_capable",
        "vm_capable",
        "powered",
        "secondary_ip",
        "ndparams",
    ];
    if changes.iter().all(|key| given[*key].is_null()) {
        return Err(CliError::Usage("Please give at least one of the parameters; see --help".to_owned()));
    }
    let result = session.run_op("OP_NODE_SET_PARAMS", given, &modify.job).await?;
    print_changes(session, &format!("Modified node {}", modify.node), result.as_ref())
}

/// `[[name, new value], ...]` under a title.
pub fn print_changes(session: &Session, title: &str, result: Option<&Value>) -> Result<(), CliError> {
    let changes = result.and_then(Value::as_array).filter(|list| !list.is_empty());
    let Some(changes) = changes else { return Ok(()) };
    session.screen.line(title)?;
    for change in changes {
        session.screen.line(&format!(" - {:<5} -> {}", plain(&change[0]), plain(&change[1])))?;
    }
    Ok(())
}

const INFO_FIELDS: [&str; 13] = [
    "name",
    "pip",
    "sip",
    "pinst_list",
    "sinst_list",
    "master_candidate",
    "drained",
    "offline",
    "master_capable",
    "vm_capable",
    "powered",
    "ndparams",
    "custom_ndparams",
];

async fn info(session: &mut Session, nodes: &[String], json: bool) -> Result<(), CliError> {
    let rows = session.call("QueryNodes", json!([nodes, INFO_FIELDS, false])).await?;
    let rows = rows.as_array().cloned().unwrap_or_default();
    if json {
        return session.screen.line(&named_rows(&INFO_FIELDS, &rows).to_string());
    }
    if rows.len() < nodes.len() {
        session.screen.note(&format!("Not in this cluster: {}", missing(nodes, &rows).join(", ")));
    }
    if !rows.is_empty() {
        session.screen.raw(&Info::List(rows.iter().map(node_info).collect()).render())?;
    }
    if rows.len() < nodes.len() { Err(CliError::Told(EXIT_FAILURE)) } else { Ok(()) }
}

/// The given names that no row (name first) answers to.
pub fn missing(names: &[String], rows: &[Value]) -> Vec<String> {
    let has = |name: &String| {
        rows.iter()
            .any(|row| row[0].as_str().is_some_and(|full| gantry_model::names::host_matches(full, name)))
    };
    names.iter().filter(|name| !has(name)).cloned().collect()
}

/// Rows of plain values as a list of objects.
pub fn named_rows(fields: &[&str], rows: &[Value]) -> Value {
    let one = |row: &Value| -> Value {
        fields
            .iter()
            .enumerate()
            .map(|(i, field)| ((*field).to_owned(), row[i].clone()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    rows.iter().map(one).collect()
}

fn node_info(row: &Value) -> Info {
    let text = |i: usize| Info::text(plain(&row[i]));
    let mut pieces = vec![
        ("Node name".to_owned(), text(0)),
        ("primary ip".to_owned(), text(1)),
        ("secondary ip".to_owned(), text(2)),
        ("master candidate".to_owned(), text(5)),
        ("drained".to_owned(), text(6)),
        ("offline".to_owned(), text(7)),
    ];
    if !row[10].is_null() {
        pieces.push(("powered".to_owned(), text(10)));
    }
    pieces.push(("master_capable".to_owned(), text(8)));
    pieces.push(("vm_capable".to_owned(), text(9)));
    if row[9] == true {
        pieces.push(("primary for instances".to_owned(), Info::from(&row[3])));
        pieces.push(("secondary for instances".to_owned(), Info::from(&row[4])));
    }
    pieces.push(("node parameters".to_owned(), params(&row[12], &row[11])));
    Info::Named(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_shown_in_full() {
        let row = json!([
            "n1.x", "192.0.2.1", "192.0.2.1", ["a"], [], true, false, false, true, true, null,
            {"ovs": false, "spindle_count": 2}, {"spindle_count": 2}
        ]);
        let want = "- Node name: n1.x\n  primary ip: 192.0.2.1\n  secondary ip: 192.0.2.1\n  master candidate: True\n  \
                    drained: False\n  offline: False\n  master_capable: True\n  vm_capable: True\n  \
                    primary for instances: \n    - a\n  secondary for instances: \n  node parameters: \n    \
                    ovs: default (False)\n    spindle_count: 2\n";
        assert_eq!(Info::List(vec![node_info(&row)]).render(), want);
        assert_eq!(missing(&["n1".to_owned(), "n2".to_owned()], &[row]), ["n2"]);
        assert_eq!(named_rows(&["a"], &[json!([1])]), json!([{"a": 1}]));
    }
}
