//! Blueprints: how VMs are made (ADR 0007).

use super::of_table;
use crate::core::mirror::Snapshot;
use crate::core::query::cell::Cell;
use crate::core::query::field::{Field, FieldTable};
use crate::core::query::run::{Pick, Resource};
use gantry_model::error::GanetiError;
use gantry_model::pool::{Blueprint, Recycle};
use std::sync::{Arc, LazyLock};

pub(in crate::core::query) struct Blueprints;

type Row = Arc<Blueprint>;

impl Resource for Blueprints {
    type Row = Row;
    const KEY: &'static str = "name";

    fn fields() -> &'static FieldTable<Row> {
        static TABLE: LazyLock<FieldTable<Row>> = LazyLock::new(|| FieldTable::own(fields()));
        &TABLE
    }

    fn rows(config: &Snapshot, pick: &Pick) -> Result<Vec<Row>, GanetiError> {
        of_table(config.blueprints(), "Blueprint", pick)
    }
}

fn fields() -> Vec<Field<Row>> {
    type F = Field<Row>;
    vec![
        F::text("name", "Blueprint", "Name of the blueprint", |r, _| Cell::Str(&r.name)),
        F::text("uuid", "UUID", "UUID of the blueprint", |r, _| Cell::Uuid(r.uuid.0)),
        F::text("driver", "Driver", "Driver of its VMs", |r, _| Cell::Str(&r.driver)),
        F::text("image", "Image", "What its VMs see as their root: host or an imported image", |r, _| {
            Cell::Str(&r.image)
        }),
        F::unit("memory", "Memory", "Memory of a VM", |r, _| Cell::Uint(r.memory_mib)),
        F::number("vcpus", "VCPUs", "CPUs of a VM", |r, _| Cell::Uint(r.vcpus)),
        F::unit("disk", "Disk", "Room for files in a VM", |r, _| Cell::Uint(r.disk_mib)),
        F::number("pids", "PIDs", "Processes and threads of a VM", |r, _| Cell::Uint(r.pids)),
        F::text("recycle", "Recycle", "What becomes of a VM whose lease ended", |r, _| match r.recycle {
            Recycle::Destroy => Cell::Str("destroy"),
        }),
        F::number("wall_max", "WallMax", "Longest wall clock of a step, seconds", |r, _| {
            Cell::Uint(r.wall_s_max)
        }),
        F::number("lease_max", "LeaseMax", "Longest lease, seconds", |r, _| Cell::Uint(r.lease_s_max)),
        F::bool("enabled", "Enabled", "Whether new VMs are made of it", |r, _| Cell::Bool(r.enabled)),
        F::other("pools", "Pools", "Names of the pools that use it", |r, ctx| {
            let users = ctx.config.pools().iter().filter(|(_, pool)| pool.blueprint == r.uuid);
            Cell::List(users.map(|(_, pool)| Cell::Str(&pool.name)).collect())
        }),
        F::time("ctime", "CTime", "When the blueprint was made", |r, _| Cell::Float(r.stamp.ctime)),
        F::time("mtime", "MTime", "When the blueprint was last changed", |r, _| Cell::Float(r.stamp.mtime)),
        F::number("serial_no", "SerialNo", "Counts the changes of the blueprint", |r, _| {
            Cell::Uint(r.stamp.serial_no)
        }),
        F::other("tags", "Tags", "Tags of the blueprint", |r, _| Cell::Tags(&r.stamp.tags)),
    ]
}
