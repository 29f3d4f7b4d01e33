//! OP_SLOT_RECYCLE of the overseer: by slot and generation, as they stood when it looked. Meanwhile a VM may have been
//! leased, made anew or come back with its node: each such one is left alone, and keeps no other.

use super::check::recycling;
use super::{Found, Results, entries, gather, short};
use crate::error::OpFail;
use crate::ops::{Args, Cx, Locks};
use gantry_model::config::SlotState;
use serde_json::Value;

/// Makes VMs DIRTY. Leased ones with force, and with `only_lost` only while their node is lost. Result: see [`Results`].
pub async fn replace(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    let entries = entries(args)?;
    cx.begin(Locks::none()).await?;
    let mut results = Results::default();
    let found = gather(cx, &entries, &mut results).await?;
    let claimed = if args.bool("only_lost") { Some(cx.master.claimed_nodes().await?) } else { None };
    let is_back = |one: &Found| {
        !one.node.offline && claimed.as_ref().is_some_and(|claimed| claimed.contains(&one.node.uuid))
    };
    let force = args.bool("force");
    let mut due = Vec::new();
    for one in found {
        let (slot, name, node) = (one.slot.uuid, &one.instance.name, &one.node.name);
        match one.slot.state {
            SlotState::Leased if !force => results.skipped(slot, format!("{name} is leased")),
            SlotState::Leased | SlotState::Clean if is_back(&one) => {
                results.skipped(slot, format!("node {node} of {name} is not lost any more"));
            }
            SlotState::Leased | SlotState::Clean => due.push(one),
            state => results.skipped(slot, format!("{name} is {} already", state.as_str())),
        }
    }
    let why = short(args.str("why").filter(|why| !why.is_empty()).unwrap_or("recycled"));
    let commands = due.iter().map(|one| recycling(&one.slot, force, &why)).collect();
    for (one, stored) in due.iter().zip(cx.apply_each(commands).await?) {
        match stored {
            Ok(_) => results.ok(one.slot.uuid, format!("recycled: {why}")),
            Err(refused) => results.skipped(one.slot.uuid, refused),
        }
    }
    Ok(results.told(&entries))
}
