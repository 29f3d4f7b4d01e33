//! RConfD: answers ConfD queries (`spec/confd.md`) from this node's copy of the configuration, on every master candidate.
//! An answer exists as long as one candidate is there. Owns nothing on disk and changes nothing.
//!
//! ```text
//!  config.data, locks.data, wconf.log ─ inotify, data_version ─▶ watch ─▶ load ─▶ Snapshot ─┐
//!  hmac.key, hmac.key.old ──────────────────────────────────────▶ watch ─▶ keys ────────────┤ Serving
//!                                                                                           ▼
//!  UDP ─ recvmmsg ─▶ worker: admit ─▶ gate ─▶ answer ─▶ seal ─ sendmmsg ─▶ UDP
//! ```
//!
//! | room | what |
//! |---|---|
//! | [`core::admit`], [`core::gate`] | who is answered |
//! | [`core::snapshot`], [`core::answer`] | what is answered |
//! | [`io`] | sockets, files, threads |
//!
//! Killing it loses the memory of what was answered, and nothing asked before its next start is answered by that.

pub mod config;
pub mod core;
pub mod error;
pub mod io;

use crate::config::{Args, Settings};
use crate::core::gate::{Gate, Now};
use crate::io::serve::{Worker, bind};
use crate::io::shared::Shared;
use crate::io::watch::Watch;
use crate::io::{metrics, near};
use anyhow::Context;
use gantry_confd::core::reply::quoted;
use gantry_rt::{Daemon, clock};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

/// Threads of one socket. Each core beyond has other work on a master.
const THREADS_MAX: usize = 4;

/// The daemon, until it is told to stop.
///
/// # Errors
/// A setting, an address or the directory can't be used.
pub async fn run(daemon: Daemon, args: Args) -> anyhow::Result<()> {
    let settings = Settings::load(&daemon.root, &args)?;
    let sockets = settings.addrs.iter().map(|addr| bind(*addr)).collect::<Result<Vec<_>, _>>()?;
    let ips: Vec<IpAddr> = settings.addrs.iter().map(|addr| addr.ip()).collect();
    let gate = Gate::new(settings.limits, Now { ms: clock::millis(), s: clock::now().0 });
    let shared = Arc::new(Shared::new(gate, near::networks(&ips), quoted(&settings.node), settings.clock_s));
    metrics::register(
        &mut daemon.metrics.lock().unwrap_or_else(PoisonError::into_inner),
        Arc::clone(&shared),
    );
    let (ready, stop) = (daemon.ready.clone(), daemon.stop.clone());
    let mut watch = Watch::new(daemon.root.clone(), Arc::clone(&shared), ready, stop.clone())?;
    // Whoever hears that it serves is answered from what is there now.
    let watch = tokio::task::spawn_blocking(move || {
        watch.first();
        watch
    });
    let watch = watch.await.context("the first look")?;
    daemon.tasks.spawn("watch", blocking(move || watch.run()));
    // Half of the cores: the others are for those whom the machine is there for. On two cores one thread answers more than two
    // do, which meet at the gate (docs/SPECIFICATION.md).
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = (cores / 2).clamp(1, THREADS_MAX);
    for socket in sockets {
        tracing::info!(addr = %socket.local_addr()?, threads, "listens");
        let socket = Arc::new(socket);
        for _ in 0..threads {
            let worker = Worker::new(Arc::clone(&socket), Arc::clone(&shared))?;
            let stop = stop.clone();
            daemon.tasks.spawn("answers", blocking(move || Ok(worker.run(&stop)?)));
        }
    }
    stop.cancelled().await;
    Ok(())
}

/// A thread as a task.
async fn blocking<F>(work: F) -> anyhow::Result<()>
where
    F: FnOnce() -> anyhow::Result<()> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.context("a thread was lost")?
}
