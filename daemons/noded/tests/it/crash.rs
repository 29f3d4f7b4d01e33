//! kill -9 in the middle of verbs: what was stored holds, and the same verb goes on.

use crate::bed::*;
use gantry_model::ids::Generation;
use gantry_proto::noded::{self as wire, VmState};
use gantry_rpc::{Client, Code};

/// Sends a verb nobody waits for.
fn send_create(client: &Client, generation: u64) {
    let client = client.clone();
    tokio::spawn(async move { create(&client, slot(1), generation).await });
}

async fn wait_state(client: &Client, wanted: VmState) {
    wait_for("the stored state", || async { (state(client, slot(1)).await == Some(wanted)).then_some(()) })
        .await;
}

#[tokio::test]
async fn killed_before_and_after_the_driver_made_the_vm() {
    let cluster = Cluster::new();
    let (mut node, mut client) = cluster.member("n1").await;
    for (generation, when) in [(1, "delay_ms"), (2, "linger_ms")] {
        node.faults(&format!(r#"{{"{when}": {{"create": 3600000}}, "limit_ms": {{"create": 7200000}}}}"#));
        send_create(&client, generation);
        wait_state(&client, VmState::Creating).await;
        if when == "linger_ms" {
            let file = format!("gantry-{}-{}-{generation}.json", cluster.uuid.short(), slot(1));
            let path = node.root.run().join("fake").join(file);
            wait_for("the VM", || async { path.exists().then_some(()) }).await;
        }
        node.kill_and_start();
        node.faults("{}");
        client = cluster.connect(&node).await;
        let seen = facts(&client, fence(1), slot(1)).await.expect("recorded");
        assert_eq!((seen.floor, seen.state), (Generation(generation), VmState::Creating));
        assert_eq!(code(create(&client, slot(1), generation + 1).await), Code::Stale);
        assert!(create(&client, slot(1), generation).await.expect("goes on").attached);
        assert_eq!(destroy(&client, slot(1), generation).await.expect("destroyed"), generation);
    }
}

#[tokio::test]
async fn killed_before_and_after_the_driver_removed_the_vm() {
    let cluster = Cluster::new();
    let (mut node, mut client) = cluster.member("n1").await;
    for (generation, when) in [(1, "delay_ms"), (2, "linger_ms")] {
        create(&client, slot(1), generation).await.expect("created");
        node.faults(&format!(r#"{{"{when}": {{"destroy": 3600000}}, "limit_ms": {{"destroy": 7200000}}}}"#));
        let caller = client.clone();
        tokio::spawn(async move { destroy(&caller, slot(1), generation).await });
        wait_state(&client, VmState::Destroying).await;
        node.kill_and_start();
        node.faults("{}");
        client = cluster.connect(&node).await;
        assert_eq!(state(&client, slot(1)).await, Some(VmState::Destroying));
        assert_eq!(code(create(&client, slot(1), generation).await), Code::Stale);
        assert_eq!(code(create(&client, slot(1), generation + 1).await), Code::Stale);
        assert_eq!(destroy(&client, slot(1), generation).await.expect("goes on"), generation);
        let info = client.call::<wire::NodeInfo>(&(), PATIENCE).await.expect("info");
        assert_eq!(info.vms, []);
    }
}

#[tokio::test]
async fn vms_floors_and_holders_outlive_noded_and_vms_die_with_the_machine() {
    let cluster = Cluster::new();
    let (mut node, client) = cluster.member("n1").await;
    create(&client, slot(1), 1).await.expect("created");
    let at = wire::VmLeaseRef { vm: vm(fence(1), slot(1), 1), lease: lease(5) };
    let open = wire::VmOpenRequest { at, limits: None };
    client.call::<wire::VmOpen>(&open, PATIENCE).await.expect("opened");
    assert_eq!(destroy(&client, slot(2), 7).await.expect("floor"), 7);
    node.kill_and_start();
    let client = cluster.connect(&node).await;
    let seen = facts(&client, fence(1), slot(1)).await.expect("known");
    assert_eq!((seen.state, seen.holder, seen.opened), (VmState::Live, Some(lease(5)), true));
    node.faults(r#"{"boot_id": "after a reboot"}"#);
    node.kill_and_start();
    let client = cluster.connect(&node).await;
    let seen = facts(&client, fence(1), slot(1)).await.expect("known");
    assert_eq!((seen.state, seen.floor, seen.opened), (VmState::Lost, Generation(1), true));
    let floor = facts(&client, fence(1), slot(2)).await.expect("known").floor;
    assert_eq!(floor, Generation(7));
    assert_eq!(code(create(&client, slot(2), 7).await), Code::Stale);
}
