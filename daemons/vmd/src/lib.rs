//! The VM helper (DESIGN §7): owns VMs' processes, their outputs, caps and clocks, and lives on when noded dies. It is
//! boot's child, works in one thread (others only remove what is large), has a mount namespace of its own, and serves
//! `vmd.sock` to noded alone. It knows names, limits and commands; what a VM is for, and whether it should live, is
//! noded's affair.
//!
//! | room | what |
//! |---|---|
//! | [`core`] | why a command ended, what a VM may keep of outputs |
//! | [`vm`], [`command`] | one VM, one command |
//! | [`io`] | control groups, mounts, the runtime, the spool |
//! | [`api`] | a function per verb |

pub mod api;
pub mod command;
pub mod core;
pub mod error;
pub mod io;
pub mod vm;

use crate::io::cgroup::Layout;
use crate::io::runtime::Runtime;
use crate::io::spool::Spool;
use anyhow::Context;
use api::Api;
use gantry_model::root::ROOT_ENV;
use gantry_rpc::{Limits, serve_unix, unix};
use gantry_rt::Daemon;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use vm::{Shared, Vm};

/// How long all VMs may take to end when vmd stops: as many as there are die at once.
pub const PATIENCE: Duration = Duration::from_secs(8);

/// Owns the VMs of a node for gantry-noded.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "gantry-vmd", version)]
pub struct Args {
    /// Root directory of this node.
    #[arg(long, env = ROOT_ENV, default_value = "/")]
    pub root: PathBuf,
    /// Use this runtime only: crun or runc [default: crun, else runc]
    #[arg(long, env = "GANTRY_OCI_RUNTIME", value_name = "NAME", value_parser = ["crun", "runc"])]
    pub runtime: Option<String>,
    /// Log to this file instead of standard error.
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
}

/// gantry-init, which lies beside this program.
///
/// # Errors
/// When this program's own path is not to be had.
pub fn init_program() -> std::io::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("gantry-init"))
}

/// The daemon. The stage is set already ([`io::stage::enter`]). Returns when stopped; its VMs have ended then.
///
/// # Errors
/// Without a runtime or the socket.
pub async fn run(daemon: Daemon, layout: Layout, runtime: Option<String>) -> anyhow::Result<()> {
    become_subreaper().context("can't become subreaper")?;
    let runtime =
        Runtime::find(runtime.as_deref()).context("no OCI runtime: install crun (preferred) or runc")?;
    let version = runtime.version().await.context("the OCI runtime can't be run")?;
    let spool = Spool::open(&daemon.root).context("can't open the spool")?;
    let found = spool.load().context("can't read the spool")?;
    let (deaths, _) = broadcast::channel(vm::DEATHS_MAX);
    let shared = Shared { runtime, layout, spool, tasks: daemon.tasks.clone(), deaths };
    // All at once: each that does not die takes its time.
    let mut ends: JoinSet<_> = found.into_iter().map(|one| Vm::found(one, shared.clone())).collect();
    let mut vms = Vec::new();
    while let Some(vm) = ends.join_next().await {
        vms.push(vm.context("a VM of an earlier vmd")?);
    }
    tracing::info!(version, cgroups = shared.layout.name(), found = vms.len(), "serves VMs");
    let api = Arc::new(Api::new(shared, version, vms));
    let path = daemon.root.socket("vmd.sock");
    let listener = unix::bind(&path, 0o600).with_context(|| format!("can't listen on {}", path.display()))?;
    let served = CancellationToken::new();
    let serve = serve_unix(listener, Arc::clone(&api), Limits::default(), served.clone());
    daemon.tasks.spawn("vmd.sock", serve);
    daemon.ready.set(true, "");
    daemon.stop.cancelled().await;
    api.end_all().await;
    served.cancel();
    let _ = std::fs::remove_file(path);
    Ok(())
}

/// Orphans of a runtime that was killed come to vmd, which reaps them.
fn become_subreaper() -> std::io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}
