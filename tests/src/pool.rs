//! Pools as people make them, and their slots as queries show them.

use crate::{Luxi, VirtualCluster};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fmt;

/// Name of the one pool and its blueprint.
pub const NAME: &str = "quick";
/// Sizes of a VM: what the largest example asks for, and a little more. An `oci` VM's disk is in its memory.
const SIZES: [&str; 6] = ["-B", "memory=128M,vcpus=1", "--disk", "32M", "--pids", "64"];

/// Adds the blueprint, on image `host`, and a pool of so many VMs; they are being made when this returns.
///
/// # Errors
/// When it is refused.
pub fn add(cluster: &VirtualCluster, driver: &str, size: usize) -> Result<()> {
    cluster.run(&[&["blueprint", "add", "-H", driver, "--image", "host"], &SIZES[..], &[NAME]].concat())?;
    cluster.run(&["pool", "add", NAME, "--blueprint", NAME, "--size", &size.to_string()]).map(drop)
}

/// Removes the pool and its slots.
///
/// # Errors
/// When it is refused.
pub fn remove(cluster: &VirtualCluster) -> Result<()> {
    cluster.run(&["pool", "remove", NAME]).map(drop)
}

/// A slot of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// `POOL-NUMBER`.
    pub name: String,
    /// Never changes.
    pub uuid: String,
    /// Current generation.
    pub generation: u64,
    /// The state's word.
    pub state: String,
    /// Name of its node.
    pub node: String,
    /// Why it is dirty or not there.
    pub why: String,
}

impl Slot {
    /// How the runtime id of its VM ends.
    #[must_use]
    pub fn suffix(&self) -> String {
        format!("-{}-{}", self.uuid, self.generation)
    }

    /// Whether something of it may be on its node.
    #[must_use]
    pub fn lives(&self) -> bool {
        self.state != "ABSENT"
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} generation {} is {} {}", self.name, self.generation, self.state, self.why)
    }
}

/// All slots of all pools.
///
/// # Errors
/// When luxid does not answer.
pub fn slots(luxi: &mut Luxi) -> Result<Vec<Slot>> {
    let rows = luxi.query("slot", &["name", "uuid", "generation", "state", "node", "why"], Value::Null)?;
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let slot = |row: &Vec<Value>| -> Result<Slot> {
        ensure!(row.len() == 6, "a slot has six fields: {row:?}");
        Ok(Slot {
            name: word(&row[0]),
            uuid: word(&row[1]),
            generation: row[2].as_u64().context("a generation")?,
            state: word(&row[3]).to_uppercase(),
            node: word(&row[4]),
            why: word(&row[5]),
        })
    };
    rows.iter().map(slot).collect()
}
