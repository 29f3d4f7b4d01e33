//! Submitting what passes planned, and reading what they plan from.

use crate::core::job::KeyedJob;
use crate::core::pass::Pass;
use crate::core::seen::{
    BLUEPRINT_FIELDS, Blueprint, NODE_FIELDS, Node, POOL_FIELDS, Pool, SLOT_FIELDS, Seen, Slot,
};
use crate::error::LuxiError;
use crate::io::luxi::{Entry, Luxi};
use gantry_model::config::kind;
use gantry_model::ids::InstanceUuid;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Most jobs of one call: an answer comes in milliseconds, and a message stays small.
const ENTRIES_MAX: usize = 64;
/// Most slots of one query by uuid.
const SLOTS_MAX: usize = 256;

/// What came of a pass.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Jobs that are new, by number.
    pub new: Vec<(u64, KeyedJob)>,
    /// What could not be asked for again because a live job has its key, by that job's number.
    pub known: Vec<(u64, KeyedJob)>,
    /// What luxid refused, and why.
    pub refused: Vec<(String, KeyedJob)>,
}

/// Submits jobs. A lot of which some slot has a live job is halved until only that slot is left out.
///
/// # Errors
/// See [`LuxiError`]. What was submitted before stays so; asking again collapses.
pub async fn submit(luxi: &mut Luxi, pass: Pass, jobs: Vec<KeyedJob>) -> Result<Outcome, LuxiError> {
    let mut outcome = Outcome::default();
    let mut left = jobs;
    while !left.is_empty() {
        let rest = left.split_off(left.len().min(ENTRIES_MAX));
        let now = gantry_model::time::now_nanos();
        let entries: Vec<Entry> = left.iter().map(|job| (job.keys(), vec![job.opcode(pass, now)])).collect();
        let answers = luxi.submit(&entries).await?;
        let mut again = Vec::new();
        for (job, answer) in left.into_iter().zip(answers) {
            match answer {
                Ok((id, true)) => {
                    tracing::debug!(%pass, job = id, keys = ?job.keys(), "submitted");
                    outcome.new.push((id, job));
                }
                Ok((id, false)) => match job.halves() {
                    Some(halves) => again.extend(halves),
                    None => outcome.known.push((id, job)),
                },
                Err(why) => {
                    tracing::warn!(%pass, why, keys = ?job.keys(), "luxid takes no job");
                    outcome.refused.push((why, job));
                }
            }
        }
        again.extend(rest);
        left = again;
    }
    Ok(outcome)
}

/// Pools and all slots; nodes are the caller's.
///
/// # Errors
/// See [`LuxiError`].
pub async fn whole(luxi: &mut Luxi) -> Result<Seen, LuxiError> {
    let mut pools: Vec<Pool> = luxi.query(kind::POOL, POOL_FIELDS, Value::Null).await?;
    if pools.is_empty() {
        return Ok(Seen::default());
    }
    let blueprints: Vec<Blueprint> = luxi.query(kind::BLUEPRINT, BLUEPRINT_FIELDS, Value::Null).await?;
    let enabled: BTreeMap<&str, bool> = blueprints.iter().map(|b| (b.name.as_str(), b.enabled)).collect();
    for pool in &mut pools {
        pool.enabled = pool.blueprint.as_deref().is_some_and(|name| enabled.get(name) == Some(&true));
    }
    let slots = luxi.query(kind::SLOT, SLOT_FIELDS, Value::Null).await?;
    Ok(Seen { pools, slots, ..Seen::default() })
}

/// These slots, as far as there are any.
///
/// # Errors
/// See [`LuxiError`].
pub async fn some(luxi: &mut Luxi, slots: &[InstanceUuid]) -> Result<Vec<Slot>, LuxiError> {
    let mut found = Vec::new();
    for lot in slots.chunks(SLOTS_MAX) {
        let mut filter = vec![json!("|")];
        filter.extend(lot.iter().map(|uuid| json!(["==", "uuid", uuid])));
        found.extend(luxi.query::<Slot>(kind::SLOT, SLOT_FIELDS, Value::Array(filter)).await?);
    }
    Ok(found)
}

/// All nodes; each is asked for its memory, to see whether it is there.
///
/// # Errors
/// See [`LuxiError`].
pub async fn nodes(luxi: &mut Luxi) -> Result<Vec<Node>, LuxiError> {
    luxi.query(kind::NODE, NODE_FIELDS, Value::Null).await
}
