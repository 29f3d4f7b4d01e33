//! OP_SLOT_VERIFY, _DRAIN, _RECYCLE: what makes slots DIRTY, or lets them go.

use super::{Found, Results, entries, gather, short};
use crate::core::together::together;
use crate::error::OpFail;
use crate::io::nodes::CALL;
use crate::ops::{Args, Cx, Locks};
use gantry_model::config::{Instance, Node, Slot, SlotState, kind};
use gantry_model::error::Ecode;
use gantry_model::ids::NodeUuid;
use gantry_proto::noded::{Inventory, SlotFacts, VmState};
use gantry_proto::wconfd::Command;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};

/// Shortest part of a uuid that may name a slot: fewer digits are typed by mistake.
const PREFIX_MIN: usize = 4;

/// Compares CLEAN slots with what their nodes have; those that do not live are DIRTY. Result: see [`Results`].
pub async fn verify(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    let entries = entries(args)?;
    cx.begin(Locks::none()).await?;
    let mut results = Results::default();
    let mut clean = Vec::new();
    for one in gather(cx, &entries, &mut results).await? {
        if one.slot.state == SlotState::Clean {
            clean.push(one);
        } else {
            let text = format!("{} is {}, not CLEAN", one.instance.name, one.slot.state.as_str());
            results.skipped(one.slot.uuid, text);
        }
    }
    let inventories = inventories(cx, &clean).await?;
    let (mut lost, mut commands) = (Vec::new(), Vec::new());
    for one in &clean {
        let slot = one.slot.uuid;
        match &inventories[&one.node.uuid] {
            Err(why) => results.failed(slot, why.clone()),
            Ok(facts) => match sick(one, facts) {
                None => results.ok(slot, "lives"),
                Some(why) => {
                    let why = short(&format!("health check: {why}"));
                    let generation = one.slot.generation;
                    commands.push(vec![Command::SlotDirty { slot, generation, why: why.clone() }]);
                    lost.push((one, why));
                }
            },
        }
    }
    for ((one, why), stored) in lost.into_iter().zip(cx.apply_each(commands).await?) {
        match stored {
            Ok(_) => {
                cx.warn(format!("{}: {why}", one.instance.name));
                results.ok(one.slot.uuid, format!("dirty: {why}"));
            }
            Err(refused) => results.skipped(one.slot.uuid, refused),
        }
    }
    Ok(results.told(&entries))
}

/// What each node has, or why it does not say.
async fn inventories(
    cx: &Cx<'_>,
    slots: &[Found],
) -> Result<HashMap<NodeUuid, Result<Vec<SlotFacts>, String>>, OpFail> {
    let nodes: BTreeMap<NodeUuid, &Node> = slots.iter().map(|one| (one.node.uuid, &one.node)).collect();
    let asked = nodes.values().copied();
    let works = asked.map(async |node: &Node| {
        (node.uuid, cx.nodes.call::<Inventory>(node, &cx.nodes.fence(), CALL).await)
    });
    let mut told = HashMap::new();
    for (node, facts) in together(works).await {
        let facts = match facts {
            Ok(facts) => Ok(facts),
            Err(OpFail::Error(why)) => Err(why.to_string()),
            Err(other) => return Err(other),
        };
        told.insert(node, facts);
    }
    Ok(told)
}

/// Why a CLEAN slot is none.
fn sick(one: &Found, facts: &[SlotFacts]) -> Option<String> {
    let name = &one.node.name;
    let Some(known) = facts.iter().find(|known| known.slot == one.slot.uuid) else {
        return Some(format!("node {name} does not know the slot"));
    };
    if known.generation != one.slot.generation {
        return Some(format!("node {name} has generation {}, not {}", known.generation, one.slot.generation));
    }
    match known.state {
        VmState::Live => None,
        VmState::Absent | VmState::Creating | VmState::Destroying | VmState::Lost => {
            Some(format!("the VM is {:?} on node {name}", known.state).to_lowercase())
        }
    }
}

/// Takes slots out of their pools: CLEAN ones are DIRTY, ABSENT ones go. Result: see [`Results`].
pub async fn drain(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    let entries = entries(args)?;
    cx.begin(Locks::none()).await?;
    let mut results = Results::default();
    let found = gather(cx, &entries, &mut results).await?;
    let why = args.str("why").unwrap_or("drained");
    let commands = |one: &Found| {
        let slot = one.slot.uuid;
        let mut commands = vec![Command::SlotDrain { slot, drained: true }];
        if one.slot.state == SlotState::Absent {
            commands.push(Command::SlotRemove { slot });
        }
        commands
    };
    let stored = cx.apply_each(found.iter().map(commands).collect()).await?;
    for (one, stored) in found.iter().zip(stored) {
        match (stored, one.slot.state) {
            (Err(refused), _) => results.skipped(one.slot.uuid, refused),
            (Ok(_), SlotState::Absent) => results.ok(one.slot.uuid, format!("removed: {why}")),
            (Ok(_), _) => results.ok(one.slot.uuid, format!("drained: {why}")),
        }
    }
    Ok(results.told(&entries))
}

