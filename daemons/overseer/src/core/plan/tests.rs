//! A table for each pass, then laws over random sights, then a world that does what is asked until nothing is.

use super::*;
use crate::core::job::{LOT, Place, SlotWork};
use crate::core::seen::{Node, Pool, Slot};
use gantry_model::config::SlotState::{self, Absent, Booting, Clean, Creating, Destroying, Dirty, Leased};
use gantry_model::ids::{InstanceUuid, NodeUuid, PoolUuid};
use gantry_model::pool::PoolState;
use proptest::prelude::*;
use std::collections::BTreeSet;
use uuid::Uuid;

const NOW: f64 = 1_000.0;
const LOST_S: u64 = 300;

fn pool(name: &str, wanted: u64) -> Pool {
    Pool {
        uuid: PoolUuid(Uuid::from_u128(u128::from(name.as_bytes()[0]))),
        name: name.to_owned(),
        blueprint: Some("b".to_owned()),
        state: PoolState::Active,
        wanted,
        spare: 0,
        lifetime: 0,
        enabled: true,
    }
}

fn node(number: u128) -> Node {
    Node {
        uuid: NodeUuid(Uuid::from_u128(number)),
        name: format!("n{number}"),
        offline: false,
        drained: false,
        vm_capable: true,
        mtotal: Some(1),
        away_s: None,
        settled: true,
    }
}

fn slot(number: u128, state: SlotState) -> Slot {
    Slot {
        uuid: InstanceUuid(Uuid::from_u128(number)),
        name: format!("p-{number}"),
        pool: "p".to_owned(),
        node_uuid: NodeUuid(Uuid::from_u128(1)),
        node_usable: true,
        state,
        generation: 7,
        drained: false,
        stuck: false,
        backoff_until: None,
        revision: 1,
        wanted_revision: Some(1),
        ready_at: Some(NOW),
    }
}

/// One pool of these slots, all wanted, on one node that is there.
fn seen(slots: Vec<Slot>) -> Seen {
    Seen { pools: vec![pool("p", slots.len() as u64)], slots, nodes: vec![node(1)], lost_s: LOST_S }
}

/// What is done with which slots, by their numbers.
fn work(jobs: &[KeyedJob]) -> Vec<(SlotWork, Vec<u64>)> {
    let numbers =
        |slots: &[Place]| slots.iter().filter_map(|s| s.name.rsplit('-').next()?.parse().ok()).collect();
    jobs.iter()
        .map(|job| match job {
            KeyedJob::Slots { work, slots } => (*work, numbers(slots)),
            other => panic!("no work on slots: {other:?}"),
        })
        .collect()
}

/// Whether a pass selects a slot that is as `slot` but for one change.
fn selects(pass: Pass, base: SlotState, change: impl FnOnce(&mut Slot)) -> bool {
    let mut one = slot(1, base);
    change(&mut one);
    !plan(pass, &seen(vec![one]), NOW).is_empty()
}

#[test]
fn destroy_dirty_takes_what_is_dirty_and_may_be_tried() {
    for state in [Absent, Creating, Booting, Clean, Leased, Destroying] {
        assert!(!selects(Pass::DestroyDirty, state, |_| {}), "{state:?}");
    }
    assert!(selects(Pass::DestroyDirty, Dirty, |_| {}));
    assert!(selects(Pass::DestroyDirty, Dirty, |s| s.drained = true), "used VMs go, whatever follows");
    assert!(selects(Pass::DestroyDirty, Dirty, |s| s.node_usable = false), "a drained node is asked");
    assert!(
        selects(Pass::DestroyDirty, Dirty, |s| s.node_uuid = NodeUuid(Uuid::from_u128(9))),
        "not known: believed"
    );
    assert!(selects(Pass::DestroyDirty, Dirty, |s| s.stuck = true), "when its pause is over");
    assert!(selects(Pass::DestroyDirty, Dirty, |s| s.backoff_until = Some(NOW)));
    assert!(!selects(Pass::DestroyDirty, Dirty, |s| s.backoff_until = Some(NOW + 0.1)));
    assert!(
        selects(Pass::DestroyDirty, Dirty, |s| s.backoff_until = Some(NOW + 3_600.0)),
        "of another clock"
    );
    for node in [Node { offline: true, ..node(1) }, Node { away_s: Some(0), ..node(1) }] {
        let there = Seen { nodes: vec![node], ..seen(vec![slot(1, Dirty)]) };
        assert_eq!(plan(Pass::DestroyDirty, &there, NOW), [], "its node would only fail");
    }
    // By itself, as an event names it: neither its pool nor other slots are needed.
    let alone = Seen { slots: vec![slot(1, Dirty)], ..Seen::default() };
    assert_eq!(work(&plan(Pass::DestroyDirty, &alone, NOW)), [(SlotWork::Destroy, vec![1])]);
}

