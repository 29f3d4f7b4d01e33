//! Gantry's own kinds: tables as clients get them.

use super::*;
use gantry_model::config::Group;
use gantry_model::ids::{JobId, JobOwner, LeaseUuid, StartNo, TaskId};
use gantry_model::lease::{Lease, LeaseClock, LeaseRequest};
use gantry_model::pool::{Blueprint, Image, Pool};
use gantry_model::task::Task;
use serde::de::DeserializeOwned;

fn of<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn stamped(mut value: Value) -> Value {
    let stamp = json!({ "serial_no": 7, "ctime": 1.5, "mtime": 2.5, "tags": ["t"] });
    value.as_object_mut().unwrap().extend(stamp.as_object().unwrap().clone());
    value
}

fn pool(number: u8, name: &str, state: &str, group: Option<u8>) -> Pool {
    of(stamped(json!({
        "uuid": uuid(number), "name": name, "blueprint": uuid(150), "group": group.map(uuid), "min": 1, "max": 9,
        "amount": 2, "spare": 2, "lifetime_s": 600, "connect_timeout_s": 60, "state": state,
    })))
}

fn lease(number: u8, state: &str, why: Option<&str>) -> Lease {
    of(json!({
        "uuid": uuid(number), "owner": { "user": { "name": "ann" } }, "pool": "py",
        "vms": [{ "slot": uuid(203), "generation": 7, "node": uuid(1) }, { "slot": uuid(77), "generation": 1, "node": uuid(78) }],
        "granted": 1000 - u64::from(number), "until": 61_000, "ttl_ms": 30_000, "renewed": 20_000, "state": state,
        "why": why, "granted_at": 3.5,
    }))
}

/// Pool `py`: ABSENT, CLEAN, CLEAN on a drained node, LEASED, DIRTY and stuck; pool `old` is draining and empty.
fn cluster() -> Arc<Snapshot> {
    let mut all = base();
    let mut add = |kind: &str, number: u8, body: Value| all.push(put(kind, &uuid(number).to_string(), &body));
    let blueprint: Blueprint = of(stamped(json!({
        "uuid": uuid(150), "name": "small", "driver": "oci", "image": "deb", "memory_mib": 256, "vcpus": 2,
        "disk_mib": 64, "pids": 99, "wall_s_max": 60, "lease_s_max": 3600, "enabled": true,
    })));
    add(kind::BLUEPRINT, 150, json!(blueprint));
    for pool in [pool(160, "py", "active", Some(100)), pool(161, "old", "draining", None)] {
        add(kind::POOL, u8::try_from(pool.uuid.0.as_u128()).unwrap(), json!(pool));
    }
    let homes = [(200, 1), (201, 2), (202, 3), (203, 1), (210, 1)];
    for (index, (number, home)) in homes.into_iter().enumerate() {
        let name = if number == 210 { "py-10".to_owned() } else { format!("py-{}", index + 1) };
        let one = Instance {
            pool: Some("py".to_owned()),
            forthcoming: true,
            hypervisor: "oci".to_owned(),
            ..instance(number, &name, home)
        };
        add(kind::INSTANCE, number, json!(one));
    }
    add(kind::INSTANCE, 220, json!(instance(220, "outside.test", 1)));
    let start = StartNo { epoch: 1, run: 2, counter: 3 };
    let slots = [
        Slot { ready_at: Some(9.5), revision: 6, ..slot(201, 2, SlotState::Clean) },
        slot(202, 3, SlotState::Clean),
        Slot { lease: Some(LeaseUuid(uuid(170))), opened: true, ..slot(203, 1, SlotState::Leased) },
        Slot {
            holder: Some(JobOwner { job: JobId(5), start }),
            why: Some("lease over".to_owned()),
            failures: 8,
            stuck: true,
            drained: true,
            backoff_until: Some(99.5),
            ..slot(210, 1, SlotState::Dirty)
        },
    ];
    for slot in slots {
        add(kind::SLOT, u8::try_from(slot.uuid.0.as_u128()).unwrap(), json!(slot));
    }
    add(kind::LEASE, 170, json!(lease(170, "active", None)));
    add(kind::LEASE, 171, json!(lease(171, "broken", Some("node lost"))));
    all.push(put(kind::LEASE_CLOCK, kind::LEASE_CLOCK_KEY, &LeaseClock { ms: 40_500 }));
    let image: Image = of(stamped(json!({ "name": "deb", "digest": "ab".repeat(32), "bytes": 5_242_881 })));
    all.push(put(kind::IMAGE, "deb", &image));
    snapshot(all)
}

