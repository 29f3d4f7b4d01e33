//! OP_SLOT_CREATE, _DESTROY, _VERIFY, _DRAIN, _RECYCLE: the VMs of pools, up to 16 in one job, side by side. No lock: the
//! generation is compared with each change. An entry that is out of date is skipped, which is no error.
//!
//! Order of every effect, as for instances: the intent is committed, the node acts, the new state is committed; but for
//! all entries at once. A job that dies in between leaves slots DIRTY: destroyed and made anew, never guessed clean.

mod check;
mod destroy;
mod image;
mod make;
mod replace;

pub use check::{drain, recycle, verify};
pub use destroy::tear_down;

use crate::error::OpFail;
use crate::ops::{Args, Cx, Locks};
use gantry_model::config::{Instance, Node, Slot, kind};
use gantry_model::error::Ecode;
use gantry_model::ids::{Generation, InstanceUuid};
use gantry_proto::wconfd::{Object, ReadKey};
use make::Recipes;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::HashMap;

/// Most entries of one job (DESIGN §8).
pub const SLOTS_MAX: usize = 16;
/// Most bytes of a reason that wconfd keeps.
const WHY_BYTES_MAX: usize = 1024;

/// A slot as it stood for who submitted the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub slot: InstanceUuid,
    pub generation: Generation,
}

/// What became of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Became {
    Ok(String),
    Skipped(String),
    Failed(String),
}

/// What became of all entries.
#[derive(Debug, Default)]
pub struct Results(HashMap<InstanceUuid, Became>);

impl Results {
    pub fn ok(&mut self, slot: InstanceUuid, text: impl Into<String>) {
        self.0.insert(slot, Became::Ok(text.into()));
    }

    pub fn skipped(&mut self, slot: InstanceUuid, text: impl Into<String>) {
        self.0.insert(slot, Became::Skipped(text.into()));
    }

    pub fn failed(&mut self, slot: InstanceUuid, text: impl Into<String>) {
        self.0.insert(slot, Became::Failed(text.into()));
    }

    pub fn get(&self, slot: InstanceUuid) -> Option<&Became> {
        self.0.get(&slot)
    }

    /// Why an entry was not done.
    pub fn trouble(&self, slot: InstanceUuid) -> Option<String> {
        match self.0.get(&slot) {
            Some(Became::Skipped(text) | Became::Failed(text)) => Some(text.clone()),
            Some(Became::Ok(_)) | None => None,
        }
    }

    /// `[uuid, word, text]` per entry, in their order.
    fn told(&self, entries: &[Entry]) -> Value {
        let row = |entry: &Entry| {
            let (word, text) = match self.0.get(&entry.slot) {
                Some(Became::Ok(text)) => ("ok", text.as_str()),
                Some(Became::Skipped(text)) => ("skipped", text.as_str()),
                Some(Became::Failed(text)) => ("failed", text.as_str()),
                None => ("skipped", "nothing was to be done"),
            };
            json!([entry.slot, word, text])
        };
        Value::Array(entries.iter().map(row).collect())
    }
}

/// The entries of an opcode.
fn entries(args: &Args<'_>) -> Result<Vec<Entry>, OpFail> {
    let wrong = |text: String| OpFail::prereq(format!("{}: {text}", args.id()), Ecode::WrongInput);
    let list: Vec<(InstanceUuid, Generation)> =
        serde_json::from_value(Value::Array(args.list("slots").to_vec()))
            .map_err(|why| wrong(format!("'slots' is no list of (slot uuid, generation): {why}")))?;
    if list.is_empty() || list.len() > SLOTS_MAX {
        return Err(wrong(format!("'slots' must have 1 to {SLOTS_MAX} entries, not {}", list.len())));
    }
    let entries: Vec<Entry> = list.into_iter().map(|(slot, generation)| Entry { slot, generation }).collect();
    let twice =
        entries.iter().enumerate().find(|(at, one)| entries[..*at].iter().any(|two| two.slot == one.slot));
    match twice {
        Some((_, entry)) => Err(wrong(format!("slot {} is there twice", entry.slot))),
        None => Ok(entries),
    }
}

/// A slot of a pool as it stands now.
struct Found {
    slot: Slot,
    instance: Instance,
    node: Node,
}

impl Found {
    fn pool(&self) -> &str {
        self.instance.pool.as_deref().unwrap_or_default()
    }
}

/// The slots of the entries as they stand now. Those that are gone, no slots, or of another generation are skipped.
async fn gather(cx: &mut Cx<'_>, entries: &[Entry], results: &mut Results) -> Result<Vec<Found>, OpFail> {
    Ok(look(cx, entries, results).await?.0)
}

