//! The mirror against a slow obvious model, and its promises to readers.

mod counts;

use super::*;
use gantry_model::config::{AdminState, Instance, Node, Params, Slot, SlotState, Stamp, kind};
use gantry_model::ids::{Generation, GroupUuid, InstanceUuid, NodeUuid};
use proptest::prelude::*;
use std::collections::BTreeMap;
use uuid::Uuid;

fn uuid(number: u8) -> Uuid {
    Uuid::from_u128(u128::from(number) + 1)
}

fn node(number: u8, name: &str, group: u8) -> Node {
    Node {
        uuid: NodeUuid(uuid(number)),
        name: name.to_owned(),
        primary_ip: String::new(),
        secondary_ip: String::new(),
        master_candidate: false,
        offline: false,
        drained: false,
        group: GroupUuid(uuid(group)),
        master_capable: true,
        vm_capable: true,
        ndparams: Params::new(),
        powered: true,
        noded_port: 1,
        stamp: Stamp::new(0.0),
        extra: Params::new(),
    }
}

fn instance(number: u8, name: &str, home: u8) -> Instance {
    Instance {
        uuid: InstanceUuid(uuid(number)),
        name: name.to_owned(),
        primary_node: NodeUuid(uuid(home)),
        os: "noop".to_owned(),
        hypervisor: "fake".to_owned(),
        hvparams: Params::new(),
        beparams: Params::new(),
        osparams: Params::new(),
        admin_state: AdminState::Down,
        admin_state_source: "admin".to_owned(),
        nics: vec![],
        disk_template: "diskless".to_owned(),
        disks: vec![],
        forthcoming: false,
        pool: None,
        stamp: Stamp::new(0.0),
        extra: Params::new(),
    }
}

fn change<T: serde::Serialize>(kind: &str, key: Uuid, body: Option<&T>) -> WatchChange {
    let body = body.map(|b| serde_json::to_string(b).unwrap());
    WatchChange { kind: kind.to_owned(), key: key.to_string(), rev: 1, body }
}

#[derive(Debug, Clone)]
enum Step {
    Node(u8, Option<(u8, u8)>),
    Instance(u8, Option<(u8, u8)>),
    Slot(u8, Option<u64>),
}

fn step() -> impl Strategy<Value = Step> {
    let some = || prop::option::weighted(0.8, (0_u8..6, 0_u8..3));
    prop_oneof![
        (0_u8..6, some()).prop_map(|(n, b)| Step::Node(n, b)),
        (0_u8..12, some()).prop_map(|(n, b)| Step::Instance(n, b)),
        (0_u8..12, prop::option::weighted(0.8, 0_u64..5)).prop_map(|(n, b)| Step::Slot(n, b)),
    ]
}

#[derive(Default)]
struct Model {
    nodes: BTreeMap<u8, (u8, u8)>,
    instances: BTreeMap<u8, (u8, u8)>,
    slots: BTreeMap<u8, u64>,
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

impl Model {
    fn take(&mut self, step: &Step) -> WatchChange {
        match step.clone() {
            Step::Node(n, body) => {
                put(&mut self.nodes, n, body);
                let body = body.map(|(name, group)| node(n, &format!("n{name}.x"), group));
                change(kind::NODE, uuid(n), body.as_ref())
            }
            Step::Instance(n, body) => {
                put(&mut self.instances, n, body);
                let body = body.map(|(name, home)| instance(n, &format!("i{name}"), home));
                change(kind::INSTANCE, uuid(n), body.as_ref())
            }
            Step::Slot(n, body) => {
                put(&mut self.slots, n, body);
                let body = body.map(|generation| Slot {
                    generation: Generation(generation),
                    state: SlotState::Clean,
                    ..Slot::new(InstanceUuid(uuid(n)), NodeUuid(uuid(0)))
                });
                change(kind::SLOT, uuid(n), body.as_ref())
            }
        }
    }

