//! VMs over the wire: idempotence, floors, leases, losses, and many at once.

use crate::bed::*;
use gantry_model::ids::Generation;
use gantry_proto::codec;
use gantry_proto::noded::{self as wire, SlotFacts, VmState};
use gantry_rpc::{CallError, Code};

#[tokio::test]
async fn a_vm_s_life() {
    let cluster = Cluster::new();
    let (_node, client) = cluster.member("n1").await;
    let made = create(&client, slot(1), 1).await.expect("created");
    assert!(!made.attached);
    assert_eq!(made.runtime_id, format!("gantry-{}-{}-1", cluster.uuid.short(), slot(1)));
    assert!(create(&client, slot(1), 1).await.expect("attached").attached);
    let info = client.call::<wire::NodeInfo>(&(), PATIENCE).await.expect("info");
    assert_eq!((info.vms.len(), info.vms[0].running, info.memory_free_mib), (1, true, 32_768 - 128));
    assert_eq!(code(create(&client, slot(1), 2).await), Code::Stale);
    assert_eq!(destroy(&client, slot(1), 1).await.expect("destroyed"), 1);
    assert_eq!(destroy(&client, slot(1), 1).await.expect("again"), 1);
    let refused = fail(create(&client, slot(1), 1).await);
    assert_eq!(refused.code, Code::Stale);
    let told: SlotFacts = codec::decode(&refused.body).expect("the facts");
    assert_eq!((told.floor, told.state), (Generation(1), VmState::Absent));
    create(&client, slot(1), 2).await.expect("the next generation");
    assert_eq!(code(destroy(&client, slot(1), 1).await), Code::Stale);
    assert_eq!(state(&client, slot(1)).await, Some(VmState::Live));
}

#[tokio::test]
async fn a_late_create_after_a_destroy_is_refused() {
    let cluster = Cluster::new();
    let (_node, client) = cluster.member("n1").await;
    // the create was lost on the way, the destroy overtook it
    assert_eq!(destroy(&client, slot(1), 3).await.expect("nothing there"), 3);
    for late in [1, 2, 3] {
        assert_eq!(code(create(&client, slot(1), late).await), Code::Stale);
    }
    create(&client, slot(1), 4).await.expect("created");
}

#[tokio::test]
async fn a_caller_that_goes_away_loses_only_the_answer() {
    let cluster = Cluster::new();
    let (node, client) = cluster.member("n1").await;
    node.faults(r#"{"delay_ms": {"create": 1000}}"#);
    let caller = tokio::spawn({
        let client = client.clone();
        async move { create(&client, slot(1), 1).await }
    });
    let begun = || async { (state(&client, slot(1)).await == Some(VmState::Creating)).then_some(()) };
    wait_for("the create's record", begun).await;
    caller.abort();
    assert!(caller.await.expect_err("cancelled").is_cancelled());
    // the repeated call attaches to the one under way
    assert!(create(&client, slot(1), 1).await.expect("attached").attached);
}

#[tokio::test]
async fn twenty_creates_at_once_and_each_twice() {
    let cluster = Cluster::new();
    let (node, client) = cluster.member("n1").await;
    node.faults(r#"{"delay_ms": {"create": 20}}"#);
    let calls: Vec<_> = (0..40u128)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { create(&client, slot(n / 2), 1).await })
        })
        .collect();
    let mut first = 0;
    for call in calls {
        let made = call.await.expect("no panic").expect("created");
        first += usize::from(!made.attached);
    }
    assert_eq!(first, 20, "one of each pair made it, the other attached");
    let info = client.call::<wire::NodeInfo>(&(), PATIENCE).await.expect("info");
    assert_eq!(info.vms.len(), 20);
}

