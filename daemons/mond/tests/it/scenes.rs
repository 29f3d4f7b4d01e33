//! Whole runs: what is reported of this machine, and of machines that lack something or hang.

use crate::stage::{LIMIT, Stage, until};
use gantry_model::role::Role;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

fn names(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|row| row[0].as_str().unwrap().to_owned()).collect()
}

/// A program called `lvs`.
fn lvs(dir: &Path, script: &str) {
    let path = dir.join("lvs");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn this_machine_is_reported() {
    let stage = Stage::new().joined(Role::Regular);
    let mond = stage.mond(None);
    let load = mond.report("default/cpu-avg-load");
    let keys: BTreeSet<&str> = load["data"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, BTreeSet::from(["cpu_number", "cpus", "cpu_total"]));
    assert_eq!(
        load["data"]["cpus"].as_array().unwrap().len() as u64,
        load["data"]["cpu_number"].as_u64().unwrap()
    );
    assert!(load["data"]["cpu_total"].as_f64().unwrap() >= 0.0);
    // No DRBD, no LVM and no Xen here: nothing to be wrong.
    let drbd = mond.report("storage/drbd");
    if !Path::new("/proc/drbd").exists() {
        assert_eq!(
            drbd["data"],
            json!({"versionInfo": {}, "deviceInfos": [], "status": {"code": 0, "message": ""}})
        );
    }
    assert!(
        mond.report("storage/diskstats")["data"].as_array().unwrap().iter().all(|row| row
            .as_object()
            .unwrap()
            .len()
            == 14)
    );
    assert!(mond.report("default/node-resources")["data"]["memory"]["MemTotal"].as_u64().unwrap() > 0);
    assert_eq!(mond.report("default/xen-cpu-avg-load")["data"], json!({}));
    // Every listed collector is in the list of reports, or says by itself why not.
    let listed = names(&mond.get("/1/list/collectors").json());
    let all = mond.get("/1/report/all").json();
    let reported: BTreeSet<&str> =
        all.as_array().unwrap().iter().map(|report| report["name"].as_str().unwrap()).collect();
    let missing: Vec<_> = listed.iter().filter(|name| !reported.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for report in all.as_array().unwrap() {
        assert_eq!(report.as_object().unwrap().len(), 7, "{report}");
    }
}

#[test]
fn daemons_are_asked_on_their_admin_sockets() {
    let stage = Stage::new().joined(Role::Master);
    let mond = stage.mond(None);
    let data = mond.report("daemon/daemon-status")["data"].clone();
    let find = |name: &str| {
        data["daemons"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap().clone()
    };
    let own = find("mond");
    assert_eq!((own["running"].as_bool(), own["pid"].as_u64()), (Some(true), Some(u64::from(mond.pid()))));
    assert!(own["rss"].as_u64().unwrap() > 0);
    assert_eq!(find("wconfd")["status"]["code"], 1);
    assert_eq!(data["status"]["code"], 1);
    let text = until("its own count", || {
        let text = mond.get("/metrics").body;
        text.contains("gantry_mond_requests_total{status=\"200\",daemon=\"mond\"}").then_some(text)
    });
    assert!(text.contains("gantry_daemon_up{daemon=\"wconfd\"} 0"), "{text}");
}

#[test]
fn a_hanging_lvs_costs_its_own_report_only() {
    let stage = Stage::new().joined(Role::Regular);
    let pid = stage.path().join("pid");
    lvs(stage.path(), &format!("echo $$ >> {}; exec sleep 1000", pid.display()));
    let mond = stage.mond(Some(stage.path()));
    until("lvs runs", || std::fs::read_to_string(&pid).ok().filter(|text| !text.is_empty()));
    let begun = Instant::now();
    let all = mond.get("/1/report/all");
    assert!(begun.elapsed() < Duration::from_secs(2) && all.status == 200);
    mond.report("default/node-resources");
    let failed = until("its time is over", || {
        let got = mond.get("/1/report/storage/lv");
        got.body.contains("did not end within").then_some(got)
    });
    assert_eq!(failed.status, 503);
    assert!(!mond.get("/1/report/all").body.contains("\"lv\""));
    // The one that hung was killed, and so is every other: they do not pile up.
    let first: u32 = std::fs::read_to_string(&pid).unwrap().lines().next().unwrap().parse().unwrap();
    until("the first one is gone", || (!Path::new(&format!("/proc/{first}/cmdline")).exists()).then_some(()));
}

#[test]
fn an_lvs_that_fails_or_lists_is_told() {
    let stage = Stage::new();
    let line = "u;root;-wi-ao;-1;-1;253;0;4096B;1;;;v;xenvg;linear;0B;0;4096B;;/dev/a:0-1;/dev/a(0)";
    lvs(
        stage.path(),
        &format!("[ -e {}/fail ] && {{ echo broken >&2; exit 5; }}; echo '  {line}'", stage.path().display()),
    );
    let mond = stage.mond(Some(stage.path()));
    assert_eq!(mond.report("storage/lv")["data"][0]["size"], 4096);
    std::fs::write(stage.path().join("fail"), "").unwrap();
    let got = until("it fails", || Some(mond.get("/1/report/storage/lv")).filter(|got| got.status == 503));
    assert!(got.body.contains("broken"), "{}", got.body);
}

#[test]
fn slots_of_noded_are_told() {
    let stage = Stage::new().joined(Role::Regular);
    let file = stage.root.lib().join("noded.data");
    let db = rusqlite::Connection::open(&file).unwrap();
    db.pragma_update(None, "journal_mode", "WAL").unwrap();
    db.execute_batch(
        "CREATE TABLE slot(key TEXT PRIMARY KEY, crc INTEGER NOT NULL, body TEXT NOT NULL) WITHOUT ROWID;",
    )
    .unwrap();
    let put = |number: u128, state: &str| {
        let uuid = uuid::Uuid::from_u128(number).to_string();
        let body = json!({"floor": 2, "generation": 2, "state": state, "holder": null, "opened": false, "driver": "fake"});
        db.execute(
            "INSERT OR REPLACE INTO slot VALUES (?1, 0, ?2)",
            rusqlite::params![uuid, body.to_string()],
        )
        .unwrap();
    };
    put(1, "live");
    put(2, "absent");
    let mond = stage.mond(None);
    let state = |want: &str| {
        until(want, || {
            let data = mond.report("instance/slot-status")["data"].clone();
            (data["slots"][0]["state"] == want).then_some(data)
        })
    };
    let data = state("live");
    assert_eq!(data["slots"].as_array().unwrap().len(), 1);
    assert_eq!(mond.report("instance/inst-status")["data"]["instances"][0]["actualState"], "running");
    // A writer is seen through its log, and is not in the way.
    put(1, "lost");
    assert_eq!(state("lost")["status"]["code"], 1);
    drop(db);
    std::fs::write(&file, "no database").unwrap();
    let report = until("it cannot be read", || {
        let report = mond.report("instance/slot-status");
        (report["data"]["status"]["code"] == 2).then_some(report)
    });
    assert!(report["data"]["status"]["message"].as_str().unwrap().contains("noded.data"));
}

#[test]
fn it_ends_when_told_and_leaves_nothing() {
    let stage = Stage::new();
    let mond = stage.mond(None);
    let mut idle = mond.connect();
    let begun = Instant::now();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(mond.pid().try_into().unwrap()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    let mut rest = Vec::new();
    let _ = std::io::Read::read_to_end(&mut idle, &mut rest);
    until("its socket goes", || (!stage.root.admin_socket("mond").exists()).then_some(()));
    assert!(begun.elapsed() < LIMIT);
}
