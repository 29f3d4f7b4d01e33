//! The numbers of pools, and what batches touch, against a walk over everything.

use super::{change, instance, node, uuid};
use crate::core::mirror::{Mirror, PoolCounts, Snapshot, Touched};
use gantry_model::config::{Slot, SlotState, Stamp, kind};
use gantry_model::ids::{BlueprintUuid, InstanceUuid, LeaseUuid, NodeUuid, PoolUuid};
use gantry_model::lease::{Lease, LeaseClock, LeaseOwner, LeaseState};
use gantry_model::pool::{Image, Pool};
use gantry_proto::wconfd::{WatchChange, WatchItem};
use proptest::prelude::*;
use std::collections::BTreeSet;
use uuid::Uuid;

const POOLS: [&str; 3] = ["p", "q", "r"];
const STATES: [SlotState; 7] = [
    SlotState::Absent,
    SlotState::Creating,
    SlotState::Booting,
    SlotState::Clean,
    SlotState::Leased,
    SlotState::Dirty,
    SlotState::Destroying,
];

#[derive(Debug, Clone)]
enum Step {
    /// Number; offline, drained.
    Node(u8, Option<(bool, bool)>),
    /// Number; pool, home.
    Instance(u8, Option<(Option<usize>, u8)>),
    /// Number; state, drained, stuck.
    Slot(u8, Option<(usize, bool, bool)>),
}

fn step() -> impl Strategy<Value = Step> {
    let some = prop::option::weighted::<BoxedStrategy<(bool, bool)>>;
    let flags = (any::<bool>(), any::<bool>()).boxed();
    let home = (prop::option::weighted(0.9, 0..POOLS.len()), 0_u8..3);
    let slot = (0..STATES.len(), prop::bool::weighted(0.2), prop::bool::weighted(0.1));
    prop_oneof![
        1 => (0_u8..3, some(0.8, flags)).prop_map(|(n, b)| Step::Node(n, b)),
        2 => (0_u8..10, prop::option::weighted(0.9, home)).prop_map(|(n, b)| Step::Instance(n, b)),
        4 => (0_u8..10, prop::option::weighted(0.9, slot)).prop_map(|(n, b)| Step::Slot(n, b)),
    ]
}

fn changed(step: &Step) -> WatchChange {
    match step.clone() {
        Step::Node(n, flags) => {
            let body = flags.map(|(offline, drained)| {
                let mut node = node(n, &format!("n{n}"), 0);
                (node.offline, node.drained) = (offline, drained);
                node
            });
            change(kind::NODE, uuid(n), body.as_ref())
        }
        Step::Instance(n, body) => {
            let body = body.map(|(pool, home)| {
                let mut instance = instance(n, &format!("i{n}"), home);
                instance.pool = pool.map(|pool| POOLS[pool].to_owned());
                instance
            });
            change(kind::INSTANCE, uuid(n), body.as_ref())
        }
        Step::Slot(n, body) => {
            let body = body.map(|(state, drained, stuck)| Slot {
                state: STATES[state],
                drained,
                stuck,
                ..Slot::new(InstanceUuid(uuid(n)), NodeUuid(uuid(0)))
            });
            change(kind::SLOT, uuid(n), body.as_ref())
        }
    }
}

/// The slow way: every instance is looked at.
fn recount(seen: &Snapshot, pool: &str) -> PoolCounts {
    let mut all = PoolCounts::default();
    for (_, row) in seen.instances().iter().filter(|(_, row)| row.instance.pool.as_deref() == Some(pool)) {
        all.slots += 1;
        let node = seen.nodes().get(&row.instance.primary_node);
        let works = node.is_some_and(|n| !n.offline && !n.drained);
        let Some(slot) = &row.slot else {
            all.absent += 1;
            all.able += u64::from(works);
            continue;
        };
        all.able += u64::from(works && !slot.stuck && !slot.drained);
        if slot.stuck {
            all.stuck += 1;
            continue;
        }
        match slot.state {
            SlotState::Absent => all.absent += 1,
            SlotState::Creating | SlotState::Booting => all.creating += 1,
            SlotState::Leased => all.leased += 1,
            SlotState::Dirty | SlotState::Destroying => all.dirty += 1,
            SlotState::Clean => {
                let usable = !slot.drained && works;
                all.clean += u64::from(usable);
            }
        }
    }
    all
}

