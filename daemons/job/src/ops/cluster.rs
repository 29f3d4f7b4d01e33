//! OP_CLUSTER_POST_INIT, _DESTROY, _SET_PARAMS.

use crate::core::hooks::Hooks;
use crate::error::OpFail;
use crate::ops::candidate;
use crate::ops::group::merged;
use crate::ops::{Args, Cx, Locks};
use gantry_model::collector::{self, COLLECTORS, Collector, INTERVAL_US, INTERVAL_US_MAX, INTERVAL_US_MIN};
use gantry_model::config::{Cluster, Params, confd};
use gantry_model::error::Ecode;
use gantry_proto::wconfd::{Command, Want};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// The first job of a cluster. Result: true.
pub async fn post_init(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    cx.begin(Locks::exclusive()).await?;
    let cluster = cx.master.cluster().await?;
    let hooks = Hooks::cluster(args.id(), "cluster-init", &cluster.cluster_name);
    cx.post_hooks(&hooks.after_on_master()).await?;
    Ok(Value::Bool(true))
}

/// Checks that nothing is left. The caller then stops the daemons. Result: the master node's uuid.
pub async fn destroy(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    cx.begin(Locks::exclusive()).await?;
    let others: Vec<String> = cx
        .master
        .nodes()
        .await?
        .into_iter()
        .filter(|node| node.uuid != cx.go().master)
        .map(|node| node.name)
        .collect();
    if !others.is_empty() {
        let text = format!(
            "There are still {} node(s) in this cluster: {}; remove them first",
            others.len(),
            others.join(", ")
        );
        return Err(OpFail::prereq(text, Ecode::WrongState));
    }
    let instances = cx.master.instances().await?;
    let pools: BTreeSet<&str> = instances.iter().filter_map(|one| one.pool.as_deref()).collect();
    let own = instances.iter().filter(|one| one.pool.is_none()).count();
    let text = if own > 0 {
        format!(
            "There are still {own} instance(s) in this cluster; remove them first with gnt-instance remove"
        )
    } else if !pools.is_empty() {
        let pools = pools.into_iter().collect::<Vec<_>>().join(", ");
        format!(
            "There are still pools with slots in this cluster ({pools}); remove them first with gnt-pool remove"
        )
    } else {
        String::new()
    };
    if !text.is_empty() {
        return Err(OpFail::prereq(text, Ecode::WrongState));
    }
    let cluster = cx.master.cluster().await?;
    let hooks = Hooks::cluster(args.id(), "cluster-destroy", &cluster.cluster_name);
    // The last moment when somebody could run them.
    cx.post_hooks(&hooks.after_on_master()).await?;
    Ok(json!(cx.go().master))
}

/// Opcode parameters that replace a cluster field, and the field's name where it differs.
const PLAIN: &[(&str, &str)] = &[
    ("vg_name", "volume_group_name"),
    ("enabled_hypervisors", "enabled_hypervisors"),
    ("candidate_pool_size", "candidate_pool_size"),
    ("max_running_jobs", "max_running_jobs"),
    ("max_tracked_jobs", "max_tracked_jobs"),
    ("uid_pool", "uid_pool"),
    ("maintain_node_health", "maintain_node_health"),
    ("prealloc_wipe_disks", "prealloc_wipe_disks"),
    ("drbd_helper", "drbd_usermode_helper"),
    ("default_iallocator", "default_iallocator"),
    ("default_iallocator_params", "default_iallocator_params"),
    ("mac_prefix", "mac_prefix"),
    ("master_ip", "master_ip"),
    ("master_netdev", "master_netdev"),
    ("master_netmask", "master_netmask"),
    ("reserved_lvs", "reserved_lvs"),
    ("use_external_mip_script", "use_external_mip_script"),
    ("enabled_disk_templates", "enabled_disk_templates"),
    ("modify_etc_hosts", "modify_etc_hosts"),
    ("file_storage_dir", "file_storage_dir"),
    ("shared_file_storage_dir", "shared_file_storage_dir"),
    ("gluster_storage_dir", "gluster_storage_dir"),
    ("install_image", "install_image"),
    ("instance_communication_network", "instance_communication_network"),
    ("zeroing_image", "zeroing_image"),
    ("compression_tools", "compression_tools"),
    ("enabled_user_shutdown", "enabled_user_shutdown"),
    (confd::DIGEST, confd::DIGEST),
    (confd::STRICT_GANETI, confd::STRICT_GANETI),
    (confd::CONFIG_QUERY, confd::CONFIG_QUERY),
    (confd::ALLOWED_NETWORKS, confd::ALLOWED_NETWORKS),
    (confd::LEGACY_NETWORKS, confd::LEGACY_NETWORKS),
    (confd::LEGACY_TYPES, confd::LEGACY_TYPES),
];

