//! Random histories against the model: the same batches are accepted, the same is there afterwards,
//! refused and undone batches leave no trace, serials have no gaps, slots take only their edges.

use super::model::Model;
use super::*;
use gantry_model::config::SlotState;
use gantry_model::ids::Generation;
use gantry_proto::wconfd::TagTarget;
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;

/// What happens to the configuration.
#[derive(Debug, Clone)]
enum Event {
    Batch(Vec<Command>),
    /// Applied and taken back, as when the log is full.
    Undone(Vec<Command>),
    Gone(u64),
    Claim(u128, bool),
}

fn target() -> impl Strategy<Value = TagTarget> {
    prop_oneof![
        Just(TagTarget::Cluster),
        (1..4u128).prop_map(|n| TagTarget::Node(node_uuid(n))),
        (1..4u128).prop_map(|n| TagTarget::Group(group_uuid(n))),
        (1..4u128).prop_map(|n| TagTarget::Instance(instance_uuid(n))),
    ]
}

fn tags() -> impl Strategy<Value = std::collections::BTreeSet<String>> {
    let word = prop_oneof![8 => "[a-c]", 1 => Just("a b".to_owned())];
    proptest::collection::btree_set(word, 1..3)
}

fn rev() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![3 => Just(None), 2 => (1..6u64).prop_map(Some)]
}

fn node_command() -> impl Strategy<Value = Command> {
    let flag = prop_oneof![Just("offline"), Just("drained"), Just("vm_capable"), Just("master_candidate")];
    let set = proptest::collection::vec((flag, any::<bool>()), 0..3).prop_map(|flags| {
        flags.into_iter().map(|(name, on)| (name.to_owned(), json!(on))).collect::<Params>()
    });
    prop_oneof![
        (1..4u128, 1..4u128, 1..4u128).prop_map(|(n, name, group)| {
            let node = node(n, &format!("node{name}.example.test"));
            Command::NodeAdd { node: Box::new(Node { group: group_uuid(group), ..node }) }
        }),
        (1..4u128).prop_map(|n| Command::NodeRemove { node: node_uuid(n) }),
        (1..4u128, rev(), set).prop_map(|(n, rev, set)| Command::NodeSet { node: node_uuid(n), rev, set }),
    ]
}

fn group_command() -> impl Strategy<Value = Command> {
    let nodes = proptest::collection::vec((1..4u128).prop_map(node_uuid), 0..3);
    prop_oneof![
        (1..4u128, 1..4u128).prop_map(|(n, name)| {
            Command::GroupAdd { group: Box::new(group(n, &format!("group{name}"))) }
        }),
        (1..4u128).prop_map(|n| Command::GroupRemove { group: group_uuid(n) }),
        (1..4u128, 1..4u128).prop_map(|(n, name)| Command::GroupSet {
            group: group_uuid(n),
            rev: None,
            set: params(json!({ "name": format!("group{name}") })),
        }),
        (1..4u128, nodes).prop_map(|(n, nodes)| Command::GroupAssign { group: group_uuid(n), nodes }),
    ]
}

fn instance_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        (1..4u128, 1..4u128, 1..4u128).prop_map(|(n, name, on)| {
            Command::InstanceAdd { instance: Box::new(instance(n, &format!("inst{name}"), on)) }
        }),
        (1..4u128).prop_map(|n| Command::InstanceRemove { instance: instance_uuid(n) }),
        (1..4u128, any::<bool>(), "admin|user|cron").prop_map(|(n, up, source)| Command::InstanceSetState {
            instance: instance_uuid(n),
            state: if up { AdminState::Up } else { AdminState::Down },
            source,
        }),
        (1..4u128, 1..4u128).prop_map(|(n, name)| Command::InstanceSet {
            instance: instance_uuid(n),
            rev: None,
            set: params(json!({ "name": format!("inst{name}") })),
        }),
        (1..4u128, 1..4u128).prop_map(|(n, on)| Command::InstanceSet {
            instance: instance_uuid(n),
            rev: None,
            set: params(json!({ "primary_node": node_uuid(on) })),
        }),
    ]
}