#[test]
fn create_slots_takes_what_is_absent_and_wanted() {
    for state in [Dirty, Creating, Booting, Clean, Leased, Destroying] {
        assert!(!selects(Pass::CreateSlots, state, |_| {}), "{state:?}");
    }
    assert!(selects(Pass::CreateSlots, Absent, |_| {}));
    assert!(!selects(Pass::CreateSlots, Absent, |s| s.drained = true), "I11");
    assert!(selects(Pass::CreateSlots, Absent, |s| s.stuck = true), "when its pause is over");
    assert!(!selects(Pass::CreateSlots, Absent, |s| s.node_usable = false));
    assert!(!selects(Pass::CreateSlots, Absent, |s| s.backoff_until = Some(NOW + 1.0)));
    let base = seen(vec![slot(1, Absent)]);
    let with = |change: fn(&mut Pool)| {
        let mut other = base.clone();
        change(&mut other.pools[0]);
        plan(Pass::CreateSlots, &other, NOW)
    };
    assert_eq!(with(|p| p.state = PoolState::Draining), []);
    assert_eq!(with(|p| p.enabled = false), []);
    assert_eq!(with(|p| p.wanted = 0), [], "it would be drained at once");
    assert_eq!(with(|p| p.name = "q".to_owned()), [], "a pool that is gone");
    let away = Seen { nodes: vec![Node { away_s: Some(1), ..node(1) }], ..base.clone() };
    assert_eq!(plan(Pass::CreateSlots, &away, NOW), []);
}

#[test]
fn lots_are_bounded_and_spread_over_nodes() {
    let on = |number: u128| Slot { node_uuid: NodeUuid(Uuid::from_u128(number % 2)), ..slot(number, Dirty) };
    let mut slots: Vec<Slot> = (0..40).map(on).collect();
    slots.sort_by_key(|slot| slot.node_uuid);
    let jobs = plan(Pass::DestroyDirty, &seen(slots), NOW);
    let lots: Vec<Vec<u64>> = work(&jobs).into_iter().map(|(_, lot)| lot).collect();
    assert_eq!(lots.iter().map(Vec::len).collect::<Vec<_>>(), [16, 16, 8]);
    for lot in lots {
        assert_eq!(lot.iter().filter(|number| *number % 2 == 0).count(), lot.len() / 2);
    }
}

#[test]
fn expand_pools_counts_what_can_be_used() {
    let counts = |change: fn(&mut Slot), wanted: u64| {
        let mut slots = vec![slot(1, Clean), slot(2, Clean)];
        change(&mut slots[1]);
        plan(Pass::ExpandPools, &Seen { pools: vec![pool("p", wanted)], ..seen(slots) }, NOW)
    };
    assert_eq!(counts(|_| {}, 2), []);
    let jobs = counts(|_| {}, 3);
    assert_eq!(jobs, [KeyedJob::expand(&pool("p", 3), 2)]);
    assert_eq!(jobs[0].keys(), [format!("pool-expand:{}", pool("p", 3).uuid)]);
    assert_eq!(counts(|s| s.drained = true, 2).len(), 1);
    assert_eq!(counts(|s| s.node_usable = false, 2).len(), 1);
    let gone = |away_s| {
        let away = vec![Node { away_s: Some(away_s), ..node(1) }];
        let sight = Seen { nodes: away, ..seen(vec![slot(1, Clean), slot(2, Leased)]) };
        plan(Pass::ExpandPools, &sight, NOW)
    };
    assert_eq!(gone(LOST_S - 1), [], "it may only be starting again");
    assert_eq!(gone(LOST_S), [KeyedJob::expand(&pool("p", 2), 0)], "VMs are wanted elsewhere");
    assert_eq!(counts(|s| s.stuck = true, 2), [], "an operator is told; it keeps its place");
    let draining = Pool { state: PoolState::Draining, ..pool("p", 3) };
    assert_eq!(plan(Pass::ExpandPools, &Seen { pools: vec![draining], ..Seen::default() }, NOW), []);
    assert_eq!(plan(Pass::ExpandPools, &Seen { pools: vec![pool("q", 1)], ..Seen::default() }, NOW).len(), 1);
}

