//! luxid's word on who lives (P4.7, P4.8).

use crate::world::{LIMIT, World, apply_as, blocked, granted, owner, request, tag, take};
use gantry_proto::wconfd::{self as wire, Want};
use gantry_rpc::{Client, Code, ConnectError};

const A: &[(&str, Want)] = &[("instance/a", Want::Exclusive)];
const B: &[(&str, Want)] = &[("instance/b", Want::Exclusive)];

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_only_luxids_word_frees() {
    let mut world = World::start().await;
    let client = world.client().await;
    take(&client, owner(1), A).await;
    take(&client, owner(2), B).await;
    world.restart().await;
    let client = world.client().await;
    let mut on_a = client.open::<wire::LockUpdate>(&request(owner(3), A)).await.unwrap();
    let mut on_b = client.open::<wire::LockUpdate>(&request(owner(4), B)).await.unwrap();
    assert_eq!(blocked(&mut on_a).await.by, [owner(1)]);
    assert_eq!(blocked(&mut on_b).await.by, [owner(2)], "nobody is freed before luxid spoke");
    let luxid = world.luxid(1).await;
    luxid.call::<wire::Owners>(&vec![owner(2), owner(9)], LIMIT).await.unwrap();
    granted(&mut on_a).await;
    let rows = client.call::<wire::LockRows>(&(), LIMIT).await.unwrap();
    let b = rows.iter().find(|row| row.name == "instance/b").unwrap();
    assert_eq!(b.owners, [owner(2)], "who lives keeps his locks");
    luxid.call::<wire::Owners>(&Vec::new(), LIMIT).await.unwrap();
    let rows = client.call::<wire::LockRows>(&(), LIMIT).await.unwrap();
    assert!(rows.iter().any(|row| row.owners == [owner(3)]), "a later word frees nobody");
    luxid.call::<wire::OwnerGone>(&owner(2), LIMIT).await.unwrap();
    granted(&mut on_b).await;
    luxid.call::<wire::OwnerGone>(&owner(2), LIMIT).await.unwrap();
}

/// The one who saw their end did not live to tell it: a job that ended well holds no lock by which it would be found.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_luxid_frees_what_starts_of_older_ones_left() {
    let world = World::start().await;
    let client = world.client().await;
    world.luxid(1).await.call::<wire::Owners>(&Vec::new(), LIMIT).await.unwrap();
    take(&client, owner(1), A).await;
    take(&client, owner(2), B).await;
    apply_as(&client, Some(owner(3)), 1, vec![tag("three")]).await.unwrap();
    let mut own = owner(4);
    own.start.run = 2;
    take(&client, own, &[("instance/c", Want::Exclusive)]).await;
    let luxid = world.luxid(2).await;
    luxid.call::<wire::Owners>(&vec![owner(2)], LIMIT).await.unwrap();
    let rows = client.call::<wire::LockRows>(&(), LIMIT).await.unwrap();
    let held: Vec<_> = rows.iter().flat_map(|row| row.owners.clone()).collect();
    assert_eq!(held, [owner(2), own], "who is named stays, and who may have begun after the word was given");
    let late = apply_as(&client, Some(owner(3)), 2, vec![tag("late")]).await.unwrap_err();
    assert_eq!(late.code(), Some(Code::Stale));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dead_ask_for_nothing_any_more() {
    let world = World::start().await;
    let client = world.client().await;
    let luxid = world.luxid(1).await;
    take(&client, owner(1), A).await;
    let mut wait = client.open::<wire::LockUpdate>(&request(owner(2), A)).await.unwrap();
    blocked(&mut wait).await;
    luxid.call::<wire::OwnerGone>(&owner(2), LIMIT).await.unwrap();
    assert_eq!(crate::world::news(&mut wait).await.unwrap_err().code(), Some(Code::Stale));
    let late = client.call::<wire::LockUpdate>(&request(owner(2), B), LIMIT).await.unwrap_err();
    assert_eq!(late.code(), Some(Code::Stale));
    let late = apply_as(&client, Some(owner(2)), 1, vec![tag("late")]).await.unwrap_err();
    assert_eq!(late.code(), Some(Code::Stale));
}

async fn denied(client: &Client) -> Option<Code> {
    client.call::<wire::OwnerGone>(&owner(1), LIMIT).await.unwrap_err().code()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_newest_luxid_is_believed() {
    let world = World::start().await;
    assert_eq!(denied(&world.client().await).await, Some(Code::Denied));
    let old = world.luxid(3).await;
    old.call::<wire::OwnerGone>(&owner(1), LIMIT).await.unwrap();
    let new = world.luxid(4).await;
    new.call::<wire::OwnerGone>(&owner(1), LIMIT).await.unwrap();
    assert_eq!(denied(&old).await, Some(Code::Stale));
    let socket = world.root.socket("wconfd.sock");
    let Err(older) = Client::unix(&socket, &world.luxid_hello(3)).await else { panic!("let in") };
    assert!(matches!(&older, ConnectError::Refused(why) if why.contains("newer")), "{older}");
    let mut foreign = world.hello("gantry-job");
    foreign.cluster = Some(gantry_model::ids::ClusterUuid(uuid::Uuid::nil()));
    assert!(matches!(Client::unix(&socket, &foreign).await, Err(ConnectError::Refused(_))));
    let mut deposed = world.hello("gantry-job");
    deposed.epoch = Some(99);
    assert!(matches!(Client::unix(&socket, &deposed).await, Err(ConnectError::Refused(_))));
    let mut silent = world.hello("gantry-job");
    silent.epoch = None;
    let Err(refused) = Client::unix(&socket, &silent).await else { panic!("let in without an epoch") };
    assert!(refused.to_string().contains("epoch"), "{refused}");
    let Err(refused) = Client::unix(&socket, &world.hello("gantry-luxid")).await else { panic!("no run") };
    assert!(refused.to_string().contains("run"), "{refused}");
}
