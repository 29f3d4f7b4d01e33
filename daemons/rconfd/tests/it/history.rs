//! Random histories: a snapshot that was changed step by step answers as one read at once does, and as a slow look at all
//! objects does; snapshots served meanwhile never change.

use crate::objects::{Row, instance, instance_uuid, meta, nic, node, node_uuid, row, rows, snapshot};
use gantry_confd::{Form, Kind, Query, Selection};
use gantry_model::config::{Instance, Node, kind};
use gantry_rconfd::core::answer::answer;
use gantry_rconfd::core::snapshot::Snapshot;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone)]
enum Step {
    Put { number: u32, on: u8, name: u32, ip: u8, link: Option<u8> },
    Cut { number: u32 },
    Node { number: u8, name: u8, ip: u8 },
    Link { link: u8 },
    Serial { serial: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6u32, 1..4u8, 0..6u32, 0..4u8, prop::option::of(0..3u8))
            .prop_map(|(number, on, name, ip, link)| Step::Put { number, on, name, ip, link }),
        2 => (0..6u32).prop_map(|number| Step::Cut { number }),
        1 => (2..4u8, 1..5u8, 1..5u8).prop_map(|(number, name, ip)| Step::Node { number, name, ip }),
        1 => (0..3u8).prop_map(|link| Step::Link { link }),
        1 => (1..99u64).prop_map(|serial| Step::Serial { serial }),
    ]
}

/// The row that a step writes; no body = it goes.
fn written(step: &Step) -> (&'static str, String, Option<String>) {
    let put = |(kind, key, body): Row| (kind, key, Some(body));
    match step {
        Step::Put { number, on, name, ip, link } => {
            let link = link.map(|link| format!("br{link}"));
            let nics = vec![nic(&format!("198.51.100.{ip}"), link.as_deref())];
            let one = Instance { name: format!("inst{name}.example.test"), ..instance(*number, *on, nics) };
            put(row(kind::INSTANCE, one.uuid, &one))
        }
        Step::Cut { number } => (kind::INSTANCE, instance_uuid(*number).to_string(), None),
        Step::Node { number, name, ip } => {
            let (name, primary_ip) = (format!("node{number}{name}.other.test"), format!("192.0.2.{ip}"));
            put(row(kind::NODE, node_uuid(*number), &Node { name, primary_ip, ..node(*number) }))
        }
        Step::Link { link } => {
            let mut cluster = crate::objects::cluster();
            let default = cluster.nicparams.get_mut("default").unwrap();
            default.insert("link".to_owned(), format!("br{link}").into());
            put(row(kind::CLUSTER, kind::CLUSTER_KEY, &cluster))
        }
        Step::Serial { serial } => put(meta(*serial)),
    }
}

type Model = BTreeMap<(&'static str, String), String>;

fn apply(snapshot: &mut Snapshot, model: &mut Model, step: &Step) {
    let (kind, key, body) = written(step);
    snapshot.change(kind, &key, body.as_deref()).unwrap();
    match body {
        Some(body) => model.insert((kind, key), body),
        None => model.remove(&(kind, key)),
    };
}

/// Questions whose answers depend on what the steps change.
fn questions() -> Vec<(Kind, Query)> {
    let text = |text: String| Query::Text(text);
    let mut all = vec![
        (Kind::NodeIps, Query::Null),
        (Kind::CandidateIps, Query::Null),
        (Kind::InstanceIps, Query::Null),
        (Kind::Config, text("/instances".to_owned())),
        (Kind::Config, text("/disks".to_owned())),
        (Kind::Config, text("/serial_no".to_owned())),
    ];
    all.extend((0..3).map(|link| (Kind::InstanceIps, text(format!("br{link}")))));
    all.extend((1..5).map(|node| (Kind::Instances, text(format!("node{node}")))));
    all.extend((21..35).map(|node| (Kind::NodeRole, text(format!("node{node}.other.test")))));
    all.extend((1..4).map(|node| (Kind::Instances, text(node_uuid(node).to_string()))));
    all.extend((0..6).map(|number| (Kind::Disks, text(instance_uuid(number).to_string()))));
    for ip in 0..4 {
        let ip = Some(format!("198.51.100.{ip}"));
        for link in [None, Some("br0".to_owned()), Some("br2".to_owned())] {
            all.push((
                Kind::NodeByInstanceIp,
                Query::Object(Selection { link, ip: ip.clone(), ..Selection::default() }),
            ));
        }
    }
    all
}

fn told(snapshot: &Snapshot) -> Vec<String> {
    let ask = |form| questions().into_iter().map(move |(kind, query)| answer(snapshot, form, kind, &query));
    [Form::Legacy, Form::Second].into_iter().flat_map(ask).map(|answer| format!("{answer:?}")).collect()
}

/// The slow look: addresses on a link, and the node of each.
fn by_link(model: &Model, link: &str) -> BTreeMap<String, String> {
    let read = |wanted: &'static str| {
        model.iter().filter(move |((kind, _), _)| *kind == wanted).map(|(_, body)| body.as_str())
    };
    let cluster: serde_json::Value = serde_json::from_str(read(kind::CLUSTER).next().unwrap()).unwrap();
    let default = cluster["nicparams"]["default"]["link"].as_str().unwrap().to_owned();
    let nodes: BTreeMap<_, _> = read(kind::NODE)
        .map(|body| serde_json::from_str::<Node>(body).unwrap())
        .map(|node| (node.uuid, node.primary_ip))
        .collect();
    let mut all = BTreeMap::new();
    for instance in read(kind::INSTANCE).map(|body| serde_json::from_str::<Instance>(body).unwrap()) {
        for nic in &instance.nics {
            let on = nic.nicparams.get("link").and_then(|link| link.as_str()).unwrap_or(&default);
            if on == link {
                all.insert(nic.ip.clone().unwrap(), nodes[&instance.primary_node].clone());
            }
        }
    }
    all
}

proptest! {
    // Each has dozens of states with dozens of answers.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn step_by_step_is_as_good_as_at_once(steps in prop::collection::vec(step(), 1..40)) {
        let first = rows();
        let mut model: Model = first.iter().map(|(kind, key, body)| ((*kind, key.clone()), body.clone())).collect();
        let mut now = snapshot(&first);
        let mut kept = Vec::new();
        for step in &steps {
            kept.push((now.clone(), told(&now)));
            apply(&mut now, &mut model, step);
            for link in ["br0", "br1", "br2"] {
                let want = by_link(&model, link);
                prop_assert_eq!(now.ips(Some(link)), want.keys().map(String::as_str).collect::<BTreeSet<_>>());
                for (ip, node_ip) in want {
                    let found = now.by_ip(Some(link), &ip).and_then(|row| now.nodes.get(&row.node));
                    prop_assert_eq!(found.map(|node| node.primary_ip.clone()), Some(node_ip));
                }
            }
        }
        let end: Vec<Row> = model.into_iter().map(|((kind, key), body)| (kind, key, body)).collect();
        prop_assert_eq!(told(&now), told(&snapshot(&end)));
        for (old, answers) in kept {
            prop_assert_eq!(told(&old), answers, "what is served never changes");
        }
    }
}
