//! Commands and files in leased VMs.

use crate::bed::{Bed, LIMIT};
use gantry_luxid::core::queue::Shown;
use gantry_model::ids::{LeaseUuid, TaskId};
use gantry_model::lease::{LeaseOwner, LeaseRequest, LeaseState, RequestState};
use gantry_model::time::Ts;
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::noded::Why;
use gantry_proto::stream::{
    LeaseExec, LeaseExecRequest, LeaseGet, LeaseGetRequest, LeasePut, LeasePutRequest, LeaseSignal,
    LeaseSignalRequest,
};
use gantry_rpc::{CallError, Client, Event, Stream};
use std::sync::Arc;
use uuid::Uuid;

fn exec(lease: LeaseUuid) -> LeaseExecRequest {
    LeaseExecRequest {
        lease,
        vm: 0,
        exec: "one".to_owned(),
        argv: vec!["sh".to_owned(), "-c".to_owned(), "true".to_owned()],
        env: vec![],
        cwd: None,
        stdin: vec![],
        output_bytes_max: 1 << 20,
        wall_ms: 1000,
        cpu_ms: 1000,
        out: 0,
        err: 0,
    }
}

fn new_lease() -> LeaseUuid {
    LeaseUuid(Uuid::new_v4())
}

async fn open(client: &Client, request: &LeaseExecRequest) -> Stream<LeaseExec> {
    client.open::<LeaseExec>(request).await.unwrap()
}

/// The bytes of the next item, and where they begin.
async fn item(stream: &mut Stream<LeaseExec>) -> (u64, String) {
    match tokio::time::timeout(LIMIT, stream.next()).await.unwrap().unwrap() {
        Event::Item(piece) => (piece.offset, String::from_utf8(piece.bytes).unwrap()),
        Event::End(end) => panic!("it ended: {end:?}"),
    }
}

async fn end(stream: &mut Stream<LeaseExec>) -> Result<Why, CallError> {
    match tokio::time::timeout(LIMIT, stream.next()).await.unwrap()? {
        Event::Item(piece) => panic!("not the end: {piece:?}"),
        Event::End(end) => Ok(end.why),
    }
}

/// Class, code and text of a Ganeti error.
fn ganeti(why: CallError) -> (String, String) {
    let CallError::Fail(fail) = why else { panic!("{why}") };
    let error = fail.as_ganeti().unwrap_or_else(|| panic!("{fail:?}"));
    (error.ecode().unwrap_or_default().to_owned(), error.to_string())
}