#[test]
fn a_pool_shrinks_by_what_costs_least_and_never_by_a_running_lease() {
    let states = [Leased, Clean, Dirty, Absent, Clean, Creating, Leased];
    let slots: Vec<Slot> = (1..).zip(states).map(|(number, state)| slot(number, state)).collect();
    let drained = |wanted: u64| {
        let sight = Seen { pools: vec![pool("p", wanted)], ..seen(slots.clone()) };
        let jobs = plan(Pass::DrainSlots, &sight, NOW);
        let mut all: Vec<u64> = Vec::new();
        for (work, lot) in work(&jobs) {
            assert_eq!(work, SlotWork::Drain("drained"));
            all.extend(lot);
        }
        all
    };
    assert_eq!(drained(7), [0; 0]);
    assert_eq!(drained(6), [4]);
    assert_eq!(drained(5), [3, 4]);
    assert_eq!(drained(4), [3, 4, 5]);
    assert_eq!(drained(3), [2, 3, 4, 5]);
    assert_eq!(drained(2), [2, 3, 4, 5, 6]);
    assert_eq!(drained(1), [2, 3, 4, 5, 6, 7], "the lease goes on; its slot goes after it");
}

#[test]
fn what_was_drained_goes_step_by_step() {
    let drained = |number, state| Slot { drained: true, ..slot(number, state) };
    let states = [Absent, Creating, Booting, Clean, Leased, Dirty, Destroying];
    let slots = (1..).zip(states).map(|(number, state)| drained(number, state)).collect();
    let sight = Seen { pools: vec![pool("p", 0)], ..seen(slots) };
    let jobs = plan(Pass::DrainSlots, &sight, NOW);
    assert_eq!(work(&jobs), [(SlotWork::Drain("drained"), vec![1, 4])]);
    let homeless = Slot { node_usable: false, ..slot(2, Absent) };
    let jobs = plan(Pass::DrainSlots, &seen(vec![homeless]), NOW);
    assert_eq!(work(&jobs), [(SlotWork::Drain("node takes no work"), vec![2])]);
    let draining = Pool { state: PoolState::Draining, ..pool("p", 0) };
    let sight = Seen { pools: vec![draining], ..seen(vec![slot(1, Leased), slot(2, Clean)]) };
    assert_eq!(work(&plan(Pass::DrainSlots, &sight, NOW)), [(SlotWork::Drain("drained"), vec![1, 2])]);
}