/// `[status, value]` of every field of every row, keyed by the row's first field as text.
fn table(kind: Kind, fields: &[&str], filter: Value, inputs: Inputs) -> Value {
    let plan = query(kind, fields, &filter).unwrap().plan(&cluster()).unwrap();
    data(&plan.finish(inputs).unwrap())
}

fn field_names(kind: Kind) -> Vec<String> {
    let mut names: Vec<String> = crate::core::query::query_fields(kind, &[])
        .unwrap()
        .fields
        .iter()
        .map(|f| f.name.to_string())
        .collect();
    names.sort();
    names
}

fn sorted(text: &str) -> Vec<String> {
    let mut names: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    names.sort();
    names
}

/// The fields are those of ADR 0007.
#[test]
fn the_fields() {
    for (kind, fields) in [
        (
            Kind::Blueprint,
            "name uuid driver image memory vcpus disk pids recycle wall_max lease_max enabled pools serial_no ctime mtime tags",
        ),
        (
            Kind::Pool,
            "name uuid blueprint blueprint_uuid group state min max amount spare wanted slots absent creating clean leased dirty stuck waiting why lifetime connect_timeout serial_no ctime mtime tags",
        ),
        (
            Kind::Slot,
            "name uuid pool node node_uuid state generation lease owner opened drained stuck why failures backoff_until revision wanted_revision ready_at node_usable holder",
        ),
        (Kind::Lease, "uuid owner pool state vms nodes since ends_in ttl why"),
        (
            Kind::Task,
            "id name pool user state status why attempts job slot node submitted started ended wall cpu memory exit priority labels key",
        ),
        (Kind::Image, "name digest size serial_no ctime mtime"),
    ] {
        assert_eq!(field_names(kind), sorted(fields), "{kind:?}");
        assert_eq!(Kind::parse(kind.as_str()), Some(kind));
    }
    let unit = |kind: Kind, name: &str| {
        crate::core::query::query_fields(kind, &strings(&[name])).unwrap().fields[0].kind
    };
    for (kind, name) in [
        (Kind::Blueprint, "memory"),
        (Kind::Blueprint, "disk"),
        (Kind::Image, "size"),
        (Kind::Task, "memory"),
    ] {
        assert_eq!(unit(kind, name), crate::core::query::ValueKind::Unit, "{name}");
    }
}

#[test]
fn blueprints_and_images() {
    let fields = [
        "name",
        "uuid",
        "driver",
        "image",
        "memory",
        "vcpus",
        "disk",
        "pids",
        "recycle",
        "wall_max",
        "lease_max",
        "enabled",
        "pools",
        "serial_no",
        "ctime",
        "mtime",
        "tags",
    ];
    let want = json!([[
        "small",
        uuid(150),
        "oci",
        "deb",
        256,
        2,
        64,
        99,
        "destroy",
        60,
        3600,
        true,
        ["old", "py"],
        7,
        1.5,
        2.5,
        ["t"]
    ]]);
    assert_eq!(rows(&cluster(), Kind::Blueprint, &fields, json!(null)).unwrap(), want);
    let fields = ["name", "digest", "size", "serial_no", "ctime", "mtime"];
    let want = json!([["deb", "ab".repeat(32), 6, 7, 1.5, 2.5]]);
    assert_eq!(rows(&cluster(), Kind::Image, &fields, json!(["=", "name", "deb"])).unwrap(), want);
}

