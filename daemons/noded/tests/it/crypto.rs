//! Renewed certificates, trust and keys of a node (docs/adr/0010): what rests on an older look, or would cut the node off, is
//! refused before anything is written.

use crate::bed::*;
use gantry_model::ids::{Fence, NodeUuid};
use gantry_proto::noded::{self as wire, CryptoChange, CryptoReply};
use gantry_rpc::tls::{CA_KEY, CA_PEM, Identity, NEXT_KEY, NODE_KEY, NODE_PEM, ca, facts};
use gantry_rpc::{CallError, Client, Code};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use uuid::Uuid;

async fn look(client: &Client) -> CryptoReply {
    client.call::<wire::Crypto>(&(), PATIENCE).await.expect("answered")
}

async fn store(client: &Client, fence: Fence, seen: [u8; 32], change: CryptoChange) -> Result<(), CallError> {
    client.call::<wire::CryptoStore>(&wire::CryptoStoreRequest { fence, seen, change }, PATIENCE).await
}

/// On what is there now.
async fn change(client: &Client, change: CryptoChange) -> Result<(), CallError> {
    let seen = look(client).await.state;
    store(client, fence(1), seen, change).await
}

async fn ask(client: &Client) -> String {
    client.call::<wire::CryptoAsk>(&fence(1), PATIENCE).await.expect("asked")
}

fn secret(node: &Node, name: &str) -> PathBuf {
    node.root.secrets().join(name)
}

fn print(pair: &ca::Pair) -> [u8; 32] {
    facts::print_of(&pair.certificate).expect("a certificate")
}

#[tokio::test]
async fn a_node_is_led_to_another_ca_step_by_step() {
    let cluster = Cluster::new();
    let (mut node, client) = cluster.member("n1").await;
    let next = ca::make_ca(cluster.uuid).expect("made");
    let (old, new) = (print(&cluster.ca), print(&next));
    let first = look(&client).await;
    let prints = |reply: &CryptoReply| reply.trust.iter().map(|ca| ca.print).collect::<Vec<_>>();
    assert_eq!((prints(&first), first.issuer, first.key), (vec![old], Some(old), None));

    let both = format!("{}{}", cluster.ca.certificate, next.certificate);
    change(&client, CryptoChange::Trust(both)).await.expect("grown");
    change(&client, CryptoChange::Key(facts::joined(&next))).await.expect("a key");
    let sign = |csr: &str| ca::sign_csr(&next, csr, cluster.uuid, node.node).expect("signed");
    let certificate = sign(&ask(&client).await);
    change(&client, CryptoChange::Certificate(certificate)).await.expect("a certificate");
    let then = look(&client).await;
    assert_eq!((prints(&then), then.issuer, then.key), (vec![old, new], Some(new), Some(new)));
    assert!(!secret(&node, NODE_KEY).exists(), "the key stands beside the certificate");

    change(&client, CryptoChange::Trust(next.certificate.clone())).await.expect("alone");
    let last = look(&client).await;
    assert_eq!((prints(&last), last.issuer), (vec![new], Some(new)));
    // At once, and after a restart.
    for restarted in [false, true] {
        if restarted {
            node.kill_and_start();
        }
        let pair = ca::make_node(&next, cluster.uuid, NodeUuid(Uuid::new_v4())).expect("made");
        let other = Identity::from_pem(&pair.certificate, &pair.key, &next.certificate).expect("fits");
        wait_for("the new CA's node gets in", || async {
            Client::tls(node.address, &hello(), &other, node.node).await.ok()
        })
        .await;
        let trust = format!("{}{}", cluster.ca.certificate, next.certificate);
        let old = ca::make_node(&cluster.ca, cluster.uuid, NodeUuid(Uuid::new_v4())).expect("made");
        let old = Identity::from_pem(&old.certificate, &old.key, &trust).expect("fits");
        assert!(Client::tls(node.address, &hello(), &old, node.node).await.is_err(), "the old CA's does not");
    }
}

