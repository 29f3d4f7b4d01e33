//! Disks and network interfaces: lists, and a field per index.

use super::texts;
use crate::core::mirror::InstanceRow;
use crate::core::query::cell::Cell;
use crate::core::query::field::{Ctx, Field, ValueKind};
use gantry_model::config::{Disk, Nic};
use gantry_model::defaults::DEFAULT_SET;
use serde_json::Value;

type F = Field<InstanceRow>;
type At = for<'a> fn(&'a InstanceRow, &Ctx<'a>, usize) -> Cell<'a>;

/// Disks with fields of their own.
const DISKS_MAX: usize = 16;
/// Interfaces with fields of their own.
const NICS_MAX: usize = 8;

pub(super) fn fields() -> Vec<F> {
    [disks(), nics(), aliases(), families()].into_iter().flatten().collect()
}

fn disks() -> Vec<F> {
    vec![
        F::number("disk.count", "Disks", "How many disks it has", |r, _| {
            Cell::Uint(r.instance.disks.len() as u64)
        }),
        F::other("disk.names", "Disk_names", "Names of its disks", |r, _| {
            texts(r.instance.disks.iter().map(|d| d.name.as_deref()))
        }),
        F::other("disk.sizes", "Disk_sizes", "Sizes of its disks", |r, _| {
            Cell::List(r.instance.disks.iter().map(|d| Cell::Uint(d.size)).collect())
        }),
        F::other("disk.spindles", "Disk_spindles", "Spindles of its disks; not kept by Gantry", |r, _| {
            texts(r.instance.disks.iter().map(|_| None))
        }),
        F::other("disk.uuids", "Disk_UUIDs", "UUIDs of its disks", |r, _| {
            texts(r.instance.disks.iter().map(|d| Some(d.uuid.as_str())))
        }),
        F::text("disk_template", "Disk_template", "How its disks are stored", |r, _| {
            Cell::Str(&r.instance.disk_template)
        }),
        F::unit("disk_usage", "DiskUsage", "Disk space that it takes on its node", |r, _| {
            let diskless = r.instance.disk_template == "diskless";
            Cell::Uint(if diskless { 0 } else { r.instance.disks.iter().map(|d| d.size).sum() })
        }),
    ]
}

fn disk<'a>(row: &'a InstanceRow, index: usize, get: impl FnOnce(&'a Disk) -> Cell<'a>) -> Cell<'a> {
    row.instance.disks.get(index).map_or(Cell::UNAVAIL, get)
}

fn nic<'a>(row: &'a InstanceRow, index: usize, get: impl FnOnce(&'a Nic) -> Cell<'a>) -> Cell<'a> {
    row.instance.nics.get(index).map_or(Cell::UNAVAIL, get)
}

/// An effective parameter of an interface.
fn nic_param<'a>(nic: &'a Nic, ctx: &Ctx<'a>, key: &str) -> Option<&'a str> {
    let default = || ctx.cluster?.nicparams.get(DEFAULT_SET)?.get(key);
    nic.nicparams.get(key).or_else(default).and_then(Value::as_str)
}

fn bridge<'a>(nic: &'a Nic, ctx: &Ctx<'a>) -> Option<&'a str> {
    if nic_param(nic, ctx, "mode") == Some("bridged") { nic_param(nic, ctx, "link") } else { None }
}

fn vlan<'a>(nic: &'a Nic, ctx: &Ctx<'a>) -> Option<&'a str> {
    if nic_param(nic, ctx, "mode") == Some("openvswitch") { nic_param(nic, ctx, "vlan") } else { None }
}

fn network_name<'a>(nic: &'a Nic, ctx: &Ctx<'a>) -> Option<&'a str> {
    ctx.config.networks().name(nic.network.as_ref()?).map(|name| &**name)
}