#[tokio::test]
async fn one_slot_has_a_bounded_queue() {
    let cluster = Cluster::new();
    let (node, client) = cluster.member("n1").await;
    node.faults(r#"{"delay_ms": {"create": 1500}}"#);
    let calls: Vec<_> = (0..60)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { create(&client, slot(1), 1).await })
        })
        .collect();
    let mut busy = 0;
    for call in calls {
        match call.await.expect("no panic") {
            Ok(_) => {}
            Err(CallError::Fail(fail)) if fail.code == Code::Busy => busy += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(busy, 60 - 32);
}

#[tokio::test]
async fn leases_open_and_close() {
    let cluster = Cluster::new();
    let (_node, client) = cluster.member("n1").await;
    create(&client, slot(1), 1).await.expect("created");
    let of = |l, g| wire::VmLeaseRef { vm: vm(fence(1), slot(1), g), lease: lease(l) };
    let open = |l, g| {
        let client = client.clone();
        async move {
            client.call::<wire::VmOpen>(&wire::VmOpenRequest { at: of(l, g), limits: None }, PATIENCE).await
        }
    };
    let close = |l, g| {
        let client = client.clone();
        async move { client.call::<wire::VmClose>(&of(l, g), PATIENCE).await }
    };
    assert_eq!(code(open(1, 2).await), Code::Stale);
    open(1, 1).await.expect("opened");
    open(1, 1).await.expect("again");
    assert_eq!(code(open(2, 1).await), Code::Stale);
    let seen = facts(&client, fence(1), slot(1)).await.expect("known");
    assert_eq!((seen.holder, seen.opened), (Some(lease(1)), true));
    assert_eq!(code(close(2, 1).await), Code::Stale);
    close(1, 1).await.expect("closed");
    assert_eq!(code(open(1, 1).await), Code::Stale);
    open(2, 1).await.expect("the next lease");
    let at = wire::VmLeaseRef { vm: vm(fence(1), slot(99), 1), lease: lease(1) };
    let unknown = wire::VmOpenRequest { at, limits: None };
    assert_eq!(code(client.call::<wire::VmOpen>(&unknown, PATIENCE).await), Code::Stale);
    assert!(facts(&client, fence(1), slot(99)).await.is_none());
}

#[tokio::test]
async fn lost_vms_are_told_and_only_destroyed() {
    let cluster = Cluster::new();
    let (node, client) = cluster.member("n1").await;
    create(&client, slot(1), 1).await.expect("created");
    create(&client, slot(2), 1).await.expect("created");
    node.faults(&format!(r#"{{"lose": [{{"slot": "{}", "generation": 1}}]}}"#, slot(1)));
    assert_eq!(state(&client, slot(1)).await, Some(VmState::Lost));
    assert_eq!(state(&client, slot(2)).await, Some(VmState::Live));
    let at = wire::VmLeaseRef { vm: vm(fence(1), slot(1), 1), lease: lease(1) };
    let open = wire::VmOpenRequest { at, limits: None };
    assert_eq!(code(client.call::<wire::VmOpen>(&open, PATIENCE).await), Code::Stale);
    assert_eq!(code(create(&client, slot(1), 1).await), Code::Stale);
    assert_eq!(destroy(&client, slot(1), 1).await.expect("destroyed"), 1);
    create(&client, slot(1), 2).await.expect("the next");
}

#[tokio::test]
async fn driver_failures_have_their_class_and_can_be_repeated() {
    let cluster = Cluster::new();
    let (node, client) = cluster.member("n1").await;
    let mut request = create_request(fence(1), slot(1), 1);
    request.spec.image = "debian".into();
    let refused = fail(client.call::<wire::VmCreate>(&request, PATIENCE).await);
    assert_eq!((refused.code, refused.body), (Code::BadRequest, b"bad-image".to_vec()));
    request.spec.driver = "oci".into();
    assert_eq!(code(client.call::<wire::VmCreate>(&request, PATIENCE).await), Code::BadRequest);
    // the generation is spent only by its record: the right image makes it live
    create(&client, slot(1), 1).await.expect("created");
    let mut large = create_request(fence(1), slot(2), 1);
    large.spec.memory_mib = 40_000;
    let refused = fail(client.call::<wire::VmCreate>(&large, PATIENCE).await);
    assert_eq!((refused.code, refused.body), (Code::Busy, b"no-space".to_vec()));
    node.faults(r#"{"hang": ["create"], "limit_ms": {"create": 50}}"#);
    let refused = fail(create(&client, slot(3), 1).await);
    assert_eq!((refused.code, refused.body), (Code::Unknown, b"timeout".to_vec()));
    node.faults(r#"{"fail": {"create": {"class": "locked", "times": 2}}}"#);
    assert!(create(&client, slot(3), 1).await.expect("after two locked tries").attached);
    node.faults(r#"{"fail": {"destroy": {"class": "timeout", "when": "after"}}}"#);
    assert_eq!(destroy(&client, slot(3), 1).await.expect("the true state counts"), 1);
}
