//! Passes that compare a pool with its slots.

use crate::core::job::{KeyedJob, SlotWork};
use crate::core::seen::{Pool, Seen, Slot};
use gantry_model::config::SlotState;
use gantry_model::ids::InstanceUuid;
use gantry_model::pool::PoolState;
use std::collections::{BTreeMap, BTreeSet};

/// Part of a pool that may be out of service while its outdated VMs are replaced: most of it stays leasable.
const ROLLING_PART: usize = 4;
/// The part of their lifetime before whose end VMs begin to be replaced.
const LEAD_PART: f64 = 10.0;
/// At least so long before it, seconds, but not in the first half of a shorter one: more than the pass's period.
const LEAD_S: f64 = 150.0;

/// Slots by the name of their pool, in the order seen.
fn by_pool(seen: &Seen) -> BTreeMap<&str, Vec<&Slot>> {
    let mut pools: BTreeMap<&str, Vec<&Slot>> = BTreeMap::new();
    for slot in &seen.slots {
        pools.entry(&slot.pool).or_default().push(slot);
    }
    pools
}

/// Pools with fewer slots that count than they shall have.
pub(super) fn expand_pools(seen: &Seen) -> Vec<KeyedJob> {
    let slots = by_pool(seen);
    let mut jobs = Vec::new();
    for pool in seen.pools.iter().filter(|pool| pool.state == PoolState::Active) {
        let own = slots.get(pool.name.as_str()).map_or(&[][..], Vec::as_slice);
        let counted = own.iter().filter(|slot| seen.counts(slot)).count() as u64;
        if counted < pool.wanted {
            jobs.push(KeyedJob::expand(pool, counted));
        }
    }
    jobs
}

/// Slots that their pools have too many, cheapest first: nothing lives in them, then used VMs, then the clean ones with
/// the highest numbers, then those under way, and last those that are leased.
#[must_use]
pub fn surplus(seen: &Seen) -> BTreeSet<InstanceUuid> {
    too_many(seen, |slot| seen.counts(slot))
}

/// The same of those that stay: what is let go is gone, and what is on a node that just came back may not be there.
fn leaving(seen: &Seen) -> BTreeSet<InstanceUuid> {
    too_many(seen, |slot| seen.stays(slot))
}

fn too_many(seen: &Seen, counts: impl Fn(&Slot) -> bool) -> BTreeSet<InstanceUuid> {
    let slots = by_pool(seen);
    let of_pool = |pool: &Pool| {
        let own = slots.get(pool.name.as_str()).map_or(&[][..], Vec::as_slice);
        let mut own: Vec<&Slot> = own.iter().copied().filter(|slot| counts(slot)).collect();
        own.sort_by_key(|slot| (cost(slot.state), std::cmp::Reverse(slot.number())));
        let wanted = usize::try_from(pool.wanted).unwrap_or(usize::MAX);
        let many = own.len().saturating_sub(wanted);
        own.into_iter().take(many).map(|slot| slot.uuid).collect::<Vec<_>>()
    };
    seen.pools.iter().flat_map(of_pool).collect()
}

/// What it costs to let a slot go.
fn cost(state: SlotState) -> u8 {
    match state {
        SlotState::Absent => 0,
        SlotState::Dirty => 1,
        SlotState::Clean => 2,
        SlotState::Destroying | SlotState::Creating | SlotState::Booting => 3,
        SlotState::Leased => 4,
    }
}

/// Slots that shall go, and VMs that are outdated.
pub(super) fn drain_slots(seen: &Seen, now: f64) -> Vec<KeyedJob> {
    let (surplus, gone) = (surplus(seen), leaving(seen));
    let draining: BTreeSet<&str> = seen
        .pools
        .iter()
        .filter(|pool| pool.state == PoolState::Draining)
        .map(|pool| pool.name.as_str())
        .collect();
    let mut lots = Lots::default();
    for slot in &seen.slots {
        let leaving = gone.contains(&slot.uuid) || draining.contains(slot.pool.as_str());
        match slot.state {
            // Marked before: one in which nothing lives any more goes; one that became CLEAN after its mark becomes DIRTY.
            SlotState::Absent | SlotState::Clean if slot.drained => lots.drained.push(slot),
            SlotState::Absent if !slot.node_usable || seen.is_lost(slot) => lots.homeless.push(slot),
            // Nobody can lease it there, so it only keeps the node from being emptied. One on a node that is away waits.
            SlotState::Clean if seen.is_being_emptied(slot) => lots.homeless.push(slot),
            _ if slot.drained => {}
            _ if leaving => lots.drained.push(slot),
            _ => {}
        }
    }
    let mut jobs = KeyedJob::lots(SlotWork::Drain("drained"), &lots.drained);
    jobs.extend(KeyedJob::lots(SlotWork::Drain("node takes no work"), &lots.homeless));
    let (revision, lifetime) = outdated(seen, now, &surplus);
    jobs.extend(KeyedJob::lots(SlotWork::Recycle("revision"), &revision));
    jobs.extend(KeyedJob::lots(SlotWork::Recycle("lifetime"), &lifetime));
    jobs
}

