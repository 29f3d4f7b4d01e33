//! The output of tasks.

use crate::bed::{Bed, LIMIT};
use gantry_model::ids::{LeaseUuid, TaskId};
use gantry_model::task::{Task, TaskState, exec_name};
use gantry_proto::noded::{Stream as Of, Why};
use gantry_proto::stream::{BlobPut, BlobPutRequest, LogPlace, TaskLog, TaskLogEnd, TaskLogRequest};
use gantry_rpc::{Client, Event, Stream};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

const LEASE: LeaseUuid = LeaseUuid(Uuid::from_u128(9));

fn task(bed: &Bed, state: TaskState, attempts: Value, result: Value) -> Task {
    let attempts: Vec<Value> = attempts
        .as_array()
        .unwrap()
        .iter()
        .map(|attempt| {
            let mut whole = json!({ "lease": LEASE, "vm": bed.vm(), "job": 3 });
            whole.as_object_mut().unwrap().extend(attempt.as_object().unwrap().clone());
            whole
        })
        .collect();
    serde_json::from_value(json!({
        "id": 7, "state": u8::from(state), "received": [1, 0], "attempts": attempts, "result": result,
        "spec": { "pool": "p", "execute": [{ "command": "a", "name": "first" }, { "command": "b" }] },
    }))
    .unwrap()
}

fn running(bed: &Bed) -> Task {
    task(bed, TaskState::Running, json!([{ "number": 1 }]), Value::Null)
}

fn step(name: &str, out: Value, err: &str) -> Value {
    json!({ "name": name, "why": "exit", "exit": 0, "wall_ms": 1, "cpu_us": 1, "memory_peak_bytes": 1,
        "out": out, "err": { "bytes": err.len(), "text": err } })
}

fn text(text: &str) -> Value {
    json!({ "bytes": text.len(), "text": text })
}

async fn open(client: &Client, from: LogPlace, follow: bool) -> Stream<TaskLog> {
    client.open::<TaskLog>(&TaskLogRequest { task: TaskId(7), from, follow }).await.unwrap()
}

/// Step, stream, offset and text of the next piece; a reason is `(step, Out, offset, "!reason")`.
async fn piece(stream: &mut Stream<TaskLog>) -> (u32, Of, u64, String) {
    match tokio::time::timeout(LIMIT, stream.next()).await.unwrap().unwrap() {
        Event::Item(piece) if piece.bytes.is_empty() => {
            (piece.step, piece.stream, piece.offset, format!("!{}", piece.name))
        }
        Event::Item(piece) => {
            (piece.step, piece.stream, piece.offset, String::from_utf8(piece.bytes).unwrap())
        }
        Event::End(end) => panic!("it ended: {end:?}"),
    }
}

/// The end, after any reasons.
async fn end(stream: &mut Stream<TaskLog>) -> TaskLogEnd {
    loop {
        match tokio::time::timeout(LIMIT, stream.next()).await.unwrap().unwrap() {
            Event::Item(piece) if piece.bytes.is_empty() => {}
            Event::Item(piece) => panic!("not the end: {piece:?}"),
            Event::End(end) => return end,
        }
    }
}

