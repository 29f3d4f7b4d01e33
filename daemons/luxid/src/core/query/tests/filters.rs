//! The filter language (`spec/query.md` §3).

use super::*;
use proptest::prelude::*;

fn five() -> Arc<Snapshot> {
    with(&[], &[])
}

#[test]
fn operators_select_rows() {
    let config = five();
    let all = ["node1.test", "node2.test", "node3.test", "node4.test", "node10.test"];
    for (filter, want) in [
        (json!(null), &all[..]),
        (json!(["&"]), &all),
        (json!(["|"]), &[]),
        (json!(["?", "offline"]), &all[3..4]),
        (json!(["!", ["?", "offline"]]), &["node1.test", "node2.test", "node3.test", "node10.test"]),
        (json!(["==", "role", "D"]), &all[2..3]),
        (json!(["=", "role", "D"]), &all[2..3]),
        (json!(["!=", "role", "R"]), &all[..4]),
        (json!(["=~", "name", "^node[12]"]), &["node1.test", "node2.test", "node10.test"]),
        (json!(["<", "name", "node2"]), &["node1.test", "node10.test"]),
        (json!([">=", "serial_no", 1]), &all),
        (json!([">", "serial_no", 1]), &[]),
        (json!(["<=", "ctime", 10]), &all),
        (json!(["&", ["=~", "name", "1"], ["!", ["==", "name", "node10"]]]), &all[..1]),
        (json!(["|", ["==", "role", "M"], ["==", "name", "node10"]]), &["node1.test", "node10.test"]),
        (json!(["=[]", "pinst_list", "x"]), &[]),
    ] {
        assert_eq!(names(&config, Kind::Node, filter.clone()), json!(want), "{filter}");
    }
}

#[test]
fn wrong_filters_name_what_is_wrong() {
    let config = five();
    for filter in [
        json!(["==", "name", 1]),
        json!(["==", "serial_no", "1"]),
        json!(["?", "name"]),
        json!(["=~", "serial_no", "1"]),
        json!(["=[]", "name", "x"]),
        json!(["==", "offline", "true"]),
    ] {
        let error = rows(&config, Kind::Node, &["name"], filter.clone()).unwrap_err();
        assert_eq!(error.class, "ParameterError", "{filter}");
    }
    let error = rows(&config, Kind::Node, &["name"], json!(["==", "X", 1])).unwrap_err();
    assert_eq!(error.to_value(), json!(["ParameterError", ["Can't find field named 'X'"]]));
}

#[test]
fn names_are_looked_up_and_must_exist() {
    let config = five();
    let by_name = |list: &[&str]| {
        let parts = list.iter().map(|name| json!(["==", "name", name]));
        let filter: Vec<Value> = [json!("|")].into_iter().chain(parts).collect();
        rows(&config, Kind::Node, &["name"], json!(filter))
    };
    assert_eq!(by_name(&["node10", "node1.test"]).unwrap(), json!([["node10.test"], ["node1.test"]]));
    let error = by_name(&["node1", "x"]).unwrap_err();
    assert_eq!(error.to_value(), json!(["OpPrereqError", ["Node name x not found", "unknown_entity"]]));
    let error = rows(&config, Kind::Group, &["name"], json!(["==", "name", "def"])).unwrap_err();
    assert_eq!(error.to_string(), "Group name def not found");
    assert_eq!(names(&config, Kind::Node, json!(["&", ["==", "name", "x"]])), json!([]), "no list of names");
    let twins = with(&[instance(200, "a.x", 1), instance(201, "a.y", 1), instance(202, "a", 1)], &[]);
    assert_eq!(
        names(&twins, Kind::Instance, json!(["==", "name", "a"])),
        json!(["a"]),
        "the exact name wins"
    );
    let twins = with(&[instance(200, "a.x", 1), instance(201, "a.y", 1)], &[]);
    let error = rows(&twins, Kind::Instance, &["name"], json!(["==", "name", "a"])).unwrap_err();
    assert_eq!(error.to_string(), "Instance name a means several: a.x, a.y");
}

#[test]
fn live_filters_ask_first_and_decide_then() {
    let config = five();
    let filter = json!(["&", [">", "mtotal", 1002], ["!", ["==", "name", "node3"]]]);
    let plan = query(Kind::Node, &["name"], &filter).unwrap().plan(&config).unwrap();
    assert_eq!(
        plan.needs().nodes,
        [1, 2, 10].map(|n| NodeUuid(uuid(n))),
        "neither node3 nor the offline one"
    );
    let unreachable = || (NodeUuid(uuid(1)), Err(Unreachable));
    let answer = plan.finish(inputs(vec![unreachable(), info(2, vec![]), info(10, vec![])])).unwrap();
    // node1 and node4 have no data: they are kept.
    assert_eq!(plain(&answer), json!([["node1.test"], ["node4.test"], ["node10.test"]]));
    // What is open stays open under `!`.
    let plan =
        query(Kind::Node, &["name"], &json!(["!", ["==", "mtotal", 1002]])).unwrap().plan(&config).unwrap();
    let answer =
        plan.finish(inputs(vec![unreachable(), info(2, vec![]), info(3, vec![]), info(10, vec![])])).unwrap();
    assert_eq!(plain(&answer), json!([["node1.test"], ["node3.test"], ["node4.test"], ["node10.test"]]));
}

