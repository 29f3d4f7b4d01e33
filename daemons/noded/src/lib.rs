//! NodeD (DESIGN §7, `protocols.md` P5): the RPC server of every node. It owns the node's durable records of slots
//! (floor, generation, state, holder), its fence, and the drivers that make VMs; it gives facts to the master and
//! writes ssconf and role files for it. It decides nothing about what should live: the master does.
//!
//! | room | what |
//! |---|---|
//! | [`core`] | pure rules: slot records, fence, join proofs, ssconf keys |
//! | [`member`] | a joined node at work: gate, slots, verbs |
//! | [`copies`] | the copies of the logs, bodies, the role |
//! | [`join`] | an unjoined node |
//! | [`driver`] | the seam to what makes VMs, and the fake one |
//! | [`io`] | records, files, facts of the machine |
//! | [`server`] | one node's life on its socket |

pub mod api;
pub mod config;
pub mod copies;
pub mod core;
pub mod driver;
pub mod error;
pub mod io;
pub mod join;
pub mod member;
pub mod metrics;
pub mod server;

use config::{Args, Settings};
use gantry_rt::Daemon;
use metrics::Metrics;
use server::{Ended, Server};
use std::sync::PoisonError;

/// The daemon: one node, or all of an identities file. Returns when stopped, or when its one node has left.
///
/// # Errors
/// When a node can't be served.
pub async fn run(daemon: Daemon, args: Args) -> anyhow::Result<()> {
    let metrics = {
        let mut registry = daemon.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        Metrics::register(&mut registry)
    };
    let Some(file) = &args.identities else {
        let settings = Settings::load(daemon.root.clone())?;
        let server = Server::bind(settings, daemon.tasks.clone(), metrics)?;
        daemon.ready.set(true, "");
        server.serve(&daemon.stop).await?;
        return Ok(());
    };
    let mut servers = Vec::new();
    for settings in Settings::load_identities(file)? {
        servers.push(Server::bind(settings, daemon.tasks.clone(), metrics.clone())?);
    }
    for server in servers {
        let stop = daemon.stop.clone();
        daemon.tasks.spawn("node", async move {
            // A node that left waits for its next cluster.
            while server.serve(&stop).await? == Ended::Left {}
            anyhow::Ok(())
        });
    }
    daemon.ready.set(true, "");
    daemon.stop.cancelled().await;
    Ok(())
}
