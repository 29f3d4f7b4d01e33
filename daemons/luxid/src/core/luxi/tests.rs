//! LUXI's bytes: any input is taken, every method is read, nothing secret is repeated.

use super::*;
use gantry_model::error::{Ecode, GanetiError};
use proptest::prelude::*;
use serde_json::json;

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec![
            "node", "job", "id", "name", "==", "|", "&", "!", "?", "=~", "=[]", "(", "a.*"
        ])
        .prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(".{0,3}", inner, 0..4).prop_map(Value::from_iter),
        ]
    })
}

proptest! {
    #[test]
    fn any_bytes_are_taken(data in prop::collection::vec(any::<u8>(), 0..400)) {
        fuzz(&data);
    }

    #[test]
    fn any_arguments_are_taken(method in prop::sample::select(METHODS.to_vec()), args in prop::collection::vec(json_value(), 0..7)) {
        fuzz(json!({ "method": method, "args": args }).to_string().as_bytes());
    }

    #[test]
    fn messages_come_out_as_they_went_in(messages in prop::collection::vec("[^\u{3}]{0,20}", 0..6), cuts in 1_usize..9) {
        let stream: Vec<u8> = messages.iter().flat_map(|m| m.bytes().chain([ETX])).collect();
        let mut splitter = Splitter::default();
        let mut seen = Vec::new();
        for chunk in stream.chunks(cuts) {
            splitter.push(chunk);
            while let Some(message) = splitter.next_message().unwrap() {
                seen.push(String::from_utf8(message.to_vec()).unwrap());
            }
        }
        prop_assert_eq!(seen, messages);
        prop_assert!(!splitter.is_inside());
    }

    #[test]
    fn text_survives_the_escapes(text in any::<String>()) {
        let bytes = success(&text);
        prop_assert!(bytes.is_ascii());
        let read: Value = serde_json::from_slice(&bytes[..bytes.len() - 1]).unwrap();
        prop_assert_eq!(read, json!({ "success": true, "result": text }));
    }
}

#[test]
fn a_message_over_the_limit_is_refused_at_once() {
    let mut splitter = Splitter::with_limit(4);
    splitter.push(b"1234");
    assert_eq!(splitter.next_message(), Ok(None));
    splitter.push(b"5");
    assert_eq!(splitter.next_message(), Err(TooLong { limit: 4 }));
    let mut splitter = Splitter::with_limit(4);
    splitter.push(b"1234\x0312345\x03");
    assert_eq!(splitter.next_message().unwrap().unwrap(), b"1234"[..]);
    assert!(splitter.next_message().is_err());
}

#[test]
fn every_method_is_read() {
    let op = json!({ "OP_ID": "OP_TEST_DELAY" });
    let good = [
        ("Query", json!(["node", ["name"], null])),
        ("QueryFields", json!(["job", null])),
        ("QueryNodes", json!([[], ["name"], false])),
        ("QueryGroups", json!([["default"], ["name"], true])),
        ("QueryNetworks", json!([[], [], false])),
        ("QueryInstances", json!([[], ["name"], false])),
        ("QueryExports", json!([[], false])),
        ("QueryJobs", json!([[1, "2"], ["id"]])),
        ("QueryFilters", json!([null, ["uuid"]])),
        ("QueryClusterInfo", json!([])),
        ("QueryConfigValues", json!([["cluster_name"]])),
        ("QueryTags", json!(["cluster", ""])),
        ("SubmitJob", json!([[op]])),
        ("SubmitJobToDrainedQueue", json!([[op]])),
        ("SubmitManyJobs", json!([[[op], []]])),
        ("WaitForJobChange", json!([1, ["status"], null, null, 60])),
        ("CancelJob", json!([1])),
        ("ArchiveJob", json!(["1"])),
        ("AutoArchiveJobs", json!([-1, 89])),
        ("ChangeJobPriority", json!([1, -20])),
        ("SetDrainFlag", json!([true])),
        ("SetWatcherPause", json!([1.5])),
        ("ReplaceFilter", json!([null, 0, [["jobid", [">", "id", 1]]], "PAUSE", []])),
        ("DeleteFilter", json!(["u"])),
        ("PickupJob", json!([1])),
        ("SubmitTask", json!([{ "pool": "p" }])),
        ("CancelTask", json!([1])),
        ("RerunTasks", json!([[1, "2"]])),
        ("QueryTask", json!(["1"])),
        ("WaitForTaskChange", json!([1, 0, 60])),
        ("LeaseRequest", json!([{ "pool": "p" }])),
        ("WaitForLease", json!(["00000000-0000-0000-0000-000000000001", null, 60])),
        ("LeaseRenew", json!(["00000000-0000-0000-0000-000000000001"])),
        ("LeaseRelease", json!(["00000000-0000-0000-0000-000000000001"])),
        ("SubmitKeyedJob", json!([[[["k"], [op]]]])),
        ("QueryMembers", json!([])),
        ("QueryCrypto", json!([])),
        ("ConfirmMaster", json!([])),
        ("DropCandidate", json!(["node2"])),
    ];
    assert_eq!(good.len(), METHODS.len());
    for (method, args) in good {
        let text = json!({ "args": args, "method": method, "version": "any", "more": 1 }).to_string();
        let spaced = format!(" \n{text}\n");
        assert_eq!(parse(spaced.as_bytes()).unwrap().method(), method);
        let mut longer = args.as_array().unwrap().clone();
        longer.extend([json!(1), json!(1)]);
        let text = json!({ "args": longer, "method": method }).to_string();
        assert!(parse(text.as_bytes()).is_err(), "{method} takes no more arguments");
    }
}

