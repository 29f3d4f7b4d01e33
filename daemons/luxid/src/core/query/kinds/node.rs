//! Nodes (`spec/query.md` §4).

use super::{group_of, name_text, node_param, node_param_fields, only_one};
use crate::core::mirror::Snapshot;
use crate::core::query::cell::{Cell, Missing};
use crate::core::query::field::{Ctx, Field, FieldTable};
use crate::core::query::run::{Pick, Resource};
use gantry_model::config::{Node, Params, filled};
use gantry_model::error::GanetiError;
use gantry_model::ids::NodeUuid;
use gantry_proto::noded::NodeInfoReply;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

pub(in crate::core::query) struct Nodes;

type F = Field<Arc<Node>>;

impl Resource for Nodes {
    type Row = Arc<Node>;
    const KEY: &'static str = "name";

    fn fields() -> &'static FieldTable<Self::Row> {
        static TABLE: LazyLock<FieldTable<Arc<Node>>> = LazyLock::new(|| {
            FieldTable::new(
                [config(), relations(), live(), node_param_fields(param)].into_iter().flatten().collect(),
            )
        });
        &TABLE
    }

    fn rows(config: &Snapshot, pick: &Pick) -> Result<Vec<Arc<Node>>, GanetiError> {
        match pick {
            Pick::All => Ok(config.nodes().iter().map(|(_, node)| Arc::clone(node)).collect()),
            Pick::Named(names) => names.iter().map(|name| find(config, &name_text(name))).collect(),
            Pick::Matching(names) => Ok(matching(config, names)),
        }
    }

    fn asks(row: &Arc<Node>, _config: &Snapshot) -> Option<NodeUuid> {
        (!row.offline).then_some(row.uuid)
    }
}

/// The node that a full name, short name or uuid means.
///
/// # Errors
/// `OpPrereqError` when there is none, or several.
pub(in crate::core::query) fn find(config: &Snapshot, name: &str) -> Result<Arc<Node>, GanetiError> {
    if let Some(node) = name.parse().ok().and_then(|uuid| config.nodes().get(&uuid)) {
        return Ok(Arc::clone(node));
    }
    let found = config.nodes().host_named(name).map(|(name, node)| (Arc::clone(name), Arc::clone(node)));
    only_one("Node", name, found.collect())
}

/// The nodes whose name or uuid is among these, in natural order, each once.
pub(super) fn matching(config: &Snapshot, names: &[String]) -> Vec<Arc<Node>> {
    let mut found = BTreeMap::new();
    for name in names {
        let by_uuid = name.parse().ok().and_then(|uuid| config.nodes().get(&uuid));
        let by_name = config.nodes().host_named(name).map(|(_, node)| node);
        found.extend(by_uuid.into_iter().chain(by_name).map(|node| (node.uuid, Arc::clone(node))));
    }
    let mut nodes: Vec<Arc<Node>> = found.into_values().collect();
    nodes.sort_by(|a, b| gantry_model::names::natural_cmp(&a.name, &b.name));
    nodes
}

fn param<'a>(node: &'a Arc<Node>, ctx: &Ctx<'a>, key: &'static str) -> Cell<'a> {
    Cell::json_or_unavail(node_param(node, ctx, key))
}

fn config() -> Vec<F> {
    vec![
        F::time("ctime", "CTime", "When the node was added", |n, _| Cell::Float(n.stamp.ctime)),
        F::other("custom_ndparams", "CustomNodeParameters", "Parameters set on the node itself", |n, _| {
            Cell::Map(&n.ndparams)
        }),
        F::other("disk_state", "DiskState", "Not kept; always unavailable", |_, _| Cell::UNAVAIL),
        F::bool("drained", "Drained", "Whether the node takes no new instances", |n, _| {
            Cell::Bool(n.drained)
        }),
        F::other("hv_state", "HypervisorState", "Not kept; always unavailable", |_, _| Cell::UNAVAIL),
        F::bool(
            "master_candidate",
            "MasterC",
            "Whether the node keeps copies of the cluster's state",
            |n, _| Cell::Bool(n.master_candidate),
        ),
        F::bool("master_capable", "MasterCapable", "Whether the node may become a candidate", |n, _| {
            Cell::Bool(n.master_capable)
        }),
        F::time("mtime", "MTime", "When the node was last changed", |n, _| Cell::Float(n.stamp.mtime)),
        F::text("name", "Node", "Full name of the node", |n, _| Cell::Str(&n.name)).host(),
        F::bool("offline", "Offline", "Whether the node is marked offline and never asked", |n, _| {
            Cell::Bool(n.offline)
        }),
        F::text("pip", "PrimaryIP", "Address at which the node is asked", |n, _| Cell::Str(&n.primary_ip)),
        F::number("serial_no", "SerialNo", "Counts the changes of the node", |n, _| {
            Cell::Uint(n.stamp.serial_no)
        }),
        F::text(
            "sip",
            "SecondaryIP",
            "Second address; the first again where there is one network",
            |n, _| Cell::Str(&n.secondary_ip),
        ),
        F::other("tags", "Tags", "Tags of the node", |n, _| Cell::Tags(&n.stamp.tags)),
        F::text("uuid", "UUID", "UUID of the node", |n, _| Cell::Uuid(n.uuid.0)),
        F::bool("vm_capable", "VMCapable", "Whether the node may host instances", |n, _| {
            Cell::Bool(n.vm_capable)
        }),
    ]
}

