//! One program, many names: `gnt-node list` and `gantry node list` are the same command.

use crate::command::{
    blueprint, cluster, daemon, debug, group, instance, job, lease, node, os, pool, slot, task,
};
use crate::error::CliError;
use crate::session::Session;
use clap::{Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand};
use gantry_model::root::{ROOT_ENV, Root};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Where the node lies, for every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Root of the node: DIR/{etc,run,var/lib,var/log}/gantry [default: GANTRY_ROOT, else /]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global")]
    root: Option<PathBuf>,
}

impl Global {
    fn root(&self) -> Root {
        let named = self.root.clone().or_else(|| std::env::var_os(ROOT_ENV).map(PathBuf::from));
        named.map_or_else(Root::default, Root::new)
    }
}

/// What `--version` says. Programs that were built for debugging say so: they are several times slower.
const VERSION: &str = if cfg!(debug_assertions) {
    concat!(env!("CARGO_PKG_VERSION"), " (debug)")
} else {
    env!("CARGO_PKG_VERSION")
};

/// Gantry: disposable test machines for a cluster of hosts
#[derive(Debug, Parser)]
#[command(name = "gantry", version = VERSION, disable_help_subcommand = true)]
struct Front {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    family: Option<Family>,
}

/// The families, and what the front command has of its own.
#[derive(Debug, Subcommand)]
enum Family {
    Cluster(cluster::Family),
    Node(node::Family),
    Group(group::Family),
    Instance(instance::Family),
    Job(job::Family),
    Blueprint(blueprint::Family),
    Pool(pool::Family),
    Slot(slot::Family),
    Lease(lease::Family),
    Task(task::Family),
    Os(os::Family),
    Debug(debug::Family),
    Daemon(daemon::Family),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages
    #[command(hide = true)]
    Man {
        /// Where to
        dir: PathBuf,
    },
}

// A family called by a name of its own. No doc comment: clap would show it to users.
#[derive(Debug, Parser)]
#[command(version = VERSION, disable_help_subcommand = true)]
struct Alone<T: Args> {
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    family: T,
}

/// Names of the families' own programs.
pub const FAMILIES: &[&str] = &[
    "gnt-cluster",
    "gnt-node",
    "gnt-group",
    "gnt-instance",
    "gnt-job",
    "gnt-blueprint",
    "gnt-pool",
    "gnt-slot",
    "gnt-lease",
    "gnt-task",
    "gnt-os",
    "gnt-debug",
];

/// Parses what the program was called with and runs it.
///
/// # Errors
/// The command's own. Wrong usage, `--help` and `--version` end the process here.
pub async fn run(args: Vec<OsString>) -> Result<(), CliError> {
    let name =
        args.first().map(Path::new).and_then(Path::file_name).and_then(|n| n.to_str()).unwrap_or_default();
    match name.strip_prefix("gnt-") {
        Some("cluster") => alone::<cluster::Family>("gnt-cluster", args, Family::Cluster).await,
        Some("node") => alone::<node::Family>("gnt-node", args, Family::Node).await,
        Some("group") => alone::<group::Family>("gnt-group", args, Family::Group).await,
        Some("instance") => alone::<instance::Family>("gnt-instance", args, Family::Instance).await,
        Some("job") => alone::<job::Family>("gnt-job", args, Family::Job).await,
        Some("blueprint") => alone::<blueprint::Family>("gnt-blueprint", args, Family::Blueprint).await,
        Some("pool") => alone::<pool::Family>("gnt-pool", args, Family::Pool).await,
        Some("slot") => alone::<slot::Family>("gnt-slot", args, Family::Slot).await,
        Some("lease") => alone::<lease::Family>("gnt-lease", args, Family::Lease).await,
        Some("task") => alone::<task::Family>("gnt-task", args, Family::Task).await,
        Some("os") => alone::<os::Family>("gnt-os", args, Family::Os).await,
        Some("debug") => alone::<debug::Family>("gnt-debug", args, Family::Debug).await,
        _ => {
            let front = Front::parse_from(args);
            match front.family {
                Some(family) => dispatch(&front.global, family, true).await,
                None => Session::new(front.global.root(), "cluster", true).screen.raw(OVERVIEW),
            }
        }
    }
}

async fn alone<T: Args>(
    name: &'static str,
    args: Vec<OsString>,
    wrap: fn(T) -> Family,
) -> Result<(), CliError> {
    let mut command = Alone::<T>::command().name(name).bin_name(name);
    let front = Front::command();
    let same = name.strip_prefix("gnt-").and_then(|family| front.find_subcommand(family));
    if let Some(about) = same.and_then(clap::Command::get_about) {
        command = command.about(about.clone());
    }
    let matches = command.get_matches_from(args);
    let parsed = Alone::<T>::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    dispatch(&parsed.global, wrap(parsed.family), false).await
}

