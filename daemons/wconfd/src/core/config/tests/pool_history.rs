//! Random histories of one pool against the model: slots, leases, time, restarts. After each step the invariants of
//! leases are looked at by themselves as well.

use super::pool_model::{FOR, LIFETIME_S, MAX, Pools, TTL};
use super::pools::{add_slot, blueprint, blueprint_uuid, lease_uuid, pool, pool_uuid, user};
use super::*;
use gantry_model::config::{Slot, SlotState};
use gantry_model::ids::{Generation, LeaseUuid, TaskId};
use gantry_model::lease::{Lease, LeaseOwner, LeaseState};
use proptest::prelude::*;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// Steps between two looks at what a load of the stored objects gives.
const LOAD_EVERY: usize = 16;

/// What happens. Slots by number; generations as they are, or one less.
#[derive(Debug, Clone)]
enum Act {
    Add(u128, u128),
    Remove(u128),
    Drain(u128, bool),
    Unstick(u128),
    Begin(u128, bool, u64),
    Ready(u128, bool),
    Dirty(u128, bool),
    Destroy(u128, bool, u64),
    Absent(u128, bool, bool),
    /// ABSENT to CLEAN at once, so that histories get somewhere.
    Make(u128),
    Grab(u128, u32, bool),
    Renew(u128),
    Open(u128, u128, bool),
    /// The VMs of a lease, rightly.
    OpenOwn(u128),
    End(u128),
    /// Its VM goes with it.
    EndInto(u128, bool, u64),
    /// Taken back: its first VM does not live, or none is named.
    Return(u128, bool),
    Forget(u128),
    Draining(bool),
    Enabled(bool),
    Memory(u64),
    NodeDrained(bool),
    Claim(u128, bool),
    /// Half seconds, so that times are the same when they are read back from JSON.
    Pass(u64),
    Lost(u128, u64),
    Gone(u64),
    Restart,
    /// A grab that the store does not take.
    Undone(u128, u32),
}

fn act() -> impl Strategy<Value = Act> {
    let n = || 1..5u128;
    let l = || 1..5u128;
    let aim = || prop_oneof![5 => Just(true), 1 => Just(false)];
    let rarely = || prop_oneof![3 => Just(false), 1 => Just(true)];
    prop_oneof![
        2 => (n(), 1..3u128).prop_map(|(n, on)| Act::Add(n, on)),
        1 => n().prop_map(Act::Remove),
        1 => (n(), rarely()).prop_map(|(n, on)| Act::Drain(n, on)),
        1 => n().prop_map(Act::Unstick),
        2 => (n(), aim(), 1..3u64).prop_map(|(n, aim, job)| Act::Begin(n, aim, job)),
        2 => (n(), aim()).prop_map(|(n, aim)| Act::Ready(n, aim)),
        2 => (n(), aim()).prop_map(|(n, aim)| Act::Dirty(n, aim)),
        3 => (n(), aim(), 1..3u64).prop_map(|(n, aim, job)| Act::Destroy(n, aim, job)),
        3 => (n(), aim(), aim()).prop_map(|(n, aim, floor)| Act::Absent(n, aim, floor)),
        5 => n().prop_map(Act::Make),
        8 => (l(), 1..5u32, any::<bool>()).prop_map(|(l, count, ttl)| Act::Grab(l, count.saturating_sub(1).max(1), ttl)),
        1 => (l(), 4..5u32, any::<bool>()).prop_map(|(l, count, ttl)| Act::Grab(l, count, ttl)),
        2 => l().prop_map(Act::Renew),
        2 => (l(), n(), aim()).prop_map(|(l, n, aim)| Act::Open(l, n, aim)),
        2 => l().prop_map(Act::OpenOwn),
        3 => l().prop_map(Act::End),
        3 => (l(), aim(), 1..3u64).prop_map(|(l, aim, job)| Act::EndInto(l, aim, job)),
        2 => (l(), any::<bool>()).prop_map(|(l, lost)| Act::Return(l, lost)),
        2 => l().prop_map(Act::Forget),
        1 => rarely().prop_map(Act::Draining),
        1 => rarely().prop_map(|off| Act::Enabled(!off)),
        1 => (100..102u64).prop_map(Act::Memory),
        1 => rarely().prop_map(Act::NodeDrained),
        2 => (1..3u128, aim()).prop_map(|(n, on)| Act::Claim(n, on)),
        3 => prop_oneof![0..6u64, 6..60u64].prop_map(|halves| Act::Pass(500 * halves)),
        1 => (n(), 0..2u64).prop_map(|(n, raised)| Act::Lost(n, raised)),
        1 => (1..3u64).prop_map(Act::Gone),
        1 => Just(Act::Restart),
        1 => (l(), 1..3u32).prop_map(|(l, count)| Act::Undone(l, count)),
    ]
}

