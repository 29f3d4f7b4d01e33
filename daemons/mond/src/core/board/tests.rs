//! What the board serves, and what it leaves out.

use super::*;
use crate::core::catalogue::index;
use proptest::prelude::*;

const EPOCH: f64 = 1_700_000_000.25;

fn look(at: Millis, found: Result<Gathered, String>) -> Look {
    Look { at, epoch: EPOCH, took_s: 0.5, found }
}

fn good(name: &str) -> Gathered {
    let families = vec![Family::gauge("gantry_x", "X").with(&[("of", name)], 1)];
    match specs()[index(name).unwrap()].kind {
        Kind::Performance => Gathered::figures(json!({"n": 1}), families),
        Kind::Status => Gathered::status(json!({"n": 1}), Status::ok(), families),
    }
}

fn reports(board: &Board) -> Vec<Value> {
    serde_json::from_str(&board.all()).unwrap()
}

/// Whether a family has a value with this label's value.
fn has(families: &[Family], name: &str, label: &str) -> Option<String> {
    let family = families.iter().find(|family| family.name == name)?;
    let sample =
        family.samples.iter().find(|sample| sample.labels.iter().any(|(_, value)| value == label))?;
    Some(sample.value.clone())
}

#[test]
fn a_report_has_seven_keys_and_no_other() {
    let mut board = Board::new(&Settings::default());
    for spec in specs() {
        board.put(index(spec.name).unwrap(), look(0, Ok(good(spec.name))));
    }
    let all = reports(&board);
    assert_eq!(all.len(), board.list().as_array().unwrap().len());
    for report in &all {
        let keys: Vec<&str> = report.as_object().unwrap().keys().map(String::as_str).collect();
        let mut want = ["name", "version", "format_version", "timestamp", "category", "kind", "data"];
        want.sort_unstable();
        assert_eq!(keys, want, "{report}");
        assert_eq!(report["timestamp"], 1_700_000_000_250_000_000_u64);
        assert_eq!(report["version"], "B");
        if report["kind"] == 1 {
            assert_eq!(report["data"]["status"], json!({"code": 0, "message": ""}));
        }
    }
    let load = all.iter().find(|report| report["name"] == "cpu-avg-load").unwrap();
    assert!(load["category"].is_null());
}

#[test]
fn a_failure_spoils_its_own_report_only() {
    let mut board = Board::new(&Settings::default());
    let (lv, drbd, load) = (index("lv").unwrap(), index("drbd").unwrap(), index("cpu-avg-load").unwrap());
    for at in [lv, drbd, load] {
        board.put(at, look(0, Ok(good(specs()[at].name))));
    }
    board.put(lv, look(1, Err("no lvs".into())));
    board.put(drbd, look(1, Err("no drbd".into())));
    let all = reports(&board);
    let find = |name: &str| all.iter().find(|report| report["name"] == name);
    assert!(find("lv").is_none() && find("cpu-avg-load").is_some());
    assert_eq!(find("drbd").unwrap()["data"]["status"], json!({"code": 2, "message": "no drbd"}));
    assert_eq!(board.one("storage", "lv"), Some(Err("no lvs")));
    assert_eq!(board.one("default", "lv"), None);
    assert!(board.one("storage", "drbd").unwrap().is_ok());
    let metrics = board.metrics(1);
    assert_eq!(has(&metrics, "gantry_collector_status_code", "drbd").as_deref(), Some("2"));
    assert_eq!(has(&metrics, "gantry_x", "lv"), None);
    assert!(has(&metrics, "gantry_x", "cpu-avg-load").is_some());
}

#[test]
fn what_is_off_is_nowhere() {
    let settings = Settings::read(&json!({"lv": {"active": false}}));
    let mut board = Board::new(&settings);
    let lv = index("lv").unwrap();
    board.put(lv, look(0, Ok(good("lv"))));
    assert_eq!(board.one("storage", "lv"), None);
    assert!(!board.list().to_string().contains("\"lv\"") && !board.all().contains("\"lv\""));
    assert_eq!(has(&board.metrics(0), "gantry_collector_last_success_timestamp_seconds", "lv"), None);
    board.set(&Settings::default());
    assert!(board.one("storage", "lv").unwrap().is_ok());
}

#[test]
fn metrics_older_than_three_intervals_are_left_out() {
    let mut board = Board::new(&Settings::default());
    let (load, drbd) = (index("cpu-avg-load").unwrap(), index("drbd").unwrap());
    board.put(load, look(1_000, Ok(good("cpu-avg-load"))));
    board.put(drbd, look(1_000, Ok(good("drbd"))));
    let success = "gantry_collector_last_success_timestamp_seconds";
    for (now, there) in [(1_000, true), (16_000, true), (16_001, false)] {
        let metrics = board.metrics(now);
        assert_eq!(has(&metrics, "gantry_x", "cpu-avg-load").is_some(), there, "{now}");
        assert_eq!(has(&metrics, success, "cpu-avg-load"), Some(EPOCH.to_string()));
        let code = has(&metrics, "gantry_collector_status_code", "drbd");
        assert_eq!(code.as_deref(), Some(if there { "0" } else { "2" }));
    }
    assert_eq!(has(&board.metrics(0), success, "lv").as_deref(), Some("0"));
}

proptest! {
    /// Whatever collectors do, the list of reports is whole, and holds just those of active collectors that have one.
    #[test]
    fn all_is_always_a_list_of_reports(
        looks in prop::collection::vec((0..specs().len(), any::<bool>(), 0..50_000_u64), 0..60),
        off in prop::collection::vec(0..specs().len(), 0..5),
    ) {
        let settings: Value = off.iter().map(|at| (specs()[*at].name.to_owned(), json!({"active": false}))).collect();
        let settings = Settings::read(&settings);
        let mut board = Board::new(&settings);
        let mut last = vec![None; specs().len()];
        for (at, fine, time) in looks {
            let found = if fine { Ok(good(specs()[at].name)) } else { Err("broken".to_owned()) };
            board.put(at, look(time, found));
            last[at] = Some(fine);
        }
        let names: Vec<String> = reports(&board).iter().map(|report| report["name"].as_str().unwrap().to_owned()).collect();
        let want: Vec<String> = specs().iter().enumerate()
            .filter(|(at, spec)| settings.get(*at).active && (spec.kind == Kind::Status || last[*at] == Some(true)))
            .map(|(_, spec)| spec.name.to_owned())
            .collect();
        prop_assert_eq!(names, want);
    }
}
