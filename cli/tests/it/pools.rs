//! Scenes of blueprints, pools and slots.

use crate::stage::{Ended, Stage, Turn, job, signal, table};
use gantry_model::role::Role;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn done() -> Value {
    json!(["success", ["success"], [null]])
}

/// Runs a command that submits one job; the opcode.
fn opcode(line: &str) -> Value {
    let stage = Stage::new(Role::Master);
    let luxid = stage.luxid(job(1, done()));
    let ended = stage.run(line);
    assert_eq!(ended.code, Some(0), "{line}: {ended:?}");
    let heard = luxid.heard();
    assert_eq!(heard[0].0, "SubmitJob");
    heard[0].1[0][0].clone()
}

/// Those keys of an opcode.
fn some(op: &Value, keys: &[&str]) -> Value {
    keys.iter().map(|key| op[*key].clone()).collect()
}

#[test]
fn a_blueprint_is_made_with_defaults_and_sizes() {
    let keys = ["OP_ID", "blueprint_name", "driver", "image", "memory_mib", "vcpus", "disk_mib", "pids"];
    let op = opcode("gnt-blueprint add py");
    assert_eq!(some(&op, &keys), json!(["OP_BLUEPRINT_ADD", "py", "oci", "host", 256, 1, 64, 64]));
    let op = opcode(
        "gnt-blueprint add py -H fake --image deb -B memory=1G,vcpus=2 --disk 2G --pids 9 --wall-max 2h --lease-max 1d",
    );
    assert_eq!(some(&op, &keys), json!(["OP_BLUEPRINT_ADD", "py", "fake", "deb", 1024, 2, 2048, 9]));
    assert_eq!(some(&op, &["wall_s_max", "lease_s_max"]), json!([7200, 86_400]));
    let stage = Stage::new(Role::Master);
    for (line, says) in [
        ("gnt-blueprint add py -B memory=lots", "memory: 'lots' is no size"),
        ("gnt-blueprint add py -B colour=red", "there is no backend parameter 'colour'"),
        ("gnt-blueprint add py -H kvm", "possible values: oci, fake"),
        ("gnt-blueprint modify py", "give at least one"),
    ] {
        let ended = stage.run(line);
        assert_eq!(ended.code, Some(2), "{line}: {ended:?}");
        assert!(ended.err.contains(says), "{line}: {ended:?}");
    }
}

#[test]
fn what_was_changed_is_told() {
    let stage = Stage::new(Role::Master);
    let changes = json!([["memory_mib", 512], ["enabled", false]]);
    let luxid = stage.luxid(job(1, json!(["success", ["success"], [changes]])));
    let ended = stage.run("gnt-blueprint modify py -B memory=512 --enabled no");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended.out.ends_with("Modified blueprint py\n - memory (MiB) -> 512\n - enabled -> False\n"),
        "{ended:?}"
    );
    let op = &luxid.heard()[0].1[0][0];
    assert_eq!(
        some(op, &["OP_ID", "set"]),
        json!(["OP_BLUEPRINT_MODIFY", {"memory_mib": 512, "enabled": false}])
    );
}

#[test]
fn pools_are_made_changed_drained_and_removed() {
    let op = opcode("gnt-pool add py --blueprint b --size 4 --max 8 --spare 1 --group g --lifetime 1h");
    let keys = [
        "pool_name",
        "blueprint",
        "amount",
        "min",
        "max",
        "spare",
        "group_name",
        "lifetime_s",
        "connect_timeout_s",
    ];
    assert_eq!(some(&op, &keys), json!(["py", "b", 4, 0, 8, 1, "g", 3600, 120]));
    let op = opcode("gnt-pool modify py --spare 2 --connect-timeout 30s --group=");
    assert_eq!(op["set"], json!({"spare": 2, "connect_timeout_s": 30, "group": null}));
    let op = opcode("gnt-pool resize py 6");
    assert_eq!(some(&op, &["OP_ID", "pool_name", "amount"]), json!(["OP_POOL_RESIZE", "py", 6]));
    assert_eq!(opcode("gnt-pool drain py")["drain"], true);
    assert_eq!(opcode("gnt-pool drain py --undo")["drain"], false);
    assert_eq!(opcode("gnt-pool remove py --force")["force"], true);
    assert_eq!(opcode("gnt-blueprint remove py")["OP_ID"], "OP_BLUEPRINT_REMOVE");
    let op = opcode("gnt-slot recycle py-1 py-2 --reason broken");
    assert_eq!(
        some(&op, &["OP_ID", "slots", "force", "why"]),
        json!(["OP_SLOT_RECYCLE", ["py-1", "py-2"], false, "broken"])
    );
}

