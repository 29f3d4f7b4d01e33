//! Pools: how many VMs of a blueprint are kept, and how many there are (ADR 0007).

use super::of_table;
use crate::core::mirror::Snapshot;
use crate::core::query::cell::Cell;
use crate::core::query::field::{Ctx, Field, FieldTable};
use crate::core::query::run::{Mentions, OwnNeeds, Pick, Resource};
use gantry_model::error::GanetiError;
use gantry_model::pool::Pool;
use std::sync::{Arc, LazyLock};

pub(in crate::core::query) struct Pools;

type Row = Arc<Pool>;
type F = Field<Row>;

impl Resource for Pools {
    type Row = Row;
    const KEY: &'static str = "name";

    fn fields() -> &'static FieldTable<Row> {
        static TABLE: LazyLock<FieldTable<Row>> =
            LazyLock::new(|| FieldTable::own([wanted(), numbers(), own()].into_iter().flatten().collect()));
        &TABLE
    }

    fn rows(config: &Snapshot, pick: &Pick) -> Result<Vec<Row>, GanetiError> {
        of_table(config.pools(), "Pool", pick)
    }

    fn needs(_pick: &Pick, mentions: Mentions) -> OwnNeeds {
        OwnNeeds { waiting: mentions.waiting, short: mentions.why, ..OwnNeeds::NOTHING }
    }
}

fn own() -> Vec<F> {
    vec![
        F::text("name", "Pool", "Name of the pool", |r, _| Cell::Str(&r.name)),
        F::text("uuid", "UUID", "UUID of the pool", |r, _| Cell::Uuid(r.uuid.0)),
        F::text("blueprint", "Blueprint", "Name of the blueprint of its VMs", |r, ctx| {
            Cell::str_or_unavail(ctx.config.blueprint(r.blueprint).map(|b| b.name.as_str()))
        }),
        F::text("blueprint_uuid", "BlueprintUUID", "UUID of the blueprint of its VMs", |r, _| {
            Cell::Uuid(r.blueprint.0)
        }),
        F::text(
            "group",
            "Group",
            "Name of the node group its VMs live in, if it is bound to one",
            |r, ctx| {
                Cell::str_or_unavail(
                    r.group.and_then(|g| ctx.config.groups().get(&g)).map(|g| g.name.as_str()),
                )
            },
        ),
        F::time("ctime", "CTime", "When the pool was made", |r, _| Cell::Float(r.stamp.ctime)),
        F::time("mtime", "MTime", "When the pool was last changed", |r, _| Cell::Float(r.stamp.mtime)),
        F::number("serial_no", "SerialNo", "Counts the changes of the pool", |r, _| {
            Cell::Uint(r.stamp.serial_no)
        }),
        F::other("tags", "Tags", "Tags of the pool", |r, _| Cell::Tags(&r.stamp.tags)),
    ]
}

fn wanted() -> Vec<F> {
    vec![
        F::text("state", "State", "active: kept full; draining: its slots go as they become free", |r, _| {
            Cell::Str(r.state.as_str())
        }),
        F::number("min", "Min", "Fewest slots", |r, _| Cell::Uint(r.min)),
        F::number("max", "Max", "Most slots", |r, _| Cell::Uint(r.max)),
        F::number("amount", "Amount", "Slots asked for", |r, _| Cell::Uint(r.amount)),
        F::number("spare", "Spare", "Clean VMs to keep beyond the leased ones", |r, _| Cell::Uint(r.spare)),
        F::number("wanted", "Wanted", "How many slots there shall be now", |r, ctx| {
            Cell::Uint(r.wanted(ctx.config.pool_counts(&r.name).leased))
        }),
        F::number("lifetime", "Lifetime", "Seconds after which a clean VM is replaced; 0 never", |r, _| {
            Cell::Uint(r.lifetime_s)
        }),
        F::number(
            "connect_timeout",
            "ConnectTimeout",
            "Longest time until a new VM is clean, seconds",
            |r, _| Cell::Uint(r.connect_timeout_s),
        ),
    ]
}

/// What the newest attempt to add slots found, as long as some are missing.
fn why<'a>(pool: &'a Row, ctx: &Ctx<'a>) -> Cell<'a> {
    let counts = ctx.config.pool_counts(&pool.name);
    let there = counts.absent + counts.creating + counts.clean + counts.leased + counts.dirty + counts.stuck;
    let why = ctx.live.short(&pool.name).filter(|_| there < pool.wanted(counts.leased));
    Cell::str_or_unavail(why)
}

fn numbers() -> Vec<F> {
    vec![
        F::number("slots", "Slots", "Its slots", |r, ctx| Cell::Uint(ctx.config.pool_counts(&r.name).slots)),
        F::number("absent", "Absent", "Slots in which nothing lives", |r, ctx| {
            Cell::Uint(ctx.config.pool_counts(&r.name).absent)
        }),
        F::number("creating", "Creating", "Slots whose VM is being made", |r, ctx| {
            Cell::Uint(ctx.config.pool_counts(&r.name).creating)
        }),
        F::number(
            "clean",
            "Clean",
            "Slots that can be leased now: clean, not drained, on a node that takes work",
            |r, ctx| Cell::Uint(ctx.config.pool_counts(&r.name).clean),
        ),
        F::number("leased", "Leased", "Slots that are leased", |r, ctx| {
            Cell::Uint(ctx.config.pool_counts(&r.name).leased)
        }),
        F::number("dirty", "Dirty", "Slots that wait for their end or are being destroyed", |r, ctx| {
            Cell::Uint(ctx.config.pool_counts(&r.name).dirty)
        }),
        F::number("stuck", "Stuck", "Slots that failed too often, whatever their state", |r, ctx| {
            Cell::Uint(ctx.config.pool_counts(&r.name).stuck)
        }),
        F::number("waiting", "Waiting", "Tasks and lease requests that wait for VMs of it", |r, ctx| {
            Cell::Uint(ctx.live.waiting(&r.name))
        })
        .live(),
        F::text("why", "Why", "Why it has fewer slots than it shall have", why).live(),
    ]
}
