//! The hello and the envelope.

use crate::sheet::{Sheet, blessing, ids, path};
use gantry_proto::envelope::{Code, Envelope, Fail, Part};
use gantry_proto::hello::{HELLO_BYTES_MAX, Hello};

fn hellos() -> Vec<Hello> {
    let plain = Hello { release: "0.1.0".to_owned(), ..Hello::new("wconfd", "gantry-luxid") };
    let full = Hello {
        versions: vec![1, 2],
        features: vec!["x".to_owned()],
        node: Some(ids::NODE),
        cluster: Some(ids::CLUSTER),
        epoch: Some(7),
        run: Some(70_000),
        refused: Some("wrong cluster".to_owned()),
        ..plain.clone()
    };
    vec![plain, full]
}

#[test]
fn hellos_keep_their_text() {
    let now: String =
        hellos().iter().map(|hello| serde_json::to_string(hello).expect("JSON") + "\n").collect();
    let path = path("hello.json");
    if blessing() {
        return std::fs::write(path, now).expect("written");
    }
    let golden = std::fs::read_to_string(path).expect("a golden file");
    assert_eq!(golden, now);
    let back: Vec<Hello> = golden.lines().map(|line| serde_json::from_str(line).expect("a hello")).collect();
    assert_eq!(back, hellos());
}

#[test]
fn a_hello_of_the_future_is_read() {
    let text = r#"{"protocol":"noded","versions":[1,9],"component":"c","release":"9","frame_limit":9,"new":{"a":[]}}"#;
    let hello: Hello =
        serde_json::from_str(text).expect("unknown keys are ignored, optional ones may be missing");
    assert_eq!((hello.versions, hello.node, hello.refused), (vec![1, 9], None, None));
}

#[test]
fn the_usual_hello_is_far_below_the_limit() {
    for hello in hellos() {
        assert!(serde_json::to_vec(&hello).expect("JSON").len() * 4 < HELLO_BYTES_MAX);
    }
}

/// All codes, in the order of their numbers.
const CODES: [Code; 12] = [
    Code::UnknownVerb,
    Code::BadRequest,
    Code::Denied,
    Code::Ganeti,
    Code::Fenced,
    Code::Stale,
    Code::Busy,
    Code::Deadline,
    Code::Unknown,
    Code::NotReady,
    Code::NotFound,
    Code::Internal,
];

#[test]
fn envelopes_keep_their_bytes() {
    let envelope = |id, part| Envelope { id, part };
    let body = vec![0, 1, 250, 251, 255];
    let request = |id, trace: &str, body: &[u8]| {
        envelope(
            id,
            Part::Request { verb: 300, deadline_ms: 60_000, trace: trace.to_owned(), body: body.to_vec() },
        )
    };
    let fail = Fail { code: Code::Stale, text: "überholt".to_owned(), body: vec![9] };
    let mut sheet = Sheet::new("envelope");
    sheet.values("request", &[request(1, "job 7", &body), request(u64::MAX, "", &[])]);
    sheet.values("reply", &[envelope(2, Part::Reply { body: body.clone() })]);
    sheet.values("fail", &[envelope(0, Part::Fail(fail))]);
    sheet.values("item", &[envelope(3, Part::Item { body })]);
    sheet.values("cancel", &[envelope(4, Part::Cancel)]);
    sheet.values("credit", &[envelope(5, Part::Credit { items: 32 })]);
    sheet.values("code", &CODES);
    sheet.check();
}
