//! The command line.

use clap::{Parser, Subcommand};
use gantry_model::root::{ROOT_ENV, Root};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// WConfD: the only writer of the cluster's configuration and locks.
#[derive(Debug, Parser)]
#[command(name = "gantry-wconfd", version)]
pub struct Args {
    /// Where everything lies; also taken from GANTRY_ROOT
    #[arg(long, global = true, value_name = "DIR")]
    root: Option<PathBuf>,
    /// What to do; without it: serve
    #[command(subcommand)]
    pub command: Option<Command>,
}

impl Args {
    /// The root named on the command line, in the environment, or `/`.
    #[must_use]
    pub fn root(&self) -> Root {
        let named = self.root.clone().or_else(|| std::env::var_os(ROOT_ENV).map(PathBuf::from));
        named.map_or_else(Root::default, Root::new)
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve until told to stop (the default)
    Serve,
    /// Make this node the master of a new cluster
    Init(InitOptions),
    /// Make this candidate the master (started by gantry-boot for gnt-cluster master-failover)
    Elect(ElectOptions),
    /// Write the cluster's state into a new directory (started by gnt-cluster backup)
    Backup {
        /// The directory
        dir: PathBuf,
    },
    /// Make this node the master of what a backup holds (started by gnt-cluster restore)
    Restore(RestoreOptions),
}

/// How a backup is restored.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RestoreOptions {
    /// The backup
    pub dir: PathBuf,
    /// Check the backup, look at the other nodes and say what would be done
    #[arg(long)]
    pub look: bool,
    /// Go back to the backup though other copies have more
    #[arg(long)]
    pub yes_do_it: bool,
}

/// How an election is run.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ElectOptions {
    /// Look at the candidates and say what would be done
    #[arg(long)]
    pub look: bool,
    /// Do not ask the other candidates: what only they have is lost
    #[arg(long)]
    pub no_voting: bool,
    /// Do --no-voting without asking
    #[arg(long)]
    pub yes_do_it: bool,
    /// For Ganeti's callers: offline nodes hold no copy that counts, so they are left out in any case
    #[arg(long)]
    pub ignore_offline_nodes: bool,
    /// How long to wait for candidates that do not answer [default: 2000]
    #[arg(long, value_name = "MS")]
    pub patience_ms: Option<u32>,
}

/// What a new cluster is made of.
#[derive(Debug, Clone, clap::Args)]
pub struct InitOptions {
    /// Name of the cluster, formed like a host name
    #[arg(long, value_name = "NAME")]
    pub cluster_name: String,
    /// Full name of this node; needed unless node.toml has it
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Address of this node's daemons; needed unless node.toml has it
    #[arg(long, value_name = "IP")]
    pub address: Option<IpAddr>,
    /// TCP port of noded [default: that of node.toml, or 1811]
    #[arg(long, value_name = "PORT")]
    pub noded_port: Option<u16>,
    /// Secondary address of this node [default: the address]
    #[arg(long, value_name = "IP")]
    pub secondary_address: Option<IpAddr>,
    /// IPv4 of the cluster name, if it has one
    #[arg(long, value_name = "IP")]
    pub master_ip: Option<Ipv4Addr>,
    /// Network device of the cluster's address
    #[arg(long, value_name = "DEVICE")]
    pub master_netdev: Option<String>,
    /// Hypervisors to enable, comma separated; the first is the default
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "fake")]
    pub hypervisors: Vec<String>,
    /// First three bytes of generated MAC addresses
    #[arg(long, value_name = "XX:XX:XX")]
    pub mac_prefix: Option<String>,
    /// Name of the first node group
    #[arg(long, value_name = "NAME", default_value = gantry_model::defaults::GROUP_NAME)]
    pub group_name: String,
}
