//! A small cluster as objects: three nodes, two instances, a pool.

use gantry_model::config::{Cluster, Disk, Instance, Meta, Nic, Node, Params, Slot, SlotState, Stamp, kind};
use gantry_model::defaults::{self, ClusterSeed};
use gantry_model::ids::{ClusterUuid, Generation, GroupUuid, InstanceUuid, NodeUuid};
use gantry_rconfd::core::snapshot::Snapshot;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

pub const GROUP: GroupUuid = GroupUuid(Uuid::from_u128(9));

pub fn node_uuid(number: u8) -> NodeUuid {
    NodeUuid(Uuid::from_u128(0x100 + u128::from(number)))
}

pub fn instance_uuid(number: u32) -> InstanceUuid {
    InstanceUuid(Uuid::from_u128(0x1000 + u128::from(number)))
}

pub fn cluster() -> Cluster {
    let mut all = defaults::cluster(ClusterSeed {
        uuid: ClusterUuid(Uuid::from_u128(1)),
        name: "c.example.test".to_owned(),
        master_node: node_uuid(1),
        master_ip: "192.0.2.100".to_owned(),
        enabled_hypervisors: vec!["fake".to_owned()],
        now: 1.5,
    });
    all.stamp.serial_no = 40;
    let nic = json!({"mode": "bridged", "link": "br0", "vlan": ""});
    all.nicparams.insert("default".to_owned(), nic.as_object().unwrap().clone());
    for (key, value) in [
        ("osparams_private_cluster", json!({"os": {"password": "geheim"}})),
        ("candidate_certs", json!({"n": "geheim"})),
        ("rsahostkeypub", json!("geheim")),
        ("confd_strict_ganeti", json!(false)),
    ] {
        all.extra.insert(key.to_owned(), value);
    }
    all.stamp.tags.insert("ä😀".to_owned());
    all
}

pub fn node(number: u8) -> Node {
    Node {
        uuid: node_uuid(number),
        name: format!("node{number}.example.test"),
        primary_ip: format!("192.0.2.{number}"),
        secondary_ip: format!("192.0.2.{number}"),
        master_candidate: number < 3,
        offline: false,
        drained: false,
        group: GROUP,
        master_capable: true,
        vm_capable: true,
        ndparams: Params::new(),
        powered: true,
        noded_port: 1811,
        stamp: Stamp { serial_no: 10 + u64::from(number), ..Stamp::new(1.0) },
        extra: Params::new(),
    }
}

pub fn nic(ip: &str, link: Option<&str>) -> Nic {
    let mut nicparams = Params::new();
    if let Some(link) = link {
        nicparams.insert("link".to_owned(), json!(link));
    }
    let mac = "aa:00:00:00:00:01".to_owned();
    Nic { uuid: Uuid::nil().to_string(), mac, nicparams, ip: Some(ip.to_owned()), network: None, name: None }
}

pub fn instance(number: u32, on: u8, nics: Vec<Nic>) -> Instance {
    let mut extra = Params::new();
    extra.insert("osparams_private".to_owned(), json!({"password": "geheim"}));
    Instance {
        uuid: instance_uuid(number),
        name: format!("inst{number}.example.test"),
        primary_node: node_uuid(on),
        os: "noop".to_owned(),
        hypervisor: "fake".to_owned(),
        hvparams: Params::new(),
        beparams: Params::new(),
        osparams: Params::new(),
        admin_state: gantry_model::config::AdminState::Up,
        admin_state_source: "admin".to_owned(),
        nics,
        disk_template: "file".to_owned(),
        disks: vec![Disk {
            uuid: Uuid::from_u128(0x9000 + u128::from(number)).to_string(),
            size: 64,
            mode: "rw".to_owned(),
            name: None,
        }],
        forthcoming: true,
        pool: None,
        stamp: Stamp { serial_no: 100 + u64::from(number), ..Stamp::new(2.0) },
        extra,
    }
}

pub fn slot(number: u32, state: SlotState) -> Slot {
    Slot { state, generation: Generation(3), ..Slot::new(instance_uuid(number), node_uuid(1)) }
}

/// A row of the store: kind, key, body.
pub type Row = (&'static str, String, String);

pub fn row(kind: &'static str, key: impl ToString, value: &impl Serialize) -> Row {
    (kind, key.to_string(), serde_json::to_string(value).unwrap())
}

pub fn meta(serial_no: u64) -> Row {
    row(kind::META, kind::META_KEY, &Meta { version: 3_000_000, serial_no, ctime: 1.0, mtime: 2.0 })
}

/// The whole cluster.
pub fn rows() -> Vec<Row> {
    let pool = json!({"uuid": Uuid::from_u128(5), "name": "py", "blueprint": Uuid::from_u128(6), "min": 1, "max": 4,
        "amount": 2, "connect_timeout_s": 60, "serial_no": 3, "ctime": 1.0, "mtime": 1.0});
    let pooled = Instance {
        name: "py-1".to_owned(),
        hypervisor: "oci".to_owned(),
        pool: Some("py".to_owned()),
        disks: Vec::new(),
        disk_template: "diskless".to_owned(),
        ..instance(3, 1, Vec::new())
    };
    let lease = json!({"uuid": Uuid::from_u128(7), "owner": {"user": {"name": "ann"}}, "pool": "py",
        "vms": [{"slot": instance_uuid(3), "generation": 3, "node": node_uuid(1)}], "granted": 0, "until": 60_000,
        "renewed": 0, "state": "active", "granted_at": 1.0});
    vec![
        meta(77),
        row(kind::CLUSTER, kind::CLUSTER_KEY, &cluster()),
        row(kind::GROUP, GROUP, &defaults::group(GROUP, "default", 1.0)),
        row(kind::NODE, node_uuid(1), &node(1)),
        row(kind::NODE, node_uuid(2), &node(2)),
        row(kind::NODE, node_uuid(3), &Node { offline: true, ..node(3) }),
        row(kind::INSTANCE, instance_uuid(1), &instance(1, 1, vec![nic("198.51.100.1", None)])),
        row(
            kind::INSTANCE,
            instance_uuid(2),
            &instance(2, 2, vec![nic("198.51.100.2", Some("br0")), nic("198.51.100.9", Some("br1"))]),
        ),
        row(kind::INSTANCE, instance_uuid(3), &pooled),
        row(kind::POOL, Uuid::from_u128(5), &pool),
        row(kind::SLOT, instance_uuid(3), &slot(3, SlotState::Leased)),
        row(kind::LEASE, Uuid::from_u128(7), &lease),
    ]
}

pub fn snapshot(rows: &[Row]) -> Snapshot {
    let mut all = Snapshot::default();
    all.index = 500;
    for (kind, key, body) in rows {
        all.change(kind, key, Some(body)).unwrap();
    }
    all
}

/// The object of a row, changed.
pub fn changed(row: &Row, key: &str, value: Value) -> Row {
    let mut object: Value = serde_json::from_str(&row.2).unwrap();
    object[key] = value;
    (row.0, row.1.clone(), object.to_string())
}