impl Act {
    /// The commands it is, generations being those of the model.
    fn commands(&self, model: &Pools) -> Vec<Command> {
        let generation = |n: u128, aim: bool| {
            let now = model.slots.get(&instance_uuid(n)).map_or(0, |slot| slot.generation.0);
            Generation(if aim { now } else { now.saturating_sub(1) })
        };
        let pool_set = |set: Value| Command::PoolSet { pool: pool_uuid(1), rev: None, set: params(set) };
        let blueprint_set =
            |set: Value| Command::BlueprintSet { blueprint: blueprint_uuid(1), rev: None, set: params(set) };
        let slot = |n: u128| instance_uuid(n);
        vec![match *self {
            Act::Add(n, on) => add_slot(n, on),
            Act::Remove(n) => Command::SlotRemove { slot: slot(n) },
            Act::Drain(n, drained) => Command::SlotDrain { slot: slot(n), drained },
            Act::Unstick(n) => Command::SlotUnstick { slot: slot(n) },
            Act::Begin(n, aim, job) => {
                Command::SlotBegin { slot: slot(n), expected: generation(n, aim), holder: owner(job) }
            }
            Act::Ready(n, aim) => Command::SlotReady { slot: slot(n), generation: generation(n, aim) },
            Act::Dirty(n, aim) => {
                Command::SlotDirty { slot: slot(n), generation: generation(n, aim), why: "so".to_owned() }
            }
            Act::Destroy(n, aim, job) => Command::SlotBeginDestroy {
                slot: slot(n),
                generation: generation(n, aim),
                holder: owner(job),
            },
            Act::Absent(n, aim, floor) => {
                let generation = generation(n, aim);
                let floor = Generation(if floor { generation.0 } else { generation.0.saturating_sub(1) });
                Command::SlotAbsent { slot: slot(n), generation, floor }
            }
            Act::Make(n) => {
                let (expected, slot) = (generation(n, true), slot(n));
                let ready = Command::SlotReady { slot, generation: Generation(expected.0 + 1) };
                return vec![Command::SlotBegin { slot, expected, holder: owner(1) }, ready];
            }
            Act::Grab(l, count, ttl) => grab(l, count, ttl),
            Act::Undone(l, count) => grab(l, count, false),
            Act::Renew(l) => Command::LeaseRenew { lease: lease_uuid(l) },
            Act::Open(l, n, aim) => {
                Command::LeaseOpen { lease: lease_uuid(l), slot: slot(n), generation: generation(n, aim) }
            }
            Act::OpenOwn(l) => {
                let lease = lease_uuid(l);
                let vms = model.leases.get(&lease).map(|row| row.vms.clone()).unwrap_or_default();
                let open = |vm: gantry_model::lease::LeasedVm| Command::LeaseOpen {
                    lease,
                    slot: vm.slot,
                    generation: vm.generation,
                };
                return vms.into_iter().take(1).map(open).collect();
            }
            Act::End(l) => Command::LeaseEnd { lease: lease_uuid(l), why: "done".to_owned() },
            Act::EndInto(l, aim, job) => {
                let lease = lease_uuid(l);
                let vms = model.leases.get(&lease).map(|row| row.vms.clone()).unwrap_or_default();
                let into = |vm: gantry_model::lease::LeasedVm| {
                    let generation = Generation(vm.generation.0 - u64::from(!aim));
                    Command::LeaseDestroy { lease, slot: vm.slot, generation, holder: owner(job) }
                };
                return vms.into_iter().take(1).map(into).collect();
            }
            Act::Return(l, lost) => {
                let lease = lease_uuid(l);
                let vms = model.leases.get(&lease).map(|row| row.vms.clone()).unwrap_or_default();
                let lost = vms.iter().take(usize::from(lost)).map(|vm| (vm.slot, vm.generation)).collect();
                Command::LeaseReturn { lease, lost }
            }
            Act::Forget(l) => Command::LeaseForget { leases: vec![lease_uuid(l)] },
            Act::Draining(on) => pool_set(json!({"state": if on { "draining" } else { "active" }})),
            Act::Enabled(on) => blueprint_set(json!({ "enabled": on })),
            Act::Memory(mib) => blueprint_set(json!({ "memory_mib": mib })),
            Act::NodeDrained(on) => {
                let set = params(json!({ "drained": on }));
                Command::NodeSet { node: node_uuid(2), rev: None, set }
            }
            Act::Claim(..) | Act::Pass(_) | Act::Lost(..) | Act::Gone(_) | Act::Restart => return Vec::new(),
        }]
    }
}

