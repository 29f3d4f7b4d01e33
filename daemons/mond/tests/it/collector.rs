//! `gantry-mon-collector`.

use crate::stage::Stage;
use serde_json::{Value, json};
use std::process::{Command, Output};

fn run(stage: &Stage, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gantry-mon-collector"));
    command.args(args).arg("--root").arg(stage.path()).output().unwrap()
}

fn report(stage: &Stage, args: &[&str]) -> Value {
    let output = run(stage, args);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn each_sub_command_prints_its_report() {
    let stage = Stage::new();
    let file = |name: &str, text: &str| {
        let path = stage.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let disks = file("diskstats", "8 0 sda 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17\n");
    let got = report(&stage, &["diskstats", "-f", &disks]);
    assert_eq!(
        (&got["name"], &got["category"], &got["data"][0]["wIOmillis"]),
        (&json!("diskstats"), &json!("storage"), &json!(11))
    );
    assert_eq!(got.as_object().unwrap().len(), 7);

    let status = file("drbd", " 0: cs:WFConnection ro:Primary/Unknown ds:UpToDate/DUnknown C r----\n");
    let pairing = file("pairing", r#"[["n1", 0, "inst1", "disk/0", "primary", "n2"]]"#);
    let got = report(&stage, &["drbd", "-s", &status, "-p", &pairing]);
    assert_eq!(
        (&got["data"]["deviceInfos"][0]["instance"], &got["data"]["status"]["code"]),
        (&json!("inst1"), &json!(1))
    );
    let got = report(&stage, &["drbd", "-s", "/nowhere"]);
    assert_eq!(got["data"]["status"]["code"], 0);

    let got = report(&stage, &["inst-status-xen", "-a", "127.0.0.1", "-p", "1814"]);
    assert_eq!(got["data"], json!({"instances": [], "status": {"code": 0, "message": ""}}));

    let volumes = file(
        "lvs",
        "  u;root;-wi-ao;-1;-1;253;0;4096B;1;;;v;xenvg;linear;0B;0;4096B;;/dev/a:0-1;/dev/a(0)\n",
    );
    let instances = file("instances", r#"[{"name": "inst1", "disks": [{"logical_id": ["xenvg", "root"]}]}]"#);
    let got = report(&stage, &["lv", "-a", "x", "-p", "1", "-f", &volumes, "-i", &instances]);
    assert_eq!(got["data"][0]["instance"], "inst1");
}

#[test]
fn what_cannot_be_read_is_said() {
    let stage = Stage::new();
    let output = run(&stage, &["diskstats", "-f", "/nowhere"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.starts_with("gantry-mon-collector: /nowhere: "), "{said}");
    assert!(!run(&stage, &["meminfo"]).status.success());
}