#[test]
fn slots_of_a_lost_node_are_made_anew_elsewhere_and_the_surplus_goes_when_it_is_back() {
    let states = [Absent, Clean, Leased, Dirty, Creating];
    let here = |number, state| Slot { node_uuid: NodeUuid(Uuid::from_u128(2)), ..slot(number, state) };
    let slots: Vec<Slot> = (1..).zip(states).map(|(number, state)| slot(number, state)).collect();
    let both = |away_s, more: Vec<Slot>| Seen {
        pools: vec![pool("p", 5)],
        nodes: vec![Node { away_s, ..node(1) }, node(2)],
        ..seen(slots.iter().cloned().chain(more).collect())
    };
    let lost = both(Some(LOST_S), Vec::new());
    assert_eq!(plan(Pass::ExpandPools, &lost, NOW), [KeyedJob::expand(&pool("p", 5), 0)]);
    let gone = [(SlotWork::Drain("node takes no work"), vec![1])];
    assert_eq!(work(&plan(Pass::DrainSlots, &lost, NOW)), gone, "what lives there waits for its node");
    assert_eq!(plan(Pass::CreateSlots, &lost, NOW), []);
    let replaced: Vec<Slot> = (6..11).map(|number| here(number, Clean)).collect();
    assert_eq!(plan(Pass::ExpandPools, &both(Some(LOST_S), replaced.clone()), NOW), []);
    let back = work(&plan(Pass::DrainSlots, &both(None, replaced.clone()), NOW));
    assert_eq!(back, [(SlotWork::Drain("drained"), vec![1, 4, 8, 9, 10])], "the cheapest go");
    // An overseer that begins knows no more than that it is away; and who just came back may be gone again.
    for away_s in [Some(0), None] {
        let mut seen = both(away_s, replaced.clone());
        seen.nodes[0].settled = false;
        assert_eq!(plan(Pass::DrainSlots, &seen, NOW), [], "{away_s:?}");
    }
    let unknown = Seen { nodes: Vec::new(), ..both(None, replaced) };
    assert_eq!(plan(Pass::DrainSlots, &unknown, NOW), [], "no node was looked at yet");
}

#[test]
fn what_nobody_has_leased_goes_from_a_drained_node() {
    let goes = |node: Node, state| {
        let slots = vec![Slot { node_usable: false, ..slot(1, state) }];
        work(&plan(Pass::DrainSlots, &Seen { nodes: vec![node], ..seen(slots) }, NOW))
    };
    let drained = || Node { drained: true, ..node(1) };
    let homeless = [(SlotWork::Drain("node takes no work"), vec![1])];
    assert_eq!(goes(drained(), Clean), homeless);
    for state in [Creating, Booting, Leased, Dirty, Destroying] {
        assert_eq!(goes(drained(), state), [], "{state:?}: it goes when it is over");
    }
    assert_eq!(goes(Node { away_s: Some(1), ..drained() }, Clean), [], "it waits for its node");
    assert_eq!(goes(Node { offline: true, ..node(1) }, Clean), []);
    assert_eq!(goes(node(1), Clean), [], "not claimed at this moment");
}

#[test]
fn outdated_vms_are_replaced_a_quarter_at_a_time() {
    let old = |number: u128, state| Slot { wanted_revision: Some(2), ..slot(number, state) };
    let replaced = |slots: Vec<Slot>| -> usize {
        let jobs = plan(Pass::DrainSlots, &seen(slots), NOW);
        work(&jobs)
            .iter()
            .map(|(work, lot)| if *work == SlotWork::Recycle("revision") { lot.len() } else { 0 })
            .sum()
    };
    assert_eq!(replaced((0..8).map(|n| old(n, Clean)).collect()), 2);
    assert_eq!(replaced((0..3).map(|n| old(n, Clean)).collect()), 1);
    assert_eq!(replaced((0..3).map(|n| old(n, if n == 0 { Creating } else { Clean })).collect()), 0);
    assert_eq!(replaced((0..8).map(|n| old(n, if n == 0 { Dirty } else { Clean })).collect()), 1);
    assert_eq!(replaced((0..8).map(|n| old(n, if n < 6 { Leased } else { Clean })).collect()), 2);
    assert_eq!(replaced((0..8).map(|n| old(n, Leased)).collect()), 0);
    assert_eq!(replaced((0..8).map(|n| slot(n, Clean)).collect()), 0);
    let mut stuck: Vec<Slot> = (0..4).map(|n| old(n, Clean)).collect();
    stuck[0] = Slot { stuck: true, ..old(0, Dirty) };
    assert_eq!(replaced(stuck), 1, "one that is stuck does not stop the others");
    let mut sight = seen(vec![old(1, Clean)]);
    assert!(has_outdated(&sight, NOW));
    sight.pools[0].enabled = false;
    assert_eq!(plan(Pass::DrainSlots, &sight, NOW), [], "nothing would follow them");
    assert!(!has_outdated(&sight, NOW), "and no news matter");
    assert!(!has_outdated(&seen(vec![old(1, Leased)]), NOW));
}