#[test]
fn pools_with_their_numbers() {
    let fields = [
        "name",
        "uuid",
        "blueprint",
        "blueprint_uuid",
        "group",
        "state",
        "min",
        "max",
        "amount",
        "spare",
        "wanted",
        "slots",
        "absent",
        "creating",
        "clean",
        "leased",
        "dirty",
        "stuck",
        "lifetime",
        "connect_timeout",
        "serial_no",
    ];
    let group: Group = gantry_model::defaults::group(GroupUuid(uuid(100)), "default", 1.0);
    let want = json!([
        [
            "old",
            uuid(161),
            "small",
            uuid(150),
            null,
            "draining",
            1,
            9,
            2,
            2,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            600,
            60,
            7
        ],
        [
            "py",
            uuid(160),
            "small",
            uuid(150),
            group.name,
            "active",
            1,
            9,
            2,
            2,
            3,
            5,
            1,
            0,
            1,
            1,
            0,
            1,
            600,
            60,
            7
        ],
    ]);
    assert_eq!(rows(&cluster(), Kind::Pool, &fields, json!(null)).unwrap(), want);
    // Who waits is fetched only when the query mentions it, and filters by it wait for it.
    let plain = query(Kind::Pool, &["name"], &json!(null)).unwrap().plan(&cluster()).unwrap();
    assert!(!plain.needs().waiting);
    let plan = query(Kind::Pool, &["name", "waiting"], &json!([">", "waiting", 3]))
        .unwrap()
        .plan(&cluster())
        .unwrap();
    assert!(plan.needs().waiting && plan.needs().nodes.is_empty());
    let lines = [("py".to_owned(), 4), ("old".to_owned(), 3)];
    let live = LiveFacts::default().with_waiting(lines.into_iter().collect());
    assert_eq!(plain_rows(plan, Inputs { live, ..Inputs::default() }), json!([["py", 4]]));
}

/// `py` shall have 3 slots and has 4 that count.
#[test]
fn a_pool_says_why_it_lacks_slots() {
    let asked = |config: &Arc<Snapshot>| {
        let plan = query(Kind::Pool, &["name", "why"], &json!(null)).unwrap().plan(config).unwrap();
        assert!(plan.needs().short && plan.needs().nodes.is_empty());
        let short = [("py".to_owned(), "no room".to_owned()), ("old".to_owned(), "no room".to_owned())];
        let live = LiveFacts::default().with_short(short.into_iter().collect());
        plain_rows(plan, Inputs { live, ..Inputs::default() })
    };
    assert_eq!(asked(&cluster()), json!([["old", null], ["py", null]]), "old drains, py has enough");
    let mut empty = base();
    empty.push(put(kind::POOL, &uuid(160).to_string(), &pool(160, "py", "active", None)));
    assert_eq!(asked(&snapshot(empty)), json!([["py", "no room"]]));
}

fn plain_rows(plan: crate::core::query::Plan, inputs: Inputs) -> Value {
    plain(&plan.finish(inputs).unwrap())
}

#[test]
fn names_and_uuids_find_pools_and_unknown_ones_are_errors() {
    let find = |filter: Value| rows(&cluster(), Kind::Pool, &["name"], filter);
    assert_eq!(
        find(json!(["|", ["=", "name", "py"], ["=", "name", "old"]])).unwrap(),
        json!([["py"], ["old"]])
    );
    assert_eq!(find(json!(["=", "name", uuid(161).to_string()])).unwrap(), json!([["old"]]));
    assert_eq!(find(json!(["=", "state", "active"])).unwrap(), json!([["py"]]));
    let error = find(json!(["=", "name", "nowhere"])).unwrap_err();
    assert_eq!(class_and_code(&error), ("OpPrereqError", Some("unknown_entity")));
    let error = rows(&cluster(), Kind::Slot, &["name"], json!(["=", "name", "outside.test"])).unwrap_err();
    assert!(error.to_string().contains("Slot name outside.test"), "{error}");
}

