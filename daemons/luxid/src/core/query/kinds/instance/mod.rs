//! Instances (`spec/query.md` §6): those of pools are shown as the runtime record of their slot says
//! (`model.md` §2.5), the others as the configuration says.

mod device;
mod fields;
mod hypervisor;
mod state;

use super::{name_text, only_one};
use crate::core::mirror::{InstanceRow, Snapshot};
use crate::core::query::cell::Cell;
use crate::core::query::field::{Ctx, FieldTable};
use crate::core::query::run::{Pick, Resource};
use gantry_model::config::Node;
use gantry_model::error::GanetiError;
use gantry_model::ids::NodeUuid;
use gantry_model::names::natural_cmp;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

pub(in crate::core::query) struct Instances;

impl Resource for Instances {
    type Row = InstanceRow;
    const KEY: &'static str = "name";

    fn fields() -> &'static FieldTable<InstanceRow> {
        static TABLE: LazyLock<FieldTable<InstanceRow>> = LazyLock::new(|| {
            let parts = [
                fields::own(),
                fields::parameters(),
                fields::home(),
                state::fields(),
                device::fields(),
                hypervisor::fields(),
            ];
            FieldTable::new(parts.into_iter().flatten().collect())
        });
        &TABLE
    }

    fn rows(config: &Snapshot, pick: &Pick) -> Result<Vec<InstanceRow>, GanetiError> {
        match pick {
            Pick::All => Ok(config.instances().iter().map(|(_, row)| row.clone()).collect()),
            Pick::Named(names) => names.iter().map(|name| find(config, &name_text(name))).collect(),
            Pick::Matching(names) => Ok(matching(config, names)),
        }
    }

    /// Nothing lives in a slot that only reserves room: its node need not be asked.
    fn asks(row: &InstanceRow, config: &Snapshot) -> Option<NodeUuid> {
        let node = config.nodes().get(&row.instance.primary_node)?;
        (!node.offline && !state::Wanted::of(row).forthcoming).then_some(node.uuid)
    }
}

/// The instance that a full name, short name or uuid means.
///
/// # Errors
/// `OpPrereqError` when there is none, or several.
pub(in crate::core::query) fn find(config: &Snapshot, name: &str) -> Result<InstanceRow, GanetiError> {
    if let Some(row) = name.parse().ok().and_then(|uuid| config.instances().get(&uuid)) {
        return Ok(row.clone());
    }
    let found = config.instances().host_named(name).map(|(name, row)| (Arc::clone(name), row.clone()));
    only_one("Instance", name, found.collect())
}

fn matching(config: &Snapshot, names: &[String]) -> Vec<InstanceRow> {
    let mut found = BTreeMap::new();
    for name in names {
        let by_uuid = name.parse().ok().and_then(|uuid| config.instances().get(&uuid));
        let by_name = config.instances().host_named(name).map(|(_, row)| row);
        found.extend(by_uuid.into_iter().chain(by_name).map(|row| (row.instance.uuid, row.clone())));
    }
    let mut rows: Vec<InstanceRow> = found.into_values().collect();
    rows.sort_by(|a, b| natural_cmp(&a.instance.name, &b.instance.name));
    rows
}

fn node_of<'a>(row: &InstanceRow, ctx: &Ctx<'a>) -> Option<&'a Arc<Node>> {
    ctx.config.nodes().get(&row.instance.primary_node)
}

/// What clients are told of a driver: Ganeti's know a closed set of names, and `lxc` is the nearest of them to our
/// containers (`model.md` §9). The driver itself is a field of blueprints.
fn shown_hypervisor(driver: &str) -> &str {
    match driver {
        "oci" | "openvz" => "lxc",
        known => known,
    }
}

/// A cell that stands in lists as null when there is no text.
fn texts<'a>(items: impl Iterator<Item = Option<&'a str>>) -> Cell<'a> {
    Cell::List(items.map(Cell::str_or_null).collect())
}
