//! The answers: a snapshot and a question make a text (`spec/confd.md` §4). Nothing here knows sockets or keys.

use super::pointer::{find, object, shows};
use super::shape;
use super::snapshot::{ClusterRow, InstanceRow, Snapshot};
use gantry_confd::core::ascii::{self, TooLong};
use gantry_confd::core::reply::{Code, quoted};
use gantry_confd::{Form, Kind, MasterField, Query, REPLY_BYTES_MAX, Selection};
use gantry_model::config::Node;
use gantry_model::lease::Lease;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a server without a configuration says. No file is named: who asks need not know ours.
const NO_CONFIGURATION: &str =
    "\"no valid configuration is loaded on this node, ask another master candidate\"";

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Whether it is one.
    pub ok: bool,
    /// It, or what is wrong; JSON in ASCII.
    pub text: String,
    /// Serial of what it comes from.
    pub serial: u64,
}

impl Answer {
    fn code(code: Code) -> Self {
        Self { ok: false, text: (code as u32).to_string(), serial: 0 }
    }

    fn wrong(text: &str) -> Self {
        Self { ok: false, text: quoted(text), serial: 0 }
    }

    fn of<T: Serialize + ?Sized>(value: &T, serial: u64) -> Self {
        Self::text(ascii::to_string(value, REPLY_BYTES_MAX), serial)
    }

    /// One that is too long for any reply is an internal error.
    fn text(text: Result<String, TooLong>, serial: u64) -> Self {
        match text {
            Ok(text) => Self { ok: true, text, serial },
            Err(TooLong(_)) => Self::code(Code::Internal),
        }
    }

    /// That parts of the configuration are not told to who asks.
    #[must_use]
    pub fn untold() -> Self {
        Self::wrong("parts of the configuration are not told here (confd_config_query)")
    }

    /// That there is no configuration.
    #[must_use]
    pub fn none() -> Self {
        Self { ok: false, text: NO_CONFIGURATION.to_owned(), serial: 0 }
    }
}

/// The answer to a question in a form.
#[must_use]
pub fn answer(snapshot: &Snapshot, form: Form, kind: Kind, query: &Query) -> Answer {
    let (Some(row), Some(meta)) = (&snapshot.cluster, &snapshot.meta) else { return Answer::none() };
    let serial = row.cluster.stamp.serial_no;
    match kind {
        Kind::Ping => Answer::of(&meta.version, 0),
        Kind::NodeRole => role(snapshot, row, query),
        Kind::NodeByInstanceIp => by_instance_ip(snapshot, query),
        Kind::Master => master(snapshot, row, query),
        Kind::NodeIps => Answer::of(&ips(snapshot, |_| true), serial),
        Kind::CandidateIps => {
            let counts = |node: &Node| node.master_candidate || node.uuid == row.cluster.master_node;
            Answer::of(&ips(snapshot, counts), serial)
        }
        Kind::InstanceIps => match query {
            Query::Null => Answer::of(&snapshot.ips(None), serial),
            Query::Text(link) => Answer::of(&snapshot.ips(Some(link)), serial),
            Query::Object(_) => Answer::wrong("the query must be the name of a link, or null"),
        },
        Kind::Minors => on_node(snapshot, query, |node| {
            // Gantry makes no DRBD disks.
            Answer::of(&Vec::<Value>::new(), node.stamp.serial_no)
        }),
        Kind::Instances => on_node(snapshot, query, |node| instances(snapshot, form, node)),
        Kind::Disks => disks(snapshot, form, query),
        Kind::Config => config(snapshot, form, query, serial),
        Kind::Collectors => Answer::of(&shape::collectors(&row.cluster), serial),
        Kind::Pools => pools(snapshot),
        Kind::Slots => slots(snapshot, query),
        Kind::Leases => leases(snapshot, query),
    }
}

fn ips(snapshot: &Snapshot, counts: impl Fn(&Node) -> bool) -> Vec<&str> {
    snapshot.nodes.values().filter(|node| counts(node)).map(|node| node.primary_ip.as_str()).collect()
}

/// 0 master, 1 candidate, 2 offline, 3 drained, 4 regular.
fn role(snapshot: &Snapshot, row: &ClusterRow, query: &Query) -> Answer {
    on_node(snapshot, query, |node| {
        let role = match node.role(row.cluster.master_node) {
            'M' => 0,
            'C' => 1,
            'O' => 2,
            'D' => 3,
            _ => 4,
        };
        Answer::of(&role, row.cluster.stamp.serial_no)
    })
}

fn on_node(snapshot: &Snapshot, query: &Query, of: impl FnOnce(&Node) -> Answer) -> Answer {
    match query {
        Query::Text(name) => match snapshot.node(name) {
            Some(node) => of(node),
            None => Answer::wrong(&format!("Node name {name} not found")),
        },
        Query::Null | Query::Object(_) => Answer::wrong("the query must be the name of a node"),
    }
}

fn by_instance_ip(snapshot: &Snapshot, query: &Query) -> Answer {
    let Query::Object(Selection { link, ip, ips, .. }) = query else { return Answer::code(Code::Argument) };
    let serial = snapshot.cluster_serial();
    let node_ip = |ip: &str| {
        let row = snapshot.by_ip(link.as_deref(), ip)?;
        snapshot.nodes.get(&row.node).map(|node| node.primary_ip.as_str())
    };
    match ip {
        Some(ip) => match node_ip(ip) {
            Some(found) => Answer::of(found, serial),
            None => Answer::code(Code::UnknownEntry),
        },
        None => {
            let one = |ip: &String| match node_ip(ip) {
                Some(found) => json!([0, found, serial]),
                None => json!([1, Code::UnknownEntry as u32, 0]),
            };
            Answer::of(&ips.iter().map(one).collect::<Vec<_>>(), serial)
        }
    }
}