    fn compare(&self, seen: &Snapshot) {
        assert_eq!(seen.nodes().len(), self.nodes.len());
        for group in 0..3 {
            let want: Vec<u8> = self.nodes.iter().filter(|(_, n)| n.1 == group).map(|(k, _)| *k).collect();
            let have = seen.nodes_of(GroupUuid(uuid(group)));
            let mut have: Vec<Uuid> = have.into_iter().flat_map(Map::iter).map(|(p, ())| p.id.0).collect();
            have.sort();
            assert_eq!(have, want.into_iter().map(uuid).collect::<Vec<_>>());
        }
        let mut rows: Vec<(u8, Option<u64>)> = Vec::new();
        for (key, (name, home)) in &self.instances {
            let row = seen.instances().get(&InstanceUuid(uuid(*key))).unwrap();
            assert_eq!(row.instance.name, format!("i{name}"));
            assert_eq!(row.slot.as_ref().map(|s| s.generation.0), self.slots.get(key).copied());
            let of = seen.instances_of(NodeUuid(uuid(*home))).unwrap();
            assert_eq!(
                of.iter().filter(|(p, ())| p.id.0 == uuid(*key) && *p.name == *row.instance.name).count(),
                1
            );
            rows.push((*name, None));
        }
        assert_eq!(seen.instances().len(), rows.len());
        let of_all: usize = (0..6).filter_map(|n| seen.instances_of(NodeUuid(uuid(n)))).map(Map::len).sum();
        assert_eq!(of_all, rows.len());
        rows.sort();
        let sorted: Vec<String> = seen.instances().iter().map(|(place, _)| place.name.to_string()).collect();
        assert_eq!(sorted, rows.iter().map(|(name, _)| format!("i{name}")).collect::<Vec<_>>());
    }
}

fn loaded() -> Mirror {
    let mut mirror = Mirror::new();
    mirror.apply(&WatchItem::Reset { index: 1, history: uuid(9) }).unwrap();
    mirror.apply(&WatchItem::Loaded).unwrap();
    mirror
}

proptest! {
    #[test]
    fn it_says_what_a_plain_map_says(steps in prop::collection::vec(step(), 1..60)) {
        let (mut mirror, mut model) = (loaded(), Model::default());
        for (index, step) in steps.iter().enumerate() {
            let changes = vec![model.take(step)];
            mirror.apply(&WatchItem::Batch { index: index as u64 + 2, changes }).unwrap();
            model.compare(&mirror.snapshot());
        }
    }

    #[test]
    fn a_state_sent_in_any_order_is_the_same(steps in prop::collection::vec(step(), 1..40)) {
        let mut model = Model::default();
        let mut last = BTreeMap::new();
        for step in &steps {
            let change = model.take(step);
            last.insert((change.kind.clone(), change.key.clone()), change);
        }
        for backwards in [false, true] {
            let mut chunk: Vec<WatchChange> = last.values().filter(|c| c.body.is_some()).cloned().collect();
            if backwards {
                chunk.reverse();
            }
            let mut mirror = Mirror::new();
            mirror.apply(&WatchItem::Reset { index: 5, history: uuid(9) }).unwrap();
            mirror.apply(&WatchItem::Chunk(chunk)).unwrap();
            mirror.apply(&WatchItem::Loaded).unwrap();
            model.compare(&mirror.snapshot());
        }
    }
}

#[test]
fn readers_see_whole_states_only() {
    let mut mirror = loaded();
    let one = change(kind::NODE, uuid(1), Some(&node(1, "a", 0)));
    mirror.apply(&WatchItem::Batch { index: 2, changes: vec![one] }).unwrap();
    let kept = mirror.snapshot();
    mirror.apply(&WatchItem::Reset { index: 7, history: uuid(8) }).unwrap();
    assert_eq!((mirror.snapshot().nodes().len(), mirror.snapshot().index()), (1, 2));
    assert!(mirror.apply(&WatchItem::Batch { index: 8, changes: vec![] }).is_err());
    mirror.disconnected();
    assert_eq!(mirror.request(), WatchRequest { from: 2, history: Some(uuid(9)) });
    mirror.apply(&WatchItem::Reset { index: 7, history: uuid(8) }).unwrap();
    mirror.apply(&WatchItem::Loaded).unwrap();
    assert_eq!((mirror.snapshot().nodes().len(), mirror.snapshot().index()), (0, 7));
    assert_eq!((kept.nodes().len(), kept.index()), (1, 2));
}

#[test]
fn a_bad_batch_changes_nothing() {
    let mut mirror = loaded();
    let good = change(kind::NODE, uuid(1), Some(&node(1, "a", 0)));
    let bad = WatchChange { body: Some("{}".to_owned()), ..good.clone() };
    let batch = |changes| WatchItem::Batch { index: 2, changes };
    assert!(mirror.apply(&batch(vec![good.clone(), bad])).is_err());
    assert_eq!((mirror.snapshot().nodes().len(), mirror.snapshot().index()), (0, 1));
    let unknown = WatchChange { kind: "comet".to_owned(), ..good.clone() };
    mirror.apply(&batch(vec![unknown, good])).unwrap();
    assert_eq!((mirror.snapshot().nodes().len(), mirror.snapshot().index()), (1, 2));
    let repeat = change::<Node>(kind::NODE, uuid(1), None);
    mirror.apply(&batch(vec![repeat])).unwrap();
    assert_eq!(mirror.snapshot().nodes().len(), 1, "a repeated batch is passed over");
}

#[test]
fn short_names_find_their_hosts() {
    let mut mirror = loaded();
    let names = ["node1.a.b", "node1.a.c", "node10.a", "node1-x.a"];
    let put = |(n, name): (u8, &&str)| change(kind::NODE, uuid(n), Some(&node(n, name, 0)));
    let changes = (0..).zip(&names).map(put).collect();
    mirror.apply(&WatchItem::Batch { index: 2, changes }).unwrap();
    let seen = mirror.snapshot();
    let found = |given: &str| seen.nodes().host_named(given).map(|(n, _)| n.to_string()).collect::<Vec<_>>();
    assert_eq!(found("node1"), ["node1.a.b", "node1.a.c"]);
    assert_eq!(found("node1.a.b"), ["node1.a.b"]);
    assert_eq!(found("node10"), ["node10.a"]);
    assert!(found("node").is_empty() && found("").is_empty() && found("x").is_empty());
    assert!(seen.nodes().named("node10.a").is_some() && seen.nodes().named("node10").is_none());
}