#[test]
fn missing_live_data_has_its_status() {
    let config = five();
    let plan =
        query(Kind::Node, &["name", "mfree", "sptotal", "nix"], &json!(null)).unwrap().plan(&config).unwrap();
    let answer = plan.finish(inputs(vec![info(1, vec![]), (NodeUuid(uuid(2)), Err(Unreachable))])).unwrap();
    let data = data(&answer);
    assert_eq!(data[0], json!([[0, "node1.test"], [0, 500], [2, null], [1, null]]));
    assert_eq!(data[1][1], json!([2, null]), "asked, no answer");
    assert_eq!(data[3][1], json!([4, null]), "offline");
    assert_eq!(data[4][1], json!([2, null]), "no answer given for it");
}

#[test]
fn nesting_and_expressions_are_bounded() {
    use crate::core::query::{DEPTH_MAX, FilterError, REGEX_COUNT_MAX};
    let mut deep = json!(["?", "offline"]);
    for _ in 0..DEPTH_MAX {
        deep = json!(["!", deep]);
    }
    assert_eq!(Filter::parse(&deep).unwrap_err(), FilterError::Depth);
    let many: Vec<Value> = [json!("|")]
        .into_iter()
        .chain(std::iter::repeat_n(json!(["=~", "name", "a"]), REGEX_COUNT_MAX + 1))
        .collect();
    assert_eq!(Filter::parse(&json!(many)).unwrap_err(), FilterError::RegexCount);
    for text in ["(", "a{1000}{1000}", r"(?=x)", &"x".repeat(5000)] {
        let bad = Filter::parse(&json!(["=~", "name", text]));
        assert!(matches!(bad, Err(FilterError::Regex { .. })), "{text}");
    }
}

/// A filter over known fields only.
fn filter() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        prop::sample::select(vec!["offline", "drained", "master"]).prop_map(|f| json!(["?", f])),
        (
            prop::sample::select(vec!["==", "!=", "<", ">="]),
            prop::sample::select(vec!["node1", "node2.test", "node3"])
        )
            .prop_map(|(op, name)| json!([op, "name", name])),
        prop::sample::select(vec!["R", "M", "D"]).prop_map(|role| json!(["==", "role", role])),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        let many = prop::collection::vec(inner.clone(), 0..4);
        prop_oneof![
            (prop::sample::select(vec!["&", "|"]), many)
                .prop_map(|(op, parts)| { Value::from_iter([json!(op)].into_iter().chain(parts)) }),
            inner.prop_map(|part| json!(["!", part])),
        ]
    })
}

/// The obvious evaluation of such a filter.
fn holds(filter: &Value, name: &str, number: u8) -> bool {
    let parts = &filter.as_array().unwrap()[1..];
    match filter[0].as_str().unwrap() {
        "&" => parts.iter().all(|part| holds(part, name, number)),
        "|" => parts.iter().any(|part| holds(part, name, number)),
        "!" => !holds(&parts[0], name, number),
        "?" => match parts[0].as_str().unwrap() {
            "offline" => number == 4,
            "drained" => number == 3,
            _ => number == 1,
        },
        "==" if parts[0] == "role" => {
            let role = match number {
                1 => "M",
                2 => "C",
                3 => "D",
                4 => "O",
                _ => "R",
            };
            parts[1] == role
        }
        op => {
            let other = parts[1].as_str().unwrap();
            let equal = name == other || name.starts_with(&format!("{other}."));
            match op {
                "==" => equal,
                "!=" => !equal,
                "<" => name < other,
                _ => name >= other,
            }
        }
    }
}

proptest! {
    #[test]
    fn filters_mean_what_they_say(filter in filter()) {
        let config = five();
        let want: Vec<String> = [1, 2, 3, 4, 10]
            .iter()
            .map(|n| (*n, format!("node{n}.test")))
            .filter(|(n, name)| holds(&filter, name, *n))
            .map(|(_, name)| name)
            .collect();
        let seen = names(&config, Kind::Node, filter.clone());
        // A list of names answers in the order asked, and twice when asked twice.
        let mut seen: Vec<String> = serde_json::from_value(seen).unwrap();
        seen.sort();
        seen.dedup();
        let mut want = want;
        want.sort();
        prop_assert_eq!(seen, want);
    }
}