#[test]
fn old_age_counts_from_the_first_readiness() {
    let aged = |lifetime, ready_at| {
        let sight = Seen {
            pools: vec![Pool { lifetime, ..pool("p", 1) }],
            ..seen(vec![Slot { ready_at, ..slot(1, Clean) }])
        };
        assert_eq!(has_outdated(&sight, NOW), !plan(Pass::DrainSlots, &sight, NOW).is_empty());
        work(&plan(Pass::DrainSlots, &sight, NOW))
    };
    assert_eq!(aged(0, Some(1.0)), []);
    assert_eq!(aged(60, Some(NOW - 29.0)), [], "not in its first half");
    assert_eq!(aged(60, None), []);
    assert_eq!(aged(60, Some(NOW - 60.0)), [(SlotWork::Recycle("lifetime"), vec![1])]);
    assert_eq!(aged(10_000, Some(NOW - 8_999.0)), []);
    assert_eq!(
        aged(10_000, Some(NOW - 9_500.0)),
        [(SlotWork::Recycle("lifetime"), vec![1])],
        "before its end"
    );
}

#[test]
fn vms_made_together_have_different_turns_and_all_before_their_end() {
    let at = |age: f64| {
        let slots = (0..256_u128).map(|n| Slot { ready_at: Some(NOW - age), ..slot(n, Clean) }).collect();
        let sight = Seen { pools: vec![Pool { lifetime: 3_600, ..pool("p", 256) }], ..seen(slots) };
        work(&plan(Pass::DrainSlots, &sight, NOW)).iter().map(|(_, lot)| lot.len()).sum::<usize>()
    };
    assert_eq!(at(3_600.0 - 361.0), 0);
    assert_eq!(at(3_600.0 - 360.0), 1);
    assert_eq!(at(3_600.0 - 345.0), 22, "a few at a time");
    assert_eq!(at(3_600.0 - 180.0), 64, "a quarter at most");
    let one = vec![Slot { ready_at: Some(NOW), ..slot(255, Clean) }, slot(1, Dirty)];
    let sight = Seen { pools: vec![Pool { lifetime: 60, ..pool("p", 2) }], ..seen(one) };
    assert_eq!((next_turn(&sight, NOW), next_turn(&sight, NOW + 30.0)), (Some(NOW + 30.0), None));
}

#[test]
fn health_check_looks_at_what_may_be_leased() {
    for state in [Absent, Creating, Booting, Dirty, Leased, Destroying] {
        assert!(!selects(Pass::HealthCheck, state, |_| {}), "{state:?}");
    }
    assert!(selects(Pass::HealthCheck, Clean, |_| {}));
    assert!(!selects(Pass::HealthCheck, Clean, |s| s.drained = true));
    assert!(!selects(Pass::HealthCheck, Clean, |s| s.node_usable = false));
    let away = Seen { nodes: vec![Node { away_s: Some(1), ..node(1) }], ..seen(vec![slot(1, Clean)]) };
    assert_eq!(plan(Pass::HealthCheck, &away, NOW), []);
}

#[test]
fn only_leases_on_lost_nodes_are_broken() {
    let broken = |node: Node, state| {
        work(&plan(Pass::NodeRepair, &Seen { nodes: vec![node], ..seen(vec![slot(1, state)]) }, NOW)).len()
    };
    let away = |away_s| Node { away_s: Some(away_s), ..node(1) };
    assert_eq!(broken(node(1), Leased), 0);
    assert_eq!(broken(away(LOST_S - 1), Leased), 0, "away for a moment: its leases are kept");
    assert_eq!(broken(away(LOST_S), Leased), 1);
    assert_eq!(broken(Node { offline: true, ..away(0) }, Leased), 1);
    assert_eq!(broken(Node { drained: true, ..node(1) }, Leased), 0);
    for state in [Absent, Creating, Booting, Clean, Dirty, Destroying] {
        assert_eq!(broken(away(LOST_S), state), 0, "{state:?}");
    }
}

