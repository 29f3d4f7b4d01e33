//! MonD (`spec/mond.md`): what this node is and does, as JSON reports over HTTP in Ganeti's form and as metrics. Runs on every
//! node of a cluster, needs no master, owns nothing on disk but its logs, and changes nothing.
//!
//! ```text
//!  /proc, control groups, lvs ──┐
//!  noded.data, role.json ───────┼─▶ a task per collector ─▶ Board ◀── HTTP: /1/…, /metrics
//!  admin sockets ───────────────┘          ▲
//!  the cluster's settings, instances ──────┘
//! ```
//!
//! | room | what |
//! |---|---|
//! | [`core::collect`] | what each collector makes of what it reads |
//! | [`core::board`] | the last report of each, and metrics |
//! | [`core::answer`] | the answer to a request |
//! | [`io::sources`] | where collectors read |
//! | [`io::collect`] | when they do, and for how long at most |
//! | [`io::cluster`], [`io::confd`] | settings and instances, and who tells them |
//! | [`io::gate`] | who gets a connection |
//! | [`io::proofs`] | the TLS listener's certificate, and what it wants to see |
//! | [`io::http`] | the server |
//!
//! A request is answered from the board alone: none waits for a collector, and a collector that fails or hangs costs its own
//! report only.

pub mod collector_args;
pub mod config;
pub mod core;
pub mod io;

use crate::config::{Args, Settings};
use crate::core::board::Board;
use crate::io::access::Access;
use crate::io::cluster::{Cluster, FIRST, Told};
use crate::io::gate::Gate;
use crate::io::http::{Counts, Door, Server};
use crate::io::proofs::{Proofs, read_tokens};
use crate::io::sources::{Places, Sources};
use anyhow::Context;
use gantry_rt::Daemon;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;

/// The daemon, until it is told to stop. `cluster` tells what the cluster says.
///
/// # Errors
/// Its settings cannot be used, or its address is taken.
pub async fn run(daemon: Daemon, args: Args, cluster: Arc<dyn Cluster>) -> anyhow::Result<()> {
    let own = Settings::load(&daemon.root, &args)?;
    let mut listeners = bind(&own.plain, &Door::Plain).await?;
    if !own.tls.is_empty() {
        let proofs = Arc::new(Proofs::new(&daemon.root, own.token_file.as_deref()));
        if let Some(path) = &own.token_file {
            read_tokens(path).map_err(anyhow::Error::msg)?;
        }
        // A node without a usable certificate still tells in plain; this logs why.
        let _ = proofs.current();
        listeners.extend(bind(&own.tls, &Door::Tls(proofs)).await?);
    }
    let counts = Counts::default();
    counts.register(&mut daemon.metrics.lock().unwrap_or_else(PoisonError::into_inner));
    // From here on requests wait in the kernel. Boot starts the master's daemons after this one: they must not wait for what
    // other nodes may answer.
    daemon.ready.set(true, "");
    let told = Told::first(cluster, FIRST, &daemon.stop).await;
    let board = Arc::new(Mutex::new(Board::new(&told.settings())));
    let sources = Arc::new(Sources::new(Places::of_machine(daemon.root.clone()), told.clone()));
    io::collect::spawn(&daemon, &sources, &board, &told.watch());
    daemon.tasks.spawn("cluster", io::cluster::follow(told, Arc::clone(&board), daemon.stop.clone()));
    let access = Access::open(&daemon.root);
    let server = Server::new(board, access, counts, Gate::new(own.allow));
    for (listener, door) in listeners {
        tracing::info!(address = %listener.local_addr()?, tls = matches!(door, Door::Tls(_)), "listens");
        daemon.tasks.spawn("http", server.clone().serve(listener, door, daemon.stop.clone()));
    }
    daemon.stop.cancelled().await;
    Ok(())
}

async fn bind(addresses: &[SocketAddr], door: &Door) -> anyhow::Result<Vec<(TcpListener, Door)>> {
    let mut bound = Vec::new();
    for address in addresses {
        let listener = TcpListener::bind(address).await;
        let listener =
            listener.with_context(|| format!("cannot listen on {address} (does another MonD run?)"))?;
        bound.push((listener, door.clone()));
    }
    Ok(bound)
}