async fn dispatch(global: &Global, family: Family, front: bool) -> Result<(), CliError> {
    let session = |family| {
        let mut session = Session::new(global.root(), family, front);
        session.root_named = global.root.is_some();
        session
    };
    match family {
        Family::Cluster(family) => Box::pin(cluster::run(session("cluster"), family)).await,
        Family::Node(family) => Box::pin(node::run(session("node"), family)).await,
        Family::Group(family) => Box::pin(group::run(session("group"), family)).await,
        Family::Instance(family) => Box::pin(instance::run(session("instance"), family)).await,
        Family::Job(family) => Box::pin(job::run(session("job"), family)).await,
        Family::Blueprint(family) => Box::pin(blueprint::run(session("blueprint"), family)).await,
        Family::Pool(family) => Box::pin(pool::run(session("pool"), family)).await,
        Family::Slot(family) => Box::pin(slot::run(session("slot"), family)).await,
        Family::Lease(family) => Box::pin(lease::run(session("lease"), family)).await,
        Family::Task(family) => Box::pin(task::run(session("task"), family)).await,
        Family::Os(family) => Box::pin(os::run(session("os"), family)).await,
        Family::Debug(family) => Box::pin(debug::run(session("debug"), family)).await,
        Family::Daemon(family) => daemon::run(&session("daemon"), family).await,
        Family::Completion { shell } => completion(shell, &session("cluster")),
        Family::Man { dir } => manual(&dir),
    }
}

/// The completion script of the front command. The families' own names get theirs too.
fn completion(shell: clap_complete::Shell, session: &Session) -> Result<(), CliError> {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Front::command(), "gantry", &mut out);
    for name in FAMILIES {
        clap_complete::generate(shell, &mut family_command(name), *name, &mut out);
    }
    session.screen.raw(&String::from_utf8_lossy(&out))
}

/// A family as a command of its own, by a name of [`FAMILIES`].
fn family_command(name: &'static str) -> Command {
    let command = match name {
        "gnt-cluster" => Alone::<cluster::Family>::command(),
        "gnt-node" => Alone::<node::Family>::command(),
        "gnt-group" => Alone::<group::Family>::command(),
        "gnt-instance" => Alone::<instance::Family>::command(),
        "gnt-job" => Alone::<job::Family>::command(),
        "gnt-blueprint" => Alone::<blueprint::Family>::command(),
        "gnt-pool" => Alone::<pool::Family>::command(),
        "gnt-slot" => Alone::<slot::Family>::command(),
        "gnt-lease" => Alone::<lease::Family>::command(),
        "gnt-task" => Alone::<task::Family>::command(),
        "gnt-os" => Alone::<os::Family>::command(),
        _ => Alone::<debug::Family>::command(),
    };
    command.name(name).bin_name(name)
}

fn manual(dir: &Path) -> Result<(), CliError> {
    let failed =
        |error: std::io::Error| CliError::plain(format!("cannot write to {}: {error}", dir.display()));
    std::fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(Front::command(), dir).map_err(failed)?;
    for name in FAMILIES {
        clap_mangen::generate_to(family_command(name), dir).map_err(failed)?;
    }
    Ok(())
}

const OVERVIEW: &str = "\
Gantry keeps pools of clean virtual machines on a cluster of hosts, for tests.
'gantry node list' is 'gnt-node list': commands work alike under both names.

  gantry cluster    make, show, change, verify and end the cluster
  gantry node       its hosts: add, list, drain, remove
  gantry group      node groups
  gantry instance   virtual machines outside pools: add, start, stop, remove
  gantry blueprint  how pools' virtual machines are made
  gantry pool       how many are kept ready: add, resize, drain, remove
  gantry slot       a pool's places: list, recycle
  gantry lease      borrow machines: acquire, exec, put, get, release
  gantry task       tests: submit, list, log, wait, cancel, fetch
  gantry os         images: import, list, remove
  gantry job        what runs and ran: list, watch, cancel
  gantry debug      test jobs and locks
  gantry daemon     this node's daemons: status, start, stop

To begin on this machine:
  gantry cluster init --address IP --node-name NODE CLUSTER
  gantry blueprint add py && gantry pool add py --blueprint py --size 2 --wait
  gantry lease acquire py -- sh -c 'gantry lease exec $GANTRY_LEASE -- id'
'gantry FAMILY --help' says more; 'gantry completion bash' prints a script.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_fit_together() {
        Front::command().debug_assert();
        for name in FAMILIES {
            family_command(name).debug_assert();
        }
    }

    #[test]
    fn every_command_and_option_says_what_it_does() {
        fn check(command: &Command, path: &str) {
            for argument in
                command.get_arguments().filter(|a| !["help", "version"].contains(&a.get_id().as_str()))
            {
                assert!(argument.get_help().is_some(), "{path} {}", argument.get_id());
            }
            for sub in command.get_subcommands() {
                let path = format!("{path} {}", sub.get_name());
                assert!(sub.get_about().is_some(), "{path}");
                check(sub, &path);
            }
        }
        check(&Front::command(), "gantry");
    }

    #[test]
    fn the_overview_fits_a_screen_and_names_every_family() {
        assert!(OVERVIEW.lines().count() <= 24);
        assert!(FAMILIES.iter().all(|name| OVERVIEW.contains(&name.replace("gnt-", "gantry "))));
    }
}
