//! Opcodes as a real Ganeti 3.0.2 and its clients wrote them: they pass, unchanged, with the same summary.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use gantry_model::opcode::{OP_ID, OpcodeError, check, summary};
use serde_json::{Map, Value, json};

fn golden(name: &str) -> String {
    let path = format!("{}/../../tests/golden/ganeti/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The opcodes of the first request of a sample.
fn submitted(name: &str) -> Vec<Value> {
    let text = golden(name);
    let line = text.lines().find_map(|l| l.strip_prefix("> ")).unwrap();
    let request: Value = serde_json::from_str(line.trim_end_matches("<ETX>")).unwrap();
    let first = request["args"][0].as_array().unwrap();
    match request["method"].as_str().unwrap() {
        "SubmitManyJobs" => first.iter().flat_map(|job| job.as_array().unwrap().clone()).collect(),
        _ => first.clone(),
    }
}

/// Stored opcodes of old releases lack keys that are null; whatever is there must stay as it is.
fn passes_unchanged(op: &Value) -> Map<String, Value> {
    let checked = check(op).unwrap_or_else(|e| panic!("{op}: {e}"));
    for (key, value) in op.as_object().unwrap() {
        assert_eq!(&checked[key], value, "{key}");
    }
    checked
}

#[test]
fn full_opcodes_of_the_clients_pass_unchanged() {
    for name in ["SubmitJob", "SubmitJob-drained", "SubmitJob-long", "SubmitJobToDrainedQueue"] {
        for op in submitted(&format!("luxi/{name}.txt")) {
            assert_eq!(Value::Object(passes_unchanged(&op)), op, "{name}");
        }
    }
}

#[test]
fn a_missing_reason_is_an_empty_trail() {
    let op = &submitted("luxi/SubmitJob-without-reason-field.txt")[0];
    let checked = passes_unchanged(op);
    assert_eq!(checked["reason"], json!([]));
    assert_eq!(checked["repeat"], json!(0));
    assert_eq!(summary(&checked), "TEST_DELAY(1.0e-6)");
}

#[test]
fn unknown_opcodes_are_refused() {
    let one = submitted("luxi/SubmitJob-bad-opcode.txt");
    let many = submitted("luxi/SubmitManyJobs.txt");
    assert_eq!(many.len(), 2);
    passes_unchanged(&many[0]);
    for op in [&one[0], &many[1]] {
        let error = check(op).unwrap_err();
        assert!(matches!(error, OpcodeError::Unknown { .. }));
        let wanted =
            "Unknown opcode string \"OP_NO_SUCH\", accepted is one of 93 names such as OP_TEST_DELAY";
        assert_eq!(error.to_string(), wanted);
    }
}

#[test]
fn stored_jobs_pass() {
    let summaries = [("job-instance-create", "INSTANCE_CREATE(b0000.gb.test)"), ("job-tags-del", "TAGS_DEL")];
    for (name, text) in summaries {
        let job: Value = serde_json::from_str(&golden(&format!("files/{name}.json"))).unwrap();
        for op in job["ops"].as_array().unwrap() {
            assert_eq!(summary(&passes_unchanged(&op["input"])), text);
        }
    }
}

#[test]
fn rapi_job_list_passes_with_the_same_summaries() {
    let text = golden("rapi/2_jobs_bulk.txt");
    let body = &text[text.find("\n[").unwrap()..];
    let jobs: Vec<Value> = serde_json::Deserializer::from_str(body).into_iter().next().unwrap().unwrap();
    let mut seen = 0;
    for job in &jobs {
        for (op, text) in job["ops"].as_array().unwrap().iter().zip(job["summary"].as_array().unwrap()) {
            let checked = check(op).unwrap_or_else(|e| panic!("{op}: {e}"));
            assert_eq!(summary(&checked), text.as_str().unwrap());
            assert_eq!(checked[OP_ID], op[OP_ID]);
            seen += 1;
        }
    }
    assert!(seen > 140, "{seen}");
}
