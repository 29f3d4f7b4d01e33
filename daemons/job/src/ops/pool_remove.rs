//! OP_POOL_REMOVE: drains a pool, destroys what is free, and removes slots and pool. It can be cancelled between lots;
//! the pool then stays draining. Killed it leaves the same, and slots that wconfd makes DIRTY.

use crate::error::OpFail;
use crate::ops::pool::set_state;
use crate::ops::slot::{Entry, Results, SLOTS_MAX, tear_down};
use crate::ops::{Args, Cx, Locks};
use gantry_model::config::{Instance, Slot, SlotState};
use gantry_model::error::Ecode;
use gantry_model::ids::{InstanceUuid, NodeUuid};
use gantry_model::names::natural_cmp;
use gantry_model::pool::PoolState;
use gantry_proto::wconfd::Command;
use serde_json::Value;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Commands in one batch.
const LOT: usize = 64;
/// How long no slot may go before it gives up: a create that is under way ends within a pool's connect timeout, whose
/// default is less.
const PATIENCE: Duration = Duration::from_secs(180);
/// First and longest pause after a round in which no slot went.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

type Slots = Vec<(Instance, Slot)>;

/// Removes a pool. Result: null.
pub async fn remove(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    cx.begin(Locks::none()).await?;
    let pool = cx.master.pool(args.need("pool_name")?).await?;
    let force = args.bool("force");
    let slots = cx.master.slots_of(&pool.name).await?;
    refuse_leased(&pool.name, &slots, force)?;
    set_state(cx, &pool, PoolState::Draining).await?;
    cx.say(format!("pool {} is draining: its {} slots go as they become free", pool.name, slots.len()));
    empty(cx, &pool.name, slots, force).await?;
    cx.apply(vec![Command::PoolRemove { pool: pool.uuid }]).await?;
    Ok(Value::Null)
}

fn refuse_leased(pool: &str, slots: &Slots, force: bool) -> Result<(), OpFail> {
    let leased: Vec<&str> = slots
        .iter()
        .filter(|(_, slot)| slot.state == SlotState::Leased)
        .map(|(one, _)| one.name.as_str())
        .collect();
    if force || leased.is_empty() {
        return Ok(());
    }
    let text = format!(
        "Pool {pool} has {} leased VMs ({}): drain it and wait until their leases end, or use --force, which breaks them",
        leased.len(),
        leased.iter().take(5).copied().collect::<Vec<_>>().join(", ")
    );
    Err(OpFail::prereq(text, Ecode::WrongState))
}

/// Round by round until no slot is left.
async fn empty(cx: &mut Cx<'_>, pool: &str, mut slots: Slots, force: bool) -> Result<(), OpFail> {
    let (all, mut left) = (slots.len(), slots.len());
    let (mut news, mut pause, mut told) = (Instant::now(), PAUSE.0, false);
    while !slots.is_empty() {
        cx.go_on()?;
        let trouble = round(cx, slots, force).await?;
        slots = cx.master.slots_of(pool).await?;
        if slots.len() < left {
            (left, news, pause, told) = (slots.len(), Instant::now(), PAUSE.0, false);
            cx.say(format!("{} of {all} slots gone", all.saturating_sub(left)));
            continue;
        }
        refuse_leased(pool, &slots, force)?;
        if news.elapsed() >= PATIENCE {
            let why = trouble.unwrap_or_else(|| held(&slots));
            let text =
                format!("Pool {pool} is draining, but {left} of its slots do not go: {why}; try again later");
            return Err(OpFail::exec(text));
        }
        if !told && let Some(why) = hindrance(cx, &slots, trouble).await? {
            told = true;
            let more = PATIENCE.saturating_sub(news.elapsed()).as_secs();
            cx.warn(format!("{left} of {all} slots do not go now: {why}; this waits for them for {more} s"));
        }
        pause_unless_cancelled(cx, pause).await?;
        pause = (pause * 2).min(PAUSE.1);
    }
    Ok(())
}

/// What keeps slots, as far as it is more than their being at work: a node that does not answer, or what failed.
async fn hindrance(
    cx: &mut Cx<'_>,
    slots: &Slots,
    trouble: Option<String>,
) -> Result<Option<String>, OpFail> {
    let claimed = cx.master.claimed_nodes().await?;
    let nodes = cx.master.nodes().await?;
    let silent = nodes.iter().filter(|node| !node.offline && !claimed.contains(&node.uuid));
    for node in silent {
        let mut here: Vec<_> = slots.iter().filter(|(_, slot)| slot.node == node.uuid).collect();
        here.sort_by(|(a, _), (b, _)| natural_cmp(&a.name, &b.name));
        if let Some((first, _)) = here.first() {
            let name = &node.name;
            return Ok(Some(format!(
                "node {name} does not answer and has {} of them, {} first; if it never comes back, mark it offline \
                 (gnt-node modify -O yes {name}) and use --force",
                here.len(),
                first.name
            )));
        }
    }
    Ok(trouble)
}

