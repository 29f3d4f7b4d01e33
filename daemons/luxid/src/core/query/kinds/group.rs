//! Node groups (`spec/query.md` §5).

use super::{group_param, name_text, node_param_fields, not_found};
use crate::core::mirror::Snapshot;
use crate::core::query::cell::Cell;
use crate::core::query::field::{Ctx, Field, FieldTable};
use crate::core::query::run::{Pick, Resource};
use gantry_model::config::{Group, Params, filled};
use gantry_model::error::GanetiError;
use gantry_model::names::natural_cmp;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

pub(in crate::core::query) struct Groups;

type Row = Arc<Group>;
type F = Field<Row>;

impl Resource for Groups {
    type Row = Row;
    const KEY: &'static str = "name";

    fn fields() -> &'static FieldTable<Row> {
        static TABLE: LazyLock<FieldTable<Row>> = LazyLock::new(|| {
            FieldTable::new(
                [own(), merged(), members(), node_param_fields(param)].into_iter().flatten().collect(),
            )
        });
        &TABLE
    }

    fn rows(config: &Snapshot, pick: &Pick) -> Result<Vec<Row>, GanetiError> {
        match pick {
            Pick::All => Ok(config.groups().iter().map(|(_, group)| Arc::clone(group)).collect()),
            Pick::Named(names) => names.iter().map(|name| find(config, &name_text(name))).collect(),
            Pick::Matching(names) => {
                let found = names.iter().filter_map(|name| find(config, name).ok());
                let found: BTreeMap<_, _> = found.map(|group| (group.uuid, group)).collect();
                let mut groups: Vec<Row> = found.into_values().collect();
                groups.sort_by(|a, b| natural_cmp(&a.name, &b.name));
                Ok(groups)
            }
        }
    }
}

/// The group of this name or uuid.
///
/// # Errors
/// `OpPrereqError` when there is none.
pub(in crate::core::query) fn find(config: &Snapshot, name: &str) -> Result<Row, GanetiError> {
    let by_uuid = || name.parse().ok().and_then(|uuid| config.groups().get(&uuid));
    config.groups().named(name).or_else(by_uuid).cloned().ok_or_else(|| not_found("Group", name))
}

fn param<'a>(group: &'a Row, ctx: &Ctx<'a>, key: &'static str) -> Cell<'a> {
    Cell::json_or_unavail(group_param(Some(group), ctx, key))
}

fn own() -> Vec<F> {
    vec![
        F::text(
            "alloc_policy",
            "AllocPolicy",
            "Whether placement prefers, avoids or skips the group",
            |g, _| Cell::Str(&g.alloc_policy),
        ),
        F::time("ctime", "CTime", "When the group was made", |g, _| Cell::Float(g.stamp.ctime)),
        F::other("custom_diskparams", "CustomDiskParameters", "Disk parameters set on the group", |g, _| {
            Cell::Made(sets(&g.diskparams))
        }),
        F::other(
            "custom_ipolicy",
            "CustomInstancePolicy",
            "Parts of the instance policy set on the group",
            |g, _| Cell::Map(&g.ipolicy),
        ),
        F::other("custom_ndparams", "CustomNDParams", "Node parameters set on the group", |g, _| {
            Cell::Map(&g.ndparams)
        }),
        F::time("mtime", "MTime", "When the group was last changed", |g, _| Cell::Float(g.stamp.mtime)),
        F::text("name", "Group", "Name of the group", |g, _| Cell::Str(&g.name)),
        F::number("serial_no", "SerialNo", "Counts the changes of the group", |g, _| {
            Cell::Uint(g.stamp.serial_no)
        }),
        F::other("tags", "Tags", "Tags of the group", |g, _| Cell::Tags(&g.stamp.tags)),
        F::text("uuid", "UUID", "UUID of the group", |g, _| Cell::Uuid(g.uuid.0)),
    ]
}

fn merged() -> Vec<F> {
    vec![
        F::other("diskparams", "DiskParameters", "Effective disk parameters of every template", |g, ctx| {
            let mut all = ctx.cluster.map(|c| c.diskparams.clone()).unwrap_or_default();
            for (template, own) in &g.diskparams {
                let set = all.entry(template.clone()).or_default();
                *set = filled(set, own);
            }
            Cell::Made(sets(&all))
        }),
        F::other("ipolicy", "InstancePolicy", "Effective instance policy", |g, ctx| {
            let cluster = ctx.cluster.map(|c| &c.ipolicy);
            Cell::Made(Value::Object(ipolicy(cluster.unwrap_or(&Params::new()), &g.ipolicy)))
        }),
        F::other("ndparams", "NDParams", "All effective node parameters", |g, ctx| {
            let cluster = ctx.cluster.map(|c| &c.ndparams);
            Cell::Made(Value::Object(filled(cluster.unwrap_or(&Params::new()), &g.ndparams)))
        }),
    ]
}

/// The group's parts over the cluster's: `std` merges per key, all else replaces (`spec/config.md` §4).
fn ipolicy(cluster: &Params, group: &Params) -> Params {
    let mut all = filled(cluster, group);
    if let (Some(Value::Object(parent)), Some(Value::Object(own))) = (cluster.get("std"), group.get("std")) {
        all.insert("std".to_owned(), Value::Object(filled(parent, own)));
    }
    all
}

fn sets(sets: &BTreeMap<String, Params>) -> Value {
    sets.iter().map(|(name, set)| (name.clone(), Value::Object(set.clone()))).collect()
}

fn members() -> Vec<F> {
    vec![
        F::number("node_cnt", "Nodes", "How many nodes are in the group", |g, ctx| {
            Cell::Uint(ctx.config.nodes_of(g.uuid).map_or(0, |set| set.len() as u64))
        }),
        F::other("node_list", "NodeList", "Names of the nodes in the group", |g, ctx| {
            let set = ctx.config.nodes_of(g.uuid).into_iter().flat_map(|set| set.iter());
            Cell::List(set.map(|(place, ())| Cell::Str(&place.name)).collect())
        }),
        F::number("pinst_cnt", "Instances", "How many instances have their home in the group", |g, ctx| {
            let sets = ctx.config.nodes_of(g.uuid).into_iter().flat_map(|nodes| nodes.iter());
            let counts =
                sets.filter_map(|(place, ())| ctx.config.instances_of(place.id)).map(|set| set.len() as u64);
            Cell::Uint(counts.sum())
        }),
        F::other(
            "pinst_list",
            "InstanceList",
            "Names of the instances that have their home in the group",
            |g, ctx| {
                let sets = ctx.config.nodes_of(g.uuid).into_iter().flat_map(|nodes| nodes.iter());
                let names = sets.filter_map(|(place, ())| ctx.config.instances_of(place.id));
                let mut names: Vec<&str> =
                    names.flat_map(|set| set.iter()).map(|(place, ())| &*place.name).collect();
                names.sort_by(|a, b| natural_cmp(a, b));
                Cell::List(names.into_iter().map(Cell::Str).collect())
            },
        ),
    ]
}