fn grab(l: u128, count: u32, ttl: bool) -> Command {
    let (lease, pool) = (lease_uuid(l), "py".to_owned());
    // Some are of tasks.
    let task = LeaseOwner::Task { task: TaskId(9), attempt: 1 };
    let owner = if l.is_multiple_of(2) { task } else { user() };
    Command::LeaseGrab { lease, owner, pool, count, for_ms: FOR, ttl_ms: ttl.then_some(TTL) }
}

fn start() -> (Config, Pools) {
    let mut c = config();
    c.set_claimed(node_uuid(2), true);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small constant")]
    let lifetime_s = LIFETIME_S as u64;
    let pool = gantry_model::pool::Pool { max: MAX, amount: MAX, lifetime_s, ..pool(1, "py") };
    let made = [
        add_node(2),
        Command::BlueprintAdd { blueprint: Box::new(blueprint(1, "bp")) },
        Command::PoolAdd { pool: Box::new(pool) },
        add_slot(1, 1),
        add_slot(2, 2),
        add_slot(3, 2),
    ];
    let _ = run(&mut c, &made).unwrap();
    let model = Pools {
        now: NOW,
        clock: 0,
        stored_clock: 0,
        slots: slots(&c),
        leases: BTreeMap::new(),
        draining: false,
        enabled: true,
        revision: 1,
        memory: 256,
        claimed: [node_uuid(1), node_uuid(2)].into(),
        drained: BTreeSet::new(),
    };
    (c, model)
}

/// Reasons are for people: the model does not know them.
fn slots(c: &Config) -> BTreeMap<InstanceUuid, Slot> {
    c.slots.iter().map(|(uuid, row)| (*uuid, Slot { why: None, ..row.slot.clone() })).collect()
}

fn leases(c: &Config) -> BTreeMap<LeaseUuid, Lease> {
    c.leases.iter().map(|(uuid, row)| (*uuid, Lease { why: None, ..row.lease.clone() })).collect()
}

/// What was seen so far of the history, for what must never be.
#[derive(Default)]
struct Seen {
    ended: BTreeSet<LeaseUuid>,
    opened: BTreeSet<(InstanceUuid, Generation)>,
    given: BTreeMap<LeaseUuid, Lease>,
    generations: BTreeMap<InstanceUuid, Generation>,
}

impl Seen {
    /// I1, I2, I8, I11, I12 by themselves.
    fn check(&mut self, before: &Pools, c: &Config) {
        for (uuid, slot) in &slots(c) {
            let last = self.generations.insert(*uuid, slot.generation).unwrap_or_default();
            // A slot added again under the same number is a new one only in these histories.
            assert!(slot.generation >= last || !before.slots.contains_key(uuid), "I2");
            let live = leases(c);
            let of = live.values().filter(|lease| {
                let has =
                    |vm: &gantry_model::lease::LeasedVm| (vm.slot, vm.generation) == (*uuid, slot.generation);
                lease.state == LeaseState::Active && lease.vms.iter().any(has)
            });
            assert_eq!(of.count(), usize::from(slot.state == SlotState::Leased), "I1");
            let was = before.slots.get(uuid);
            let fresh =
                slot.state == SlotState::Leased && was.is_some_and(|was| was.state != SlotState::Leased);
            assert!(!(fresh && slot.drained), "I11");
            assert!(!(fresh && self.opened.contains(&(*uuid, slot.generation))), "I12");
            if slot.opened && slot.state != SlotState::Absent {
                self.opened.insert((*uuid, slot.generation));
            }
        }
        for (uuid, lease) in leases(c) {
            assert!(!(lease.state == LeaseState::Active && self.ended.contains(&uuid)), "I8");
            if lease.state != LeaseState::Active {
                self.ended.insert(uuid);
            }
            let first = self.given.entry(uuid).or_insert_with(|| lease.clone());
            assert_eq!((&first.vms, first.until), (&lease.vms, lease.until), "a grant never changes");
        }
        // luxid never uses a uuid again once it had it forgotten; these histories do.
        self.ended.retain(|uuid| c.lease(*uuid).is_some());
        self.given.retain(|uuid, _| c.lease(*uuid).is_some());
        self.opened.retain(|(uuid, _)| c.slot(*uuid).is_some());
    }
}

fn apply(c: &mut Config, model: &Pools, commands: &[Command]) -> Result<Effect, GanetiError> {
    let ids = &mut Counter(1);
    let effect = c.apply(commands, &mut Context { now: model.now, clock: model.clock, owner: None, ids });
    c.check();
    effect.map_err(flat)
}