async fn refused(client: &Client, request: &LeaseExecRequest) -> (String, String) {
    ganeti(end(&mut open(client, request).await).await.unwrap_err())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_touch_is_stored_before_the_node_hears_of_it() {
    let mut bed = Bed::new().await;
    let (lease, vm) = (new_lease(), bed.vm());
    bed.lease(lease, LeaseState::Active, None);
    let client = bed.client().await;
    let name = format!("{lease}.0.one");
    let mut stream = open(&client, &exec(lease)).await;
    bed.has(&name).await;
    bed.node.run(&name, |run| run.out.extend(b"hello"));
    assert_eq!(item(&mut stream).await, (0, "hello".to_owned()));
    bed.node.run(&name, |run| {
        run.err.extend(b"oh");
        run.why = Some(Why::Exit(3));
    });
    assert_eq!(item(&mut stream).await, (0, "oh".to_owned()));
    assert_eq!(end(&mut stream).await, Ok(Why::Exit(3)));
    let (slot, generation) = (vm.slot, vm.generation);
    assert_eq!(
        bed.happened(),
        [
            format!("wconfd: open {slot} {generation}"),
            format!("node: open {slot} {generation} 3"),
            format!("node: exec {name} sh -c true"),
        ]
    );
    // Attached anew, from a place in the middle on; nothing is opened again.
    let mut again = open(&client, &LeaseExecRequest { out: 3, err: 2, ..exec(lease) }).await;
    assert_eq!(item(&mut again).await, (3, "lo".to_owned()));
    assert_eq!(end(&mut again).await, Ok(Why::Exit(3)));
    assert_eq!(bed.happened(), [format!("node: exec {name} sh -c true")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_that_wconfd_does_not_open_is_not_touched() {
    let mut bed = Bed::new().await;
    let lease = new_lease();
    bed.lease(lease, LeaseState::Active, None);
    *bed.wconfd.refusal.lock().unwrap() = Some(Fail::new(Code::Stale, "it ended"));
    let client = bed.client().await;
    let (code, text) = refused(&client, &exec(lease)).await;
    assert_eq!(code, "wrong_state");
    assert!(text.contains("it ended"), "{text}");
    assert_eq!(bed.happened().len(), 1, "the node heard nothing");
    *bed.wconfd.refusal.lock().unwrap() = None;
    let mut stream = open(&client, &exec(lease)).await;
    bed.node.run(&format!("{lease}.0.one"), |run| run.why = Some(Why::Exit(0)));
    assert_eq!(end(&mut stream).await, Ok(Why::Exit(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_the_lease_ends_the_relay() {
    let mut bed = Bed::new().await;
    let lease = new_lease();
    bed.lease(lease, LeaseState::Active, None);
    let client = bed.client().await;
    let mut stream = open(&client, &exec(lease)).await;
    bed.followers(1).await;
    bed.lease(lease, LeaseState::Broken, Some("node1 was lost"));
    let (code, text) = ganeti(end(&mut stream).await.unwrap_err());
    assert_eq!(code, "wrong_state");
    assert!(text.contains("is over: node1 was lost"), "{text}");
    bed.followers(0).await;
    assert_eq!(refused(&client, &exec(lease)).await, (code, text));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_is_followed_on() {
    let mut bed = Bed::new().await;
    let lease = new_lease();
    bed.lease(lease, LeaseState::Active, None);
    let client = bed.client().await;
    let name = format!("{lease}.0.one");
    let mut stream = open(&client, &exec(lease)).await;
    bed.has(&name).await;
    bed.node.run(&name, |run| run.out.extend(b"before "));
    assert_eq!(item(&mut stream).await.1, "before ");
    bed.stop_node();
    bed.followers(0).await;
    bed.node.run(&name, |run| run.out.extend(b"after"));
    bed.start_node().await;
    assert_eq!(item(&mut stream).await, (7, "after".to_owned()));
    bed.node.run(&name, |run| run.why = Some(Why::Signal(9)));
    assert_eq!(end(&mut stream).await, Ok(Why::Signal(9)));
    let execs = bed.happened().into_iter().filter(|line| line.starts_with("node: exec")).count();
    assert_eq!(execs, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_leaves_leaves_the_command_running() {
    let mut bed = Bed::new().await;
    let lease = new_lease();
    bed.lease(lease, LeaseState::Active, None);
    let client = bed.client().await;
    let stream = open(&client, &exec(lease)).await;
    bed.followers(1).await;
    drop(stream);
    bed.followers(0).await;
    assert!(!bed.happened().iter().any(|line| line.contains("cancel") || line.contains("signal")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_is_said_clearly() {
    let mut bed = Bed::new().await;
    let lease = new_lease();
    bed.lease(lease, LeaseState::Active, None);
    let client = bed.client().await;
    let good = exec(lease);
    for (bad, word) in [
        (LeaseExecRequest { vm: 1, ..good.clone() }, "counted from 0"),
        (LeaseExecRequest { exec: "a/b".to_owned(), ..good.clone() }, "the name of a command"),
        (LeaseExecRequest { exec: "x".repeat(65), ..good.clone() }, "the name of a command"),
        (LeaseExecRequest { argv: vec![], ..good.clone() }, "no command"),
        (LeaseExecRequest { wall_ms: 0, ..good.clone() }, "wall_ms"),
        (LeaseExecRequest { output_bytes_max: u64::MAX, ..good.clone() }, "output_bytes_max"),
    ] {
        let (code, text) = refused(&client, &bad).await;
        assert_eq!(code, "wrong_input", "{text}");
        assert!(text.contains(word), "{text}");
    }
    let (code, _) = refused(&client, &exec(new_lease())).await;
    assert_eq!(code, "unknown_entity");
    let of_task = new_lease();
    let owner = LeaseOwner::Task { task: TaskId(5), attempt: 1 };
    bed.lease_of(of_task, LeaseState::Active, None, owner);
    assert!(refused(&client, &exec(of_task)).await.1.contains("belongs to task 5"));
    assert!(bed.happened().is_empty(), "nobody was bothered");
}

fn request(uuid: LeaseUuid, state: RequestState) -> Shown {
    let request = LeaseRequest {
        uuid,
        user: "u".to_owned(),
        pool: "p".to_owned(),
        count: 1,
        for_ms: 1000,
        ttl_ms: None,
        priority: 0,
        received: Ts(1, 0),
        state,
        why: None,
        vms: vec![],
    };
    Shown::Request { rev: 1, request: Arc::new(request) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_just_granted_is_waited_for() {
    let mut bed = Bed::new().await;
    let lease = new_lease();
    let client = bed.client().await;
    bed.view.apply(vec![request(lease, RequestState::Waiting)]);
    let (code, text) = refused(&client, &exec(lease)).await;
    assert_eq!(code, "wrong_state");
    assert!(text.contains("not granted yet: waiting for pool p"), "{text}");
    bed.view.apply(vec![request(lease, RequestState::Granted)]);
    let mut stream = open(&client, &exec(lease)).await;
    // Answered by the server only after it took the call before on the same connection.
    let other = LeaseSignalRequest { lease: new_lease(), vm: 0, exec: "x".to_owned(), signal: 1 };
    assert!(client.call::<LeaseSignal>(&other, LIMIT).await.is_err());
    bed.lease(lease, LeaseState::Active, None);
    bed.node.run(&format!("{lease}.0.one"), |run| run.why = Some(Why::Exit(0)));
    assert_eq!(end(&mut stream).await, Ok(Why::Exit(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_and_files_are_relayed() {
    let mut bed = Bed::new().await;
    let lease = new_lease();
    bed.lease(lease, LeaseState::Active, None);
    let client = bed.client().await;
    for signal in [15, 0] {
        let request = LeaseSignalRequest { lease, vm: 0, exec: "one".to_owned(), signal };
        client.call::<LeaseSignal>(&request, LIMIT).await.unwrap();
    }
    let put = LeasePutRequest {
        lease,
        vm: 0,
        upload: "up".to_owned(),
        path: "src".to_owned(),
        offset: 4,
        bytes: b"tar".to_vec(),
        last: true,
    };
    let reply = client.call::<LeasePut>(&put, LIMIT).await.unwrap();
    assert!(reply.done && reply.next == 7);
    assert_eq!(
        bed.happened()[2..],
        [
            format!("node: signal {lease}.0.one 15"),
            format!("node: cancel {lease}.0.one"),
            format!("node: put {lease}.0.up src 7"),
        ]
    );
    let get = |path: &str| LeaseGetRequest { lease, vm: 0, path: path.to_owned(), bytes_max: 99 };
    let mut stream = client.open::<LeaseGet>(&get("out")).await.unwrap();
    let mut bytes = Vec::new();
    let reply = loop {
        match stream.next().await.unwrap() {
            Event::Item(piece) => bytes.extend(piece.bytes),
            Event::End(reply) => break reply,
        }
    };
    assert_eq!((bytes.as_slice(), reply.files, reply.refused), (&b"tarball"[..], 1, 2));
    let (code, text) = ganeti(client.call::<LeaseGet>(&get("none"), LIMIT).await.unwrap_err());
    assert_eq!(code, "unknown_entity");
    assert!(text.contains("node1.test: there is no 'none'"), "{text}");
}

/// A node that is busy is asked again; one that says that there is no room in the VM is not: its answer goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_much_for_a_vm_is_refused_at_once() {
    let mut bed = Bed::new().await;
    let lease = new_lease();
    bed.lease(lease, LeaseState::Active, None);
    let client = bed.client().await;
    let put = LeasePutRequest {
        lease,
        vm: 0,
        upload: "up".to_owned(),
        path: String::new(),
        offset: 0,
        bytes: b"tar".to_vec(),
        last: true,
    };
    let busy = |body: &[u8]| Fail { code: Code::Busy, text: "too much".to_owned(), body: body.to_vec() };
    let told = |fails: Vec<Fail>| {
        bed.node.put_fails.lock().unwrap().extend(fails);
        client.call::<LeasePut>(&put, LIMIT)
    };
    assert!(told(vec![busy(b""), busy(b"locked")]).await.unwrap().done);
    let (code, text) = ganeti(told(vec![busy(b"no-space")]).await.unwrap_err());
    assert_eq!(
        (code.as_str(), text.contains("node1.test: too much")),
        ("insufficient_resources", true),
        "{text}"
    );
    assert_eq!(
        told(vec![busy(b""); 5]).await.unwrap_err().code(),
        Some(Code::Busy),
        "it does not wait for ever"
    );
    let asked = bed.happened().into_iter().filter(|what| what.starts_with("node: put")).count();
    assert_eq!(asked, 3 + 1 + 5);
}
