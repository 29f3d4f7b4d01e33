//! DIRTY → DESTROYING → ABSENT for a lot of slots. After the run of a task also LEASED → DESTROYING, which ends its lease.

use super::{Entry, Found, Results, gather, short};
use crate::core::together::together;
use crate::error::OpFail;
use crate::io::nodes::VM_CALL;
use crate::ops::Cx;
use gantry_model::config::SlotState;
use gantry_model::ids::Generation;
use gantry_proto::noded::{VmDestroy, VmRef};
use gantry_proto::wconfd::Command;
use serde_json::Value;

/// A slot that is ABSENT now, or was until a new VM was begun there.
pub struct Gone<'f> {
    pub one: &'f Found,
    /// The generation of what is gone.
    pub generation: Generation,
    /// The generation of what was begun in its place.
    pub begun: Option<Generation>,
}

/// Destroys the VMs of those entries that are DIRTY. Those whose slot is ABSENT in the end are given back with the
/// generation they have then.
pub async fn tear_down(
    cx: &mut Cx<'_>,
    entries: &[Entry],
    results: &mut Results,
) -> Result<Vec<Entry>, OpFail> {
    let found = gather(cx, entries, results).await?;
    let gone = take_down(cx, &found, |_| false, results).await?;
    Ok(gone.iter().map(|gone| Entry { slot: gone.one.slot.uuid, generation: gone.generation }).collect())
}

/// The same; where `renewed`, the next VM is begun in the batch that says the old one is gone.
pub async fn take_down<'f>(
    cx: &mut Cx<'_>,
    found: &'f [Found],
    renewed: impl Fn(&Found) -> bool,
    results: &mut Results,
) -> Result<Vec<Gone<'f>>, OpFail> {
    let (mut absent, mut doomed) = (Vec::new(), Vec::new());
    let own = cx.ends;
    for one in found {
        match one.slot.state {
            SlotState::Dirty | SlotState::Destroying => doomed.push(one),
            SlotState::Leased if own.is_some() && one.slot.lease == own => doomed.push(one),
            SlotState::Absent => {
                results.ok(one.slot.uuid, "was absent already");
                absent.push(Gone { one, generation: one.slot.generation, begun: None });
            }
            SlotState::Creating | SlotState::Booting | SlotState::Clean | SlotState::Leased => {
                let text = format!("{} is {}, not DIRTY", one.instance.name, one.slot.state.as_str());
                results.skipped(one.slot.uuid, text);
            }
        }
    }
    let begun = begin(cx, doomed, results).await?;
    let (nodes, fence) = (cx.nodes, cx.nodes.fence());
    let works = begun.iter().map(|one| async move {
        let vm = VmRef { fence, slot: one.slot.uuid, generation: one.slot.generation };
        nodes.call::<VmDestroy>(&one.node, &vm, VM_CALL).await.map(|reply| reply.floor)
    });
    let gone = together(works).await;
    absent.extend(store(cx, begun, gone, renewed, results).await?);
    Ok(absent)
}

/// The intent. What is DESTROYING is in the hands of a job that ended in error, or of a dead one that wconfd has not
/// heard of yet: it is dirty first.
async fn begin<'f>(
    cx: &mut Cx<'_>,
    doomed: Vec<&'f Found>,
    results: &mut Results,
) -> Result<Vec<&'f Found>, OpFail> {
    let holder = cx.owner();
    let commands = |one: &&Found| {
        let (slot, generation) = (one.slot.uuid, one.slot.generation);
        let begin = Command::SlotBeginDestroy { slot, generation, holder };
        if one.slot.state == SlotState::Dirty {
            return vec![begin];
        }
        if let (SlotState::Leased, Some(lease)) = (one.slot.state, one.slot.lease) {
            return vec![Command::LeaseDestroy { lease, slot, generation, holder }];
        }
        vec![Command::SlotDirty { slot, generation, why: "a destroy did not end".to_owned() }, begin]
    };
    let begun = cx.apply_each(doomed.iter().map(commands).collect()).await?;
    let mut left = Vec::new();
    for (one, begun) in doomed.into_iter().zip(begun) {
        match begun {
            Ok(_) => left.push(one),
            Err(why) => results.skipped(one.slot.uuid, why),
        }
    }
    Ok(left)
}

/// Commits what became of them: absent on the node's word, or dirty with the reason.
async fn store<'f>(
    cx: &mut Cx<'_>,
    begun: Vec<&'f Found>,
    gone: Vec<Result<Generation, OpFail>>,
    renewed: impl Fn(&Found) -> bool,
    results: &mut Results,
) -> Result<Vec<Gone<'f>>, OpFail> {
    let (holder, goes_on) = (cx.owner(), cx.go_on().is_ok());
    let (mut groups, mut floors) = (Vec::new(), Vec::new());
    for (one, gone) in begun.iter().zip(gone) {
        let (slot, generation) = (one.slot.uuid, one.slot.generation);
        let gone = match gone {
            Ok(floor) => Ok(floor),
            Err(OpFail::Error(why)) => Err(why.to_string()),
            Err(other) => return Err(other),
        };
        groups.push(match &gone {
            Ok(floor) => {
                let absent = Command::SlotAbsent { slot, generation, floor: *floor };
                let next = Command::SlotBegin { slot, expected: generation.max(*floor), holder };
                if goes_on && renewed(one) { vec![absent, next] } else { vec![absent] }
            }
            Err(why) => {
                let why = short(&format!("destroy failed: {why}"));
                vec![Command::SlotDirty { slot, generation, why }]
            }
        });
        floors.push(gone);
    }
    let stored = apply(cx, groups).await?;
    let mut absent = Vec::new();
    for ((one, floor), stored) in begun.into_iter().zip(floors).zip(stored) {
        let (slot, name) = (one.slot.uuid, &one.instance.name);
        match (floor, stored) {
            (Ok(floor), Ok(values)) => {
                results.ok(slot, "destroyed");
                let begun = values.get(1).and_then(|value| serde_json::from_value(value.clone()).ok());
                absent.push(Gone { one, generation: floor.max(one.slot.generation), begun });
            }
            (Ok(_), Err(why)) => results.failed(slot, format!("destroyed, but wconfd refused it: {why}")),
            (Err(why), _) => {
                cx.warn(format!("{name}: {why}"));
                results.failed(slot, format!("destroy failed: {why}"));
            }
        }
    }
    Ok(absent)
}

/// Applies each group; the end alone of those whose next VM can't begin now.
async fn apply(
    cx: &mut Cx<'_>,
    groups: Vec<Vec<Command>>,
) -> Result<Vec<Result<Vec<Value>, String>>, OpFail> {
    let mut stored = cx.apply_each(groups.clone()).await?;
    for (mut group, stored) in groups.into_iter().zip(&mut stored) {
        if stored.is_err() && group.len() > 1 {
            group.truncate(1);
            if let Some(alone) = cx.apply_each(vec![group]).await?.pop() {
                *stored = alone;
            }
        }
    }
    Ok(stored)
}