#[test]
fn slots() {
    let fields = [
        "name",
        "pool",
        "node",
        "node_usable",
        "state",
        "generation",
        "lease",
        "owner",
        "opened",
        "revision",
        "wanted_revision",
        "ready_at",
    ];
    let got = table(Kind::Slot, &fields, json!(null), Inputs::default());
    let (no, ok) = (json!([3, null]), |value: Value| json!([0, value]));
    let row = |name: &str, node: &str, usable: bool, state: &str, generation: u64, rest: [Value; 5]| {
        let [lease, owner, opened, revision, ready] = rest;
        json!([
            ok(json!(name)),
            ok(json!("py")),
            ok(json!(node)),
            ok(json!(usable)),
            ok(json!(state)),
            ok(json!(generation)),
            lease,
            owner,
            opened,
            revision,
            ok(json!(7)),
            ready
        ])
    };
    let idle =
        |revision: u64, ready: Value| [no.clone(), no.clone(), ok(json!(false)), ok(json!(revision)), ready];
    assert_eq!(
        got,
        json!([
            row("py-1", "node1.test", true, "ABSENT", 0, idle(0, no.clone())),
            row("py-2", "node2.test", true, "CLEAN", 7, idle(6, ok(json!(9.5)))),
            row("py-3", "node3.test", false, "CLEAN", 7, idle(0, no.clone())),
            row(
                "py-4",
                "node1.test",
                true,
                "LEASED",
                7,
                [ok(json!(uuid(170))), ok(json!("ann")), ok(json!(true)), ok(json!(0)), no.clone()]
            ),
            row("py-10", "node1.test", true, "DIRTY", 7, idle(0, no.clone())),
        ])
    );
    let fields = ["uuid", "node_uuid", "drained", "stuck", "why", "failures", "backoff_until", "holder"];
    let owned = |filter: Value| rows(&cluster(), Kind::Slot, &["name", "owner"], filter).unwrap();
    assert_eq!(owned(json!(["=", "owner", "nobody"])), json!([]), "a slot without an owner is nobody's");
    assert_eq!(owned(json!(["=~", "owner", "."])), json!([["py-4", "ann"]]));
    let stuck = rows(&cluster(), Kind::Slot, &fields, json!(["?", "stuck"])).unwrap();
    assert_eq!(stuck, json!([[uuid(210), uuid(1), true, true, "lease over", 8, 99.5, "5.1-2-3"]]));
}

#[test]
fn leases_and_who_waits_for_one() {
    let request = |number: u8, state: &str, priority: i32| -> Arc<LeaseRequest> {
        Arc::new(of(json!({
            "uuid": uuid(number), "user": "bob", "pool": "py", "count": 2, "for_ms": 1000, "ttl_ms": 9500,
            "priority": priority, "received": [8, 0], "state": state, "why": "no clean slot",
        })))
    };
    let inputs = || Inputs {
        requests: vec![request(180, "waiting", 5), request(181, "waiting", -5), request(170, "granted", 0)],
        ..Inputs::default()
    };
    let fields = ["uuid", "owner", "pool", "state", "vms", "nodes", "since", "ends_in", "ttl", "why"];
    let vms = json!(["py-4", uuid(77)]);
    let nodes = json!(["node1.test", uuid(78)]);
    let plan = query(Kind::Lease, &fields, &json!(null)).unwrap().plan(&cluster()).unwrap();
    assert!(plan.needs().requests);
    assert_eq!(
        plain_rows(plan, inputs()),
        json!([
            [uuid(171), "ann", "py", "broken", vms, nodes, 3.5, null, 30, "node lost"],
            [uuid(170), "ann", "py", "active", vms, nodes, 3.5, 10, 30, null],
            [uuid(181), "bob", "py", "waiting", [], [], 8.0, null, 10, "no clean slot"],
            [uuid(180), "bob", "py", "waiting", [], [], 8.0, null, 10, "no clean slot"],
        ])
    );
    let only = |filter: Value| table(Kind::Lease, &["uuid"], filter, inputs());
    assert_eq!(only(json!(["=", "state", "waiting"])).as_array().unwrap().len(), 2);
    assert_eq!(only(json!(["=", "uuid", uuid(180).to_string()])), json!([[[0, uuid(180)]]]));
    assert_eq!(only(json!(["=", "owner", "nobody"])), json!([]));
    // What a row does not have meets no condition.
    assert_eq!(only(json!(["<=", "ends_in", 100])).as_array().unwrap().len(), 1);
    assert_eq!(only(json!(["!", ["<=", "ends_in", 100]])).as_array().unwrap().len(), 3);
}

