//! The opcodes: a module per family, one function per opcode, all of the shape
//! `async fn(&mut Cx, &Args) -> Result<Value, OpFail>`. Each says its locks through [`Cx::begin`], which returns when they are held.
//!
//! To add an opcode: write its function, name it in [`dispatch`]; its parameters are in `gantry_model::opcode`.

mod args;
mod audit;
mod blueprint;
mod candidate;
mod cluster;
mod cx;
mod expand;
mod group;
mod hmac;
mod hooks;
mod image;
mod instance;
mod master_ip;
mod node;
mod node_set;
mod node_slots;
mod pool;
mod pool_remove;
mod redist;
mod renew;
mod room;
mod slot;
mod tags;
mod task;
mod test_delay;
mod verify;

pub use args::Args;
pub use cx::{Cx, Locks};

use crate::error::{OpFail, RunError};
use crate::io::master::Master;
use crate::io::nodes::Nodes;
use crate::io::server::Desk;
use gantry_model::error::Ecode;
use gantry_model::opcode;
use gantry_model::root::Root;
use gantry_model::time;
use gantry_proto::job::GoRequest;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Executes all opcodes that are not final and fills the board; the job is over when it returns. What follows the run
/// of a task ends its lease, so it begins only when luxid has stored the result (I6).
///
/// # Errors
/// Only when the job must leave without a word.
pub async fn execute(root: &Root, desk: &Arc<Desk>, request: GoRequest) -> Result<(), RunError> {
    let ops = request.ops.read().unwrap_or_default(); // The desk has read them before.
    let mut master = Master::new(root.clone(), request.owner, request.cluster);
    let nodes = Nodes::new(root.clone(), request.cluster, request.fence, request.master);
    for (index, op) in ops.iter().enumerate().filter(|(_, op)| !op.status.is_final()) {
        if *desk.cancelled().borrow() {
            desk.update(|board| board.canceled(time::now()));
            break;
        }
        let lease = index.checked_sub(1).and_then(|before| task::lease_of(&ops[before].input));
        if lease.is_some() && !desk.stored().await {
            let left = slot::left(&Args::new(&op.input), "no luxid stored the result yet");
            desk.update(|board| board.succeeded(index, left, time::now()));
            continue;
        }
        let mut cx = Cx::new(root, desk, &request, index, &mut master, &nodes);
        cx.ends = lease;
        let ended = one(&mut cx, &op.input).await;
        let freed = master.free_all().await;
        match ended.and_then(|value| freed.map(|()| value)) {
            Ok(value) => {
                if !desk.update(|board| board.succeeded(index, value, time::now())) {
                    break;
                }
            }
            Err(OpFail::Error(error)) => {
                desk.update(|board| board.failed(index, &error, time::now()));
                break;
            }
            Err(OpFail::Canceled) => {
                desk.update(|board| board.canceled(time::now()));
                break;
            }
            Err(OpFail::Fenced(why)) => return Err(RunError::Fenced(why)),
        }
    }
    desk.update(crate::core::board::Board::over);
    Ok(())
}

async fn one(cx: &mut Cx<'_>, input: &Map<String, Value>) -> Result<Value, OpFail> {
    cx.picked_up();
    let lost =
        || OpFail::exec("the job's secret parameters were lost in a restart of luxid; submit the job again");
    if opcode::is_redacted(input) {
        return Err(lost());
    }
    let args = Args::new(input);
    if args.bool("dry_run") && args.id() != "OP_TEST_DELAY" {
        let text = "dry runs are not supported for this opcode yet; nothing was done";
        return Err(OpFail::prereq(text, Ecode::WrongState));
    }
    dispatch(cx, &args).await
}

