//! What stands on a node that is about to be removed: instances keep it, slots of pools are given up with a node that is
//! marked offline. The pools make them anew elsewhere (docs/adr/0007, 17).

use crate::error::OpFail;
use crate::ops::Cx;
use gantry_model::config::{Instance, Node, Slot, SlotState};
use gantry_model::error::Ecode;
use gantry_model::ids::{LeaseUuid, NodeUuid};
use gantry_model::names::natural_cmp;
use gantry_proto::wconfd::Command;
use std::collections::{BTreeSet, HashMap};

/// Slots given up in one batch.
const LOT: usize = 64;
/// How often those are looked for that another job took or changed meanwhile.
const ROUNDS_MAX: usize = 4;
/// Names said in one sentence; the rest is counted.
const NAMED_MAX: usize = 5;

type Slots = Vec<(Instance, Slot)>;

/// Refuses a node that something keeps: instances, or slots of pools while the node is not marked offline.
pub async fn refuse_kept(cx: &mut Cx<'_>, node: &Node) -> Result<(), OpFail> {
    let (mut instances, _) = cx.master.instances_of(node.uuid).await?;
    instances.sort_by(|a, b| natural_cmp(&a.name, &b.name));
    let name = &node.name;
    let names = |pooled: bool| -> Vec<&str> {
        let own = instances.iter().filter(|one| one.pool.is_some() == pooled);
        own.map(|one| one.name.as_str()).collect()
    };
    let (own, slots) = (names(false), names(true));
    let text = if !own.is_empty() {
        format!(
            "Node {name} is the home of {} instance(s) ({}): remove them first with gnt-instance remove",
            own.len(),
            few(&own)
        )
    } else if slots.is_empty() || node.offline {
        return Ok(());
    } else if node.drained {
        format!(
            "Node {name} is drained, but has {} slot(s) of pools yet ({}): each goes when its lease is over; gnt-slot recycle \
             --force NAME ends one now; if the node never comes back, mark it offline: gnt-node modify -O yes {name}",
            slots.len(),
            few(&slots)
        )
    } else {
        format!(
            "Node {name} has {} slot(s) of pools ({}): drain it first with gnt-node modify -D yes {name}, then they go as \
             their leases end; if the node never comes back, mark it offline: gnt-node modify -O yes {name}",
            slots.len(),
            few(&slots)
        )
    };
    Err(OpFail::prereq(text, Ecode::WrongInput))
}

/// Gives up the slots of pools on an offline node; leases on them end as broken. Said before it is done: who dies behind
/// the first lot has said it. What is left is the next removal's.
pub async fn give_up(cx: &mut Cx<'_>, node: &Node) -> Result<(), OpFail> {
    let mut slots = pooled(cx, node.uuid).await?;
    if let Some(text) = warning(node, &slots) {
        cx.warn(text);
    }
    let mut trouble = None;
    for _ in 0..ROUNDS_MAX {
        if slots.is_empty() {
            return Ok(());
        }
        for lot in slots.chunks(LOT) {
            let commands = lot.iter().map(|(_, slot)| given_up(slot)).collect();
            trouble = cx.apply_each(commands).await?.into_iter().find_map(Result::err).or(trouble);
        }
        slots = pooled(cx, node.uuid).await?;
    }
    let Some((first, _)) = slots.first() else { return Ok(()) };
    let why = trouble.unwrap_or_else(|| "others are made there meanwhile".to_owned());
    Err(OpFail::exec(format!(
        "Slot {} on node {} can't be given up: {why}; try again",
        first.name, node.name
    )))
}

/// How many leases have a VM there.
pub async fn leases(cx: &mut Cx<'_>, node: NodeUuid) -> Result<usize, OpFail> {
    Ok(leased(&cx.master.instances_of(node).await?.1))
}

fn leased<'s>(slots: impl IntoIterator<Item = &'s Slot>) -> usize {
    let leased = slots.into_iter().filter(|slot| slot.state == SlotState::Leased);
    leased.filter_map(|slot| slot.lease).collect::<BTreeSet<LeaseUuid>>().len()
}

/// That leases end with their node, for people; None without any.
pub fn broken(leases: usize) -> Option<String> {
    match leases {
        0 => None,
        1 => Some("1 lease on it ends as broken".to_owned()),
        more => Some(format!("{more} leases on it end as broken")),
    }
}

async fn pooled(cx: &mut Cx<'_>, node: NodeUuid) -> Result<Slots, OpFail> {
    let (mut instances, slots) = cx.master.instances_of(node).await?;
    instances.sort_by(|a, b| natural_cmp(&a.name, &b.name));
    let mut slots: HashMap<_, _> = slots.into_iter().map(|slot| (slot.uuid, slot)).collect();
    let own = instances.into_iter().filter(|one| one.pool.is_some());
    Ok(own.filter_map(|one| slots.remove(&one.uuid).map(|slot| (one, slot))).collect())
}

/// What may live on, and whose leases end; None when nothing was ever made there.
fn warning(node: &Node, slots: &Slots) -> Option<String> {
    let lives = slots.iter().filter(|(_, slot)| slot.state != SlotState::Absent);
    let names: Vec<&str> = lives.map(|(one, _)| one.name.as_str()).collect();
    if names.is_empty() {
        return None;
    }
    let broken = broken(leased(slots.iter().map(|(_, slot)| slot)));
    let broken = broken.map_or_else(String::new, |text| format!("; {text}"));
    Some(format!(
        "node {} is offline: what may live in {} of its slots ({}) was not destroyed{broken}; do not bring it back without \
         removing its var/lib/gantry and restarting the machine",
        node.name,
        names.len(),
        few(&names)
    ))
}

fn given_up(slot: &Slot) -> Vec<Command> {
    let (uuid, generation) = (slot.uuid, slot.generation);
    let mut commands = vec![Command::SlotDrain { slot: uuid, drained: true }];
    if slot.state == SlotState::Leased {
        commands.push(Command::SlotDirty { slot: uuid, generation, why: "its node is removed".to_owned() });
    }
    commands.push(Command::SlotRemove { slot: uuid });
    commands
}

/// Some names, and how many more there are.
fn few(names: &[&str]) -> String {
    let some = names.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED_MAX) {
        0 => some,
        more => format!("{some} and {more} more"),
    }
}
