//! Networks (`spec/query.md` §5), which the configuration keeps as JSON.

use super::{name_text, not_found};
use crate::core::mirror::Snapshot;
use crate::core::query::cell::Cell;
use crate::core::query::field::{Ctx, Field, FieldTable};
use crate::core::query::run::{Pick, Resource};
use gantry_model::error::GanetiError;
use gantry_model::names::natural_cmp;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, LazyLock};

/// Largest network whose address map is computed: a /16 as in Ganeti.
const ADDRESSES_MAX: usize = 1 << 16;

pub(in crate::core::query) struct Networks;

type Row = Arc<Value>;
type F = Field<Row>;

impl Resource for Networks {
    type Row = Row;
    const KEY: &'static str = "name";

    fn fields() -> &'static FieldTable<Row> {
        static TABLE: LazyLock<FieldTable<Row>> =
            LazyLock::new(|| FieldTable::new([own(), users(), addresses()].into_iter().flatten().collect()));
        &TABLE
    }

    fn rows(config: &Snapshot, pick: &Pick) -> Result<Vec<Row>, GanetiError> {
        match pick {
            Pick::All => Ok(config.networks().iter().map(|(_, network)| Arc::clone(network)).collect()),
            Pick::Named(names) => names.iter().map(|name| find(config, &name_text(name))).collect(),
            Pick::Matching(names) => {
                let found = names.iter().filter_map(|name| find(config, name).ok());
                let found: BTreeMap<String, Row> =
                    found.map(|n| (str_of(&n, "uuid").to_owned(), n)).collect();
                let mut networks: Vec<Row> = found.into_values().collect();
                networks.sort_by(|a, b| natural_cmp(str_of(a, "name"), str_of(b, "name")));
                Ok(networks)
            }
        }
    }
}

/// The network of this name or uuid.
///
/// # Errors
/// `OpPrereqError` when there is none.
pub(in crate::core::query) fn find(config: &Snapshot, name: &str) -> Result<Row, GanetiError> {
    let networks = config.networks();
    let by_uuid = || networks.get(&name.to_owned());
    networks.named(name).or_else(by_uuid).cloned().ok_or_else(|| not_found("Network", name))
}

fn str_of<'a>(network: &'a Value, key: &str) -> &'a str {
    network.get(key).and_then(Value::as_str).unwrap_or("")
}

/// Status 3 when the key is missing or null.
fn of<'a>(network: &'a Row, key: &str) -> Cell<'a> {
    Cell::json_or_unavail(network.get(key).filter(|value| !value.is_null()))
}

fn own() -> Vec<F> {
    vec![
        F::time("ctime", "CTime", "When the network was made", |n, _| of(n, "ctime")),
        F::other("gateway", "Gateway", "IPv4 address of the gateway", |n, _| of(n, "gateway")),
        F::other("gateway6", "IPv6Gateway", "IPv6 address of the gateway", |n, _| of(n, "gateway6")),
        F::other("mac_prefix", "MacPrefix", "First bytes of the MACs made for it", |n, _| {
            of(n, "mac_prefix")
        }),
        F::time("mtime", "MTime", "When the network was last changed", |n, _| of(n, "mtime")),
        F::text("name", "Network", "Name of the network", |n, _| of(n, "name")),
        F::text("network", "Subnet", "IPv4 addresses, with prefix length", |n, _| of(n, "network")),
        F::other("network6", "IPv6Subnet", "IPv6 addresses, with prefix length", |n, _| of(n, "network6")),
        F::number("serial_no", "SerialNo", "Counts the changes of the network", |n, _| of(n, "serial_no")),
        F::other("tags", "Tags", "Tags of the network", |n, _| match n.get("tags") {
            Some(tags) => Cell::Json(tags),
            None => Cell::List(Vec::new()),
        }),
        F::text("uuid", "UUID", "UUID of the network", |n, _| of(n, "uuid")),
    ]
}