/// Changes cluster parameters; null leaves one as it is. Result: null.
pub async fn set_params(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    // A larger pool promotes nodes.
    let size = args.uint("candidate_pool_size");
    let nodes = if size.is_some() { Want::Exclusive } else { Want::Shared };
    let locks = Locks::shared()
        .all_of("instance", Want::Shared)
        .all_of("nodegroup", Want::Shared)
        .all_of("node", nodes);
    cx.begin(locks).await?;
    let cluster = cx.master.cluster().await?;
    let set = changes(&cluster, args)?;
    if set.is_empty() {
        return Err(OpFail::prereq("Please pass at least one modification", Ecode::WrongInput));
    }
    let hooks = Hooks::cluster(args.id(), "cluster-modify", &cluster.cluster_name)
        .with(&[("NEW_VG_NAME", args.str("vg_name").unwrap_or_default())])
        .on_master();
    let change = vec![Command::ClusterSet { rev: Some(cluster.stamp.serial_no), set }];
    cx.check_and_pre_hooks(&hooks, &change).await?;
    cx.apply(change).await?;
    if size.is_some() {
        candidate::fill(cx, &[]).await?;
    }
    cx.post_hooks(&hooks).await?;
    Ok(Value::Null)
}

/// The new values of the fields that `args` touches.
fn changes(cluster: &Cluster, args: &Args<'_>) -> Result<Params, OpFail> {
    let mut set: Params = PLAIN
        .iter()
        .filter_map(|(parameter, field)| Some(((*field).to_owned(), args.get(parameter)?.clone())))
        .collect();
    if let Some(own) = args.object("ndparams") {
        set.insert("ndparams".to_owned(), Value::Object(merged(&cluster.ndparams, own)));
    }
    if let Some(own) = args.object("ipolicy") {
        set.insert("ipolicy".to_owned(), Value::Object(merged(&cluster.ipolicy, own)));
    }
    for (parameter, old) in [("beparams", &cluster.beparams), ("nicparams", &cluster.nicparams)] {
        if let Some(own) = args.object(parameter) {
            let default = old.get("default").cloned().unwrap_or_default();
            let own = if parameter == "beparams" { memory_split(own) } else { own.clone() };
            set.insert(parameter.to_owned(), json!({"default": merged(&default, &own)}));
        }
    }
    for (parameter, old) in [("hvparams", &cluster.hvparams), ("diskparams", &cluster.diskparams)] {
        if let Some(own) = args.object(parameter) {
            set.insert(parameter.to_owned(), merged_by_name(old, own)?);
        }
    }
    for field in ["hidden_os", "blacklisted_os"] {
        let edits = args.list(field);
        if !edits.is_empty() {
            set.insert(field.to_owned(), edited(cluster.extra.get(field), edits)?);
        }
    }
    collectors(cluster, args, &mut set)?;
    Ok(set)
}

/// `memory` sets both bounds (`spec/query.md` §6: an alias of maxmem).
pub fn memory_split(own: &Params) -> Params {
    let mut own = own.clone();
    if let Some(memory) = own.remove("memory") {
        own.entry("minmem").or_insert_with(|| memory.clone());
        own.entry("maxmem").or_insert(memory);
    }
    own
}

fn merged_by_name(old: &std::collections::BTreeMap<String, Params>, own: &Params) -> Result<Value, OpFail> {
    let mut all: Map<String, Value> =
        old.iter().map(|(name, params)| (name.clone(), Value::Object(params.clone()))).collect();
    for (name, params) in own {
        let Some(params) = params.as_object() else {
            return Err(OpFail::prereq(
                format!("parameters of '{name}' must be an object"),
                Ecode::WrongInput,
            ));
        };
        let before = old.get(name).cloned().unwrap_or_default();
        all.insert(name.clone(), Value::Object(merged(&before, params)));
    }
    Ok(Value::Object(all))
}

