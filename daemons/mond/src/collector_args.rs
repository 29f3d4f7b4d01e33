//! The command line of `gantry-mon-collector`.

use clap::{Parser, Subcommand};
use gantry_model::root::ROOT_ENV;
use std::path::PathBuf;

/// Prints one report of this node
#[derive(Debug, Parser)]
#[command(name = "gantry-mon-collector", version)]
pub struct Args {
    /// Root directory of this node
    #[arg(long, env = ROOT_ENV, default_value = "/", global = true)]
    pub root: PathBuf,
    /// Which report
    #[command(subcommand)]
    pub collector: Collector,
}

/// A report and what it is made from.
#[derive(Debug, Subcommand)]
pub enum Collector {
    /// What the kernel counts of each disk
    Diskstats {
        /// Read this file
        #[arg(short, long, value_name = "FILE", default_value = "/proc/diskstats")]
        file: PathBuf,
    },
    /// DRBD devices
    Drbd {
        /// Read this file; one that is not there is a machine without DRBD
        #[arg(short = 's', long = "drbd-status", value_name = "FILE", default_value = "/proc/drbd")]
        status: PathBuf,
        /// Which device is whose: a file with ConfD's answer to request 7
        #[arg(short = 'p', long = "drbd-pairing", value_name = "FILE")]
        pairing: Option<PathBuf>,
    },
    /// Instances of Xen; Gantry makes none
    InstStatusXen {
        #[command(flatten)]
        confd: Confd,
    },
    /// Logical volumes
    Lv {
        #[command(flatten)]
        confd: Confd,
        /// Read what lvs printed from this file instead of running it
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Which volume is whose: a file with a list of instances, each with a name and disks as ConfD tells them
        #[arg(short, long, value_name = "FILE")]
        instances: Option<PathBuf>,
    },
}

/// Taken because Ganeti's has them.
#[derive(Debug, clap::Args)]
pub struct Confd {
    /// Taken because Ganeti's has it; no daemon is asked
    #[arg(short, long)]
    pub address: Option<String>,
    /// Taken because Ganeti's has it
    #[arg(short, long)]
    pub port: Option<u16>,
}