#[tokio::test]
async fn the_key_of_confd_is_stored_for_its_group() {
    let cluster = Cluster::new();
    let (node, client) = cluster.member("n1").await;
    assert_eq!(look(&client).await.hmac, None);
    for bad in ["", "ab", &"g".repeat(40), &"a".repeat(300)] {
        assert_eq!(
            code(change(&client, CryptoChange::Hmac(bad.to_owned())).await),
            Code::BadRequest,
            "{bad}"
        );
    }
    let line = format!("{}\n", "ab".repeat(32));
    change(&client, CryptoChange::Hmac(line.clone())).await.expect("stored");
    let path = node.root.hmac_key();
    assert_eq!(std::fs::read_to_string(&path).expect("there"), line);
    assert_eq!(path.metadata().expect("there").permissions().mode() & 0o777, 0o640);
    let seen = look(&client).await;
    assert!(seen.hmac.is_some() && seen.key.is_none());
    let old = node.root.old_hmac_key();
    change(&client, CryptoChange::Hmac(line.clone())).await.expect("a repeat");
    assert!(!old.exists(), "the same key once more is no renewal");
    change(&client, CryptoChange::Hmac(format!("{}\n", "cd".repeat(32)))).await.expect("renewed");
    assert_eq!(std::fs::read_to_string(&old).expect("the one before"), line);
    assert_eq!(old.metadata().expect("there").permissions().mode() & 0o777, 0o640);
    client.call::<wire::Leave>(&fence(1), PATIENCE).await.expect("left");
    wait_for("they are gone with the membership", || async {
        (!path.exists() && !old.exists()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_rests_on_an_older_look_does_nothing() {
    let cluster = Cluster::new();
    let (node, client) = cluster.member("n1").await;
    let next = ca::make_ca(cluster.uuid).expect("made");
    let both = format!("{}{}", cluster.ca.certificate, next.certificate);
    let seen = look(&client).await.state;
    let grow = CryptoChange::Trust(both.clone());
    store(&client, fence(1), seen, grow.clone()).await.expect("grown");
    store(&client, fence(1), seen, grow.clone()).await.expect("a repeat of what was done");
    // A late message of a dead job would take the new CA away again.
    let late = CryptoChange::Trust(cluster.ca.certificate.clone());
    assert_eq!(code(store(&client, fence(1), seen, late.clone()).await), Code::Stale);
    assert_eq!(std::fs::read_to_string(secret(&node, CA_PEM)).expect("there"), both);
    // As an old master would.
    claim(&client, &cluster, &node, fence(2)).await.expect("claimed");
    let now = look(&client).await.state;
    assert_eq!(code(store(&client, fence(1), now, late).await), Code::Fenced);
    assert_eq!(code(client.call::<wire::CryptoAsk>(&fence(1), PATIENCE).await), Code::Fenced);
    assert_eq!(std::fs::read_to_string(secret(&node, CA_PEM)).expect("there"), both);
}

#[tokio::test]
async fn what_would_cut_a_node_off_or_does_not_fit_is_refused() {
    let cluster = Cluster::new();
    let (mut node, client) = cluster.member("n1").await;
    let next = ca::make_ca(cluster.uuid).expect("made");
    let before = look(&client).await;
    let uuid = node.node;
    let sign = |by: &ca::Pair, csr: &str, of| ca::sign_csr(by, csr, cluster.uuid, of).expect("signed");
    let bad = |pem: CryptoChange| change(&client, pem);
    let nothing = CryptoChange::Certificate(sign(&cluster.ca, &ca::make_csr().expect("made").csr, uuid));
    assert_eq!(code(bad(nothing).await), Code::Stale, "it has asked for none");
    let csr = ask(&client).await;
    for wrong in [
        CryptoChange::Trust(next.certificate.clone()),
        CryptoChange::Trust("PEM".to_owned()),
        CryptoChange::Trust(String::new()),
        CryptoChange::Trust("x".repeat(100_000)),
        CryptoChange::Key(facts::joined(&next)),
        CryptoChange::Key(cluster.ca.key.clone()),
        CryptoChange::Certificate(sign(&next, &csr, uuid)),
        CryptoChange::Certificate(sign(&cluster.ca, &csr, NodeUuid(Uuid::new_v4()))),
        CryptoChange::Certificate(String::new()),
    ] {
        assert_eq!(code(bad(wrong.clone()).await), Code::BadRequest, "{wrong:?}");
    }
    let other = ask(&client).await;
    let earlier = CryptoChange::Certificate(sign(&cluster.ca, &csr, uuid));
    assert_eq!(code(bad(earlier).await), Code::Stale, "it has asked anew since");
    let fits = CryptoChange::Certificate(sign(&cluster.ca, &other, uuid));
    assert_eq!(look(&client).await, before);
    node.kill_and_start();
    let client = cluster.connect(&node).await;
    assert_eq!(code(change(&client, fits).await), Code::Stale, "a restart forgets the key");
    assert_eq!(look(&client).await, before);
}

#[tokio::test]
async fn keys_that_a_crash_left_are_gone_after_the_last_step() {
    let cluster = Cluster::new();
    let (node, client) = cluster.member("n1").await;
    let csr = ask(&client).await;
    change(&client, CryptoChange::Certificate(cluster.certificate(&csr, node.node))).await.expect("stored");
    assert!(std::fs::read_to_string(secret(&node, NODE_PEM)).expect("there").contains("PRIVATE KEY"));
    change(&client, CryptoChange::Key(facts::joined(&cluster.ca))).await.expect("stored");
    for name in [NODE_KEY, NEXT_KEY] {
        std::fs::write(secret(&node, name), &cluster.ca.key).expect("written");
    }
    let alone = format!("{}\n", cluster.ca.certificate);
    change(&client, CryptoChange::Trust(alone)).await.expect("stored");
    for name in [NODE_KEY, NEXT_KEY] {
        assert!(!secret(&node, name).exists(), "{name}");
    }
    assert!(secret(&node, CA_KEY).exists());
}
