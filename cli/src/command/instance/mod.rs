//! `gnt-instance`: virtual machines outside pools.

mod info;

use crate::command::tags::{self, Change, Tags};
use crate::error::{CliError, EXIT_FAILURE};
use crate::list::{JOINED, ListOptions, Listing, TableOptions};
use crate::opcode::SubmitOptions;
use crate::output::text::plain;
use crate::output::units::parse_mib;
use crate::params::{backend, disks, guessed, named, nics};
use crate::session::Session;
use serde_json::{Value, json};

/// Virtual machines outside pools
#[derive(Debug, clap::Args)]
pub struct Family {
    #[command(subcommand)]
    command: Instance,
}

#[derive(Debug, clap::Subcommand)]
enum Instance {
    /// Make an instance
    Add(Box<Add>),
    /// Stop an instance and remove it with its disks
    Remove {
        /// The instance
        instance: String,
        /// Do not ask
        #[arg(short, long)]
        force: bool,
        /// Go on when something of it cannot be removed
        #[arg(long)]
        ignore_failures: bool,
        /// Seconds for its own shutdown
        #[arg(long, value_name = "SECONDS", default_value_t = 120)]
        shutdown_timeout: u32,
        #[command(flatten)]
        job: SubmitOptions,
    },
    /// List instances
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
    /// Show instances in full
    Info {
        /// The instances
        instances: Vec<String>,
        /// All instances
        #[arg(long)]
        all: bool,
        /// Only what the configuration says: ask no node
        #[arg(short = 's', long = "static")]
        statically: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Start instances
    #[command(alias = "start")]
    Startup {
        #[command(flatten)]
        names: Many,
        #[command(flatten)]
        job: SubmitOptions,
    },
    /// Stop instances
    #[command(alias = "stop")]
    Shutdown {
        #[command(flatten)]
        names: Many,
        /// Seconds for its own shutdown before it is stopped hard
        #[arg(long, value_name = "SECONDS", default_value_t = 120)]
        timeout: u32,
        #[command(flatten)]
        job: SubmitOptions,
    },
    /// Add tags to an instance
    AddTags {
        /// The instance
        instance: String,
        #[command(flatten)]
        tags: Tags,
    },
    /// Remove tags from an instance
    RemoveTags {
        /// The instance
        instance: String,
        #[command(flatten)]
        tags: Tags,
    },
    /// List an instance's tags
    ListTags {
        /// The instance
        instance: String,
    },
}

/// Which instances are started or stopped.
#[derive(Debug, clap::Args)]
struct Many {
    /// The instances
    names: Vec<String>,
    /// All instances
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// Go on in spite of errors that allow it
    #[arg(short, long)]
    force: bool,
    /// Do not ask when several are meant
    #[arg(long)]
    force_multiple: bool,
    /// Do it though the node is marked offline
    #[arg(long)]
    ignore_offline: bool,
    /// Leave the wanted state as it is: it may be undone by the cluster
    #[arg(long)]
    no_remember: bool,
}

#[derive(Debug, clap::Args)]
struct Add {
    /// The instance's full name
    instance: String,
    /// Disk template, such as diskless or file
    #[arg(short = 't', long, value_name = "TEMPLATE", default_value = "diskless")]
    disk_template: String,
    /// OS (and variant: noop+default)
    #[arg(short = 'o', long, value_name = "OS")]
    os_type: Option<String>,
    /// Node to place it on
    #[arg(short = 'n', long, value_name = "NODE", conflicts_with = "iallocator")]
    node: Option<String>,
    /// Allocator that places it; without this and --node the cluster's default one
    #[arg(short = 'I', long, value_name = "NAME")]
    iallocator: Option<String>,
    /// Backend parameters, such as memory=512,vcpus=2
    #[arg(short = 'B', long = "backend-parameters", value_name = "KEY=VALUE,...")]
    backend: Option<String>,
    /// Hypervisor and its parameters, such as fake:migration_mode=live
    #[arg(short = 'H', long = "hypervisor-parameters", value_name = "NAME[:KEY=VALUE,...]")]
    hypervisor: Option<String>,
    /// OS parameters
    #[arg(short = 'O', long = "os-parameters", value_name = "KEY=VALUE,...")]
    os_parameters: Option<String>,
    /// A disk, such as 0:size=1G; may be given several times
    #[arg(long = "disk", value_name = "N:size=SIZE,...", conflicts_with = "os_size")]
    disks: Vec<String>,
    /// Size of the only disk
    #[arg(short = 's', long, value_name = "SIZE")]
    os_size: Option<String>,
    /// A network interface, such as 0:ip=192.0.2.7; may be given several times
    #[arg(long = "net", value_name = "N:KEY=VALUE,...", conflicts_with = "no_nics")]
    nics: Vec<String>,
    /// No network interface
    #[arg(long)]
    no_nics: bool,
    /// Do not start it
    #[arg(long)]
    no_start: bool,
    /// Do not run the OS's create script
    #[arg(long)]
    no_install: bool,
    /// Do not look the name up
    #[arg(long)]
    no_name_check: bool,
    /// Do not check whether its address answers already
    #[arg(long)]
    no_ip_check: bool,
    /// Do not check addresses against the cluster's networks
    #[arg(long)]
    no_conflicts_check: bool,
    /// Make it in spite of the instance policy
    #[arg(long)]
    ignore_ipolicy: bool,
    /// Only reserve it; it is made later with --commit
    #[arg(long)]
    forthcoming: bool,
    /// Make an instance that was reserved with --forthcoming
    #[arg(long, conflicts_with = "forthcoming")]
    commit: bool,
    /// Tags, separated by commas
    #[arg(long, value_name = "TAG,...", value_delimiter = ',')]
    tags: Vec<String>,
    #[command(flatten)]
    job: SubmitOptions,
}

impl Add {
    /// The opcode's parameters.
    fn given(&self) -> Result<Value, String> {
        let (hypervisor, hvparams) = match &self.hypervisor {
            Some(text) => named(text).map(|(name, params)| (Some(name), guessed(params)))?,
            None => (None, serde_json::Map::new()),
        };
        let disks = match &self.os_size {
            Some(size) => json!([{"size": parse_mib(size)?}]),
            None => disks(&self.disks)?,
        };
        if self.disk_template == "diskless" && disks != json!([]) {
            return Err(
                "a diskless instance has no disks; choose another template with -t, or leave --disk out"
                    .to_owned(),
            );
        }
        let nics = match (self.no_nics, self.nics.is_empty()) {
            (true, _) => json!([]),
            (false, true) => json!([{}]),
            (false, false) => nics(&self.nics)?,
        };
        let osparams = self.os_parameters.as_deref().map(crate::params::key_values).transpose()?;
        Ok(json!({
            "instance_name": self.instance,
            "mode": "create",
            "disk_template": self.disk_template,
            "disks": disks,
            "nics": nics,
            "os_type": self.os_type,
            "osparams": osparams,
            "osparams_private": {},
            "osparams_secret": {},
            "hypervisor": hypervisor,
            "hvparams": hvparams,
            "beparams": self.backend.as_deref().map(backend).transpose()?,
            "pnode": self.node,
            "iallocator": self.iallocator,
            "start": !(self.no_start || self.no_install || self.forthcoming),
            "no_install": self.no_install,
            "name_check": !self.no_name_check,
            "ip_check": !(self.no_ip_check || self.no_name_check),
            "conflicts_check": !self.no_conflicts_check,
            "ignore_ipolicy": self.ignore_ipolicy,
            "forthcoming": self.forthcoming,
            "commit": self.commit,
            "tags": self.tags,
        }))
    }
}

const LIST: Listing = Listing {
    what: "instance",
    fields: &["name", "hypervisor", "os", "pnode", "status", "oper_ram"],
    key: "name",
    numeric: false,
    overrides: &[
        ("tags", JOINED),
        ("snodes", JOINED),
        ("snodes.group", JOINED),
        ("snodes.group.uuid", JOINED),
        ("disk.sizes", JOINED),
        ("nic.macs", JOINED),
        ("nic.ips", JOINED),
        ("nic.modes", JOINED),
        ("nic.links", JOINED),
        ("nic.bridges", JOINED),
        ("nic.networks", JOINED),
        ("nic.networks.names", JOINED),
    ],
};

/// Runs one command.
///
/// # Errors
/// The command's.
pub async fn run(mut session: Session, family: Family) -> Result<(), CliError> {
    let session = &mut session;
    match family.command {
        Instance::Add(add) => {
            session.command = "add".to_owned();
            let given = add.given().map_err(CliError::Usage)?;
            session.run_op("OP_INSTANCE_CREATE", given, &add.job).await.map(drop)
        }
        Instance::Remove { instance, force, ignore_failures, shutdown_timeout, job } => {
            session.command = "remove".to_owned();
            let question = format!(
                "This will remove the volumes of the instance {instance} (including mirrors), thus removing all the \
                 data of the instance. Continue?"
            );
            if !force && !session.confirm(&question, "--force")? {
                return Err(CliError::Told(EXIT_FAILURE));
            }
            let given = json!({
                "instance_name": instance, "ignore_failures": ignore_failures, "shutdown_timeout": shutdown_timeout
            });
            session.run_op("OP_INSTANCE_REMOVE", given, &job).await.map(drop)
        }
        Instance::List { names, list } => session.list(&LIST, &list, &names).await,
        Instance::ListFields { fields, table } => session.list_fields("instance", &fields, &table).await,
        Instance::Info { instances, all, statically, json } => {
            info::run(session, &instances, all, statically, json).await
        }
        Instance::Startup { names, job } => {
            session.command = "startup".to_owned();
            many(session, &names, &job, "OP_INSTANCE_STARTUP", "Startup", None).await
        }
        Instance::Shutdown { names, timeout, job } => {
            session.command = "shutdown".to_owned();
            many(session, &names, &job, "OP_INSTANCE_SHUTDOWN", "Shutdown", Some(timeout)).await
        }
        Instance::AddTags { instance, tags } => {
            session.command = "add-tags".to_owned();
            tags::change(session, Change::Add, "instance", Some(&instance), &tags).await
        }
        Instance::RemoveTags { instance, tags } => {
            session.command = "remove-tags".to_owned();
            tags::change(session, Change::Remove, "instance", Some(&instance), &tags).await
        }
        Instance::ListTags { instance } => tags::list(session, "instance", &instance).await,
    }
}

/// One job per instance, after asking when several are meant.
async fn many(
    session: &mut Session,
    many: &Many,
    options: &SubmitOptions,
    id: &str,
    verb: &str,
    timeout: Option<u32>,
) -> Result<(), CliError> {
    if many.names.is_empty() && !many.all {
        return Err(CliError::Usage("no instance given; name some, or give --all".to_owned()));
    }
    let rows = session.call("QueryInstances", json!([many.names, ["name"], false])).await?;
    let rows = rows.as_array().cloned().unwrap_or_default();
    let unknown = crate::command::node::missing(&many.names, &rows);
    if !unknown.is_empty() {
        return Err(CliError::plain(format!(
            "Instance(s) {} not known; list them with \"{}\"",
            unknown.join(", "),
            session.typed("instance", "list")
        )));
    }
    let names: Vec<String> = rows.iter().map(|row| plain(&row[0])).collect();
    if names.is_empty() {
        return Err(CliError::plain("there are no instances"));
    }
    if (many.all || names.len() > 1) && !many.force_multiple {
        let question = format!("{verb} these {} instances: {}?", names.len(), names.join(", "));
        if !session.confirm(&question, "--force-multiple")? {
            return Err(CliError::Told(EXIT_FAILURE));
        }
    }
    let mut ops = Vec::new();
    for name in names {
        let mut given = json!({
            "instance_name": name, "force": many.force, "ignore_offline_nodes": many.ignore_offline,
            "no_remember": many.no_remember
        });
        if let Some(timeout) = timeout {
            given["timeout"] = json!(timeout);
        }
        let op = session.op(id, given, options)?;
        ops.push((name, op));
    }
    if session.run_many(ops, options).await? { Ok(()) } else { Err(CliError::Told(EXIT_FAILURE)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        add: Add,
    }

    fn add(args: &[&str]) -> Result<Value, String> {
        Only::try_parse_from([&["x"], args].concat()).map_err(|e| e.to_string())?.add.given()
    }

    #[test]
    fn a_new_instance_has_the_parameters_that_were_asked_for() {
        let given = add(&[
            "-t",
            "file",
            "-o",
            "noop",
            "-n",
            "n1",
            "-B",
            "memory=1G",
            "-H",
            "fake",
            "--disk",
            "0:size=1G",
            "a.x",
        ])
        .unwrap();
        assert_eq!(given["beparams"], json!({"maxmem": 1024, "minmem": 1024}));
        assert_eq!(given["disks"], json!([{"size": 1024}]));
        assert_eq!((&given["hypervisor"], &given["nics"]), (&json!("fake"), &json!([{}])));
        assert_eq!((&given["start"], &given["name_check"]), (&json!(true), &json!(true)));
        let given = add(&["--no-nics", "--no-start", "--no-name-check", "a"]).unwrap();
        assert_eq!(
            (&given["nics"], &given["start"], &given["ip_check"]),
            (&json!([]), &json!(false), &json!(false))
        );
        assert!(add(&["-t", "diskless", "--disk", "0:size=1G", "a"]).is_err());
        assert!(add(&["-n", "n", "-I", "hail", "a"]).is_err());
    }
}
