//! The fence: who may speak, and what a claim ends (P5.1, P5.2, I21).

use crate::bed::*;
use gantry_model::ids::{ClusterUuid, Fence, NodeUuid};
use gantry_proto::codec;
use gantry_proto::noded::{self as wire, VmState};
use gantry_rpc::tls::{Identity, ca};
use gantry_rpc::{Client, Code, ConnectError};
use std::os::unix::fs::PermissionsExt;
use uuid::Uuid;

#[tokio::test]
async fn lower_epochs_and_other_ballots_are_refused_and_told_the_current_one() {
    let cluster = Cluster::new();
    let (node, client) = cluster.member("n1").await;
    claim(&client, &cluster, &node, fence(5)).await.expect("claimed");
    let rival = Fence { epoch: 5, ballot: [8; 16] };
    for old in [fence(1), fence(4), rival] {
        let refused = fail(client.call::<wire::VmCreate>(&create_request(old, slot(1), 1), PATIENCE).await);
        assert_eq!(refused.code, Code::Fenced);
        let current: Option<Fence> = codec::decode(&refused.body).expect("the current fence");
        assert_eq!(current, Some(fence(5)));
        assert_eq!(code(claim(&client, &cluster, &node, old).await), Code::Fenced);
        assert_eq!(code(client.call::<wire::Inventory>(&old, PATIENCE).await), Code::Fenced);
        assert_eq!(code(client.call::<wire::VmDestroy>(&vm(old, slot(1), 1), PATIENCE).await), Code::Fenced);
        assert_eq!(code(client.call::<wire::Leave>(&old, PATIENCE).await), Code::Fenced);
    }
    // a higher one is no old master's, but must claim first
    let early = create_request(fence(6), slot(1), 1);
    assert_eq!(code(client.call::<wire::VmCreate>(&early, PATIENCE).await), Code::NotReady);
    assert!(facts(&client, fence(5), slot(1)).await.is_none(), "nothing was recorded");
}

#[tokio::test]
async fn the_local_socket_is_roots_and_keeps_the_same_fence() {
    let cluster = Cluster::new();
    let (node, client) = cluster.member("n1").await;
    let path = node.root.socket("noded.sock");
    let mode = std::fs::metadata(&path).expect("it listens").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "nobody else connects");
    let local = Client::unix(&path, &hello()).await.expect("connected");
    claim(&client, &cluster, &node, fence(5)).await.expect("claimed by TLS");
    let rival = Fence { epoch: 5, ballot: [8; 16] };
    for old in [fence(1), fence(4), rival] {
        let refused = fail(local.call::<wire::VmCreate>(&create_request(old, slot(1), 1), PATIENCE).await);
        assert_eq!(refused.code, Code::Fenced);
        assert_eq!(code(claim(&local, &cluster, &node, old).await), Code::Fenced);
        assert_eq!(code(local.call::<wire::Leave>(&old, PATIENCE).await), Code::Fenced);
    }
    let early = create_request(fence(6), slot(1), 1);
    assert_eq!(code(local.call::<wire::VmCreate>(&early, PATIENCE).await), Code::NotReady);
    // what is claimed here is fenced there
    claim(&local, &cluster, &node, fence(6)).await.expect("claimed locally");
    assert_eq!(code(client.call::<wire::Inventory>(&fence(5), PATIENCE).await), Code::Fenced);
    // the hello must mean this node and this cluster
    let mut meant = hello();
    meant.node = Some(NodeUuid(Uuid::new_v4()));
    assert!(matches!(Client::unix(&path, &meant).await, Err(ConnectError::Refused(_))));
    let mut meant = hello();
    meant.cluster = Some(ClusterUuid(Uuid::new_v4()));
    assert!(matches!(Client::unix(&path, &meant).await, Err(ConnectError::Refused(_))));
}

#[tokio::test]
async fn the_fence_outlives_noded() {
    let cluster = Cluster::new();
    let (mut node, client) = cluster.member("n1").await;
    claim(&client, &cluster, &node, fence(9)).await.expect("claimed");
    node.kill_and_start();
    let client = cluster.connect(&node).await;
    assert_eq!(code(claim(&client, &cluster, &node, fence(8)).await), Code::Fenced);
    claim(&client, &cluster, &node, fence(9)).await.expect("the same again");
}

#[tokio::test]
async fn a_claim_ends_delays_and_waits_for_creates() {
    let cluster = Cluster::new();
    let (node, client) = cluster.member("n1").await;
    node.faults(r#"{"delay_ms": {"create": 1500}}"#);
    let delay = wire::TestDelayRequest { fence: fence(1), millis: 3_600_000 };
    let sleeping = tokio::spawn({
        let client = client.clone();
        async move { client.call::<wire::TestDelay>(&delay, PATIENCE).await }
    });
    let creating = tokio::spawn({
        let client = client.clone();
        async move { create(&client, slot(1), 1).await }
    });
    let begun = || async { (state(&client, slot(1)).await == Some(VmState::Creating)).then_some(()) };
    wait_for("the create's record", begun).await;
    let inventory = claim(&client, &cluster, &node, fence(2)).await.expect("claimed");
    assert_eq!(inventory[0].state, VmState::Live, "the create was waited for");
    assert_eq!(code(sleeping.await.expect("no panic")), Code::Fenced);
    creating.await.expect("no panic").expect("created");
    let late = vm(fence(1), slot(1), 1);
    assert_eq!(code(client.call::<wire::VmDestroy>(&late, PATIENCE).await), Code::Fenced);
}

#[tokio::test]
async fn claims_name_their_cluster_and_node() {
    let cluster = Cluster::new();
    let (node, client) = cluster.member("n1").await;
    for (cluster, node) in
        [(ClusterUuid(Uuid::from_u128(1)), node.node), (cluster.uuid, NodeUuid(Uuid::from_u128(1)))]
    {
        let request = wire::ClaimRequest { cluster, node, fence: fence(7) };
        assert_eq!(code(client.call::<wire::Claim>(&request, PATIENCE).await), Code::Denied);
    }
}

#[tokio::test]
async fn only_this_cluster_gets_in_and_only_to_the_node_it_means() {
    let cluster = Cluster::new();
    let (node, _client) = cluster.member("n1").await;
    // no certificate, and one of another CA
    let nobody = Client::tls_join(node.address, &hello()).await;
    if let Ok(client) = nobody {
        assert!(client.call::<wire::NodeInfo>(&(), PATIENCE).await.is_err());
    }
    let stranger = Cluster::new();
    let made = ca::make_node(&stranger.ca, cluster.uuid, NodeUuid(Uuid::new_v4())).expect("made");
    let forged = Identity::from_pem(&made.certificate, &made.key, &cluster.ca.certificate).expect("read");
    match Client::tls(node.address, &hello(), &forged, node.node).await {
        Ok(client) => assert!(client.call::<wire::NodeInfo>(&(), PATIENCE).await.is_err()),
        Err(why) => assert!(!matches!(why, ConnectError::WrongPeer { .. }), "{why}"),
    }
    // the right cluster, another node
    let other = NodeUuid(Uuid::new_v4());
    let wrong = Client::tls(node.address, &hello(), &cluster.master, other).await;
    assert!(matches!(wrong, Err(ConnectError::WrongPeer { .. })));
    let mut meant = hello();
    meant.node = Some(other);
    let refused = Client::tls(node.address, &meant, &cluster.master, node.node).await;
    assert!(matches!(refused, Err(ConnectError::Refused(_))));
}
