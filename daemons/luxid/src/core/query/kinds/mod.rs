//! The kinds of objects that queries are about: their rows and their fields, a module per kind. The tables are
//! those of `spec/query.md` §4 to §6 and, for Gantry's own kinds, of ADR 0007, the explanations are our own.

pub(super) mod blueprint;
pub(super) mod export;
pub(super) mod group;
pub(super) mod image;
pub(super) mod instance;
pub(super) mod job;
pub(super) mod lease;
pub(super) mod lock;
pub(super) mod network;
pub(super) mod node;
pub(super) mod pool;
pub(super) mod rule;
pub(super) mod slot;
pub(super) mod task;

use super::cell::Cell;
use super::field::{Ctx, Field, ValueKind};
use super::filter::Operand;
use super::run::Pick;
use crate::core::mirror::Table;
use gantry_model::config::{Group, Node};
use gantry_model::error::{Ecode, GanetiError};
use serde_json::Value;
use std::str::FromStr;
use std::sync::Arc;

/// The node parameters: key, title when it is not the field's name, kind.
const NODE_PARAMS: &[(&str, Option<&str>, ValueKind)] = &[
    ("cpu_speed", None, ValueKind::Float),
    ("exclusive_storage", Some("ExclusiveStorage"), ValueKind::Bool),
    ("oob_program", Some("OutOfBandProgram"), ValueKind::Other),
    ("ovs", Some("OpenvSwitch"), ValueKind::Bool),
    ("ovs_link", Some("OpenvSwitchLink"), ValueKind::Other),
    ("ovs_name", Some("OpenvSwitchName"), ValueKind::Other),
    ("spindle_count", Some("SpindleCount"), ValueKind::Number),
    ("ssh_port", None, ValueKind::Number),
];

fn node_param_fields<R>(get: for<'a> fn(&'a R, &Ctx<'a>, &'static str) -> Cell<'a>) -> Vec<Field<R>> {
    NODE_PARAMS.iter().map(|(key, title, kind)| Field::keyed("ndp", key, *title, *kind, get)).collect()
}

fn group_of<'a>(node: &Node, ctx: &Ctx<'a>) -> Option<&'a Arc<Group>> {
    ctx.config.groups().get(&node.group)
}

/// The effective node parameter of a node: its own, else its group's, else the cluster's.
fn node_param<'a>(node: &'a Node, ctx: &Ctx<'a>, key: &str) -> Option<&'a Value> {
    node.ndparams.get(key).or_else(|| group_param(group_of(node, ctx).map(|g| &**g), ctx, key))
}

fn group_param<'a>(group: Option<&'a Group>, ctx: &Ctx<'a>, key: &str) -> Option<&'a Value> {
    group.and_then(|g| g.ndparams.get(key)).or_else(|| ctx.cluster?.ndparams.get(key))
}

/// The text of a name in a name list; numbers name nothing but jobs.
fn name_text(operand: &Operand) -> String {
    match operand {
        Operand::Text(text) => text.clone(),
        Operand::Number(number) => number.to_string(),
    }
}

/// The picked objects of a table, by exact name or uuid, in natural order of their names unless they were named.
///
/// # Errors
/// `OpPrereqError` for a name that means nothing.
fn of_table<Id, T>(table: &Table<Id, Arc<T>>, what: &str, pick: &Pick) -> Result<Vec<Arc<T>>, GanetiError>
where
    Id: Ord + Clone + FromStr,
{
    let find = |name: &str| {
        let by_id = name.parse().ok().and_then(|id| table.get(&id));
        by_id.or_else(|| table.named(name)).cloned()
    };
    match pick {
        Pick::All => Ok(table.iter().map(|(_, object)| Arc::clone(object)).collect()),
        Pick::Named(names) => names
            .iter()
            .map(name_text)
            .map(|name| find(&name).ok_or_else(|| not_found(what, &name)))
            .collect(),
        Pick::Matching(names) => Ok(table
            .iter()
            .filter(|(place, _)| {
                names
                    .iter()
                    .any(|name| **name == *place.name || name.parse().is_ok_and(|id: Id| id == place.id))
            })
            .map(|(_, object)| Arc::clone(object))
            .collect()),
    }
}

/// MiB, begun ones counted whole: what fits in the answer fits in the room.
fn mib(bytes: u64) -> Cell<'static> {
    Cell::Uint(bytes.div_ceil(1 << 20))
}

fn not_found(what: &str, name: &str) -> GanetiError {
    GanetiError::prereq(format!("{what} name {name} not found"), Ecode::UnknownEntity)
}

/// The one object that a short name means.
///
/// # Errors
/// None or several.
fn only_one<T>(what: &str, name: &str, mut found: Vec<(Arc<str>, T)>) -> Result<T, GanetiError> {
    match found.len() {
        1 => Ok(found.remove(0).1),
        0 => Err(not_found(what, name)),
        _ => {
            // An exact name wins over longer ones.
            if let Some(at) = found.iter().position(|(full, _)| **full == *name) {
                return Ok(found.swap_remove(at).1);
            }
            let all: Vec<&str> = found.iter().map(|(full, _)| &**full).collect();
            let text = format!("{what} name {name} means several: {}", all.join(", "));
            Err(GanetiError::prereq(text, Ecode::WrongInput))
        }
    }
}