fn nics() -> Vec<F> {
    vec![
        F::other("custom_nicparams", "CustomNicParameters", "Parameters set on its interfaces", |r, _| {
            Cell::List(r.instance.nics.iter().map(|n| Cell::Map(&n.nicparams)).collect())
        }),
        F::other("nic.bridges", "NIC_bridges", "Bridges of its interfaces", |r, ctx| {
            texts(r.instance.nics.iter().map(|n| bridge(n, ctx)))
        }),
        F::number("nic.count", "NICs", "How many interfaces it has", |r, _| {
            Cell::Uint(r.instance.nics.len() as u64)
        }),
        F::other("nic.ips", "NIC_IPs", "Addresses of its interfaces", |r, _| {
            texts(r.instance.nics.iter().map(|n| n.ip.as_deref()))
        }),
        F::other("nic.links", "NIC_links", "Links of its interfaces", |r, ctx| {
            texts(r.instance.nics.iter().map(|n| nic_param(n, ctx, "link")))
        }),
        F::other("nic.macs", "NIC_MACs", "MACs of its interfaces", |r, _| {
            texts(r.instance.nics.iter().map(|n| Some(n.mac.as_str())))
        }),
        F::other("nic.modes", "NIC_modes", "Modes of its interfaces", |r, ctx| {
            texts(r.instance.nics.iter().map(|n| nic_param(n, ctx, "mode")))
        }),
        F::other("nic.names", "NIC_Names", "Names of its interfaces", |r, _| {
            texts(r.instance.nics.iter().map(|n| n.name.as_deref()))
        }),
        F::other("nic.networks", "NIC_networks", "UUIDs of its interfaces' networks", |r, _| {
            texts(r.instance.nics.iter().map(|n| n.network.as_deref()))
        }),
        F::other(
            "nic.networks.names",
            "NIC_networks_names",
            "Names of its interfaces' networks",
            |r, ctx| texts(r.instance.nics.iter().map(|n| network_name(n, ctx))),
        ),
        F::other("nic.uuids", "NIC_UUIDs", "UUIDs of its interfaces", |r, _| {
            texts(r.instance.nics.iter().map(|n| Some(n.uuid.as_str())))
        }),
        F::other("nic.vlans", "NIC_VLANs", "VLANs of its interfaces", |r, ctx| {
            texts(r.instance.nics.iter().map(|n| vlan(n, ctx)))
        }),
    ]
}