#[test]
fn bad_arguments_are_parse_failures() {
    for (method, args) in [
        ("Query", json!(["extstorage", ["name"], null])),
        ("Query", json!(["node", null, null])),
        ("Query", json!(["node", ["name"], ["==", "name", 1.5]])),
        ("Query", json!(["node", ["name"], ["==", "name", true]])),
        ("Query", json!(["node", ["name"], ["~", "name", 1]])),
        ("Query", json!(["node", ["name"], ["!", ["?", "offline"], ["?", "drained"]]])),
        ("Query", json!(["node", ["name"], ["=~", "name", "("]])),
        ("QueryJobs", json!([["x"], ["id"]])),
        ("QueryJobs", json!([[-1], ["id"]])),
        ("CancelJob", json!([1, 0])),
        ("ChangeJobPriority", json!([1, 20])),
        ("AutoArchiveJobs", json!([0, -1])),
        ("SubmitJob", json!([{}])),
        ("SubmitManyJobs", json!([[[1]]])),
        ("QueryTags", json!([])),
    ] {
        let text = json!({ "method": method, "args": args }).to_string();
        let why = parse(text.as_bytes()).unwrap_err().to_string();
        assert!(why.starts_with("Failed to parse request: "), "{why}");
    }
    for text in
        ["", "[]", "{}", r#"{"method":"Query"}"#, r#"{"args":[]}"#, r#"{"method":1,"args":[]}"#, "\u{feff}{}"]
    {
        assert!(parse(text.as_bytes()).is_err(), "{text}");
    }
    assert!(parse(b"\xff").is_err());
    let deep = format!(r#"{{"method":"Query","args":["node",[],{}{}]}}"#, "[".repeat(5000), "]".repeat(5000));
    assert!(parse(deep.as_bytes()).is_err());
}

#[test]
fn no_secret_is_repeated() {
    let op = json!({ "OP_ID": "OP_INSTANCE_CREATE", "osparams_secret": { "root": "hunter2" } });
    for args in [json!([op]), json!([[op], 1]), json!([[[op]]])] {
        let text = json!({ "method": "SubmitJob", "args": args }).to_string();
        assert!(!parse(text.as_bytes()).unwrap_err().to_string().contains("hunter2"));
    }
    let text = json!({ "method": "SubmitJob", "args": [[op]] }).to_string();
    assert_eq!(format!("{:?}", parse(text.as_bytes()).unwrap()), "SubmitJob");
}

#[test]
fn answers_have_ganetis_form() {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    assert_eq!(
        text(success(&json!([1, "ä😀\u{3}"]))),
        "{\"success\":true,\"result\":[1,\"\\u00e4\\ud83d\\ude00\\u0003\"]}\u{3}"
    );
    let error = GanetiError::prereq("no", Ecode::WrongInput);
    let want = "{\"success\":false,\"result\":[\"OpPrereqError\",[\"no\",\"wrong_input\"]]}\u{3}";
    assert_eq!(text(failure(&error)), want);
    assert_eq!(text(answer::<()>(&Err(error))), want);
    let failed = parse_failure(&ParseFailure("x".to_owned()));
    assert_eq!(text(failed), "{\"success\":false,\"result\":\"Failed to parse request: x\"}\u{3}");
}

#[test]
fn long_values_are_cut_in_errors() {
    let names = vec!["ä".repeat(100); 100];
    let text = json!({ "method": "QueryNodes", "args": [names, 1, 2] }).to_string();
    assert!(parse(text.as_bytes()).unwrap_err().to_string().len() < 2000);
}