/// Makes slots DIRTY on an operator's word, and lets stuck ones be tried again. Result: `[[name, text], …]`; in error
/// when nothing was done to any of them. Slots by generation are the overseer's: see [`super::replace`].
pub async fn recycle(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    if args.list("slots").iter().any(Value::is_array) {
        return super::replace::replace(cx, args).await;
    }
    let names = args.texts("slots");
    if names.is_empty() {
        return Err(OpFail::prereq("Please name at least one slot", Ecode::WrongInput));
    }
    cx.begin(Locks::none()).await?;
    let mut chosen: BTreeMap<String, (Instance, Slot)> = BTreeMap::new();
    for name in names {
        let instance = named(cx, name).await?;
        let slot = cx.master.slot(instance.uuid).await?;
        if slot.state == SlotState::Leased && !args.bool("force") {
            let lease = slot.lease.map_or_else(String::new, |lease| format!(" by lease {lease}"));
            let text = format!("Slot {} is leased{lease}; --force breaks the lease", instance.name);
            return Err(OpFail::prereq(text, Ecode::WrongState));
        }
        chosen.insert(instance.name.clone(), (instance, slot));
    }
    let why = short(args.str("why").filter(|why| !why.is_empty()).unwrap_or("recycled by operator"));
    let commands = chosen.values().map(|(_, slot)| recycling(slot, args.bool("force"), &why)).collect();
    let stored = cx.apply_each(commands).await?;
    if let Some(Err(why)) = stored.iter().find(|_| stored.iter().all(Result::is_err)) {
        return Err(OpFail::exec(why.clone()));
    }
    let mut told = Vec::new();
    for ((name, (instance, slot)), stored) in chosen.iter().zip(stored) {
        // One that is another VM's by now does not keep the others.
        let text = match stored {
            Ok(_) => recycled(slot, &cx.master.slot(instance.uuid).await?),
            Err(why) => format!("changed meanwhile and is left alone: {why}"),
        };
        told.push(json!([name, text]));
    }
    cx.say(format!("{}: {why}", chosen.keys().map(String::as_str).collect::<Vec<_>>().join(", ")));
    Ok(Value::Array(told))
}

/// What makes a slot dirty. Without force a CLEAN one may be leased at any moment and must then be left alone: draining
/// makes only what is still CLEAN dirty.
pub(super) fn recycling(slot: &Slot, force: bool, why: &str) -> Vec<Command> {
    let (uuid, generation) = (slot.uuid, slot.generation);
    let mut commands = vec![Command::SlotUnstick { slot: uuid }];
    match slot.state {
        SlotState::Absent | SlotState::Dirty | SlotState::Destroying => {}
        SlotState::Clean if !force => commands.extend([
            Command::SlotDrain { slot: uuid, drained: true },
            Command::SlotDrain { slot: uuid, drained: false },
        ]),
        SlotState::Creating | SlotState::Booting | SlotState::Clean | SlotState::Leased => {
            commands.push(Command::SlotDirty { slot: uuid, generation, why: why.to_owned() });
        }
    }
    commands
}

fn recycled(before: &Slot, now: &Slot) -> String {
    match before.state {
        SlotState::Absent => "nothing lives there; it is tried again at once".to_owned(),
        SlotState::Dirty | SlotState::Destroying => {
            "is about to be destroyed; tried again at once".to_owned()
        }
        SlotState::Clean | SlotState::Creating | SlotState::Booting | SlotState::Leased
            if now.state == SlotState::Leased =>
        {
            "was leased meanwhile and is left alone".to_owned()
        }
        state => format!("was {}, is DIRTY", state.as_str()),
    }
}

/// The slot of that name, uuid or unique beginning of a uuid.
async fn named(cx: &mut Cx<'_>, name: &str) -> Result<Instance, OpFail> {
    if let Some(instance) = cx.master.find::<Instance>(kind::INSTANCE, name).await? {
        return slot_of_pool(instance);
    }
    let hex = name.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    let mut found = Vec::new();
    if hex && name.len() >= PREFIX_MIN {
        let lower = name.to_ascii_lowercase();
        found = cx.master.instances().await?;
        found.retain(|instance| instance.pool.is_some() && instance.uuid.to_string().starts_with(&lower));
    }
    match (found.len(), found.pop()) {
        (1, Some(instance)) => Ok(instance),
        (0, _) | (_, None) => Err(OpFail::prereq(format!("Slot '{name}' not known"), Ecode::UnknownEntity)),
        (many, _) => {
            let text = format!("'{name}' is the beginning of {many} slots' uuids; give more of it");
            Err(OpFail::prereq(text, Ecode::WrongInput))
        }
    }
}

fn slot_of_pool(instance: Instance) -> Result<Instance, OpFail> {
    if instance.pool.is_some() {
        return Ok(instance);
    }
    let text = format!("Instance {} belongs to no pool; use gnt-instance", instance.name);
    Err(OpFail::prereq(text, Ecode::WrongState))
}
