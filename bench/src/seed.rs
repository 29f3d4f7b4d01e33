//! Clusters with large configurations: made by init, then filled through the store while nothing runs.

use anyhow::{Context, Result, ensure};
use gantry_model::config::{AdminState, Instance, Params, Slot, Stamp, kind};
use gantry_model::ids::{InstanceUuid, NodeUuid};
use gantry_store::{Change, LogKind, StartOptions, seed};
use gantry_tests::{Options, VirtualCluster, wait};
use std::time::Duration;
use uuid::Uuid;

/// Instances per transaction while seeding.
const PER_BATCH: usize = 2000;

/// A one-node cluster with `count` instances that are down.
pub fn cluster(count: u32) -> Result<VirtualCluster> {
    fill(VirtualCluster::start(&Options::new(1))?, count)
}

/// Adds `count` instances that are down, on the master, which is the only candidate. All nodes are stopped meanwhile.
pub fn fill(cluster: VirtualCluster, count: u32) -> Result<VirtualCluster> {
    let node = master_uuid(&cluster)?;
    cluster.halt()?;
    let lib = cluster.master().root.join("var/lib/gantry");
    let changes = (0..count).flat_map(|number| changes(number, node));
    seed(&lib, StartOptions::new(LogKind::W), changes, PER_BATCH)?;
    for number in 0..cluster.nodes.len() {
        cluster.boot(number)?;
    }
    let mut luxi = cluster.luxi()?;
    let ready = || {
        let rows = luxi.call("QueryInstances", serde_json::json!([[], ["name"], false])).ok()?;
        (rows.as_array()?.len() == count as usize).then_some(())
    };
    wait::until("all seeded instances are there", Duration::from_secs(120), ready)?;
    Ok(cluster)
}

/// Name of the seeded instance of that number.
pub fn name(number: u32) -> String {
    format!("inst{number}.gantry.test")
}

fn master_uuid(cluster: &VirtualCluster) -> Result<NodeUuid> {
    let master = &cluster.master().name;
    let rows = cluster.luxi()?.call("QueryNodes", serde_json::json!([[master], ["uuid"], false]))?;
    ensure!(rows.as_array().is_some_and(|rows| rows.len() == 1), "one node is expected: {rows}");
    Ok(rows[0][0].as_str().context("a uuid")?.parse()?)
}

fn changes(number: u32, node: NodeUuid) -> Vec<Change> {
    let uuid = InstanceUuid(Uuid::from_u128(0x6761_6e74_7279_4000_8000_0000_0000_0000 + u128::from(number)));
    let instance = Instance {
        uuid,
        name: name(number),
        primary_node: node,
        os: "noop".to_owned(),
        hypervisor: "fake".to_owned(),
        hvparams: Params::new(),
        beparams: Params::new(),
        osparams: Params::new(),
        admin_state: AdminState::Down,
        admin_state_source: "admin".to_owned(),
        nics: Vec::new(),
        disk_template: "diskless".to_owned(),
        disks: Vec::new(),
        forthcoming: false,
        pool: None,
        stamp: Stamp::new(1_800_000_000.0),
        extra: Params::new(),
    };
    let body = |text: serde_json::Result<Vec<u8>>| text.expect("these types have a JSON form");
    let key = uuid.to_string();
    vec![
        Change {
            kind: kind::INSTANCE.to_owned(),
            key: key.clone(),
            rev: 1,
            body: Some(body(serde_json::to_vec(&instance))),
        },
        Change {
            kind: kind::SLOT.to_owned(),
            key,
            rev: 1,
            body: Some(body(serde_json::to_vec(&Slot::new(uuid, node)))),
        },
    ]
}
