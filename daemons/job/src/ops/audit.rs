//! OP_NODE_AUDIT: has a node kill VMs that carry this cluster's label and are no current ones.

use crate::error::OpFail;
use crate::io::nodes::VM_CALL;
use crate::ops::{Args, Cx, Locks};
use gantry_model::error::Ecode;
use gantry_proto::noded::Audit;
use serde_json::{Value, json};

/// Runs it. Result: `{"killed": [runtime id, …], "failed": [[runtime id, why], …], "seen": n}`.
pub async fn run(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    cx.begin(Locks::none()).await?;
    let node = cx.master.node(args.named("node_name", "node_uuid")?).await?;
    if node.offline {
        return Err(OpFail::prereq(format!("Node {} is marked offline", node.name), Ecode::WrongState));
    }
    let found = cx.nodes.call::<Audit>(&node, &cx.nodes.fence(), VM_CALL).await?;
    for runtime in &found.killed {
        cx.say(format!("node {}: killed the stranger {runtime}", node.name));
    }
    for (runtime, why) in &found.failed {
        cx.warn(format!("node {}: the stranger {runtime} could not be killed: {why}", node.name));
    }
    Ok(json!({"killed": found.killed, "failed": found.failed, "seen": found.seen}))
}