proptest! {
    #[test]
    fn the_numbers_are_those_of_a_recount(batches in prop::collection::vec(prop::collection::vec(step(), 1..6), 1..40)) {
        let mut mirror = super::loaded();
        for (index, batch) in batches.iter().enumerate() {
            let before = mirror.snapshot();
            let changes = batch.iter().map(changed).collect();
            let touched = mirror.apply(&WatchItem::Batch { index: index as u64 + 2, changes }).unwrap();
            prop_assert_eq!(touched.objects.len(), batch.len());
            let after = mirror.snapshot();
            for pool in POOLS {
                prop_assert_eq!(after.pool_counts(pool), recount(&after, pool));
                let differs = before.pool_counts(pool) != after.pool_counts(pool);
                prop_assert!(!differs || touched.pools.contains(pool), "{pool} changed untold");
            }
        }
    }
}

fn pool(name: &str) -> Pool {
    serde_json::from_value(serde_json::json!({
        "uuid": uuid(50), "name": name, "blueprint": uuid(60), "min": 0, "max": 9, "amount": 3,
        "connect_timeout_s": 60, "serial_no": 1, "ctime": 1.0, "mtime": 1.0,
    }))
    .unwrap()
}

fn lease(state: LeaseState) -> Lease {
    Lease {
        uuid: LeaseUuid(uuid(40)),
        owner: LeaseOwner::User { name: "u".to_owned() },
        pool: "p".to_owned(),
        vms: vec![],
        granted: 1,
        until: 10,
        ttl_ms: None,
        renewed: 1,
        state,
        why: None,
        granted_at: 1.0,
    }
}

fn batch(mirror: &mut Mirror, changes: Vec<WatchChange>) -> Touched {
    let index = mirror.snapshot().index() + 1;
    mirror.apply(&WatchItem::Batch { index, changes }).unwrap()
}

fn named(kind: &str, key: &str, body: String) -> WatchChange {
    WatchChange { kind: kind.to_owned(), key: key.to_owned(), rev: 1, body: Some(body) }
}

#[test]
fn pools_leases_images_and_the_clock() {
    let mut mirror = super::loaded();
    let touched = batch(&mut mirror, vec![change(kind::POOL, uuid(50), Some(&pool("p")))]);
    assert_eq!(touched.pools, BTreeSet::from(["p".to_owned()]));
    assert_eq!(touched.objects[0].state, "active");
    let seen = mirror.snapshot();
    assert_eq!(seen.pool_named("p").unwrap().uuid, PoolUuid(uuid(50)));
    assert!(seen.blueprint(BlueprintUuid(uuid(60))).is_none() && seen.pool_named("q").is_none());

    let touched = batch(&mut mirror, vec![change(kind::LEASE, uuid(40), Some(&lease(LeaseState::Active)))]);
    assert_eq!(touched.leases, BTreeSet::from([LeaseUuid(uuid(40))]));
    assert_eq!((touched.objects[0].kind.as_str(), touched.objects[0].state), ("lease", "active"));
    assert!(touched.pools.is_empty());
    let clock = serde_json::to_string(&LeaseClock { ms: 77 }).unwrap();
    let image = Image { name: "deb".to_owned(), digest: "d".repeat(64), bytes: 5, stamp: Stamp::new(1.0) };
    let image = named(kind::IMAGE, "deb", serde_json::to_string(&image).unwrap());
    let touched = batch(&mut mirror, vec![named(kind::LEASE_CLOCK, kind::LEASE_CLOCK_KEY, clock), image]);
    assert_eq!(touched.objects.len(), 1, "the clock ticks all the time and is no news");
    let seen = mirror.snapshot();
    assert_eq!((seen.lease_clock(), seen.images().len(), seen.leases().len()), (77, 1, 1));

    let touched = batch(&mut mirror, vec![change::<Lease>(kind::LEASE, uuid(40), None)]);
    assert_eq!((touched.leases.len(), touched.objects[0].state), (1, ""));
    assert!(mirror.snapshot().leases().is_empty());
    let renamed = batch(&mut mirror, vec![change(kind::POOL, uuid(50), Some(&pool("q")))]);
    assert_eq!(renamed.pools, BTreeSet::from(["p".to_owned(), "q".to_owned()]));
}

#[test]
fn a_whole_state_touches_all() {
    let mut mirror = super::loaded();
    mirror.apply(&WatchItem::Reset { index: 5, history: Uuid::nil() }).unwrap();
    let slot = change(kind::POOL, uuid(50), Some(&pool("p")));
    assert_eq!(mirror.apply(&WatchItem::Chunk(vec![slot])).unwrap(), Touched::default());
    assert!(mirror.apply(&WatchItem::Loaded).unwrap().all);
}
