//! Leases alone: how many wconfd grants and takes back per second, each durable, with 64 callers at once. Speaks as luxid
//! does, to a wconfd whose pool is of the `fake` driver: nothing but the writer is measured.

use crate::figure::Figure;
use crate::floor;
use anyhow::{Context, Result, ensure};
use gantry_model::ids::LeaseUuid;
use gantry_model::lease::LeaseOwner;
use gantry_model::role::RoleFile;
use gantry_proto::codec::Json;
use gantry_proto::wconfd::{self, Apply, ApplyRequest, Command, Owners};
use gantry_rpc::{Client, Hello};
use gantry_tests::{Options, VirtualCluster, pool, wait};
use std::path::Path;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Callers at once.
const IN_FLIGHT: usize = 64;
/// How long it is measured.
const WINDOW: Duration = Duration::from_secs(5);
/// Ended leases that a caller lets wconfd forget in one command, as luxid does.
const FORGET: usize = 32;
/// More than any step here takes.
const LONG: Duration = Duration::from_secs(120);
/// Newer than any run of the cluster's own luxid: wconfd listens to the newest.
const RUN: u64 = 1 << 40;

/// The figure, with the floor beside it.
pub fn measure() -> Result<Vec<Figure>> {
    // VMs that exist on paper need no CPUs.
    let ratio = format!("--ipolicy-vcpu-ratio={IN_FLIGHT}");
    let cluster = VirtualCluster::start(&Options { init: vec![ratio], ..Options::new(1) })?;
    pool::add(&cluster, "fake", IN_FLIGHT)?;
    let mut luxi = cluster.luxi()?;
    wait::until("all fake VMs are clean", LONG, || {
        let slots = pool::slots(&mut luxi).ok()?;
        (slots.len() == IN_FLIGHT && slots.iter().all(|slot| slot.state == "CLEAN")).then_some(())
    })?;
    let flushes = floor::flush_rate()?;
    let master = cluster.master();
    let role = std::fs::read(master.root.join("var/lib/gantry/role.json")).context("reading role.json")?;
    let (socket, role) = (master.socket("wconfd.sock"), serde_json::from_slice::<RoleFile>(&role)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let rate = runtime.block_on(rate(&socket, &role))?;
    Ok(vec![
        Figure {
            name: "leases granted and ended per second, 64 in flight",
            value: format!("{rate:.0}/s"),
            aim: "aim ≥ 1,000/s".to_owned(),
        },
        Figure {
            name: "  beside the flush floor just before",
            value: format!("{flushes:.0}/s"),
            aim: String::new(),
        },
    ])
}

async fn rate(socket: &Path, role: &RoleFile) -> Result<f64> {
    let mut hello = Hello::new(wconfd::PROTOCOL, "gantry-luxid");
    hello.cluster = Some(role.cluster);
    hello.epoch = Some(role.epoch);
    hello.run = Some(RUN);
    let client = Client::unix(socket, &hello).await?;
    client.call::<Owners>(&Vec::new(), LONG).await?;
    let begin = Instant::now();
    let callers: Vec<_> = (0..IN_FLIGHT).map(|_| tokio::spawn(caller(client.clone()))).collect();
    let mut count = 0;
    for caller in callers {
        count += caller.await??;
    }
    Ok(f64::from(count) / begin.elapsed().as_secs_f64())
}

/// Grabs and ends leases until time is over; how many.
async fn caller(client: Client) -> Result<u32> {
    let (end, mut count, mut over) = (Instant::now() + WINDOW, 0, Vec::new());
    while Instant::now() < end {
        let lease = LeaseUuid(Uuid::new_v4());
        let grab = Command::LeaseGrab {
            lease,
            owner: LeaseOwner::User { name: "bench".to_owned() },
            pool: pool::NAME.to_owned(),
            count: 1,
            for_ms: 60_000,
            ttl_ms: None,
        };
        let granted = apply(&client, grab).await?;
        ensure!(granted["state"] == "granted", "{granted}");
        apply(&client, Command::LeaseEnd { lease, why: "bench".to_owned() }).await?;
        over.push(lease);
        count += 1;
        if over.len() == FORGET {
            apply(&client, Command::LeaseForget { leases: std::mem::take(&mut over) }).await?;
        }
    }
    Ok(count)
}

async fn apply(client: &Client, command: Command) -> Result<serde_json::Value> {
    let request = ApplyRequest { owner: None, seq: 0, commands: Json::of(&vec![command])? };
    let reply = client.call::<Apply>(&request, LONG).await?;
    reply.results.read()?.pop().context("a result")
}