fn held(slots: &Slots) -> String {
    let told: Vec<String> =
        slots.iter().take(5).map(|(one, slot)| format!("{} is {}", one.name, slot.state.as_str())).collect();
    told.join(", ")
}

async fn pause_unless_cancelled(cx: &Cx<'_>, pause: Duration) -> Result<(), OpFail> {
    let mut cancelled = cx.cancelled();
    tokio::select! {
        () = tokio::time::sleep(pause) => Ok(()),
        Ok(_) = cancelled.wait_for(|asked| *asked) => Err(OpFail::Canceled),
    }
}

/// What may be done with a slot.
#[derive(Clone, Copy)]
struct Means {
    /// Leases are broken, and what can't be destroyed is given up.
    force: bool,
    /// Its node is offline.
    offline: bool,
}

/// Drains all, destroys those that are free, removes those where nothing lives. One reason why something was not done.
async fn round(cx: &mut Cx<'_>, slots: Slots, force: bool) -> Result<Option<String>, OpFail> {
    let nodes = cx.master.nodes().await?;
    let offline: HashMap<NodeUuid, String> =
        nodes.into_iter().filter(|node| node.offline).map(|node| (node.uuid, node.name)).collect();
    let means = |slot: &Slot| Means { force, offline: offline.contains_key(&slot.node) };
    let (mut trouble, mut doomed) = (None, Vec::new());
    for lot in slots.chunks(LOT) {
        cx.go_on()?;
        let commands = lot.iter().map(|(_, slot)| leaving(slot, means(slot))).collect();
        for (stored, (one, slot)) in cx.apply_each(commands).await?.into_iter().zip(lot) {
            match (stored, offline.get(&slot.node)) {
                (Ok(_), None) if frees(slot, force) => {
                    doomed.push(Entry { slot: slot.uuid, generation: slot.generation });
                }
                (Ok(_), Some(node)) if slot.state != SlotState::Absent => {
                    trouble = Some(given_up(cx, &one.name, node, force)).filter(|_| !force).or(trouble);
                }
                (Ok(_), _) => {}
                (Err(why), _) => trouble = Some(why),
            }
        }
    }
    for lot in doomed.chunks(SLOTS_MAX) {
        cx.go_on()?;
        let mut results = Results::default();
        let absent = tear_down(cx, lot, &mut results).await?;
        trouble = lot.iter().find_map(|entry| results.trouble(entry.slot)).or(trouble);
        let commands = absent.iter().map(|entry| gone(entry.slot)).collect();
        for stored in cx.apply_each(commands).await? {
            trouble = stored.err().or(trouble);
        }
    }
    Ok(trouble)
}

/// Says what becomes of a slot whose node can't be told.
fn given_up(cx: &Cx<'_>, slot: &str, node: &str, force: bool) -> String {
    if force {
        cx.warn(format!(
            "node {node} is offline: what may live in {slot} was not destroyed; do not bring it back without removing \
             its var/lib/gantry and restarting the machine"
        ));
    }
    format!(
        "{slot} is on node {node}, which is offline: bring it back, or use --force if it never comes back"
    )
}

/// Whether a slot can be emptied now. What a living job creates is its to finish.
fn frees(slot: &Slot, force: bool) -> bool {
    match slot.state {
        SlotState::Clean | SlotState::Dirty => true,
        SlotState::Leased => force,
        SlotState::Absent | SlotState::Creating | SlotState::Booting | SlotState::Destroying => false,
    }
}

/// What lets one slot go, as far as it can.
fn leaving(slot: &Slot, means: Means) -> Vec<Command> {
    let (uuid, generation) = (slot.uuid, slot.generation);
    let mut commands = vec![Command::SlotDrain { slot: uuid, drained: true }];
    if slot.state == SlotState::Leased && means.force {
        let why = "its pool is removed".to_owned();
        commands.push(Command::SlotDirty { slot: uuid, generation, why });
    }
    if slot.state == SlotState::Absent || (means.offline && means.force) {
        commands.push(Command::SlotRemove { slot: uuid });
    }
    commands
}

fn gone(slot: InstanceUuid) -> Vec<Command> {
    vec![Command::SlotDrain { slot, drained: true }, Command::SlotRemove { slot }]
}