/// Which function executes which opcode.
async fn dispatch(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    match args.id() {
        "OP_TEST_DELAY" => test_delay::run(cx, args).await,
        "OP_CLUSTER_POST_INIT" => Box::pin(cluster::post_init(cx, args)).await,
        "OP_CLUSTER_DESTROY" => Box::pin(cluster::destroy(cx, args)).await,
        "OP_CLUSTER_SET_PARAMS" => Box::pin(cluster::set_params(cx, args)).await,
        "OP_CLUSTER_ACTIVATE_MASTER_IP" => master_ip::activate(cx).await,
        "OP_CLUSTER_DEACTIVATE_MASTER_IP" => master_ip::deactivate(cx).await,
        "OP_CLUSTER_REDIST_CONF" => Box::pin(redist::run(cx)).await,
        "OP_CLUSTER_RENEW_CRYPTO" => Box::pin(renew::run(cx, args)).await,
        "OP_CLUSTER_VERIFY" => Box::pin(verify::submit(cx, args)).await,
        "OP_CLUSTER_VERIFY_CONFIG" => Box::pin(verify::config(cx)).await,
        "OP_CLUSTER_VERIFY_GROUP" => Box::pin(verify::group(cx, args)).await,
        "OP_TAGS_SET" => tags::set(cx, args).await,
        "OP_TAGS_DEL" => tags::del(cx, args).await,
        "OP_TAGS_GET" => tags::get(cx, args).await,
        "OP_GROUP_ADD" => Box::pin(group::add(cx, args)).await,
        "OP_GROUP_REMOVE" => Box::pin(group::remove(cx, args)).await,
        "OP_GROUP_RENAME" => Box::pin(group::rename(cx, args)).await,
        "OP_GROUP_SET_PARAMS" => Box::pin(group::set_params(cx, args)).await,
        "OP_GROUP_ASSIGN_NODES" => group::assign_nodes(cx, args).await,
        "OP_NODE_ADD" => Box::pin(node::add(cx, args)).await,
        "OP_NODE_REMOVE" => Box::pin(node::remove(cx, args)).await,
        "OP_NODE_SET_PARAMS" => Box::pin(node_set::set_params(cx, args)).await,
        "OP_INSTANCE_CREATE" => Box::pin(instance::create(cx, args)).await,
        "OP_INSTANCE_REMOVE" => Box::pin(instance::remove(cx, args)).await,
        "OP_INSTANCE_STARTUP" => Box::pin(instance::startup(cx, args)).await,
        "OP_INSTANCE_SHUTDOWN" => Box::pin(instance::shutdown(cx, args)).await,
        "OP_INSTANCE_QUERY_DATA" => Box::pin(instance::query_data(cx, args)).await,
        "OP_BLUEPRINT_ADD" => blueprint::add(cx, args).await,
        "OP_BLUEPRINT_MODIFY" => blueprint::modify(cx, args).await,
        "OP_BLUEPRINT_REMOVE" => blueprint::remove(cx, args).await,
        "OP_POOL_ADD" => pool::add(cx, args).await,
        "OP_POOL_MODIFY" => pool::modify(cx, args).await,
        "OP_POOL_RESIZE" => pool::resize(cx, args).await,
        "OP_POOL_DRAIN" => pool::drain(cx, args).await,
        "OP_POOL_REMOVE" => Box::pin(pool_remove::remove(cx, args)).await,
        "OP_POOL_EXPAND" => Box::pin(expand::expand(cx, args)).await,
        "OP_SLOT_CREATE" => Box::pin(slot::create(cx, args)).await,
        "OP_SLOT_DESTROY" => Box::pin(slot::destroy(cx, args)).await,
        "OP_SLOT_VERIFY" => Box::pin(slot::verify(cx, args)).await,
        "OP_SLOT_DRAIN" => Box::pin(slot::drain(cx, args)).await,
        "OP_SLOT_RECYCLE" => Box::pin(slot::recycle(cx, args)).await,
        "OP_NODE_AUDIT" => audit::run(cx, args).await,
        "OP_OS_IMPORT" => image::import(cx, args).await,
        "OP_OS_REMOVE" => image::remove(cx, args).await,
        "OP_TASK_RUN" => Box::pin(task::run(cx, args)).await,
        other => {
            let text = format!("{other} is not supported by this version of Gantry; nothing was done");
            Err(OpFail::prereq(text, Ecode::WrongState))
        }
    }
}