#[derive(Default)]
struct Lots<'a> {
    drained: Vec<&'a Slot>,
    homeless: Vec<&'a Slot>,
}

/// CLEAN slots of an older blueprint, and those that are too old: as many as may be replaced now.
fn outdated<'a>(
    seen: &'a Seen,
    now: f64,
    surplus: &BTreeSet<InstanceUuid>,
) -> (Vec<&'a Slot>, Vec<&'a Slot>) {
    let slots = by_pool(seen);
    let (mut revision, mut lifetime) = (Vec::new(), Vec::new());
    // A blueprint that makes no new VMs has nothing to replace the old ones by.
    for pool in seen.pools.iter().filter(|pool| pool.state == PoolState::Active && pool.enabled) {
        let own = slots.get(pool.name.as_str()).map_or(&[][..], Vec::as_slice);
        let counted = own.iter().filter(|slot| seen.counts(slot) && !surplus.contains(&slot.uuid));
        let mut room = room(&counted.clone().copied().collect::<Vec<_>>());
        for slot in counted.filter(|slot| slot.state == SlotState::Clean && seen.can_ask(slot)) {
            let list = match (is_old(slot), is_aged(slot, pool, now)) {
                (true, _) => &mut revision,
                (false, true) => &mut lifetime,
                (false, false) => continue,
            };
            if room == 0 {
                break;
            }
            room -= 1;
            list.push(*slot);
        }
    }
    (revision, lifetime)
}

/// How many more of these may be out of service: a quarter, or one, less those that are already.
fn room(slots: &[&Slot]) -> usize {
    let out = |slot: &&&Slot| !slot.stuck && !matches!(slot.state, SlotState::Clean | SlotState::Leased);
    (slots.len() / ROLLING_PART).max(1).saturating_sub(slots.iter().filter(out).count())
}

fn is_old(slot: &Slot) -> bool {
    slot.wanted_revision.is_some_and(|wanted| slot.revision != wanted)
}

/// When a VM comes so near to its pool's lifetime, after which wconfd leases it to nobody, that its turn has come; None =
/// never. Those made together have different turns, by their uuids, so that most of a pool stays leasable.
fn turn(slot: &Slot, pool: &Pool) -> Option<f64> {
    // Seconds of a setting: far below what a float holds exactly.
    #[allow(clippy::cast_precision_loss, reason = "seconds stay far below 2^52")]
    let lifetime = pool.lifetime as f64;
    let lead = (lifetime / LEAD_PART).max(LEAD_S.min(lifetime / 2.0));
    let [.., byte] = slot.uuid.0.into_bytes();
    let before = lead * (1.0 + f64::from(byte) / 255.0) / 2.0;
    slot.ready_at.filter(|_| pool.lifetime > 0).map(|ready| ready + lifetime - before)
}

fn is_aged(slot: &Slot, pool: &Pool, now: f64) -> bool {
    turn(slot, pool).is_some_and(|turn| turn <= now)
}

/// When the turn of the next CLEAN VM comes, if that is later than now.
#[must_use]
pub fn next_turn(seen: &Seen, now: f64) -> Option<f64> {
    let pools: BTreeMap<&str, &Pool> = seen.pools.iter().map(|pool| (pool.name.as_str(), pool)).collect();
    let clean = seen.slots.iter().filter(|slot| slot.state == SlotState::Clean);
    let turns = clean.filter_map(|slot| turn(slot, pools.get(slot.pool.as_str())?));
    turns.filter(|turn| *turn > now).min_by(f64::total_cmp)
}

/// Whether any CLEAN VM is outdated and shall be replaced: then news of clean ones make room for the next.
#[must_use]
pub fn has_outdated(seen: &Seen, now: f64) -> bool {
    let makes = |pool: &&Pool| pool.state == PoolState::Active && pool.enabled;
    let pools: BTreeMap<&str, &Pool> =
        seen.pools.iter().filter(makes).map(|pool| (pool.name.as_str(), pool)).collect();
    let outdated = |slot: &Slot| {
        pools.get(slot.pool.as_str()).is_some_and(|pool| is_old(slot) || is_aged(slot, pool, now))
    };
    seen.slots.iter().any(|slot| slot.state == SlotState::Clean && outdated(slot))
}
