//! Every read sample: the same request gets an answer of the same shape and, but for what differs by design,
//! the same content.

use crate::cluster::{golden, inputs, job_340, sample};
use gantry_luxid::core::cluster_info::cluster_info;
use gantry_luxid::core::luxi::{self, Request, Shape};
use gantry_luxid::core::mirror::Snapshot;
use gantry_luxid::core::query::{QueueFlags, config_values, query_fields, tags};
use gantry_model::error::GanetiError;
use serde_json::{Value, json};
use std::sync::Arc;

/// What luxid's shell does with one message.
fn serve(config: &Arc<Snapshot>, message: &[u8], archived: bool) -> Vec<u8> {
    let request = match luxi::parse(message) {
        Ok(request) => request,
        Err(why) => return luxi::parse_failure(&why),
    };
    let rows = |query: Result<_, GanetiError>| -> Result<Vec<u8>, GanetiError> {
        let (query, shape): (gantry_luxid::core::query::Query, Shape) = query?;
        let plan = query.plan(config)?;
        let jobs = if message.windows(6).any(|w| w == b"999999") { vec![] } else { vec![job_340(archived)] };
        let inputs = inputs(&plan.needs().nodes.clone(), jobs);
        let answer = plan.finish(inputs)?;
        Ok(match shape {
            Shape::Full => luxi::success(&answer.full()),
            Shape::Plain => luxi::success(&answer.plain()),
        })
    };
    if let Some(query) = request.query() {
        return rows(query).unwrap_or_else(|error| luxi::failure(&error));
    }
    match &request {
        Request::QueryFields { kind, fields } => luxi::answer(&query_fields(*kind, fields)),
        Request::QueryClusterInfo => luxi::answer(&cluster_info(config)),
        Request::QueryConfigValues { fields } => {
            luxi::answer(&config_values(config, QueueFlags::default(), fields))
        }
        Request::QueryTags { kind, name } => luxi::answer(&tags(config, *kind, name)),
        other => panic!("{other:?} is no read"),
    }
}

/// The request and the answer of a sample, without arrows and ETX.
fn read(name: &str) -> (Vec<u8>, Value, String) {
    let text = std::fs::read_to_string(golden("luxi").join(name)).unwrap();
    let (request, answer) = text.split_once("\n< ").unwrap();
    let bare = |line: &str| line.trim().trim_end_matches("<ETX>").to_owned();
    let answer = bare(answer);
    let request = bare(request).trim_start_matches("> ").as_bytes().to_vec();
    (request, serde_json::from_str(&answer).unwrap(), answer)
}

fn answer(name: &str) -> (Value, Value) {
    let (request, theirs, _) = read(name);
    let ours = serve(&sample(), &request, name.contains("archived"));
    assert_eq!(ours.last(), Some(&luxi::ETX));
    (serde_json::from_slice(&ours[..ours.len() - 1]).unwrap(), theirs)
}

/// Texts in errors are wrapped differently; explanations are in our own words.
fn plain(mut value: Value) -> Value {
    if let Some(fields) = value.pointer_mut("/result/fields").and_then(Value::as_array_mut) {
        for field in fields {
            let doc = field.as_object_mut().unwrap().remove("doc").unwrap();
            assert!(!doc.as_str().unwrap().is_empty(), "{field} has an explanation");
        }
    }
    if let Some(Value::String(text)) = value.get_mut("result") {
        *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    value
}

#[test]
fn reads_are_answered_as_ganeti_answers_them() {
    let mut compared = 0;
    for entry in std::fs::read_dir(golden("luxi")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let by_design =
            ["Query-export.txt", "QueryExports.txt", "QueryClusterInfo.txt", "error-not-json.txt"];
        let is_read = name.starts_with("Query") || name.starts_with("error");
        if !is_read || by_design.contains(&name.as_str()) || name == "error-wrong-version.txt" {
            continue;
        }
        let (ours, theirs) = answer(&name);
        assert_eq!(plain(ours), plain(theirs), "{name}");
        compared += 1;
    }
    assert!(compared >= 28, "only {compared} samples were found");
}

/// Names, titles, kinds and their order are the same bytes.
#[test]
fn field_lists_are_the_same_bytes() {
    let strip = |text: &str| {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once(",\"doc\":\"") {
            out.push_str(before);
            let mut end = 0;
            while !after[end..].starts_with('"') {
                end += if after[end..].starts_with('\\') {
                    2
                } else {
                    after[end..].chars().next().unwrap().len_utf8()
                };
            }
            rest = &after[end + 1..];
        }
        out + rest
    };
    for kind in ["export", "filter", "group", "instance", "job", "lock", "network", "node"] {
        let (request, _, theirs) = read(&format!("QueryFields-{kind}.txt"));
        let ours = serve(&sample(), &request, false);
        let ours = String::from_utf8(ours[..ours.len() - 1].to_vec()).unwrap();
        let (ours, theirs) =
            (strip(&ours).replace("\"result\":", "R"), strip(&theirs).replace("\"result\":", "R"));
        assert_eq!(ours, theirs, "{kind}");
    }
}

#[test]
fn cluster_information_has_every_key_and_value() {
    for name in ["QueryClusterInfo.txt", "error-wrong-version.txt"] {
        let (mut ours, mut theirs) = answer(name);
        // The file was saved after the answer; the build is ours.
        for key in ["mtime", "vcs_version"] {
            assert_eq!(ours["result"][key].is_string(), theirs["result"][key].is_string());
            ours["result"].as_object_mut().unwrap().remove(key);
            theirs["result"].as_object_mut().unwrap().remove(key);
        }
        assert_eq!(ours, theirs);
    }
}

#[test]
fn exports_have_the_same_columns_and_no_rows() {
    let (ours, theirs) = answer("Query-export.txt");
    let (ours, theirs) = (plain(ours), plain(theirs));
    assert_eq!(ours["result"]["fields"], theirs["result"]["fields"]);
    assert_eq!(ours["result"]["data"], json!([]), "Gantry makes no exports");
    assert_eq!(answer("QueryExports.txt").0["result"], json!([]));
}

#[test]
fn what_is_not_json_is_said_to_be_none() {
    let (ours, theirs) = answer("error-not-json.txt");
    let start = "Failed to parse request: parsing top-level JSON message: Invalid JSON: ";
    assert_eq!(ours["success"], theirs["success"]);
    for side in [ours, theirs] {
        assert!(side["result"].as_str().unwrap().starts_with(start), "{side}");
    }
}
