//! DIRTY → DESTROYING → ABSENT for a lot of slots.

use super::{Entry, Found, Results, gather, short};
use crate::core::together::together;
use crate::error::OpFail;
use crate::io::nodes::VM_CALL;
use crate::ops::Cx;
use gantry_model::config::SlotState;
use gantry_model::ids::Generation;
use gantry_proto::noded::{VmDestroy, VmRef};
use gantry_proto::wconfd::Command;

/// Destroys the VMs of those entries that are DIRTY. Those whose slot is ABSENT in the end are given back with the
/// generation they have then.
pub async fn tear_down(
    cx: &mut Cx<'_>,
    entries: &[Entry],
    results: &mut Results,
) -> Result<Vec<Entry>, OpFail> {
    let found = gather(cx, entries, results).await?;
    let (mut absent, mut doomed) = (Vec::new(), Vec::new());
    for one in &found {
        match one.slot.state {
            SlotState::Dirty | SlotState::Destroying => doomed.push(one),
            SlotState::Absent => {
                results.ok(one.slot.uuid, "was absent already");
                absent.push(Entry { slot: one.slot.uuid, generation: one.slot.generation });
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
    absent.extend(store(cx, begun, gone, results).await?);
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
async fn store(
    cx: &mut Cx<'_>,
    begun: Vec<&Found>,
    gone: Vec<Result<Generation, OpFail>>,
    results: &mut Results,
) -> Result<Vec<Entry>, OpFail> {
    let (mut commands, mut floors) = (Vec::new(), Vec::new());
    for (one, gone) in begun.iter().zip(gone) {
        let (slot, generation) = (one.slot.uuid, one.slot.generation);
        let gone = match gone {
            Ok(floor) => Ok(floor),
            Err(OpFail::Error(why)) => Err(why.to_string()),
            Err(other) => return Err(other),
        };
        commands.push(vec![match &gone {
            Ok(floor) => Command::SlotAbsent { slot, generation, floor: *floor },
            Err(why) => {
                Command::SlotDirty { slot, generation, why: short(&format!("destroy failed: {why}")) }
            }
        }]);
        floors.push(gone);
    }
    let stored = cx.apply_each(commands).await?;
    let mut absent = Vec::new();
    for ((one, floor), stored) in begun.into_iter().zip(floors).zip(stored) {
        let (slot, name) = (one.slot.uuid, &one.instance.name);
        match (floor, stored) {
            (Ok(floor), Ok(_)) => {
                results.ok(slot, "destroyed");
                absent.push(Entry { slot, generation: floor.max(one.slot.generation) });
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