const COUNTS: [&str; 10] =
    ["state", "wanted", "slots", "absent", "creating", "clean", "leased", "dirty", "stuck", "why"];

fn counts(state: &str, creating: u64, clean: u64, stuck: u64) -> Turn {
    let slots = creating + clean + stuck;
    table(&COUNTS, json!([[state, 2, slots, 0, creating, clean, 0, 0, stuck, null]]))
}

#[test]
fn waiting_ends_when_there_is_no_room() {
    let stage = Stage::new(Role::Master);
    let mut script = job(1, done());
    let short = json!([["active", 2, 1, 0, 0, 1, 0, 0, 0, "not enough memory on node1"]]);
    // Until it has stood still for long enough, and some more.
    script.extend((0..40).map(|_| table(&COUNTS, short.clone())));
    let _luxid = stage.luxid(script);
    let ended = stage.run("gnt-pool resize py 2 --wait");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    for part in ["only 1 of 2 ready", "no room for more: not enough memory on node1", "gnt-pool resize py 1"]
    {
        assert!(ended.err.contains(part), "{ended:?}");
    }
}

#[test]
fn waiting_for_a_pool_says_how_far_it_is() {
    let stage = Stage::new(Role::Master);
    let mut script = job(1, done());
    script.extend([counts("active", 0, 0, 0), counts("active", 2, 0, 0), counts("active", 0, 2, 0)]);
    let luxid = stage.luxid(script);
    let ended = stage.run("gnt-pool add py --blueprint b --size 2 --wait");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.ends_with("Pool py: 2 of 2 ready\n"), "{ended:?}");
    assert!(
        ended.err.contains("Pool py: 0 of 2 ready, no slots yet\nPool py: 0 of 2 ready, 2 creating\n"),
        "{ended:?}"
    );
    let heard = luxid.heard();
    assert_eq!(heard[5], ("Query".to_owned(), json!(["pool", COUNTS, ["==", "name", "py"]])));
}

#[test]
fn a_pool_that_is_stuck_or_drained_is_told_with_its_reason() {
    let stage = Stage::new(Role::Master);
    let mut script = job(1, done());
    script.push(counts("active", 0, 1, 1));
    script
        .push(table(&["name", "node", "failures", "why"], json!([["py-2", "n1", 8, "crun: no such image"]])));
    let luxid = stage.luxid(script);
    let ended = stage.run("gnt-pool resize py 2 --wait");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("py-2 on n1: crun: no such image\n"), "{ended:?}");
    assert!(
        ended.err.contains("only 1 of 2 ready") && ended.err.contains("gnt-slot recycle --pool py --all")
    );
    luxid.heard();
    let stage = Stage::new(Role::Master);
    let mut script = job(1, done());
    script.push(counts("draining", 0, 0, 0));
    let luxid = stage.luxid(script);
    let ended = stage.run("gantry pool resize py 2 --wait");
    assert!(
        ended.err.contains("is draining") && ended.err.contains("gantry pool drain py --undo"),
        "{ended:?}"
    );
    luxid.heard();
    assert_eq!(stage.run("gnt-pool resize py 2 --wait --submit").code, Some(2));
}

#[test]
fn ctrl_c_ends_only_the_waiting_for_a_pool() {
    let stage = Stage::new(Role::Master);
    let mut script = job(1, done());
    script.push(Turn::Silent);
    let luxid = stage.luxid(script);
    let child = stage.command("gnt-pool resize py 2 --wait").spawn().unwrap();
    for _ in 0..6 {
        luxid.requests.recv().unwrap();
    }
    signal(&child, Signal::SIGINT);
    let ended = Ended::from(child.wait_with_output().unwrap());
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("Pool py is filled in the background"), "{ended:?}");
}