/// The next piece that is no reason.
async fn output(stream: &mut Stream<TaskLog>) -> (u32, Of, u64, String) {
    loop {
        let next = piece(stream).await;
        if !next.3.starts_with('!') {
            return next;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_sees_waiting_running_and_the_end() {
    let mut bed = Bed::new().await;
    let pending = task(&bed, TaskState::Pending, json!([]), Value::Null);
    bed.task(pending);
    let client = bed.client().await;
    let mut stream = open(&client, LogPlace::default(), true).await;
    let why = piece(&mut stream).await.3;
    assert!(why.starts_with("!waiting for pool p"), "{why}");

    let first = exec_name(LEASE, 1, 1);
    bed.node.run(&first, |run| run.out.extend(b"one "));
    let begun = running(&bed);
    bed.task(begun);
    assert_eq!(output(&mut stream).await, (1, Of::Out, 0, "one ".to_owned()));
    bed.node.run(&first, |run| run.out.extend(b"more"));
    assert_eq!(output(&mut stream).await, (1, Of::Out, 4, "more".to_owned()));
    bed.node.run(&first, |run| run.why = Some(Why::Exit(0)));
    assert_eq!(piece(&mut stream).await, (2, Of::Out, 0, "!step 2 has not begun yet".to_owned()));
    bed.node.run(&exec_name(LEASE, 1, 2), |run| run.err.extend(b"two"));
    assert_eq!(output(&mut stream).await, (2, Of::Err, 0, "two".to_owned()));

    // The result comes before the relay saw the end: the rest is what is stored beyond what was relayed.
    bed.followers(1).await;
    let result = json!({ "steps": [step("first", text("one more"), ""), step("2", text("late"), "two3")] });
    let done = task(&bed, TaskState::Success, json!([{ "number": 1, "outcome": "user-ok" }]), result);
    bed.task(done);
    assert_eq!(output(&mut stream).await, (2, Of::Out, 0, "late".to_owned()));
    assert_eq!(output(&mut stream).await, (2, Of::Err, 3, "3".to_owned()));
    assert_eq!(end(&mut stream).await.state, u8::from(TaskState::Success));
    bed.followers(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_attempt_is_followed_from_its_first_step() {
    let mut bed = Bed::new().await;
    bed.node.run(&exec_name(LEASE, 1, 1), |run| run.out.extend(b"lost"));
    let begun = running(&bed);
    bed.task(begun);
    let client = bed.client().await;
    let mut stream = open(&client, LogPlace::default(), true).await;
    assert_eq!(output(&mut stream).await.3, "lost");
    bed.followers(1).await;
    let failed = json!({ "number": 1, "outcome": "infra-fail" });
    let retrying = task(&bed, TaskState::Retrying, json!([failed]), Value::Null);
    bed.task(retrying);
    bed.followers(0).await;
    bed.node.run(&exec_name(LEASE, 2, 1), |run| run.out.extend(b"anew"));
    let again = task(&bed, TaskState::Running, json!([failed, { "number": 2 }]), Value::Null);
    bed.task(again);
    assert_eq!(output(&mut stream).await, (1, Of::Out, 0, "anew".to_owned()));
    let over = task(
        &bed,
        TaskState::Cancelled,
        json!([failed, { "number": 2, "outcome": "cancelled" }]),
        Value::Null,
    );
    bed.task(over);
    assert_eq!(end(&mut stream).await.state, u8::from(TaskState::Cancelled));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_follow_gets_what_is_there() {
    let mut bed = Bed::new().await;
    bed.node.run(&exec_name(LEASE, 1, 1), |run| run.out.extend(b"so far"));
    let begun = running(&bed);
    bed.task(begun);
    let client = bed.client().await;
    let mut stream = open(&client, LogPlace { attempt: 0, step: 1, out: 3, err: 0 }, false).await;
    assert_eq!(output(&mut stream).await, (1, Of::Out, 3, "far".to_owned()));
    assert_eq!(end(&mut stream).await.state, u8::from(TaskState::Running));
    bed.followers(0).await;
    bed.node.run(&exec_name(LEASE, 1, 1), |run| run.why = Some(Why::Exit(1)));
    let mut stream = open(&client, LogPlace { attempt: 1, step: 1, out: 6, err: 0 }, false).await;
    assert!(end(&mut stream).await.why.contains("has not begun"));
    let from = LogPlace { step: 3, ..LogPlace::default() };
    let request = TaskLogRequest { task: TaskId(7), from, follow: true };
    let error = client.call::<TaskLog>(&request, LIMIT).await.unwrap_err();
    assert!(error.to_string().contains("task 7 has no step 3: its steps are 1 to 2"), "{error}");
    let request = TaskLogRequest { task: TaskId(8), from: LogPlace::default(), follow: true };
    let error = client.call::<TaskLog>(&request, LIMIT).await.unwrap_err();
    assert!(error.to_string().contains("there is no task 8"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_output_comes_from_the_record_and_the_body_store() {
    let mut bed = Bed::new().await;
    let client = bed.client().await;
    let body: Vec<u8> = (0..700_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let digest: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
    let put =
        BlobPutRequest { digest: digest.clone(), total: body.len() as u64, offset: 0, bytes: body.clone() };
    assert!(client.call::<BlobPut>(&put, LIMIT).await.unwrap().done);
    let steps =
        [step("first", json!({ "bytes": body.len(), "digest": digest }), "warning"), step("2", text(""), "")];
    let done = task(
        &bed,
        TaskState::Success,
        json!([{ "number": 1, "outcome": "user-ok" }]),
        json!({ "steps": steps }),
    );
    bed.task(done);
    let mut stream = open(&client, LogPlace { attempt: 1, step: 1, out: 100, err: 0 }, true).await;
    let mut got = Vec::new();
    let err = loop {
        match stream.next().await.unwrap() {
            Event::Item(piece) if piece.stream == Of::Out => {
                assert_eq!(piece.offset, 100 + got.len() as u64);
                got.extend(piece.bytes);
            }
            Event::Item(piece) => break piece.bytes,
            Event::End(end) => panic!("{end:?}"),
        }
    };
    assert!(got == body[100..], "{} bytes", got.len());
    assert_eq!(err, b"warning");
    assert_eq!(end(&mut stream).await.state, u8::from(TaskState::Success));
    bed.store.keep(&digest).await.unwrap();
}