fn users() -> Vec<F> {
    vec![
        F::number("group_cnt", "NodeGroups", "How many groups are connected", |n, ctx| {
            Cell::Uint(groups(n, ctx).count() as u64)
        }),
        F::other("group_list", "GroupList", "Connected groups: name, NIC mode, link, VLAN", |n, ctx| {
            let part = |set: &'_ Value, key: &str| match set.get(key).and_then(Value::as_str) {
                Some(text) if !text.is_empty() => Value::from(text),
                Some(_) | None => Value::from("-"),
            };
            let entry = |(name, set): (&str, Value)| {
                Value::from(vec![
                    Value::from(name),
                    part(&set, "mode"),
                    part(&set, "link"),
                    part(&set, "vlan"),
                ])
            };
            Cell::Made(groups(n, ctx).map(entry).collect())
        }),
        F::number("inst_cnt", "Instances", "How many instances have an interface in it", |n, ctx| {
            Cell::Uint(instances(n, ctx).count() as u64)
        }),
        F::other("inst_list", "InstanceList", "Instances that have an interface in it", |n, ctx| {
            Cell::List(instances(n, ctx).map(Cell::Str).collect())
        }),
    ]
}

fn groups<'a>(network: &'a Row, ctx: &Ctx<'a>) -> impl Iterator<Item = (&'a str, Value)> {
    let uuid = str_of(network, "uuid");
    ctx.config.groups().iter().filter_map(move |(_, group)| {
        let set = group.networks.get(uuid)?;
        Some((group.name.as_str(), Value::Object(set.clone())))
    })
}

fn instances<'a>(network: &'a Row, ctx: &Ctx<'a>) -> impl Iterator<Item = &'a str> {
    let uuid = str_of(network, "uuid");
    let rows = ctx.config.instances().iter().map(|(_, row)| &row.instance);
    rows.filter(move |i| i.nics.iter().any(|nic| nic.network.as_deref() == Some(uuid)))
        .map(|i| i.name.as_str())
}

fn addresses() -> Vec<F> {
    vec![
        F::text("external_reservations", "ExternalReservations", "Addresses reserved by hand", |n, _| {
            external(n).map_or(Cell::UNAVAIL, Cell::Text)
        }),
        F::number("free_count", "FreeCount", "How many addresses are free", |n, _| {
            used(n)
                .map_or(Cell::UNAVAIL, |used| Cell::Uint(used.iter().filter(|used| !**used).count() as u64))
        }),
        F::text("map", "Map", "One sign per address: X taken, . free", |n, _| match used(n) {
            Some(used) => Cell::Text(used.iter().map(|used| if *used { 'X' } else { '.' }).collect()),
            None => Cell::UNAVAIL,
        }),
        F::number("reserved_count", "ReservedCount", "How many addresses are taken", |n, _| {
            used(n).map_or(Cell::UNAVAIL, |used| Cell::Uint(used.iter().filter(|used| **used).count() as u64))
        }),
    ]
}

/// First address and number of addresses; None for a network that can't be read or is too large.
fn subnet(network: &Value) -> Option<(Ipv4Addr, usize)> {
    let (address, prefix) = str_of(network, "network").split_once('/')?;
    let bits = 32_u32.checked_sub(prefix.parse().ok()?)?;
    let size = 1_usize.checked_shl(bits).filter(|size| *size <= ADDRESSES_MAX)?;
    let mask = u32::MAX.checked_shl(bits).unwrap_or(0);
    let address: Ipv4Addr = address.parse().ok()?;
    Some((Ipv4Addr::from_bits(address.to_bits() & mask), size))
}

fn bits(network: &Value, key: &str, size: usize) -> Vec<bool> {
    let text = str_of(network, key).bytes().map(|byte| byte == b'1');
    text.chain(std::iter::repeat(false)).take(size).collect()
}

fn used(network: &Value) -> Option<Vec<bool>> {
    let (_, size) = subnet(network)?;
    let (own, external) = (bits(network, "reservations", size), bits(network, "ext_reservations", size));
    Some(own.into_iter().zip(external).map(|(own, external)| own || external).collect())
}

fn external(network: &Value) -> Option<String> {
    let (first, size) = subnet(network)?;
    let reserved = bits(network, "ext_reservations", size).into_iter().zip(0_u32..).filter(|(bit, _)| *bit);
    let all: Vec<String> =
        reserved.map(|(_, at)| Ipv4Addr::from_bits(first.to_bits().wrapping_add(at)).to_string()).collect();
    Some(all.join(", "))
}