fn relations() -> Vec<F> {
    vec![
        F::text("group", "Group", "Name of the node's group", |n, ctx| {
            Cell::str_or_unavail(group_of(n, ctx).map(|g| g.name.as_str()))
        }),
        F::text("group.uuid", "GroupUUID", "UUID of the node's group", |n, _| Cell::Uuid(n.group.0)),
        F::bool("master", "IsMaster", "Whether the node is the master", |n, ctx| {
            Cell::Bool(ctx.cluster.is_some_and(|c| c.master_node == n.uuid))
        }),
        F::other("ndparams", "NodeParameters", "All effective node parameters", |n, ctx| {
            let none = Params::new();
            let group = group_of(n, ctx).map_or(&none, |g| &g.ndparams);
            let cluster = ctx.cluster.map_or(&none, |c| &c.ndparams);
            Cell::Made(Value::Object(filled(&filled(cluster, group), &n.ndparams)))
        }),
        F::number("pinst_cnt", "Pinst", "How many instances have their home here", |n, ctx| {
            Cell::Uint(ctx.config.instances_of(n.uuid).map_or(0, |set| set.len() as u64))
        }),
        F::other(
            "pinst_list",
            "PriInstances",
            "Names of the instances that have their home here",
            |n, ctx| {
                let set = ctx.config.instances_of(n.uuid).into_iter().flat_map(|set| set.iter());
                Cell::List(set.map(|(place, ())| Cell::Str(&place.name)).collect())
            },
        ),
        F::bool("powered", "Powered", "Whether the node is believed to be switched on", |n, ctx| {
            let program = node_param(n, ctx, "oob_program").and_then(Value::as_str).unwrap_or("");
            if program.is_empty() { Cell::UNAVAIL } else { Cell::Bool(n.powered) }
        }),
        F::text("role", "Role", "Role: M master, C candidate, R regular, D drained, O offline", |n, ctx| {
            ctx.cluster.map_or(Cell::UNAVAIL, |c| Cell::Str(role(n.role(c.master_node))))
        }),
        F::number(
            "sinst_cnt",
            "Sinst",
            "How many instances have a second copy here; none in Gantry",
            |_, _| Cell::Uint(0),
        ),
        F::other(
            "sinst_list",
            "SecInstances",
            "Instances that have a second copy here; none in Gantry",
            |_, _| Cell::List(Vec::new()),
        ),
    ]
}

fn role(letter: char) -> &'static str {
    match letter {
        'M' => "M",
        'O' => "O",
        'D' => "D",
        'C' => "C",
        _ => "R",
    }
}

fn fact<'a>(node: &Node, ctx: &Ctx<'a>, get: impl FnOnce(&'a NodeInfoReply) -> Cell<'a>) -> Cell<'a> {
    ctx.live.of(node).map_or_else(|missing| missing, get)
}

fn live() -> Vec<F> {
    let fields = vec![
        F::text("bootid", "BootID", "Changes whenever the host boots", |n, ctx| {
            fact(n, ctx, |i| Cell::Str(&i.boot_id))
        }),
        F::number("cnodes", "CNodes", "NUMA domains of the host", |n, ctx| {
            fact(n, ctx, |i| Cell::Uint(i.numa_nodes))
        }),
        F::number("cnos", "CNOs", "Logical CPUs that the host keeps for itself", |n, ctx| {
            fact(n, ctx, |i| Cell::Uint(i.cpus_host))
        }),
        F::number("csockets", "CSockets", "CPU sockets of the host", |n, ctx| {
            fact(n, ctx, |i| Cell::Uint(i.sockets))
        }),
        F::number("ctotal", "CTotal", "Logical CPUs that the node offers", |n, ctx| {
            fact(n, ctx, |i| Cell::Uint(i.cpus))
        }),
        F::unit("dfree", "DFree", "Disk space still free for instances", |n, ctx| {
            fact(n, ctx, |i| Cell::Uint(i.disk_free_mib))
        }),
        F::unit("dtotal", "DTotal", "Disk space for instances in all", |n, ctx| {
            fact(n, ctx, |i| Cell::Uint(i.disk_total_mib))
        }),
        F::unit("mfree", "MFree", "Memory still free for instances", |n, ctx| {
            fact(n, ctx, |i| Cell::Uint(i.memory_free_mib))
        }),
        F::unit("mnode", "MNode", "Memory that the host takes", |n, ctx| {
            fact(n, ctx, |i| Cell::Uint(i.memory_host_mib))
        }),
        F::unit("mtotal", "MTotal", "Memory of the node in all", |n, ctx| {
            fact(n, ctx, |i| Cell::Uint(i.memory_total_mib))
        }),
        // Nodes report no spindles: missing in their answer (`spec/query.md` §4).
        F::number("spfree", "SpFree", "Free spindles; not reported by Gantry's nodes", |n, ctx| {
            fact(n, ctx, |_| Cell::Missing(Missing::NoData))
        }),
        F::number("sptotal", "SpTotal", "Spindles in all; not reported by Gantry's nodes", |n, ctx| {
            fact(n, ctx, |_| Cell::Missing(Missing::NoData))
        }),
    ];
    fields.into_iter().map(Field::live).collect()
}
