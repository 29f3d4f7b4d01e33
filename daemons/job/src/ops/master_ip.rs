//! OP_CLUSTER_ACTIVATE_MASTER_IP, _DEACTIVATE_MASTER_IP: an operator's word on the cluster's address. The master keeps it up
//! by itself otherwise (docs/adr/0011).

use crate::error::OpFail;
use crate::io::nodes::CALL;
use crate::ops::{Cx, Locks};
use gantry_model::error::Ecode;
use gantry_model::master_ip::MasterAddress;
use gantry_proto::effects::{MasterIpOrder, MasterIpRequest};
use gantry_proto::noded::MasterIp;
use serde_json::Value;

/// Puts it up. Result: null.
pub async fn activate(cx: &mut Cx<'_>) -> Result<Value, OpFail> {
    cx.begin(Locks::exclusive()).await?;
    let address = address(cx).await?;
    order(cx, MasterIpOrder::Up(address)).await
}

/// Takes it down until it is activated, or another node becomes the master. Result: null.
pub async fn deactivate(cx: &mut Cx<'_>) -> Result<Value, OpFail> {
    cx.begin(Locks::exclusive()).await?;
    address(cx).await?;
    order(cx, MasterIpOrder::Down).await
}

async fn address(cx: &mut Cx<'_>) -> Result<MasterAddress, OpFail> {
    let wrong = |text: String| OpFail::prereq(text, Ecode::WrongState);
    let cluster = cx.master.cluster().await?;
    MasterAddress::of(&cluster).map_err(wrong)?.ok_or_else(|| {
        let text = "the cluster has no address of its own; give it one: gnt-cluster modify --master-ip IP --master-netdev DEVICE";
        wrong(text.to_owned())
    })
}

/// Nobody could refuse it afterwards, so a majority confirms the master before (P1.10).
async fn order(cx: &mut Cx<'_>, order: MasterIpOrder) -> Result<Value, OpFail> {
    let node = cx.master.node(&cx.go().master.to_string()).await?;
    cx.master.confirm().await?;
    let request = MasterIpRequest { fence: cx.nodes.fence(), order };
    cx.nodes.call::<MasterIp>(&node, &request, CALL).await?;
    Ok(Value::Null)
}