/// The same, with what their VMs are made from.
async fn look(
    cx: &mut Cx<'_>,
    entries: &[Entry],
    results: &mut Results,
) -> Result<(Vec<Found>, Recipes), OpFail> {
    let mut whole = whole(cx, entries.iter().map(|entry| entry.slot)).await?;
    let mut slots: HashMap<String, Slot> = by_key(&whole, kind::SLOT)?;
    let mut instances: HashMap<String, Instance> = by_key(&whole, kind::INSTANCE)?;
    let nodes: HashMap<String, Node> = by_key(&whole, kind::NODE)?;
    let mut found = Vec::new();
    for entry in entries {
        let key = entry.slot.to_string();
        let (Some(slot), Some(instance)) = (slots.remove(&key), instances.remove(&key)) else {
            results.skipped(entry.slot, "the slot is gone");
            continue;
        };
        if instance.pool.is_none() {
            results.skipped(entry.slot, format!("{} is no slot of a pool", instance.name));
        } else if slot.generation != entry.generation {
            let text = format!(
                "{} is in generation {} now, not {}",
                instance.name, slot.generation, entry.generation
            );
            results.skipped(entry.slot, text);
        } else {
            let node = nodes.get(&instance.primary_node.to_string()).cloned();
            let node =
                node.ok_or_else(|| OpFail::exec(format!("the node of {} is not known", instance.name)))?;
            found.push(Found { slot, instance, node });
        }
    }
    whole.retain(|object| ![kind::SLOT, kind::INSTANCE, kind::NODE].contains(&object.kind.as_str()));
    Ok((found, Recipes::of(&whole)?))
}

/// All that wconfd has of these slots, in one question.
async fn whole(cx: &mut Cx<'_>, slots: impl Iterator<Item = InstanceUuid>) -> Result<Vec<Object>, OpFail> {
    Ok(cx.master.read(slots.map(ReadKey::SlotWhole).collect()).await?.1)
}

/// Objects of one kind by their keys.
fn by_key<T: DeserializeOwned>(objects: &[Object], kind: &str) -> Result<HashMap<String, T>, OpFail> {
    let parsed = |object: &Object| {
        let value = serde_json::from_str(&object.body);
        let value = value
            .map_err(|why| OpFail::exec(format!("can't read the {} {}: {why}", object.kind, object.key)))?;
        Ok((object.key.clone(), value))
    };
    objects.iter().filter(|object| object.kind == kind).map(parsed).collect()
}

/// A reason as short as wconfd wants it.
fn short(why: &str) -> String {
    why.chars()
        .scan(0, |bytes, c| {
            *bytes += c.len_utf8();
            (*bytes <= WHY_BYTES_MAX).then_some(c)
        })
        .collect()
}

/// Makes VMs in ABSENT slots. Result: see [`Results`].
pub async fn create(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    let entries = entries(args)?;
    cx.begin(Locks::none()).await?;
    let mut results = Results::default();
    make::make(cx, &entries, &mut results).await?;
    Ok(results.told(&entries))
}

/// Destroys the VMs of DIRTY slots; with `recreate` makes new ones. Result: see [`Results`].
pub async fn destroy(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    let entries = entries(args)?;
    cx.begin(Locks::none()).await?;
    let mut results = Results::default();
    if !args.bool("recreate") {
        tear_down(cx, &entries, &mut results).await?;
        return Ok(results.told(&entries));
    }
    let (found, recipes) = look(cx, &entries, &mut results).await?;
    let renewed = |one: &Found| recipes.wanted(one).is_ok();
    let gone = destroy::take_down(cx, &found, renewed, &mut results).await?;
    // What was begun is seen through.
    if gone.iter().all(|gone| gone.begun.is_none()) {
        cx.go_on()?;
    }
    let mut made = Results::default();
    make::renew(cx, &found, &gone, &mut made).await?;
    for slot in gone.iter().map(|gone| gone.one.slot.uuid) {
        match made.get(slot) {
            Some(Became::Ok(text)) => results.ok(slot, format!("destroyed; {text}")),
            Some(Became::Failed(text)) => results.failed(slot, format!("destroyed; {text}")),
            Some(Became::Skipped(text)) => results.ok(slot, format!("destroyed; not made anew: {text}")),
            None => {}
        }
    }
    Ok(results.told(&entries))
}

/// The result of a destroy that is left to others: see [`Results`].
pub fn left(args: &Args<'_>, why: &str) -> Value {
    let entries = entries(args).unwrap_or_default();
    let mut results = Results::default();
    for entry in &entries {
        results.skipped(entry.slot, format!("left to the overseer: {why}"));
    }
    results.told(&entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_a_short_list_without_repeats() {
        let uuid = |n: u128| json!([uuid::Uuid::from_u128(n), 3]);
        let read = |list: Vec<Value>| {
            let map = json!({"OP_ID": "OP_SLOT_CREATE", "slots": list});
            entries(&Args::new(map.as_object().unwrap())).map(|entries| entries.len())
        };
        assert_eq!(read((0..16).map(uuid).collect()).unwrap(), 16);
        assert!(read((0..17).map(uuid).collect()).is_err());
        assert!(read(Vec::new()).is_err());
        assert!(read(vec![uuid(1), uuid(1)]).is_err());
        assert!(read(vec![json!(["x", 1])]).is_err());
    }

    #[test]
    fn reasons_are_cut_between_letters() {
        assert_eq!(short("why"), "why");
        assert_eq!(short(&"ä".repeat(1000)).len(), WHY_BYTES_MAX);
    }
}
