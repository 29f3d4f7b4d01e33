//! Slots of pools: their runtime records (ADR 0007). Ganeti's clients see the same slots as instances.

use super::instance;
use super::name_text;
use crate::core::mirror::{InstanceRow, Snapshot};
use crate::core::query::cell::Cell;
use crate::core::query::field::{Ctx, Field, FieldTable};
use crate::core::query::run::{Pick, Resource};
use gantry_model::config::{Slot, SlotState};
use gantry_model::error::GanetiError;
use gantry_model::lease::Lease;
use std::sync::{Arc, LazyLock};

pub(in crate::core::query) struct Slots;

type Row = InstanceRow;
type F = Field<Row>;

impl Resource for Slots {
    type Row = Row;
    const KEY: &'static str = "name";

    fn fields() -> &'static FieldTable<Row> {
        static TABLE: LazyLock<FieldTable<Row>> = LazyLock::new(|| {
            FieldTable::own([place(), record(), troubles(), age()].into_iter().flatten().collect())
        });
        &TABLE
    }

    fn rows(config: &Snapshot, pick: &Pick) -> Result<Vec<Row>, GanetiError> {
        let of_pool = |row: &Row| row.instance.pool.is_some();
        match pick {
            Pick::All | Pick::Matching(_) => Ok(config
                .instances()
                .iter()
                .filter(|(_, row)| of_pool(row))
                .map(|(_, row)| row.clone())
                .collect()),
            Pick::Named(names) => names
                .iter()
                .map(|name| {
                    let name = name_text(name);
                    match instance::find(config, &name) {
                        Ok(found) if of_pool(&found) => Ok(found),
                        Err(several) if several.ecode() != Some("unknown_entity") => Err(several),
                        Ok(_) | Err(_) => Err(super::not_found("Slot", &name)),
                    }
                })
                .collect(),
        }
    }
}

/// A value of the record, status 3 while there is none.
fn of<'a>(row: &'a Row, get: impl FnOnce(&'a Slot) -> Cell<'a>) -> Cell<'a> {
    row.slot.as_deref().map_or(Cell::UNAVAIL, get)
}

fn flag(row: &Row, get: impl FnOnce(&Slot) -> bool) -> Cell<'static> {
    Cell::Bool(row.slot.as_deref().is_some_and(get))
}

fn lease_of<'a>(row: &Row, ctx: &Ctx<'a>) -> Option<&'a Arc<Lease>> {
    ctx.config.leases().get(&row.slot.as_ref()?.lease?)
}

fn place() -> Vec<F> {
    vec![
        F::text("name", "Slot", "Name of the slot", |r, _| Cell::Str(&r.instance.name)),
        F::text("uuid", "UUID", "UUID of the slot", |r, _| Cell::Uuid(r.instance.uuid.0)),
        F::text("pool", "Pool", "Its pool", |r, _| Cell::str_or_unavail(r.instance.pool.as_deref())),
        F::text("node", "Node", "Name of the node its VMs live on", |r, ctx| {
            Cell::str_or_unavail(ctx.config.nodes().name(&r.instance.primary_node).map(|name| &**name))
        }),
        F::text("node_uuid", "NodeUUID", "UUID of the node its VMs live on", |r, _| {
            Cell::Uuid(r.instance.primary_node.0)
        }),
        F::bool("node_usable", "NodeUsable", "Whether its node is neither offline nor drained", |r, ctx| {
            Cell::Bool(ctx.config.node_works(r.instance.primary_node))
        }),
    ]
}

fn record() -> Vec<F> {
    vec![
        F::text("state", "State", "Where it stands", |r, _| {
            Cell::Str(r.slot.as_ref().map_or(SlotState::Absent, |slot| slot.state).as_str())
        }),
        F::number("generation", "Generation", "Counts its VMs; 0 before the first", |r, _| {
            Cell::Uint(r.slot.as_ref().map_or(0, |slot| slot.generation.0))
        }),
        F::text("lease", "Lease", "UUID of the lease that has it", |r, _| {
            of(r, |slot| slot.lease.map_or(Cell::UNAVAIL, |lease| Cell::Uuid(lease.0)))
        }),
        F::text("owner", "Owner", "Who has that lease", |r, ctx| {
            lease_of(r, ctx).map_or(Cell::UNAVAIL, |lease| Cell::Text(lease.owner.to_string()))
        }),
        F::bool("opened", "Opened", "Whether the VM was touched by a lease", |r, _| flag(r, |s| s.opened)),
        F::text("holder", "Holder", "The start of a job that creates or destroys", |r, _| {
            of(r, |slot| slot.holder.map_or(Cell::UNAVAIL, |owner| Cell::Text(owner.to_string())))
        }),
    ]
}

fn troubles() -> Vec<F> {
    vec![
        F::bool("drained", "Drained", "Whether it is neither created nor leased any more", |r, _| {
            flag(r, |slot| slot.drained)
        }),
        F::bool("stuck", "Stuck", "Whether it failed so often that an operator must help", |r, _| {
            flag(r, |slot| slot.stuck)
        }),
        F::text("why", "Why", "Why it is dirty", |r, _| of(r, |s| Cell::str_or_unavail(s.why.as_deref()))),
        F::number("failures", "Failures", "Creates or destroys that failed in a row", |r, _| {
            Cell::Uint(r.slot.as_ref().map_or(0, |slot| u64::from(slot.failures)))
        }),
        F::time("backoff_until", "BackoffUntil", "Not tried again before then", |r, _| {
            of(r, |slot| slot.backoff_until.map_or(Cell::UNAVAIL, Cell::Float))
        }),
    ]
}

fn age() -> Vec<F> {
    vec![
        F::number("revision", "Revision", "Serial of the blueprint its VM was made from", |r, _| {
            Cell::Uint(r.slot.as_ref().map_or(0, |slot| slot.revision))
        }),
        F::number("wanted_revision", "WantedRevision", "Serial of the blueprint now", |r, ctx| {
            let pool = r.instance.pool.as_deref().and_then(|name| ctx.config.pool_named(name));
            let blueprint = pool.and_then(|pool| ctx.config.blueprint(pool.blueprint));
            blueprint.map_or(Cell::UNAVAIL, |blueprint| Cell::Uint(blueprint.stamp.serial_no))
        }),
        F::time("ready_at", "ReadyAt", "When its VM became clean for the first time", |r, _| {
            of(r, |slot| slot.ready_at.map_or(Cell::UNAVAIL, Cell::Float))
        }),
    ]
}
