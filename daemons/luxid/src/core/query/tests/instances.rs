//! What is shown of instances: status words, the overlay of pools' slots, parameters.

use super::*;

/// Status, oper_state and oper_ram with their result status.
fn shown(config: &Arc<Snapshot>, live: Vec<(NodeUuid, Result<NodeInfoReply, Unreachable>)>) -> Value {
    let fields = ["status", "oper_state", "oper_ram", "admin_state", "forthcoming"];
    let plan = query(Kind::Instance, &fields, &json!(null)).unwrap().plan(config).unwrap();
    data(&plan.finish(inputs(live)).unwrap())[0].take()
}

fn outside(admin: AdminState, home: u8) -> Arc<Snapshot> {
    let one = Instance { admin_state: admin, ..instance(200, "i.test", home) };
    with(&[one], &[slot(200, home, SlotState::Clean)])
}

#[test]
fn the_status_follows_from_wanted_and_seen() {
    use AdminState::{Down, Offline, Up};
    let here = || vec![info(1, vec![vm(200)]), info(2, vec![])];
    let away = || vec![info(1, vec![]), info(2, vec![vm(200)])];
    let none = || vec![info(1, vec![]), info(2, vec![])];
    for (admin, live, word, state) in [
        (Up, here(), "running", json!([0, true])),
        (Down, here(), "ERROR_up", json!([0, true])),
        (Offline, here(), "ERROR_up", json!([0, true])),
        (Up, away(), "ERROR_wrongnode", json!([0, true])),
        (Up, none(), "ERROR_down", json!([0, false])),
        (Down, none(), "ADMIN_down", json!([0, false])),
        (Offline, none(), "ADMIN_offline", json!([0, false])),
        (Up, vec![(NodeUuid(uuid(1)), Err(Unreachable))], "ERROR_nodedown", json!([2, null])),
        (Up, vec![], "ERROR_nodedown", json!([2, null])),
    ] {
        let row = shown(&outside(admin, 1), live);
        assert_eq!((&row[0], &row[1]), (&json!([0, word]), &state), "{admin:?} {word}");
        assert_eq!(
            row[2][0],
            if state == json!([0, true]) {
                0
            } else if state[0] == 2 {
                2
            } else {
                3
            }
        );
    }
    let row = shown(&outside(Up, 4), vec![]);
    assert_eq!(row, json!([[0, "ERROR_nodeoffline"], [4, null], [4, null], [0, "up"], [0, false]]));
}

#[test]
fn only_the_current_generation_counts() {
    let old = VmFacts { generation: Generation(6), ..vm(200) };
    let dead = VmFacts { running: false, ..vm(200) };
    let row = shown(&outside(AdminState::Up, 1), vec![info(1, vec![old, dead])]);
    assert_eq!(row[0], json!([0, "ERROR_down"]));
    let without_slot = with(&[instance(200, "i.test", 1)], &[]);
    assert_eq!(shown(&without_slot, vec![info(1, vec![vm(200)])])[0], json!([0, "ERROR_down"]));
}

#[test]
fn a_user_may_have_shut_it_down() {
    let one = Instance {
        admin_state: AdminState::Down,
        admin_state_source: "user".to_owned(),
        ..instance(200, "i.test", 1)
    };
    let plain = with(std::slice::from_ref(&one), &[]);
    assert_eq!(shown(&plain, vec![info(1, vec![])])[0], json!([0, "ADMIN_down"]), "not enabled");
    let mut all = base();
    let mut cluster: Value = serde_json::from_str(all[0].body.as_ref().unwrap()).unwrap();
    cluster["enabled_user_shutdown"] = json!(true);
    all[0].body = Some(cluster.to_string());
    all.push(put(kind::INSTANCE, &one.uuid.to_string(), &one));
    assert_eq!(shown(&snapshot(all), vec![info(1, vec![])])[0], json!([0, "USER_down"]));
}

