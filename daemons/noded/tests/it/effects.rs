//! Hooks and the cluster's address: whom the node obeys.

use crate::bed::*;
use gantry_model::master_ip::MasterAddress;
use gantry_model::role::{Role, RoleFile};
use gantry_proto::effects::{HookPhase, HookStatus, HooksRunRequest, MasterIpOrder, MasterIpRequest};
use gantry_proto::noded as wire;
use gantry_rpc::Code;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

fn hooks(epoch: u64, path: &str) -> HooksRunRequest {
    let env = vec![("GANETI_CLUSTER".to_owned(), "c".to_owned())];
    HooksRunRequest { fence: fence(epoch), path: path.to_owned(), phase: HookPhase::Pre, env }
}

fn put_hook(node: &Node, text: &str) {
    let dir = node.root.hooks().join("node-add-pre.d");
    std::fs::create_dir_all(&dir).expect("made");
    let path = dir.join("10-it");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("set");
}

#[tokio::test]
async fn hooks_are_run_for_the_master_only() {
    let cluster = Cluster::new();
    let (node, client) = cluster.member("n1").await;
    claim(&client, &cluster, &node, fence(5)).await.expect("claimed");
    put_hook(&node, "echo $GANETI_CLUSTER $GANETI_HOOKS_PATH $GANETI_DATA_DIR");
    let run = async |request| client.call::<wire::HooksRun>(&request, PATIENCE).await;
    let ends = run(hooks(5, "node-add")).await.expect("run");
    assert_eq!((ends.len(), ends[0].status), (1, HookStatus::Succeeded));
    assert_eq!(ends[0].script, "node-add-pre.d/10-it");
    assert_eq!(ends[0].output, format!("c node-add {}", node.root.lib().display()));
    assert!(run(hooks(5, "node-remove")).await.expect("run").is_empty(), "no directory, no hooks");
    assert_eq!(code(run(hooks(4, "node-add")).await), Code::Fenced);
    assert_eq!(code(run(hooks(6, "node-add")).await), Code::NotReady);
    assert_eq!(code(run(hooks(5, "../node-add")).await), Code::BadRequest);
}

#[tokio::test]
async fn a_claim_ends_the_hooks_of_the_master_before() {
    let cluster = Cluster::new();
    let (node, client) = cluster.member("n1").await;
    put_hook(&node, "touch $GANETI_DATA_DIR/begun; sleep 50; touch $GANETI_DATA_DIR/ended");
    let begun = || async { node.root.lib().join("begun").exists().then_some(()) };
    let request = hooks(1, "node-add");
    let running = client.call::<wire::HooksRun>(&request, PATIENCE);
    let claiming = async {
        wait_for("the hook", begun).await;
        let since = Instant::now();
        claim(&client, &cluster, &node, fence(2)).await.expect("claimed");
        since.elapsed()
    };
    let (ran, took) = tokio::join!(running, claiming);
    assert_eq!(code(ran), Code::Fenced);
    assert!(took.as_secs() < 20, "the claim waited for the hook: {took:?}");
    assert!(!node.root.lib().join("ended").exists());
}

/// On a device that no machine has: nothing of this one is touched, and how far it gets is seen by the answer.
#[tokio::test]
async fn only_the_master_of_the_epoch_puts_the_address_up() {
    let cluster = Cluster::new();
    let (mut node, client) = cluster.member("n1").await;
    claim(&client, &cluster, &node, fence(5)).await.expect("claimed");
    let address = |device: &str| MasterAddress {
        ip: Ipv4Addr::new(198, 51, 100, 1),
        prefix: 32,
        device: device.to_owned(),
    };
    let order = |epoch, order| MasterIpRequest { fence: fence(epoch), order };
    let up = |epoch| order(epoch, MasterIpOrder::Up(address("nosuch0")));
    assert_eq!(code(client.call::<wire::MasterIp>(&up(5), PATIENCE).await), Code::Denied, "no master");
    for epoch in [4, 5] {
        let role = RoleFile { node: node.node, cluster: cluster.uuid, role: Role::Master, epoch };
        gantry_rt::files::write_role(&node.root, &role).expect("written");
        node.kill_and_start();
        let client = cluster.connect(&node).await;
        let answer = fail(client.call::<wire::MasterIp>(&up(5), PATIENCE).await);
        if epoch == 4 {
            assert_eq!(answer.code, Code::Denied, "the master of another epoch: {answer}");
            continue;
        }
        assert_eq!(answer.code, Code::Internal, "it got as far as the device: {answer}");
        assert!(answer.text.contains("nosuch0"), "{answer}");
        assert_eq!(code(client.call::<wire::MasterIp>(&up(4), PATIENCE).await), Code::Fenced);
        let bad = order(5, MasterIpOrder::Up(address("../x")));
        assert_eq!(code(client.call::<wire::MasterIp>(&bad, PATIENCE).await), Code::BadRequest);
        let down = client.call::<wire::MasterIp>(&order(5, MasterIpOrder::Down), PATIENCE).await;
        assert!(!down.expect("taken down, though it never came").up);
        let keep = order(5, MasterIpOrder::Keep(Some(address("nosuch0"))));
        let kept = client.call::<wire::MasterIp>(&keep, PATIENCE).await.expect("the operator's word counts");
        assert!(!kept.up);
    }
}
