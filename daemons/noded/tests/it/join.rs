//! Joining: the proof both ways, what is refused, and that a crash leaves no half member.

use crate::bed::*;
use gantry_model::role::{Role, RoleFile};
use gantry_noded::config::Settings;
use gantry_noded::core::join::{Side, proof};
use gantry_noded::join::{Membership, STAGES, store_stage};
use gantry_proto::noded as wire;
use gantry_rpc::tls::ca;
use gantry_rpc::{Client, Code};
use std::os::unix::fs::PermissionsExt;

#[tokio::test]
async fn a_node_joins_and_is_a_member_at_once() {
    let cluster = Cluster::new();
    let node = cluster.unjoined("n1").await;
    let secret = node.root.join_secret();
    assert_eq!(std::fs::metadata(&secret).expect("there").permissions().mode() & 0o777, 0o600);
    cluster.join(&node, fence(3)).await.expect("joined");
    assert!(!secret.exists(), "the secret is used up");
    let role = gantry_rt::files::read_role(&node.root).expect("read");
    let wanted = RoleFile { node: node.node, cluster: cluster.uuid, role: Role::Regular, epoch: 3 };
    assert_eq!(role, Some(wanted));
    for name in ["ca.pem", "node.pem", "node.key"] {
        let mode = std::fs::metadata(node.root.secrets().join(name)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let client = cluster.connect(&node).await;
    assert_eq!(client.peer().cluster, Some(cluster.uuid));
    assert_eq!(client.peer().epoch, Some(3));
    let info = client.call::<wire::NodeInfo>(&(), PATIENCE).await.expect("answers");
    assert_eq!(info.node, node.node);
    // no second time
    let again =
        wire::JoinProveRequest { cluster: cluster.uuid, node: node.node, name: "n1".into(), proof: [0; 32] };
    assert_eq!(code(client.call::<wire::JoinProve>(&again, PATIENCE).await), Code::Denied);
}

#[tokio::test]
async fn an_unjoined_node_serves_nothing_else() {
    let cluster = Cluster::new();
    let node = cluster.unjoined("n1").await;
    let client = Client::tls_join(node.address, &hello()).await.expect("connects");
    assert_eq!(client.peer().features, ["unjoined"]);
    assert_eq!(code(client.call::<wire::NodeInfo>(&(), PATIENCE).await), Code::NotReady);
    assert_eq!(code(create(&client, slot(1), 1).await), Code::NotReady);
    let finish = cluster.finish(String::new(), fence(1));
    assert_eq!(code(client.call::<wire::JoinFinish>(&finish, PATIENCE).await), Code::Denied);
}

#[tokio::test]
async fn wrong_secrets_are_refused_and_soon_no_more_looked_at() {
    let cluster = Cluster::new();
    let node = cluster.unjoined("n1").await;
    let client = Client::tls_join(node.address, &hello()).await.expect("connects");
    for _ in 0..5 {
        assert_eq!(code(cluster.prove(&client, &node, &[0; 32]).await), Code::Denied);
    }
    // now not even the right one
    assert_eq!(code(cluster.prove(&client, &node, &node.secret()).await), Code::Busy);
    assert!(node.root.join_secret().exists() && !node.root.role_file().exists());
}

#[tokio::test]
async fn a_node_joins_under_its_own_name_only() {
    let cluster = Cluster::new();
    let node = cluster.unjoined("n1").await;
    let client = Client::tls_join(node.address, &hello()).await.expect("connects");
    let request = wire::JoinProveRequest {
        cluster: cluster.uuid,
        node: node.node,
        name: "n2".into(),
        proof: proof(&node.secret(), Side::Master, &cluster.bond(&client, &node)),
    };
    assert_eq!(code(client.call::<wire::JoinProve>(&request, PATIENCE).await), Code::BadRequest);
    cluster.prove(&client, &node, &node.secret()).await.expect("proved");
}

#[tokio::test]
async fn a_proof_is_worth_nothing_on_another_connection() {
    let cluster = Cluster::new();
    let node = cluster.unjoined("n1").await;
    let seen = Client::tls_join(node.address, &hello()).await.expect("connects");
    let other = Client::tls_join(node.address, &hello()).await.expect("connects");
    assert_ne!(seen.exporter(), other.exporter());
    let replayed = wire::JoinProveRequest {
        cluster: cluster.uuid,
        node: node.node,
        name: "n1".into(),
        proof: proof(&node.secret(), Side::Master, &cluster.bond(&seen, &node)),
    };
    assert_eq!(code(other.call::<wire::JoinProve>(&replayed, PATIENCE).await), Code::Denied);
    // nor does a proof on one connection open the other
    let csr = cluster.prove(&seen, &node, &node.secret()).await.expect("proved");
    let finish = cluster.finish(cluster.certificate(&csr, node.node), fence(1));
    assert_eq!(code(other.call::<wire::JoinFinish>(&finish, PATIENCE).await), Code::Denied);
    seen.call::<wire::JoinFinish>(&finish, PATIENCE).await.expect("joined");
}

#[tokio::test]
async fn certificates_that_do_not_fit_are_refused() {
    let cluster = Cluster::new();
    let stranger = Cluster::new();
    let node = cluster.unjoined("n1").await;
    let client = Client::tls_join(node.address, &hello()).await.expect("connects");
    let csr = cluster.prove(&client, &node, &node.secret()).await.expect("proved");
    let other_key = ca::make_csr().expect("made").csr;
    let forged = ca::sign_csr(&stranger.ca, &csr, cluster.uuid, node.node).expect("signed");
    let foreign = ca::sign_csr(&cluster.ca, &csr, stranger.uuid, node.node).expect("signed");
    let wrong = [
        cluster.finish(cluster.certificate(&other_key, node.node), fence(1)),
        cluster.finish(cluster.certificate(&csr, cluster.master.node()), fence(1)),
        cluster.finish(forged, fence(1)),
        cluster.finish(foreign, fence(1)),
        cluster.finish("no PEM".to_owned(), fence(1)),
    ];
    for finish in wrong {
        assert_eq!(code(client.call::<wire::JoinFinish>(&finish, PATIENCE).await), Code::BadRequest);
    }
    let mut master = cluster.finish(cluster.certificate(&csr, node.node), fence(1));
    master.role = Role::Master;
    assert_eq!(code(client.call::<wire::JoinFinish>(&master, PATIENCE).await), Code::Denied);
    assert!(!node.root.role_file().exists());
    let right = cluster.finish(cluster.certificate(&csr, node.node), fence(1));
    client.call::<wire::JoinFinish>(&right, PATIENCE).await.expect("joined after all");
}

#[tokio::test]
async fn a_crash_at_any_stage_leaves_an_unjoined_node_or_a_member() {
    let cluster = Cluster::new();
    for done in 0..=STAGES.len() {
        // the node's process dies after so many stages
        let mut node = cluster.unjoined(&format!("n{done}")).await;
        node.process.kill().expect("killed");
        node.process.wait().expect("reaped");
        let made = ca::make_node(&cluster.ca, cluster.uuid, node.node).expect("made");
        let role = RoleFile { node: node.node, cluster: cluster.uuid, role: Role::Regular, epoch: 1 };
        let membership = Membership {
            certificate: made.certificate,
            key: made.key,
            ca: cluster.ca.certificate.clone(),
            fence: fence(1),
            role,
        };
        let settings = Settings::load(node.root.clone()).expect("read");
        for stage in &STAGES[..done] {
            store_stage(&settings, &membership, *stage).await.expect("stored");
        }
        node.kill_and_start();
        if done < 3 {
            let unjoined = || async { Client::tls_join(node.address, &hello()).await.ok() };
            let client = wait_for("an unjoined node", unjoined).await;
            assert_eq!(client.peer().features, ["unjoined"], "after {done} stages");
            drop(client);
            cluster.join(&node, fence(1)).await.expect("joined in the end");
        }
        let client = cluster.connect(&node).await;
        assert!(claim(&client, &cluster, &node, fence(1)).await.is_ok(), "after {done} stages");
        wait_for("the secret's end", || async { (!node.root.join_secret().exists()).then_some(()) }).await;
    }
}

#[tokio::test]
async fn a_node_made_a_master_by_init_goes_on_as_one() {
    let cluster = Cluster::new();
    let node = cluster.unjoined("n1").await;
    let made = ca::make_node(&cluster.ca, cluster.uuid, node.node).expect("made");
    for (name, text) in
        [("ca.pem", &cluster.ca.certificate), ("node.pem", &made.certificate), ("node.key", &made.key)]
    {
        gantry_rt::files::atomic_write(&node.root.secrets().join(name), text.as_bytes(), 0o600)
            .expect("written");
    }
    let role = RoleFile { node: node.node, cluster: cluster.uuid, role: Role::Master, epoch: 1 };
    gantry_rt::files::write_role(&node.root, &role).expect("written");
    let client = cluster.connect(&node).await;
    // no fence yet: the first claim is the first master's
    assert_eq!(code(create(&client, slot(1), 1).await), Code::NotReady);
    claim(&client, &cluster, &node, fence(1)).await.expect("claimed");
    create(&client, slot(1), 1).await.expect("created");
}
