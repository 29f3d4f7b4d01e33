//! The LUXI socket: order, bad input, bounds.

use crate::world::{World, op};
use gantry_proto::hello::Hello;
use serde_json::json;
use std::os::unix::net::UnixStream;
use std::time::Duration;

const PING: &[u8] = b"{\"method\":\"QueryConfigValues\",\"args\":[[\"cluster_name\"]]}\n\x03";

#[test]
fn requests_in_one_write_are_answered_in_order() {
    let world = World::new();
    let mut client = world.client();
    let drain = b"{\"method\":\"QueryConfigValues\",\"args\":[[\"drain_flag\"]],\"version\":7}\x03";
    client.send(&[PING, drain, PING].concat());
    for want in [json!(["cluster1.example.test"]), json!([false]), json!(["cluster1.example.test"])] {
        let answer = client.answer().unwrap();
        assert_eq!(answer, json!({"success": true, "result": want}));
    }
}

#[test]
fn what_cant_be_parsed_gets_one_error_and_the_end() {
    let world = World::new();
    for bad in [
        &b"{bad\x03"[..],
        b"[]\x03",
        b"\xff\xfe\x03",
        b"{\"method\":\"NoSuch\",\"args\":[]}\x03",
        b"{\"method\":\"SubmitJob\",\"args\":[[{\"OP_ID\":\"OP_NO_SUCH\"}]]}\x03",
        b"{\"method\":\"SubmitJob\",\"args\":[[{\"OP_ID\":\"OP_TEST_DELAY\",\"duration\":\"x\"}]]}\x03",
    ] {
        let mut client = world.client();
        client.send(bad);
        let answer = client.answer().unwrap();
        assert_eq!(answer["success"], false);
        assert!(answer["result"].as_str().unwrap().starts_with("Failed to parse request: "), "{answer}");
        assert_eq!(client.answer(), None);
    }
}

#[test]
fn errors_of_understood_requests_keep_the_connection() {
    let world = World::new();
    let mut client = world.client();
    let lost = client.ask("WaitForJobChange", json!([99, ["status"], null, null, 1])).unwrap_err();
    assert_eq!(lost, json!(["JobLost", ["Can't load job file"]]));
    assert_eq!(client.ask("SubmitManyJobs", json!([[]])).unwrap(), json!([]));
    assert_eq!(client.ask("SetDrainFlag", json!([true])).unwrap(), json!(true));
    assert_eq!(client.ask("SubmitJob", json!([[op("quick")]])).unwrap_err()[0], "JobQueueDrainError");
    assert!(client.ask("SubmitJobToDrainedQueue", json!([[op("quick")]])).is_ok());
    assert_eq!(client.ask("QueryConfigValues", json!([["drain_flag"]])).unwrap(), json!([true]));
    assert_eq!(client.ask("SetDrainFlag", json!([false])).unwrap(), json!(true));
    assert_eq!(client.ask("SubmitJob", json!([[]])).unwrap_err()[0], "OpPrereqError");
}

#[test]
fn a_message_over_the_limit_is_refused_and_half_messages_harm_nobody() {
    let world = World::new();
    let mut half = world.client();
    half.send(b"{\"method\":");
    let mut huge = world.client();
    let writer = huge.0.try_clone().unwrap();
    let write = std::thread::spawn(move || {
        let block = vec![b'x'; 1 << 20];
        (0..65).all(|_| std::io::Write::write_all(&mut &writer, &block).is_ok())
    });
    let answer = huge.answer().unwrap();
    assert!(answer["result"].as_str().unwrap().contains("longer than"), "{answer}");
    write.join().unwrap();
    let mut other = world.client();
    other.send(PING);
    assert_eq!(other.answer().unwrap()["success"], true);
    half.send(b"\"QueryConfigValues\",\"args\":[[]]}\x03");
    assert_eq!(half.answer().unwrap()["result"], json!([]));
}

#[test]
fn a_thousand_idle_connections_leave_room_and_one_too_many_is_closed() {
    let world = World::new();
    let path = world.root.socket("luxi.sock");
    let idle: Vec<UnixStream> = (0..1000).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let mut client = world.client();
    client.send(PING);
    assert_eq!(client.answer().unwrap()["success"], true);
    let more: Vec<UnixStream> = (0..40).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let mut last = world.client();
    assert!(last.answer_or_reset().is_none(), "beyond the limit");
    drop((idle, more));
}

#[test]
fn jobs_and_their_archive_are_queried() {
    let world = World::new();
    let id = world.submit("quick");
    world.wait_for(id, "success");
    assert_eq!(world.ask("AutoArchiveJobs", json!([-1, 10])), json!([1, 0]));
    assert_eq!(world.ask("QueryJobs", json!([null, ["id"]])), json!([]));
    assert_eq!(world.ask("QueryJobs", json!([[id], ["id", "status"]])), json!([[id, "success"]]));
    let answer = world.ask("WaitForJobChange", json!([id, ["status"], ["success"], null, 60]));
    assert_eq!(answer[0], json!(["success"]), "a final job is answered at once");
    assert_eq!(world.ask("ArchiveJob", json!([id])), json!(false));
}

#[test]
fn the_watcher_pauses_until_its_time() {
    let mut world = World::new();
    assert_eq!(world.ask("SetWatcherPause", json!([4_000_000_000_u64])).as_f64(), Some(4e9));
    world.kill_luxid();
    world.start();
    assert_eq!(world.ask("QueryConfigValues", json!([["watcher_pause"]])), json!([4_000_000_000_u64]));
    assert_eq!(world.ask("SetWatcherPause", json!([null])), json!(null));
    assert_eq!(world.ask("QueryConfigValues", json!([["watcher_pause"]])), json!([null]));
}

#[test]
fn metrics_count_jobs_starts_deaths_and_commits() {
    let world = World::new();
    let id = world.submit("quick");
    world.wait_for(id, "success");
    let dead = world.submit("die");
    world.wait_for(dead, "error");
    let text = world.runtime.block_on(async {
        let hello = Hello::new(gantry_proto::admin::PROTOCOL, "test");
        let client = gantry_rpc::Client::unix(&world.root.admin_socket("luxid"), &hello).await.unwrap();
        client.call::<gantry_proto::admin::Metrics>(&(), Duration::from_secs(10)).await.unwrap()
    });
    for line in [
        "gantry_luxid_job_starts_total 2",
        "gantry_luxid_job_deaths_total 1",
        "gantry_luxid_jobs_live 2",
        "gantry_luxid_jobs{status=\"success\"} 1",
        "gantry_luxid_jobs{status=\"error\"} 1",
        "gantry_luxid_store_transactions_total ",
    ] {
        assert!(text.contains(line), "no '{line}' in\n{text}");
    }
}
