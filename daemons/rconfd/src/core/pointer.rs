//! Parts of the configuration by JSON pointer (RFC 6901), walked in Ganeti's shape of it without ever building the whole.

use super::snapshot::{InstanceRow, Snapshot};
use gantry_confd::Form;
use gantry_confd::core::ascii::{self, TooLong};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The tokens of a pointer; None if it is none or names the whole.
fn tokens(pointer: &str) -> Option<Vec<String>> {
    let rest = pointer.strip_prefix('/').filter(|rest| !rest.is_empty())?;
    rest.split('/').map(unescaped).collect()
}

fn unescaped(token: &str) -> Option<String> {
    let mut text = String::with_capacity(token.len());
    let mut chars = token.chars();
    while let Some(char) = chars.next() {
        match char {
            '~' => text.push(match chars.next()? {
                '0' => '~',
                '1' => '/',
                _ => return None,
            }),
            other => text.push(other),
        }
    }
    Some(text)
}

/// What a pointer names, as text of at most `most` bytes. None = nothing, or it is no pointer.
///
/// # Errors
/// It is longer.
pub fn find(snapshot: &Snapshot, form: Form, pointer: &str, most: usize) -> Result<Option<String>, TooLong> {
    let Some(tokens) = tokens(pointer) else { return Ok(None) };
    let Some((first, rest)) = tokens.split_first() else { return Ok(None) };
    match first.as_str() {
        "instances" => instances(snapshot, form, rest, most),
        "disks" => disks(snapshot, form, rest, most),
        "nodes" => {
            let nodes =
                snapshot.nodes.iter().map(|(uuid, node)| (uuid.to_string(), super::shape::node(node)));
            let all = Value::Object(nodes.collect());
            walked(&all, rest, most)
        }
        name => match top(snapshot, form, name) {
            Some(value) => walked(&value, rest, most),
            None => Ok(None),
        },
    }
}

/// A part of the top that is small enough to be built.
fn top(snapshot: &Snapshot, form: Form, name: &str) -> Option<Value> {
    let meta = snapshot.meta.as_ref()?;
    let map = |all: &std::collections::BTreeMap<String, Arc<Value>>| {
        Value::Object(all.iter().map(|(key, value)| (key.clone(), Value::clone(value))).collect())
    };
    match name {
        "version" => Some(json!(meta.version)),
        "serial_no" => Some(json!(meta.serial_no)),
        "ctime" => Some(json!(meta.ctime)),
        "mtime" => Some(json!(meta.mtime)),
        "cluster" => {
            let row = snapshot.cluster.as_ref()?;
            let mut all = row.legacy.clone();
            if let (Form::Second, Value::Object(all)) = (form, &mut all) {
                all.extend(row.more.clone());
            }
            Some(all)
        }
        "nodegroups" => Some(map(&snapshot.groups)),
        "networks" => Some(map(&snapshot.networks)),
        "filters" => Some(map(&snapshot.filters)),
        "blueprints" if form == Form::Second => Some(map(&snapshot.blueprints)),
        "pools" if form == Form::Second => Some(map(&snapshot.pools)),
        "images" if form == Form::Second => Some(map(&snapshot.images)),
        _ => None,
    }
}

fn walked(value: &Value, path: &[String], most: usize) -> Result<Option<String>, TooLong> {
    walk(value, path).map(|found| ascii::to_string(found, most)).transpose()
}

fn walk<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, token| match value {
        Value::Object(all) => all.get(token),
        Value::Array(all) => all.get(index(token)?),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    })
}

/// A decimal number without a zero before it.
fn index(token: &str) -> Option<usize> {
    let plain = token.bytes().all(|byte| byte.is_ascii_digit()) && (token == "0" || !token.starts_with('0'));
    plain.then(|| token.parse().ok()).flatten()
}

/// Whether a form may show an instance.
#[must_use]
pub fn shows(snapshot: &Snapshot, form: Form, row: &InstanceRow) -> bool {
    let strict = || snapshot.cluster.as_ref().is_some_and(|row| row.options.strict);
    form == Form::Second || row.ganetis || !strict()
}

/// An instance's object as a form shows it.
#[must_use]
pub fn object(form: Form, row: &InstanceRow) -> String {
    match form {
        Form::Legacy => row.legacy.to_string(),
        Form::Second => row.whole(),
    }
}

fn instances(
    snapshot: &Snapshot,
    form: Form,
    path: &[String],
    most: usize,
) -> Result<Option<String>, TooLong> {
    let Some((uuid, rest)) = path.split_first() else {
        let rows = snapshot.sorted();
        let rows = rows.iter().filter(|row| shows(snapshot, form, row));
        return joined(rows.map(|row| format!("\"{}\":{}", row.uuid, object(form, row))), most).map(Some);
    };
    let row = uuid.parse().ok().and_then(|parsed: uuid::Uuid| snapshot.instances.get(&parsed));
    match row.filter(|row| row.uuid.to_string() == *uuid && shows(snapshot, form, row)) {
        Some(row) => walked(&parsed(&object(form, row)), rest, most),
        None => Ok(None),
    }
}

fn disks(snapshot: &Snapshot, form: Form, path: &[String], most: usize) -> Result<Option<String>, TooLong> {
    let list = |row: &InstanceRow| row.disks(snapshot.cluster.as_deref());
    let Some((uuid, rest)) = path.split_first() else {
        let rows = snapshot.sorted();
        let rows = rows.iter().filter(|row| shows(snapshot, form, row));
        let of = |row: &&Arc<InstanceRow>| {
            list(row).into_iter().map(|disk| {
                let text = ascii::to_string(&disk, usize::MAX).unwrap_or_default();
                format!("{}:{text}", disk["uuid"])
            })
        };
        return joined(rows.flat_map(of), most).map(Some);
    };
    let row = snapshot.disk_owner(uuid).filter(|row| shows(snapshot, form, row));
    match row.and_then(|row| list(row).into_iter().find(|disk| disk["uuid"] == uuid.as_str())) {
        Some(disk) => walked(&disk, rest, most),
        None => Ok(None),
    }
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Object(Map::new()))
}

/// An object of these members; stops at the limit.
fn joined(members: impl Iterator<Item = String>, most: usize) -> Result<String, TooLong> {
    let mut text = String::from("{");
    for member in members {
        if text.len() > 1 {
            text.push(',');
        }
        text.push_str(&member);
        if text.len() >= most {
            return Err(TooLong(most));
        }
    }
    text.push('}');
    Ok(text)
}