/// Name, title, kind, explanation, getter.
type Family = (&'static str, &'static str, ValueKind, &'static str, At);

const DISK_FAMILIES: [Family; 4] = [
    ("disk.name", "DiskName", ValueKind::Text, "Name of a disk", |r, _, at| {
        disk(r, at, |d| Cell::str_or_unavail(d.name.as_deref()))
    }),
    ("disk.size", "Disk", ValueKind::Unit, "Size of a disk", disk_size),
    (
        "disk.spindles",
        "DiskSpindles",
        ValueKind::Number,
        "Spindles of a disk; not kept by Gantry",
        |_, _, _| Cell::UNAVAIL,
    ),
    ("disk.uuid", "DiskUUID", ValueKind::Text, "UUID of a disk", |r, _, at| {
        disk(r, at, |d| Cell::Str(&d.uuid))
    }),
];

const NIC_FAMILIES: [Family; 10] = [
    ("nic.bridge", "NicBridge", ValueKind::Text, "Bridge of an interface", nic_bridge),
    ("nic.ip", "NicIP", ValueKind::Text, "Address of an interface", nic_ip),
    ("nic.link", "NicLink", ValueKind::Text, "Link of an interface", nic_link),
    ("nic.mac", "NicMAC", ValueKind::Text, "MAC of an interface", nic_mac),
    ("nic.mode", "NicMode", ValueKind::Text, "Mode of an interface", nic_mode),
    ("nic.name", "NicName", ValueKind::Text, "Name of an interface", |r, _, at| {
        nic(r, at, |n| Cell::str_or_unavail(n.name.as_deref()))
    }),
    ("nic.network", "NicNetwork", ValueKind::Text, "UUID of an interface's network", nic_network),
    (
        "nic.network.name",
        "NicNetworkName",
        ValueKind::Text,
        "Name of an interface's network",
        |r, ctx, at| nic(r, at, |n| Cell::str_or_unavail(network_name(n, ctx))),
    ),
    ("nic.uuid", "NicUUID", ValueKind::Text, "UUID of an interface", |r, _, at| {
        nic(r, at, |n| Cell::Str(&n.uuid))
    }),
    ("nic.vlan", "NicVLAN", ValueKind::Text, "VLAN of an interface", |r, ctx, at| {
        nic(r, at, |n| Cell::str_or_unavail(vlan(n, ctx)))
    }),
];

fn families() -> Vec<F> {
    let disks = DISK_FAMILIES.iter().flat_map(|family| (0..DISKS_MAX).map(move |at| (family, at)));
    let nics = NIC_FAMILIES.iter().flat_map(|family| (0..NICS_MAX).map(move |at| (family, at)));
    disks
        .chain(nics)
        .map(|((name, title, kind, doc, get), at)| F::at(name, title, *kind, doc, (*get, at)))
        .collect()
}

fn disk_size<'a>(row: &'a InstanceRow, _ctx: &Ctx<'a>, index: usize) -> Cell<'a> {
    disk(row, index, |d| Cell::Uint(d.size))
}

fn nic_bridge<'a>(row: &'a InstanceRow, ctx: &Ctx<'a>, index: usize) -> Cell<'a> {
    nic(row, index, |n| Cell::str_or_unavail(bridge(n, ctx)))
}

fn nic_ip<'a>(row: &'a InstanceRow, _ctx: &Ctx<'a>, index: usize) -> Cell<'a> {
    nic(row, index, |n| Cell::str_or_unavail(n.ip.as_deref()))
}

fn nic_link<'a>(row: &'a InstanceRow, ctx: &Ctx<'a>, index: usize) -> Cell<'a> {
    nic(row, index, |n| Cell::str_or_unavail(nic_param(n, ctx, "link")))
}

fn nic_mac<'a>(row: &'a InstanceRow, _ctx: &Ctx<'a>, index: usize) -> Cell<'a> {
    nic(row, index, |n| Cell::Str(&n.mac))
}

fn nic_mode<'a>(row: &'a InstanceRow, ctx: &Ctx<'a>, index: usize) -> Cell<'a> {
    nic(row, index, |n| Cell::str_or_unavail(nic_param(n, ctx, "mode")))
}

fn nic_network<'a>(row: &'a InstanceRow, _ctx: &Ctx<'a>, index: usize) -> Cell<'a> {
    nic(row, index, |n| Cell::str_or_unavail(n.network.as_deref()))
}

fn aliases() -> Vec<F> {
    use ValueKind::{Text, Unit};
    vec![
        F::alias(("bridge", "NicBridge/0"), Text, "Same as nic.bridge/0", (nic_bridge, 0)),
        F::alias(("ip", "NicIP/0"), Text, "Same as nic.ip/0", (nic_ip, 0)),
        F::alias(("mac", "NicMAC/0"), Text, "Same as nic.mac/0", (nic_mac, 0)),
        F::alias(("nic_link", "NicLink/0"), Text, "Same as nic.link/0", (nic_link, 0)),
        F::alias(("nic_mode", "NicMode/0"), Text, "Same as nic.mode/0", (nic_mode, 0)),
        F::alias(("nic_network", "NicNetwork/0"), Text, "Same as nic.network/0", (nic_network, 0)),
        F::alias(("sda_size", "Disk/0"), Unit, "Same as disk.size/0", (disk_size, 0)),
        F::alias(("sdb_size", "Disk/1"), Unit, "Same as disk.size/1", (disk_size, 1)),
    ]
}