fn slot_command() -> impl Strategy<Value = Command> {
    let ids = || ((1..3u128).prop_map(instance_uuid), (0..5u64).prop_map(Generation));
    let job = || (1..4u64).prop_map(owner);
    prop_oneof![
        3 => (ids(), job()).prop_map(|((slot, expected), holder)| Command::SlotBegin { slot, expected, holder }),
        2 => ids().prop_map(|(slot, generation)| Command::SlotReady { slot, generation }),
        2 => ids().prop_map(|(slot, generation)| {
            Command::SlotDirty { slot, generation, why: "so".to_owned() }
        }),
        3 => (ids(), job()).prop_map(|((slot, generation), holder)| {
            Command::SlotBeginDestroy { slot, generation, holder }
        }),
        3 => (ids(), 0..6u64).prop_map(|((slot, generation), floor)| {
            Command::SlotAbsent { slot, generation, floor: Generation(floor) }
        }),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        2 => node_command(),
        2 => group_command(),
        4 => instance_command(),
        6 => slot_command(),
        1 => (target(), tags()).prop_map(|(target, tags)| Command::TagsAdd { target, tags }),
        1 => (target(), tags()).prop_map(|(target, tags)| Command::TagsDel { target, tags }),
        1 => (rev(), 0..3u64).prop_map(|(rev, jobs)| {
            Command::ClusterSet { rev, set: params(json!({ "max_running_jobs": jobs })) }
        }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let batch = || prop_oneof![3 => proptest::collection::vec(command(), 1..2), 1 => proptest::collection::vec(command(), 2..4)];
    prop_oneof![
        20 => batch().prop_map(Event::Batch),
        2 => batch().prop_map(Event::Undone),
        2 => (1..4u64).prop_map(Event::Gone),
        1 => (1..4u128, prop_oneof![3 => Just(true), 1 => Just(false)]).prop_map(|(n, on)| Event::Claim(n, on)),
    ]
}

/// Two nodes, two instances, so that histories have something to work on.
fn start() -> Config {
    let mut c = config();
    let _ = run(&mut c, &[add_node(2), add_instance(1, 1), add_instance(2, 2)]).unwrap();
    c.set_claimed(node_uuid(2), true);
    c
}

/// The edges of `model.md` §2.5 that commands of this release take; CREATING → BOOTING → CLEAN is one step.
fn legal(from: SlotState, to: SlotState) -> bool {
    use SlotState::{Absent, Booting, Clean, Creating, Destroying, Dirty, Leased};
    match from {
        Absent => to == Creating,
        Creating | Booting => matches!(to, Clean | Dirty),
        Clean | Leased => to == Dirty,
        Dirty => to == Destroying,
        Destroying => matches!(to, Absent | Dirty),
    }
}

/// Checks one stored batch against what was there before.
fn check_step(before: &Model, after: &Model, effect: &Effect, single: bool) {
    assert!(after.meta - before.meta <= 1 && after.cluster - before.cluster <= 1, "one step at most");
    let config_kinds = |change: &&Change| change.kind != kind::SLOT && change.kind != kind::APPLIED;
    let config_changes = effect.changes.iter().filter(config_kinds).count();
    assert_eq!(
        config_changes > 0,
        after.meta > before.meta,
        "meta grows when and only when something changes"
    );
    for (uuid, slot) in &after.slots {
        let Some(old) = before.slots.get(uuid) else { continue };
        assert!(slot.generation >= old.generation, "generations only rise");
        assert!(!single || slot.state == old.state || legal(old.state, slot.state), "{old:?} -> {slot:?}");
    }
}

/// What a reader of the stored changes has.
fn replay(store: &mut BTreeMap<(String, String), Object>, effect: &Effect) {
    for change in &effect.changes {
        let key = (change.kind.clone(), change.key.clone());
        match &change.body {
            None => drop(store.remove(&key).expect("only what is there is removed")),
            Some(body) => {
                let (kind, key_text) = key.clone();
                let object = Object { kind, key: key_text, rev: change.rev, body: body.clone() };
                let old = store.insert(key, object);
                let want = old.map_or(1, |old| old.rev + 1);
                assert!(
                    change.kind == kind::APPLIED || change.rev == want,
                    "no gap in revisions: {change:?}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn histories_are_as_the_model_says(events in proptest::collection::vec(event(), 1..60)) {
        let mut config = start();
        let mut model = Model::of(&config);
        let mut store: BTreeMap<_, _> =
            stored(&config).into_iter().map(|object| ((object.kind.clone(), object.key.clone()), object)).collect();
        for (n, event) in events.into_iter().enumerate() {
            let before = Model::of(&config);
            let effect = match event {
                Event::Batch(commands) => {
                    let asked = Some((owner(9), n as u64 + 1));
                    // Slots ask who asks; the model does not, so those go without an owner.
                    let slots = commands.iter().any(|c| matches!(c, Command::SlotReady { .. }
                        | Command::SlotBegin { .. } | Command::SlotBeginDestroy { .. } | Command::SlotAbsent { .. }));
                    let result = run_as(&mut config, if slots { None } else { asked }, &commands);
                    let accepted = model.apply(&commands);
                    prop_assert_eq!(result.is_ok(), accepted, "{:?}: {:?}", commands, result);
                    let Ok(effect) = result else {
                        prop_assert_eq!(&Model::of(&config), &before);
                        continue;
                    };
                    check_step(&before, &model, &effect, commands.len() == 1);
                    effect
                }
                Event::Undone(commands) => {
                    let whole = stored(&config);
                    if let Ok(effect) = run(&mut config, &commands) {
                        config.undo(effect.undo);
                    }
                    config.check();
                    prop_assert_eq!(stored(&config), whole, "undone without a trace");
                    continue;
                }
                Event::Gone(job) => {
                    model.owner_gone(owner(job));
                    let effect = config.owner_gone(owner(job), NOW);
                    check_step(&before, &model, &effect, true);
                    effect
                }
                Event::Claim(n, on) => {
                    let on = on && config.node(node_uuid(n)).is_some();
                    config.set_claimed(node_uuid(n), on);
                    if on { model.claimed.insert(node_uuid(n)); } else { model.claimed.remove(&node_uuid(n)); }
                    continue;
                }
            };
            config.check();
            prop_assert_eq!(&Model::of(&config), &model);
            replay(&mut store, &effect);
            let store: Vec<_> = store.values().filter(|object| object.kind != kind::APPLIED).cloned().collect();
            let loaded = Config::load(store).expect("what is stored can be loaded");
            prop_assert_eq!(stored(&loaded), stored(&config), "the log tells the whole story");
        }
    }
}