#[test]
fn audits_go_to_all_nodes_that_answer() {
    let nodes = vec![
        node(1),
        Node { vm_capable: false, ..node(2) },
        Node { offline: true, ..node(3) },
        Node { away_s: Some(0), ..node(4) },
        Node { drained: true, ..node(5) },
    ];
    let jobs = plan(Pass::AuditNodes, &Seen { nodes, ..Seen::default() }, NOW);
    assert_eq!(jobs, [1, 2, 5].map(|n| KeyedJob::audit(&node(n))));
    assert_eq!(jobs[0].keys(), [format!("node-audit:{}", node(1).uuid)]);
}

#[test]
fn every_opcode_is_one_that_luxid_takes() {
    let places = [&slot(1, Clean), &slot(2, Clean)];
    let works = [
        SlotWork::Create,
        SlotWork::Destroy,
        SlotWork::Verify,
        SlotWork::Drain("w"),
        SlotWork::Recycle("w"),
        SlotWork::Break("w"),
    ];
    let mut jobs: Vec<KeyedJob> = works.iter().flat_map(|work| KeyedJob::lots(*work, &places)).collect();
    jobs.extend([KeyedJob::expand(&pool("p", 1), 0), KeyedJob::audit(&node(1))]);
    for job in jobs {
        gantry_model::opcode::check(&job.opcode(Pass::CreateSlots, 5))
            .unwrap_or_else(|error| panic!("{job:?}: {error}"));
        assert!(
            job.keys().iter().all(|key| key.split(':').all(|part| !part.is_empty()) && !key.contains(' '))
        );
    }
}

#[test]
fn halves_keep_every_slot() {
    let slots: Vec<Slot> = (0..5).map(|n| slot(n, Dirty)).collect();
    let [job] = &plan(Pass::DestroyDirty, &seen(slots), NOW)[..] else { panic!("one lot") };
    let (mut left, mut singles) = (vec![job.clone()], Vec::new());
    while let Some(job) = left.pop() {
        match job.halves() {
            Some(halves) => left.extend(halves),
            None => singles.extend(job.keys()),
        }
    }
    singles.sort();
    assert_eq!(singles, job.keys());
    assert_eq!(KeyedJob::audit(&node(1)).halves(), None);
}

fn any_state() -> impl Strategy<Value = SlotState> {
    prop::sample::select(vec![Absent, Creating, Booting, Clean, Leased, Dirty, Destroying])
}

prop_compose! {
    fn any_slot()(
        number in 1u128..60, state in any_state(), node in 1u128..4, pool in 0usize..3,
        flags in prop::array::uniform4(prop::bool::weighted(0.2)), revision in 1u64..3, age in 0u32..100,
    ) -> Slot {
        let name = ["p", "q", "r"][pool];
        Slot {
            name: format!("{name}-{number}"),
            pool: name.to_owned(),
            node_uuid: NodeUuid(Uuid::from_u128(node)),
            node_usable: !flags[0],
            drained: flags[1],
            stuck: flags[2],
            backoff_until: flags[3].then_some(NOW + 5.0),
            revision,
            ready_at: Some(NOW - f64::from(age)),
            ..slot(number, state)
        }
    }
}

prop_compose! {
    fn any_seen()(
        slots in prop::collection::vec(any_slot(), 0..50),
        wanted in prop::array::uniform2(0u64..30), draining in any::<bool>(), lifetime in 0u64..80,
        away in prop::array::uniform3(prop::option::weighted(0.2, 0u64..600)), offline in prop::bool::weighted(0.1),
        drained in any::<bool>(),
    ) -> Seen {
        let mut pools = vec![pool("p", wanted[0]), Pool { lifetime, ..pool("q", wanted[1]) }];
        if draining {
            pools[0] = Pool { state: PoolState::Draining, wanted: 0, ..pool("p", 0) };
        }
        let mut known = BTreeSet::new();
        let slots = slots.into_iter().filter(|slot| known.insert(slot.uuid)).collect();
        let settled = |away_s: Option<u64>| away_s.is_none();
        let mut nodes: Vec<Node> =
            (1..4).zip(away).map(|(n, away_s)| Node { away_s, settled: settled(away_s), ..node(n) }).collect();
        nodes[1].drained = drained;
        nodes[2].offline = offline;
        // New slots have one home at least.
        nodes[0].away_s = nodes[0].away_s.filter(|away_s| *away_s < LOST_S);
        Seen { pools, slots, nodes, lost_s: LOST_S }
    }
}

