//! OP_NODE_AUDIT: has a node kill VMs that carry this cluster's label and are no current ones, and destroys there what it
//! has of slots that the cluster does not know (C15): they were removed while the node was away, or a backup lacks them. A node that is no master candidate loses what it has of one.

use crate::core::together::together;
use crate::error::OpFail;
use crate::io::nodes::{CALL, VM_CALL};
use crate::ops::{Args, Cx, Locks, candidate};
use gantry_model::config::{Node, kind};
use gantry_model::error::Ecode;
use gantry_proto::noded::{Audit, Inventory, SlotFacts, VmDestroy, VmRef, VmState};
use gantry_proto::wconfd::ReadKey;
use serde_json::{Value, json};
use std::collections::HashSet;

/// Slots looked up at once.
const LOOKED_UP: usize = 256;
/// Most strangers destroyed by one audit, all at once; the next one goes on.
const DESTROYED_MAX: usize = 16;

/// Runs it. Result: `{"killed": [runtime id, …], "failed": [[runtime id, why], …], "seen": n}`.
pub async fn run(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    cx.begin(Locks::none()).await?;
    let node = cx.master.node(args.named("node_name", "node_uuid")?).await?;
    if node.offline {
        return Err(OpFail::prereq(format!("Node {} is marked offline", node.name), Ecode::WrongState));
    }
    let mut found = cx.nodes.call::<Audit>(&node, &cx.nodes.fence(), VM_CALL).await?;
    for (stranger, destroyed) in destroy_unknown(cx, &node).await? {
        match destroyed {
            Ok(()) => found.killed.push(stranger),
            Err(why) => found.failed.push((stranger, why)),
        }
    }
    for runtime in &found.killed {
        cx.say(format!("node {}: killed the stranger {runtime}", node.name));
    }
    for (runtime, why) in &found.failed {
        cx.warn(format!("node {}: the stranger {runtime} could not be killed: {why}", node.name));
    }
    if candidate::put_right(cx, &node).await? {
        cx.say(format!(
            "node {}: was no master candidate; its role and key of one are taken away",
            node.name
        ));
    }
    Ok(json!({"killed": found.killed, "failed": found.failed, "seen": found.seen}))
}

/// Destroys what lives there in slots that are not in the configuration. The node is asked first: a slot is in the
/// configuration before a node hears of it, and its uuid is never used again once it is gone.
async fn destroy_unknown(cx: &mut Cx<'_>, node: &Node) -> Result<Vec<(String, Result<(), String>)>, OpFail> {
    let mut facts = cx.nodes.call::<Inventory>(node, &cx.nodes.fence(), CALL).await?;
    facts.retain(|facts| facts.state != VmState::Absent);
    let mut known = HashSet::new();
    for some in facts.chunks(LOOKED_UP) {
        let keys = some.iter().map(|facts| ReadKey::Key(kind::SLOT.to_owned(), facts.slot.to_string()));
        let (_, slots) = cx.master.read(keys.collect()).await?;
        known.extend(slots.into_iter().map(|slot| slot.key));
    }
    facts.retain(|facts| !known.contains(&facts.slot.to_string()));
    facts.truncate(DESTROYED_MAX);
    let (nodes, fence) = (cx.nodes, cx.nodes.fence());
    let works = facts.iter().map(|SlotFacts { slot, generation, .. }| async move {
        let vm = VmRef { fence, slot: *slot, generation: *generation };
        nodes.call::<VmDestroy>(node, &vm, VM_CALL).await
    });
    let mut told = Vec::new();
    for (facts, done) in facts.iter().zip(together(works).await) {
        let done = match done {
            Ok(_) => Ok(()),
            Err(OpFail::Error(why)) => Err(why.to_string()),
            Err(other) => return Err(other),
        };
        told.push((format!("slot {}.{}", facts.slot, facts.generation), done));
    }
    Ok(told)
}