#[test]
fn slots_of_pools_show_their_record() {
    let of_pool = |state: Option<SlotState>| {
        let one = Instance { pool: Some("py".to_owned()), forthcoming: true, ..instance(200, "py-1", 1) };
        with(&[one], &state.map(|state| slot(200, 1, state)).into_iter().collect::<Vec<_>>())
    };
    let (lives, gone) = (|| vec![info(1, vec![vm(200)])], || vec![info(1, vec![])]);
    use SlotState::{Absent, Booting, Clean, Creating, Destroying, Dirty, Leased};
    for (state, live, word, admin, forthcoming) in [
        (None, gone(), "ADMIN_down", "down", true),
        (Some(Absent), gone(), "ADMIN_down", "down", true),
        (Some(Creating), gone(), "running", "up", false),
        (Some(Booting), lives(), "running", "up", false),
        (Some(Clean), lives(), "running", "up", false),
        (Some(Leased), lives(), "running", "up", false),
        (Some(Clean), gone(), "ERROR_down", "up", false),
        (Some(Dirty), lives(), "ERROR_up", "down", false),
        (Some(Destroying), gone(), "ADMIN_down", "down", false),
    ] {
        let row = shown(&of_pool(state), live);
        assert_eq!(
            (&row[0], &row[3], &row[4]),
            (&json!([0, word]), &json!([0, admin]), &json!([0, forthcoming])),
            "{state:?}"
        );
    }
    let plan =
        query(Kind::Instance, &["status"], &json!(null)).unwrap().plan(&of_pool(Some(Absent))).unwrap();
    assert!(plan.needs().nodes.is_empty(), "nothing to ask about a slot that only reserves room");
}

#[test]
fn parameters_are_inherited() {
    let mut one = instance(200, "i.test", 1);
    one.beparams.insert("maxmem".to_owned(), json!(64));
    one.hypervisor = "lxc".to_owned();
    one.hvparams.insert("num_ttys".to_owned(), json!(2));
    let mut two = instance(201, "j.test", 99);
    two.nics = serde_json::from_value(json!([
        { "uuid": "u", "mac": "m", "nicparams": { "mode": "bridged", "link": "br0" } },
        { "uuid": "v", "mac": "n", "ip": "192.0.2.9" },
    ]))
    .unwrap();
    two.disks = serde_json::from_value(json!([{ "uuid": "d", "size": 5, "mode": "rw" }])).unwrap();
    two.disk_template = "file".to_owned();
    let config = with(&[one, two], &[]);
    let fields = [
        "be/memory",
        "be/maxmem",
        "be/minmem",
        "vcpus",
        "hv/num_ttys",
        "hv/startup_timeout",
        "hv/acpi",
        "hvparams",
    ];
    let data_of = |fields: &[&str]| {
        let plan = query(Kind::Instance, fields, &json!(null)).unwrap().plan(&config).unwrap();
        data(&plan.finish(Inputs::default()).unwrap())
    };
    let seen = data_of(&fields);
    let numbers: Vec<&Value> = seen[0].as_array().unwrap()[..6].iter().map(|cell| &cell[1]).collect();
    assert_eq!(numbers, [64, 64, 128, 1, 2, 30]);
    assert_eq!(seen[0][6], json!([3, null]), "lxc has no such parameter");
    assert_eq!(seen[0][7][1]["num_ttys"], 2);
    assert_eq!(seen[1][7], json!([0, {}]), "migration_mode is of the node, not of the instance");
    let fields = [
        "bridge",
        "nic.bridges",
        "nic.modes",
        "nic.ip/1",
        "nic.ip/0",
        "nic.mac/2",
        "disk_usage",
        "sda_size",
        "disk.size/1",
        "disk.spindles",
        "pnode",
    ];
    assert_eq!(
        data_of(&fields)[1],
        json!([
            [0, "br0"],
            [0, ["br0", null]],
            [0, ["bridged", "routed"]],
            [0, "192.0.2.9"],
            [3, null],
            [3, null],
            [0, 5],
            [0, 5],
            [3, null],
            [0, [null]],
            [3, null]
        ])
    );
}
