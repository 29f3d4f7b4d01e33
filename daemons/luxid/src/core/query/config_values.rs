//! The method `QueryConfigValues` (`spec/luxi.md` §7).

use crate::core::mirror::Snapshot;
use gantry_model::error::GanetiError;
use serde_json::{Value, json};

/// What luxid itself knows of these values.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct QueueFlags {
    /// Whether the queue takes no new jobs.
    pub drained: bool,
    /// Until when the watcher pauses, epoch.
    pub watcher_pause: Option<f64>,
    /// The time now, epoch: a pause that is over is none.
    pub now: f64,
}

/// The values of these names, in order; null for an unknown name.
///
/// # Errors
/// No configuration yet.
pub fn config_values(
    config: &Snapshot,
    flags: QueueFlags,
    names: &[String],
) -> Result<Vec<Value>, GanetiError> {
    let cluster = config.cluster()?;
    let extra = |key: &str| cluster.extra.get(key).cloned().unwrap_or(Value::Null);
    let value = |name: &String| match name.as_str() {
        "cluster_name" => json!(cluster.cluster_name),
        "master_node" => json!(config.nodes().get(&cluster.master_node).map(|node| &node.name)),
        "drain_flag" => json!(flags.drained),
        "watcher_pause" => flags.watcher_pause.filter(|until| *until > flags.now).map_or(Value::Null, whole),
        "modify_ssh_setup" | "ssh_key_type" | "ssh_key_bits" => extra(name),
        _ => Value::Null,
    };
    Ok(names.iter().map(value).collect())
}

/// Seconds without their fraction, as clients expect an integer.
fn whole(epoch: f64) -> Value {
    #[allow(clippy::cast_possible_truncation, reason = "saturates; epochs are far below 2^63")]
    let seconds = epoch.trunc() as i64;
    json!(seconds)
}