/// A list after `[["add"|"remove", name]…]`.
fn edited(old: Option<&Value>, edits: &[Value]) -> Result<Value, OpFail> {
    let mut list: Vec<Value> = old.and_then(Value::as_array).cloned().unwrap_or_default();
    for edit in edits {
        let name = edit.get(1).cloned().unwrap_or_default();
        match edit.get(0).and_then(Value::as_str) {
            Some("add") if !list.contains(&name) => list.push(name),
            Some("add") => {}
            Some("remove") => list.retain(|known| *known != name),
            _ => {
                return Err(OpFail::prereq(
                    format!("{edit} is not [\"add\" or \"remove\", name]"),
                    Ecode::WrongInput,
                ));
            }
        }
    }
    Ok(Value::Array(list))
}

/// The collectors' settings after a change; those of names that an older release did not know begin at their defaults.
fn collectors(cluster: &Cluster, args: &Args<'_>, set: &mut Params) -> Result<(), OpFail> {
    let (active, interval) = (args.object("enabled_data_collectors"), args.object("data_collector_interval"));
    if active.is_none() && interval.is_none() {
        return Ok(());
    }
    let mut all =
        cluster.extra.get("data_collectors").and_then(Value::as_object).cloned().unwrap_or_default();
    for (part, given) in [("active", active), ("interval", interval)] {
        for (name, value) in given.into_iter().flatten() {
            let known = collector(name)?;
            if part == "interval" {
                check_interval(name, value)?;
            }
            let settings = all
                .entry(name.as_str())
                .or_insert_with(|| json!({"active": known.active, "interval": INTERVAL_US}));
            if let Some(settings) = settings.as_object_mut() {
                settings.insert(part.to_owned(), value.clone());
            }
        }
    }
    set.insert("data_collectors".to_owned(), Value::Object(all));
    Ok(())
}

fn collector(name: &str) -> Result<&'static Collector, OpFail> {
    collector::find(name).ok_or_else(|| {
        let known: Vec<&str> = COLLECTORS.iter().map(|known| known.name).collect();
        let text = format!("there is no data collector '{name}'; there are {}", known.join(", "));
        OpFail::prereq(text, Ecode::WrongInput)
    })
}

/// Requests have microseconds, people type seconds: both are said.
fn check_interval(name: &str, value: &Value) -> Result<(), OpFail> {
    if value.as_u64().is_some_and(|us| (INTERVAL_US_MIN..=INTERVAL_US_MAX).contains(&us)) {
        return Ok(());
    }
    let (least, most) = (seconds(INTERVAL_US_MIN), seconds(INTERVAL_US_MAX));
    let given = value.as_f64().map_or_else(|| value.to_string(), |us| format!("{} ({value})", us / 1e6));
    let text = format!(
        "the interval of data collector '{name}' must be {least} to {most} seconds \
         ({INTERVAL_US_MIN} to {INTERVAL_US_MAX} microseconds in requests), not {given}"
    );
    Err(OpFail::prereq(text, Ecode::WrongInput))
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_refused_in_the_unit_that_was_typed() {
        let refused = |value: Value| match check_interval("diskstats", &value) {
            Ok(()) => String::new(),
            Err(OpFail::Error(why)) => why.to_string(),
            Err(_) => panic!("not an error of the input"),
        };
        for good in [100_000, 5_000_000, 86_400_000_000_u64] {
            assert_eq!(refused(json!(good)), "");
        }
        for (bad, given) in [
            (json!(0), "not 0 (0)"),
            (json!(50_000), "not 0.05 (50000)"),
            (json!(90_000_000_000_u64), "not 90000 (90000000000)"),
            (json!("5"), "not \"5\""),
        ] {
            let said = refused(bad);
            let wanted = "must be 0.1 to 86400 seconds (100000 to 86400000000 microseconds in requests), ";
            assert!(said.contains(&format!("{wanted}{given}")), "{said}");
        }
    }
}