/// Does what the jobs of a pass ask for, as the jobs do it.
fn perform(seen: &mut Seen, jobs: &[KeyedJob]) {
    for job in jobs {
        match job {
            KeyedJob::Slots { work, slots } => slots.iter().for_each(|place| one(seen, *work, place)),
            KeyedJob::Expand { name, gap, .. } => {
                for _ in gap.0..gap.1 {
                    let number = 1_000 + seen.slots.len() as u128;
                    let new =
                        Slot { name: format!("{name}-{number}"), pool: name.clone(), ..slot(number, Absent) };
                    seen.slots.push(new);
                }
            }
            KeyedJob::Audit { .. } => {}
        }
    }
}

fn one(seen: &mut Seen, work: SlotWork, place: &Place) {
    let Some(at) = seen.slots.iter().position(|slot| slot.uuid == place.uuid) else { return };
    let slot = &mut seen.slots[at];
    match (work, slot.state) {
        (SlotWork::Create, Absent) => {
            slot.generation += 1;
            slot.revision = slot.wanted_revision.unwrap_or(0);
            slot.ready_at = Some(NOW);
            slot.state = Clean;
        }
        (SlotWork::Destroy, Dirty) => slot.state = Absent,
        (SlotWork::Drain(_), Absent) => drop(seen.slots.remove(at)),
        (SlotWork::Drain(_), state) => {
            slot.drained = true;
            if state == Clean {
                slot.state = Dirty;
            }
        }
        (SlotWork::Recycle(_), Clean) | (SlotWork::Break(_), Leased) => slot.state = Dirty,
        _ => {}
    }
}

proptest! {
    #[test]
    fn the_laws_of_every_pass(seen in any_seen()) {
        for pass in Pass::ALL {
            let jobs = plan(pass, &seen, NOW);
            prop_assert_eq!(&jobs, &plan(pass, &seen, NOW), "equal sights, equal jobs");
            let keys: Vec<String> = jobs.iter().flat_map(KeyedJob::keys).collect();
            prop_assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "{} repeats a key", pass);
            for job in &jobs {
                let KeyedJob::Slots { work, slots } = job else { continue };
                prop_assert!((1..=LOT).contains(&slots.len()));
                for place in slots {
                    let slot = seen.slots.iter().find(|slot| slot.uuid == place.uuid).expect("a slot that was seen");
                    prop_assert_eq!(place.generation, slot.generation);
                    if slot.state == Leased {
                        let lets = matches!(work, SlotWork::Drain(_)) || *work == SlotWork::Break("node lost") && seen.is_lost(slot);
                        prop_assert!(lets, "{work:?} on a leased slot");
                    }
                    prop_assert!(*work != SlotWork::Create || !slot.drained, "I11");
                }
            }
        }
    }

    #[test]
    fn doing_what_is_asked_leads_to_rest(mut seen in any_seen()) {
        for _ in 0..200 {
            let mut rest = true;
            for pass in Pass::ALL.into_iter().filter(|pass| pass.is_quick()) {
                let jobs = plan(pass, &seen, NOW);
                rest &= jobs.is_empty();
                perform(&mut seen, &jobs);
            }
            if rest {
                break;
            }
        }
        for pass in Pass::ALL.into_iter().filter(|pass| pass.is_quick()) {
            prop_assert_eq!(plan(pass, &seen, NOW), [], "{} never rests", pass);
        }
        for pool in &seen.pools {
            let counted = seen.slots.iter().filter(|slot| slot.pool == pool.name && seen.counts(slot)).count() as u64;
            let stay = seen.slots.iter().filter(|slot| slot.pool == pool.name && seen.stays(slot)).count() as u64;
            prop_assert!(counted >= pool.wanted && stay <= pool.wanted, "{}: {counted}, {stay}", &pool.name);
            let settled = seen.nodes.iter().all(|node| node.settled);
            prop_assert!(counted == pool.wanted || !settled, "{}", &pool.name);
        }
    }
}
