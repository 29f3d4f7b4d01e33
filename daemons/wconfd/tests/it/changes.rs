//! Configuration changes: nothing acknowledged is lost, nothing is done twice, serials have no gap.

use crate::world::{LIMIT, World, apply, apply_as, cluster, meta_serial, owner, read, tag, take};
use gantry_proto::wconfd::{self as wire, Command, ReadKey, Want};
use gantry_rpc::{Code, tls};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn tags_of(cluster: &serde_json::Map<String, serde_json::Value>) -> BTreeSet<String> {
    serde_json::from_value(cluster["tags"].clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_changes_from_fifty_connections() {
    const CONNECTIONS: usize = 50;
    const EACH: usize = 20;
    let world = World::start().await;
    let before = meta_serial(&world.client().await).await;
    let mut tasks = tokio::task::JoinSet::new();
    for c in 0..CONNECTIONS {
        let client = world.client().await;
        tasks.spawn(async move {
            let mut indices = Vec::new();
            for n in 0..EACH {
                indices.push(apply(&client, vec![tag(&format!("t{c}.{n}"))]).await.unwrap().0);
            }
            indices
        });
    }
    let mut indices = BTreeSet::new();
    while let Some(done) = tasks.join_next().await {
        indices.extend(done.unwrap());
    }
    let all = CONNECTIONS * EACH;
    assert_eq!(indices.len(), all, "each change has an index of its own");
    let span = indices.last().unwrap() - indices.first().unwrap();
    assert_eq!(span, all as u64 - 1, "indices have no gap");
    let client = world.client().await;
    assert_eq!(meta_serial(&client).await, before + all as u64);
    let cluster = cluster(&client).await;
    assert_eq!(tags_of(&cluster).len(), all);
    assert_eq!(cluster["serial_no"], json!(all + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kill_9_in_mid_traffic() {
    ended_in_mid_traffic(World::kill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_stop_in_mid_traffic() {
    ended_in_mid_traffic(World::stop).await;
}

async fn ended_in_mid_traffic(end: fn(&mut World)) {
    let mut world = World::start().await;
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for c in 0..8 {
        let client = world.client().await;
        let count = Arc::clone(&acknowledged);
        tasks.spawn(async move {
            let mut done = Vec::new();
            for n in 0.. {
                let text = format!("t{c}.{n}");
                if apply(&client, vec![tag(&text)]).await.is_err() {
                    break;
                }
                count.fetch_add(1, Ordering::Relaxed);
                done.push(text);
            }
            done
        });
    }
    while acknowledged.load(Ordering::Relaxed) < 200 {
        tokio::task::yield_now().await;
    }
    end(&mut world);
    let mut promised = BTreeSet::new();
    while let Some(done) = tasks.join_next().await {
        promised.extend(done.unwrap());
    }
    world.boot().await;
    let client = world.client().await;
    let kept = cluster(&client).await;
    assert!(promised.is_subset(&tags_of(&kept)), "all that was acknowledged is there");
    assert_eq!(meta_serial(&client).await, 1 + tags_of(&kept).len() as u64, "each change counted once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_asked_for_again_is_done_once() {
    let mut world = World::start().await;
    let client = world.client().await;
    let job = Some(owner(5));
    let (index, _) = apply_as(&client, job, 1, vec![tag("once")]).await.unwrap();
    assert_eq!(apply_as(&client, job, 1, vec![tag("once")]).await.unwrap().0, index);
    apply(
        &client,
        vec![Command::TagsDel { target: wire::TagTarget::Cluster, tags: ["once".to_owned()].into() }],
    )
    .await
    .unwrap();
    world.restart().await;
    let client = world.client().await;
    let (again, _) = apply_as(&client, job, 1, vec![tag("once")]).await.unwrap();
    assert!(again >= index);
    assert!(tags_of(&cluster(&client).await).is_empty(), "not done a second time");
    apply_as(&client, job, 2, vec![tag("next")]).await.unwrap();
    assert_eq!(apply_as(&client, job, 1, vec![tag("x")]).await.unwrap_err().code(), Some(Code::Stale));
    assert_eq!(apply_as(&client, job, 0, vec![tag("x")]).await.unwrap_err().code(), Some(Code::BadRequest));
    world.luxid(1).await.call::<wire::OwnerGone>(&owner(5), LIMIT).await.unwrap();
    let applied = read(&client, ReadKey::Kind("applied".to_owned())).await;
    assert!(applied.is_empty(), "it goes with the job");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_ganetis_and_change_nothing() {
    let world = World::start().await;
    let client = world.client().await;
    let before = meta_serial(&client).await;
    let set = json!({"candidate_pool_size": 11}).as_object().unwrap().clone();
    let error = apply(&client, vec![tag("x"), Command::ClusterSet { rev: None, set }]).await.unwrap_err();
    let gantry_rpc::CallError::Fail(fail) = error else { panic!("{error}") };
    assert_eq!(fail.as_ganeti().unwrap().ecode(), Some("wrong_input"));
    assert_eq!(meta_serial(&client).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_reads() {
    let world = World::start().await;
    let client = world.client().await;
    let (index, _) = apply(&client, vec![tag("x")]).await.unwrap();
    let status = client.call::<wire::Status>(&(), LIMIT).await.unwrap();
    assert_eq!((status.cluster, status.node), (world.cluster, world.node));
    assert_eq!((status.fence.epoch, status.run, status.index), (1, 1, index));
    let node = read(&client, ReadKey::Name("node".to_owned(), "node1".to_owned())).await;
    assert_eq!(node[0].1["name"], "node1.example.test");
    assert!(read(&client, ReadKey::Name("node".to_owned(), "nobody".to_owned())).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_signed_for_the_holder_of_the_big_lock() {
    let world = World::start().await;
    let client = world.client().await;
    let csr = tls::ca::make_csr().unwrap();
    let node = gantry_model::ids::NodeUuid(uuid::Uuid::new_v4());
    let request = wire::CertSignRequest { owner: owner(1), node, csr: csr.csr.clone() };
    let refused = client.call::<wire::CertSign>(&request, LIMIT).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::Ganeti));
    take(&client, owner(1), &[("cluster/BGL", Want::Exclusive)]).await;
    let signed = client.call::<wire::CertSign>(&request, LIMIT).await.unwrap();
    let identity = tls::Identity::from_pem(&signed.certificate, &csr.key, &signed.ca).unwrap();
    assert_eq!((identity.cluster(), identity.node()), (world.cluster, node));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_ca_is_made_once_for_the_holder_of_the_big_lock() {
    let world = World::start().await;
    let client = world.client().await;
    let ask = |wanted| {
        let client = client.clone();
        let request = wire::CaNextRequest { owner: owner(1), wanted };
        async move { client.call::<wire::CaNext>(&request, LIMIT).await }
    };
    assert_eq!(ask(None).await.unwrap_err().code(), Some(Code::Ganeti));
    take(&client, owner(1), &[("cluster/BGL", Want::Exclusive)]).await;
    let made = ask(None).await.unwrap();
    assert_eq!(tls::facts::print_of(&made.certificate).unwrap(), made.print);
    assert_eq!(ask(Some(made.print)).await.unwrap(), made, "its key lies on the disk");
    assert_ne!(ask(None).await.unwrap().print, made.print);
    assert!(!format!("{made:?}").contains("PRIVATE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ca_changed_to_is_a_fingerprint_or_nothing() {
    let world = World::start().await;
    let client = world.client().await;
    let set = |value: Value| {
        let set = [(gantry_model::config::RENEWED_CA.to_owned(), value)].into_iter().collect();
        vec![Command::ClusterSet { rev: None, set }]
    };
    for bad in [json!("ab"), json!("AB".repeat(32)), json!(7)] {
        assert!(apply(&client, set(bad.clone())).await.is_err(), "{bad}");
    }
    apply(&client, set(json!("ab".repeat(32)))).await.unwrap();
    apply(&client, set(Value::Null)).await.unwrap();
}
