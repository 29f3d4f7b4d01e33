//! OP_NODE_SET_PARAMS (`spec/failover.md` §3): the rules are in [`crate::core::roles`], what follows from them is here.

use crate::core::hooks::Hooks;
use crate::core::roles::{Around, Asked, Plan, plan};
use crate::error::OpFail;
use crate::io::nodes::CALL;
use crate::ops::group::merged;
use crate::ops::{Args, Cx, Locks, candidate, node_slots};
use gantry_model::config::{Node, Params, filled};
use gantry_model::error::Ecode;
use gantry_proto::noded::NodeInfo;
use gantry_proto::wconfd::{Command, Want};
use serde_json::{Value, json};
use std::net::IpAddr;

/// Changes flags and parameters. Result: `[[name, new value]]`.
pub async fn set_params(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    let asked = asked(args);
    asked.check().map_err(OpFail::Error)?;
    let others = ["powered", "ndparams", "secondary_ip"];
    if asked.is_nothing() && others.iter().all(|name| args.get(name).is_none()) {
        return Err(OpFail::prereq("Please pass at least one modification", Ecode::WrongInput));
    }
    let node = cx.master.node(args.named("node_name", "node_uuid")?).await?;
    let fills = asked.auto_promote && asked.might_demote();
    let locks = Locks::shared().node_res(node.uuid, Want::Exclusive);
    let locks =
        if fills { locks.all_of("node", Want::Exclusive) } else { locks.node(node.uuid, Want::Exclusive) };
    cx.begin(locks).await?;
    let node = cx.master.node(&node.uuid.to_string()).await?;
    let (nodes, size) = (cx.master.nodes().await?, cx.master.cluster().await?.candidate_pool_size);
    let around = Around { nodes: &nodes, size, is_master: node.uuid == cx.go().master };
    let plan = plan(&asked, &node, around).map_err(OpFail::Error)?;
    let (mut set, mut told) = parameters(args, &node)?;
    if let Some(powered) = args.flag("powered") {
        has_oob(cx, &node).await?;
        set.insert("powered".to_owned(), json!(powered));
        told.push(json!(["powered", text(powered)]));
    }
    plan.infos.iter().for_each(|info| cx.info(info));
    told.extend(plan.told.iter().map(|(name, value)| json!([name, text(*value)])));
    set.extend(plan.set.clone());
    let there = std::slice::from_ref(&node);
    let hooks = hooks(args, &node).on_master().before_on(there).after_on(there);
    if returns(&set) {
        let there = Node { offline: false, ..node.clone() };
        cx.nodes.call::<NodeInfo>(&there, &(), CALL).await?;
    }
    cx.pre_hooks(&hooks).await?;
    if !node.offline
        && set.get("offline") == Some(&json!(true))
        && let Some(text) = node_slots::broken(node_slots::leases(cx, node.uuid).await?)
    {
        cx.warn(format!("Node {} goes offline: {text}", node.name));
    }
    carry_out(cx, &node, &plan, set).await?;
    if fills {
        candidate::fill(cx, &[node.uuid]).await?;
    }
    cx.post_hooks(&hooks).await?;
    Ok(Value::Array(told))
}

/// What is asked for, as Ganeti tells it: a flag that is not touched is "None".
fn hooks(args: &Args<'_>, node: &Node) -> Hooks {
    let asked = |name: &str| args.flag(name).map_or("None", text);
    Hooks::node(args.id(), "node-modify", node).with(&[
        ("MASTER_CANDIDATE", asked("master_candidate")),
        ("OFFLINE", asked("offline")),
        ("DRAINED", asked("drained")),
        ("MASTER_CAPABLE", asked("master_capable")),
        ("VM_CAPABLE", asked("vm_capable")),
    ])
}

fn asked(args: &Args<'_>) -> Asked {
    Asked {
        states: crate::core::roles::STATES.map(|name| args.flag(name)),
        master_capable: args.flag("master_capable"),
        vm_capable: args.flag("vm_capable"),
        auto_promote: args.bool("auto_promote"),
    }
}

/// As Python's `str` shows it.
fn text(flag: bool) -> &'static str {
    if flag { "True" } else { "False" }
}

/// The fields that are no flags, and what to tell the user of them.
fn parameters(args: &Args<'_>, node: &Node) -> Result<(Params, Vec<Value>), OpFail> {
    let (mut set, mut told) = (Params::new(), Vec::new());
    if let Some(own) = args.object("ndparams") {
        set.insert("ndparams".to_owned(), Value::Object(merged(&node.ndparams, own)));
        told.extend(own.iter().map(|(name, value)| json!([format!("ndparams/{name}"), value])));
    }
    if let Some(ip) = args.str("secondary_ip") {
        if ip.parse::<IpAddr>().is_err() {
            return Err(OpFail::prereq(format!("'{ip}' is no IP address"), Ecode::WrongInput));
        }
        set.insert("secondary_ip".to_owned(), json!(ip));
        told.push(json!(["secondary_ip", ip]));
    }
    Ok((set, told))
}

/// Whether the node can be switched on and off from outside, which its powered flag speaks of.
async fn has_oob(cx: &mut Cx<'_>, node: &Node) -> Result<(), OpFail> {
    let cluster = cx.master.cluster().await?;
    let group = cx.master.group(&node.group.to_string()).await?;
    let params = filled(&filled(&cluster.ndparams, &group.ndparams), &node.ndparams);
    if params.get("oob_program").and_then(Value::as_str).is_some_and(|program| !program.is_empty()) {
        return Ok(());
    }
    let text = format!("Node {} has no OOB program: its powered flag can't be changed", node.name);
    Err(OpFail::prereq(text, Ecode::WrongState))
}

/// Whether the node comes back into service.
fn returns(set: &Params) -> bool {
    set.get("offline") == Some(&json!(false))
}

/// A demotion is one change with all that belongs to it. A promotion comes last: the node must be in service first.
async fn carry_out(cx: &mut Cx<'_>, node: &Node, plan: &Plan, mut set: Params) -> Result<(), OpFail> {
    if plan.candidate == Some(false) {
        set.insert("master_candidate".to_owned(), json!(false));
        return candidate::demote(cx, node, set).await;
    }
    let returns = returns(&set);
    if returns {
        cx.warn(
            "Transitioning node from offline to online state without using re-add. Please make sure the node is healthy!",
        );
    }
    if !set.is_empty() {
        cx.apply(vec![Command::NodeSet { node: node.uuid, rev: Some(node.stamp.serial_no), set }]).await?;
    }
    if plan.candidate == Some(true) {
        if returns {
            cx.claimed(node).await?;
        }
        candidate::promote(cx, node).await?;
    }
    Ok(())
}