/// All that stored changes leave.
fn store(into: &mut BTreeMap<(String, String), Object>, effect: &Effect) {
    for change in &effect.changes {
        let (kind, key, rev) = (change.kind.clone(), change.key.clone(), change.rev);
        let place = (kind.clone(), key.clone());
        match &change.body {
            None => assert!(into.remove(&place).is_some(), "only what is there is removed"),
            Some(body) => {
                let old = into.insert(place, Object { kind, key, rev, body: body.clone() });
                assert_eq!(rev, old.map_or(1, |old| old.rev + 1), "no gap in revisions: {change:?}");
            }
        }
    }
}

/// A new start from what is stored.
fn restart(disk: &mut BTreeMap<(String, String), Object>, now: f64) -> Config {
    let mut c = Config::load(disk.values().cloned()).expect("what is stored can be loaded");
    let mut after = None;
    while let Some((last, effect)) = c.resume_leases(after, now) {
        store(disk, &effect);
        after = Some(last);
    }
    c
}

fn step(c: &mut Config, model: &mut Pools, act: &Act, disk: &mut BTreeMap<(String, String), Object>) {
    let commands = act.commands(model);
    let effect = match *act {
        Act::Claim(n, on) => {
            c.set_claimed(node_uuid(n), on);
            if on {
                model.claimed.insert(node_uuid(n))
            } else {
                model.claimed.remove(&node_uuid(n))
            };
            return;
        }
        Act::Pass(ms) => {
            model.pass(ms);
            c.end_due(model.now, model.clock)
        }
        Act::Lost(n, raised) => {
            let slot = instance_uuid(n);
            let generation = model.slots.get(&slot).map_or(0, |slot| slot.generation.0) + raised;
            model.lost(slot, raised);
            let fix = Fix { slot, generation: Generation(generation), dirty: Some("lost".to_owned()) };
            c.fix(&[fix], model.now, model.clock)
        }
        Act::Gone(job) => {
            model.gone(owner(job));
            c.owner_gone(owner(job), model.now)
        }
        Act::Restart => {
            *c = restart(disk, model.now);
            model.restart();
            return;
        }
        Act::Undone(..) => {
            let whole = stored(c);
            if let Ok(effect) = apply(c, model, &commands) {
                c.undo(effect.undo);
            }
            assert!(stored(c) == whole, "undone without a trace");
            return;
        }
        _ => {
            let before = model.clone();
            let result = apply(c, model, &commands);
            let answers = result.as_ref().ok().map(|effect| effect.results.clone()).unwrap_or_default();
            let accepted = commands.iter().enumerate().all(|(n, command)| model.one(command, answers.get(n)));
            assert_eq!(result.is_ok(), accepted, "{commands:?}: {result:?}");
            let Ok(effect) = result else {
                *model = before;
                return;
            };
            effect
        }
    };
    store(disk, &effect);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_pool_is_as_the_model_says(acts in proptest::collection::vec(act(), 1..120)) {
        let (mut c, mut model) = start();
        let mut disk: BTreeMap<_, _> =
            stored(&c).into_iter().map(|object| ((object.kind.clone(), object.key.clone()), object)).collect();
        let mut seen = Seen::default();
        let steps = acts.len();
        for (n, act) in acts.into_iter().enumerate() {
            let (before, meta) = (model.clone(), c.meta().serial_no);
            step(&mut c, &mut model, &act, &mut disk);
            c.check();
            prop_assert_eq!(&slots(&c), &model.slots, "{:?}", act);
            prop_assert_eq!(&leases(&c), &model.leases, "{:?}", act);
            prop_assert_eq!(c.lease_clock(), model.stored_clock);
            let next = model.leases.values().filter(|lease| lease.state == LeaseState::Active).map(Lease::ends).min();
            prop_assert_eq!(c.next_end(), next);
            let config = matches!(act, Act::Add(..) | Act::Remove(_) | Act::Draining(_) | Act::Enabled(_)
                | Act::Memory(_) | Act::NodeDrained(_));
            prop_assert!(config || c.meta().serial_no == meta, "slots and leases are no part of config.data");
            seen.check(&before, &c);
            // Loading is what takes the time here.
            if n % LOAD_EVERY == 0 || n + 1 == steps {
                let loaded = Config::load(disk.values().cloned()).expect("what is stored can be loaded");
                prop_assert!(stored(&loaded) == stored(&c), "the log tells the whole story: {act:?}");
            }
        }
    }
}