fn master(snapshot: &Snapshot, row: &ClusterRow, query: &Query) -> Answer {
    let serial = row.cluster.stamp.serial_no;
    let Some(node) = snapshot.nodes.get(&row.cluster.master_node) else { return Answer::none() };
    match query {
        Query::Null => Answer::of(&node.name, serial),
        Query::Text(_) => Answer::code(Code::Argument),
        Query::Object(selection) => {
            let one = |field: &MasterField| match field {
                MasterField::Name => &node.name,
                MasterField::ClusterIp => &row.cluster.master_ip,
                MasterField::NodeIp => &node.primary_ip,
            };
            Answer::of(&selection.fields.iter().map(one).collect::<Vec<_>>(), serial)
        }
    }
}

/// Primary and secondary ones; nothing of Gantry's has a second node.
fn instances(snapshot: &Snapshot, form: Form, node: &Node) -> Answer {
    let mut text = String::from("[[");
    for row in snapshot.hosted(node.uuid).filter(|row| shows(snapshot, form, row)) {
        if text.len() > 2 {
            text.push(',');
        }
        text.push_str(&object(form, row));
        if text.len() > REPLY_BYTES_MAX {
            return Answer::code(Code::Internal);
        }
    }
    text.push_str("],[]]");
    Answer { ok: true, text, serial: node.stamp.serial_no }
}

fn disks(snapshot: &Snapshot, form: Form, query: &Query) -> Answer {
    let Query::Text(name) = query else { return Answer::wrong("the query must be the name of an instance") };
    match snapshot.instance(name).filter(|row| shows(snapshot, form, row)) {
        Some(row) => Answer::of(&row.disks(snapshot.cluster.as_deref()), row.serial),
        None => Answer::wrong(&format!("Instance name {name} not found")),
    }
}

fn config(snapshot: &Snapshot, form: Form, query: &Query, serial: u64) -> Answer {
    let Query::Text(pointer) = query else { return Answer::code(Code::Argument) };
    match find(snapshot, form, pointer, REPLY_BYTES_MAX) {
        Ok(Some(text)) => Answer { ok: true, text, serial },
        Ok(None) => Answer::code(Code::Argument),
        Err(TooLong(_)) => Answer::code(Code::Internal),
    }
}

/// The state of an instance's slot.
fn slot_of(snapshot: &Snapshot, row: &InstanceRow) -> Option<Value> {
    serde_json::from_str(snapshot.slots.get(&row.uuid.0)?).ok()
}

/// Each pool with how many of its slots are in which state. Fresh as the log, since slots change without a serial.
fn pools(snapshot: &Snapshot) -> Answer {
    let mut counts: BTreeMap<&str, BTreeMap<String, u64>> = BTreeMap::new();
    for (_, row) in snapshot.instances.iter() {
        let Some(pool) = row.pool.as_deref() else { continue };
        let state = slot_of(snapshot, row).and_then(|slot| slot["state"].as_str().map(str::to_owned));
        *counts.entry(pool).or_default().entry(state.unwrap_or_default()).or_default() += 1;
    }
    let one = |pool: &Value| {
        let mut all = pool.clone();
        let counted = pool["name"].as_str().and_then(|name| counts.get(name));
        all["slots"] = json!(counted.cloned().unwrap_or_default());
        all
    };
    Answer::of(&snapshot.pools.values().map(|pool| one(pool)).collect::<Vec<_>>(), snapshot.index)
}

/// Slots of a pool: name, node, state, generation, lease.
fn slots(snapshot: &Snapshot, query: &Query) -> Answer {
    let Query::Text(pool) = query else { return Answer::code(Code::Argument) };
    if !snapshot.pools.values().any(|known| known["name"] == pool.as_str()) {
        return Answer::code(Code::UnknownEntry);
    }
    let rows = snapshot.sorted();
    let rows = rows.iter().filter(|row| row.pool.as_deref() == Some(pool));
    let one = |row: &&std::sync::Arc<InstanceRow>| {
        let slot = slot_of(snapshot, row).unwrap_or_default();
        let node = snapshot.nodes.get(&row.node).map(|node| node.name.as_str());
        json!({"name": row.name, "uuid": row.uuid, "node": node, "state": slot["state"],
               "generation": slot["generation"], "lease": slot["lease"]})
    };
    Answer::of(&rows.map(one).collect::<Vec<_>>(), snapshot.index)
}

/// One lease by uuid, or all.
fn leases(snapshot: &Snapshot, query: &Query) -> Answer {
    let read = |body: &str| serde_json::from_str::<Lease>(body).ok();
    match query {
        Query::Null => {
            let mut all: Vec<Lease> = snapshot.leases.iter().filter_map(|(_, body)| read(body)).collect();
            all.sort_by_key(|lease| lease.uuid);
            Answer::of(&all, snapshot.index)
        }
        Query::Text(uuid) => {
            let body = uuid.parse().ok().and_then(|uuid: uuid::Uuid| snapshot.leases.get(&uuid));
            match body.and_then(|body| read(body)) {
                Some(lease) => Answer::of(&lease, snapshot.index),
                None => Answer::code(Code::UnknownEntry),
            }
        }
        Query::Object(_) => Answer::code(Code::Argument),
    }
}
