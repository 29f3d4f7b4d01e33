//! Fields of the configuration: the instance's own, its parameters, its home.

use super::super::group_of;
use super::{node_of, shown_hypervisor};
use crate::core::mirror::InstanceRow;
use crate::core::query::cell::Cell;
use crate::core::query::field::{Ctx, Field, ValueKind};
use gantry_model::config::{Params, filled};
use gantry_model::defaults::DEFAULT_SET;
use serde_json::Value;

type F = Field<InstanceRow>;

pub(super) fn own() -> Vec<F> {
    vec![
        F::time("ctime", "CTime", "When the instance was made", |r, _| Cell::Float(r.instance.stamp.ctime)),
        F::bool("disks_active", "DisksActive", "Whether its disks are kept active", |r, _| {
            Cell::json_or_unavail(r.instance.extra.get("disks_active"))
        }),
        F::text(
            "hypervisor",
            "Hypervisor",
            "Driver of its VMs; lxc for those Ganeti has no name for",
            |r, _| Cell::Str(shown_hypervisor(&r.instance.hypervisor)),
        ),
        F::time("mtime", "MTime", "When the instance was last changed", |r, _| {
            Cell::Float(r.instance.stamp.mtime)
        }),
        F::text("name", "Instance", "Full name of the instance", |r, _| Cell::Str(&r.instance.name)).host(),
        F::other("network_port", "Network_port", "TCP port of its graphical console", |r, _| {
            Cell::json_or_unavail(r.instance.extra.get("network_port"))
        }),
        F::text("os", "OS", "Operating system with variant", |r, _| Cell::Str(&r.instance.os)),
        F::number("serial_no", "SerialNo", "Counts the changes of the instance", |r, _| {
            Cell::Uint(r.instance.stamp.serial_no)
        }),
        F::other("tags", "Tags", "Tags of the instance", |r, _| Cell::Tags(&r.instance.stamp.tags)),
        F::text("uuid", "UUID", "UUID of the instance", |r, _| Cell::Uuid(r.instance.uuid.0)),
    ]
}

/// The backend parameters: key, title when it is not the field's name, kind.
const BACKEND_PARAMS: &[(&str, Option<&str>, ValueKind)] = &[
    ("always_failover", None, ValueKind::Bool),
    ("auto_balance", Some("Auto_balance"), ValueKind::Bool),
    ("maxmem", Some("ConfigMaxMem"), ValueKind::Unit),
    ("minmem", Some("ConfigMinMem"), ValueKind::Unit),
    ("spindle_use", None, ValueKind::Number),
    ("vcpus", Some("ConfigVCPUs"), ValueKind::Number),
];

fn backend_defaults<'a>(ctx: &Ctx<'a>) -> Option<&'a Params> {
    ctx.cluster?.beparams.get(DEFAULT_SET)
}

fn backend<'a>(row: &'a InstanceRow, ctx: &Ctx<'a>, key: &'static str) -> Cell<'a> {
    let own = row.instance.beparams.get(key);
    Cell::json_or_unavail(own.or_else(|| backend_defaults(ctx)?.get(key)))
}

pub(super) fn parameters() -> Vec<F> {
    let mut fields = vec![
        F::keyed_alias(
            ("be/memory", "ConfigMaxMem"),
            ValueKind::Unit,
            "Same as be/maxmem, its older name",
            (backend, "maxmem"),
        ),
        F::keyed_alias(("vcpus", "ConfigVCPUs"), ValueKind::Number, "Same as be/vcpus", (backend, "vcpus")),
        F::other("beparams", "BackendParameters", "All effective backend parameters", |r, ctx| {
            let none = Params::new();
            let merged = filled(backend_defaults(ctx).unwrap_or(&none), &r.instance.beparams);
            Cell::Made(Value::Object(merged))
        }),
        F::other(
            "custom_beparams",
            "CustomBackendParameters",
            "Backend parameters set on the instance",
            |r, _| Cell::Map(&r.instance.beparams),
        ),
        F::other("custom_osparams", "CustomOpSysParameters", "OS parameters set on the instance", |r, _| {
            Cell::Map(&r.instance.osparams)
        }),
        F::other("osparams", "OpSysParameters", "All effective OS parameters", |r, ctx| {
            let of_cluster = ctx.cluster.and_then(|c| c.extra.get("osparams"));
            let base = r.instance.os.split_once('+').map_or(r.instance.os.as_str(), |(base, _)| base);
            let set = |os: &str| of_cluster.and_then(|all| all.get(os)).and_then(Value::as_object);
            let mut merged = set(base).cloned().unwrap_or_default();
            if let Some(variant) = set(&r.instance.os) {
                merged = filled(&merged, variant);
            }
            Cell::Made(Value::Object(filled(&merged, &r.instance.osparams)))
        }),
    ];
    fields
        .extend(BACKEND_PARAMS.iter().map(|(key, title, kind)| F::keyed("be", key, *title, *kind, backend)));
    fields
}

pub(super) fn home() -> Vec<F> {
    vec![
        F::text("pnode", "Primary_node", "Home node", |r, ctx| {
            Cell::str_or_unavail(node_of(r, ctx).map(|n| n.name.as_str()))
        })
        .host(),
        F::text("pnode.group", "PrimaryNodeGroup", "Group of the home node", |r, ctx| {
            Cell::str_or_unavail(node_of(r, ctx).and_then(|n| group_of(n, ctx)).map(|g| g.name.as_str()))
        }),
        F::text("pnode.group.uuid", "PrimaryNodeGroupUUID", "UUID of the home node's group", |r, ctx| {
            node_of(r, ctx).map_or(Cell::UNAVAIL, |n| Cell::Uuid(n.group.0))
        }),
        F::other("snodes", "Secondary_Nodes", "Nodes with a second copy; none in Gantry", |_, _| {
            Cell::List(Vec::new())
        }),
        F::other("snodes.group", "SecondaryNodesGroups", "Groups of those nodes; none in Gantry", |_, _| {
            Cell::List(Vec::new())
        }),
        F::other(
            "snodes.group.uuid",
            "SecondaryNodesGroupsUUID",
            "UUIDs of those groups; none in Gantry",
            |_, _| Cell::List(Vec::new()),
        ),
    ]
}