#[test]
fn tasks() {
    let step = |exit: i32| json!({ "name": "s", "why": "exit", "exit": exit, "wall_ms": 1, "cpu_us": 1, "memory_peak_bytes": 1, "out": { "bytes": 0 }, "err": { "bytes": 0 } });
    let done: Task = of(json!({
        "id": 3, "state": 4, "received": [10, 500_000], "start": [11, 0], "end": [12, 0], "why": "step 1 failed",
        "spec": { "name": "t", "pool": "py", "user": "ann", "execute": [{ "command": "x" }], "priority": -3, "labels": ["b", "a"], "key": "k" },
        "attempts": [{ "number": 1, "lease": uuid(170), "job": 9, "slot_name": "py-4", "vm": { "slot": uuid(203), "generation": 7, "node": uuid(1) }, "outcome": "user-fail" }],
        "result": { "steps": [step(0), step(2)], "wall_ms": 1500, "cpu_us": 250_000, "memory_peak_bytes": 1_048_577 },
    }));
    let waits: Task = of(
        json!({ "id": 20, "state": 0, "received": [10, 0], "spec": { "pool": "py", "execute": [{ "command": "x" }] } }),
    );
    let inputs = || Inputs {
        tasks: vec![Arc::new(waits.clone()), Arc::new(done.clone())],
        why: [(TaskId(20), "waiting for a clean VM".to_owned())].into_iter().collect(),
        ..Inputs::default()
    };
    let fields = [
        "id",
        "name",
        "pool",
        "user",
        "state",
        "status",
        "why",
        "attempts",
        "job",
        "slot",
        "node",
        "submitted",
        "started",
        "ended",
        "wall",
        "cpu",
        "memory",
        "exit",
        "priority",
        "labels",
        "key",
    ];
    let plan = query(Kind::Task, &fields, &json!(null)).unwrap().plan(&cluster()).unwrap();
    assert_eq!((&plan.needs().tasks, plan.needs().why), (&crate::core::query::TasksNeed::All, true));
    assert_eq!(
        plain_rows(plan, inputs()),
        json!([
            [
                3,
                "t",
                "py",
                "ann",
                4,
                "run-failed",
                "step 1 failed",
                1,
                9,
                "py-4",
                "node1.test",
                10.5,
                11.0,
                12.0,
                1.5,
                0.25,
                2,
                2,
                -3,
                ["a", "b"],
                "k"
            ],
            [
                20,
                null,
                "py",
                null,
                0,
                "pending",
                "waiting for a clean VM",
                0,
                null,
                null,
                null,
                10.0,
                null,
                null,
                null,
                null,
                null,
                null,
                0,
                [],
                null
            ],
        ])
    );
    let named =
        query(Kind::Task, &["id", "status"], &json!(["|", ["=", "id", 20], ["=", "id", "4"]])).unwrap();
    let plan = named.plan(&cluster()).unwrap();
    assert_eq!(
        (&plan.needs().tasks, plan.needs().why),
        (&crate::core::query::TasksNeed::Ids(vec![TaskId(20), TaskId(4)]), false)
    );
    let one = Inputs { tasks: vec![Arc::new(waits.clone())], ..Inputs::default() };
    assert_eq!(data(&plan.finish(one).unwrap()), json!([[[0, 20], [0, "pending"]], [[0, 4], [3, null]]]));
    let failed = table(Kind::Task, &["id"], json!(["=[]", "labels", "a"]), inputs());
    assert_eq!(failed, json!([[[0, 3]]]));
    let line =
        table(Kind::Task, &["id"], json!(["&", ["=", "pool", "py"], ["=", "status", "pending"]]), inputs());
    assert_eq!(line, json!([[[0, 20]]]));
}

/// Ganeti's clients get the slots as instances: by names and words they know.
#[test]
fn slots_are_instances_for_ganetis_clients() {
    let fields = ["name", "hypervisor", "forthcoming", "admin_state", "disk_template", "pnode"];
    let plan =
        query(Kind::Instance, &fields, &json!(["=~", "name", "^py-"])).unwrap().plan(&cluster()).unwrap();
    assert_eq!(
        plain_rows(plan, Inputs::default()),
        json!([
            ["py-1", "lxc", true, "down", "diskless", "node1.test"],
            ["py-2", "lxc", false, "up", "diskless", "node2.test"],
            ["py-3", "lxc", false, "up", "diskless", "node3.test"],
            ["py-4", "lxc", false, "up", "diskless", "node1.test"],
            ["py-10", "lxc", false, "down", "diskless", "node1.test"],
        ])
    );
}