#[test]
fn lists_are_tables() {
    let stage = Stage::new(Role::Master);
    let fields = ["name", "pool", "node", "state", "generation", "owner", "why"];
    let rows = json!([
        ["py-1", "py", "node1.x", "LEASED", 3, "task 7 attempt 1", null],
        ["py-2", "py", "node2.x", "DIRTY", 12, null, "waiting for job 9"]
    ]);
    let luxid = stage.luxid(vec![table(&fields, rows)]);
    let ended = stage.run("gnt-slot list py");
    let want = "\
name pool node    state  generation owner            why
py-1 py   node1.x LEASED 3          task 7 attempt 1 -
py-2 py   node2.x DIRTY  12         -                waiting for job 9
";
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), want), "{ended:?}");
    let filter = json!(["|", ["==", "pool", "py"], ["==", "name", "py"]]);
    assert_eq!(luxid.heard(), [("Query".to_owned(), json!(["slot", fields, filter]))]);

    let stage = Stage::new(Role::Master);
    let nothing = json!([]);
    let _luxid = stage.luxid(vec![
        table(&fields, nothing.clone()),
        table(&["name", "why"], nothing.clone()),
        table(&fields, nothing),
        table(&["name", "why"], json!([["py", "no room"]])),
    ]);
    let ended = stage.run("gnt-slot list nosuch");
    assert!(
        ended.code == Some(1) && ended.err.contains("No pool and no slot is called 'nosuch'"),
        "{ended:?}"
    );
    let ended = stage.run("gnt-slot list py");
    assert!(ended.code == Some(0) && ended.err == "Pool py has no slots: no room\n", "{ended:?}");

    let stage = Stage::new(Role::Master);
    let luxid = stage.luxid(vec![table(&["name"], json!([["py"]])), table(&["name"], json!([["py"]]))]);
    assert_eq!(stage.run("gnt-pool list -F stuck>0 -o name").out, "name\npy\n");
    luxid.requests.recv().unwrap();
    assert_eq!(stage.run("gantry blueprint list -o name py").out, "name\npy\n");
    assert_eq!(luxid.heard()[0].1, json!(["blueprint", ["name"], ["|", ["==", "name", "py"]]]));
}

#[test]
fn info_shows_all_and_tells_what_is_missing() {
    let stage = Stage::new(Role::Master);
    let fields = [
        "name",
        "uuid",
        "pool",
        "node",
        "node_usable",
        "state",
        "generation",
        "lease",
        "owner",
        "opened",
        "drained",
        "stuck",
        "why",
        "failures",
        "backoff_until",
        "revision",
        "wanted_revision",
        "ready_at",
        "holder",
    ];
    let row = json!([[
        "py-1", "u", "py", "n1", true, "clean", 3, null, null, false, false, false, null, 0, null, 2, 2,
        10.5, null
    ]]);
    let luxid = stage.luxid(vec![table(&fields, row.clone()), table(&fields, row)]);
    let ended = stage.run("gnt-slot info py-1 py-9");
    assert_eq!((ended.code, ended.err.as_str()), (Some(1), "No such slot: py-9\n"), "{ended:?}");
    let want = "\
- Slot: py-1
  UUID: u
  Pool: py
  Node: n1
  Node usable: True
  State: clean
  Why: -
  Generation: 3
";
    assert!(
        ended.out.starts_with(want) && ended.out.contains("Ready since: 1970-01-01 00:00:10\n"),
        "{ended:?}"
    );
    luxid.requests.recv().unwrap();
    let ended = stage.run("gnt-slot info --json py-1");
    let json: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((ended.code, &json[0]["name"], &json[0]["ready_at"]), (Some(0), &json!("py-1"), &json!(10.5)));
    luxid.heard();
}

#[test]
fn a_pools_slots_are_recycled_but_leased_ones_are_left_alone() {
    let stage = Stage::new(Role::Master);
    let rows = json!([["py-1", "CLEAN", null], ["py-2", "LEASED", "ann"]]);
    let mut script = vec![table(&["name", "state", "owner"], rows)];
    script.extend(job(1, done()));
    let luxid = stage.luxid(script);
    let ended = stage.run("gnt-slot recycle --pool py --all");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.err.contains("py-2 is leased by ann and left alone; give --force"), "{ended:?}");
    assert_eq!(luxid.heard()[1].1[0][0]["slots"], json!(["py-1"]));
    for line in ["gnt-slot recycle", "gnt-slot recycle --pool py", "gnt-slot recycle py-1 --pool py --all"] {
        assert_eq!(stage.run(line).code, Some(2), "{line}");
    }
}
