//! Job locks: waiting, news of who blocks, withdrawal, survival of the daemon.

use crate::world::{LIMIT, World, apply_as, blocked, granted, owner, request, tag, take, until};
use gantry_proto::wconfd::{self as wire, Command, FreeScope, LockFreeRequest, LockPriorityRequest, Want};
use gantry_rpc::{Client, Code};
use serde_json::json;

async fn free(client: &Client, job: u64) {
    let request = LockFreeRequest { owner: owner(job), scope: FreeScope::All };
    client.call::<wire::LockFree>(&request, LIMIT).await.unwrap();
}

/// Owners that wait for the lock.
async fn waiting(client: &Client, lock: &str) -> Vec<u64> {
    let rows = client.call::<wire::LockRows>(&(), LIMIT).await.unwrap();
    let row = rows.into_iter().find(|row| row.name == lock);
    row.into_iter().flat_map(|row| row.pending).map(|(_, owner)| owner.job.0).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_told_by_whom_and_then_gets_it() {
    let world = World::start().await;
    let client = world.client().await;
    take(&client, owner(1), &[("cluster/BGL", Want::Shared), ("instance/a", Want::Exclusive)]).await;
    take(&client, owner(2), &[("cluster/BGL", Want::Shared)]).await;
    let mut wait = client
        .open::<wire::LockUpdate>(&request(owner(3), &[("cluster/BGL", Want::Exclusive)]))
        .await
        .unwrap();
    let first = blocked(&mut wait).await;
    assert_eq!((first.by, first.text.as_str()), (vec![owner(1), owner(2)], "cluster/BGL held by jobs 1, 2"));
    free(&client, 1).await;
    assert_eq!(blocked(&mut wait).await.text, "cluster/BGL held by job 2");
    free(&client, 2).await;
    granted(&mut wait).await;
    let rows = client.call::<wire::LockRows>(&(), LIMIT).await.unwrap();
    let big = rows.iter().find(|row| row.name == "cluster/BGL").unwrap();
    assert_eq!((big.mode, big.owners.as_slice()), (Some(Want::Exclusive), &[owner(3)][..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_connection_withdraws_the_wait_and_keeps_what_is_held() {
    let world = World::start().await;
    let client = world.client().await;
    take(&client, owner(1), &[("instance/a", Want::Exclusive)]).await;
    let other = world.client().await;
    take(&other, owner(2), &[("cluster/BGL", Want::Shared)]).await;
    let mut wait =
        other.open::<wire::LockUpdate>(&request(owner(2), &[("instance/a", Want::Exclusive)])).await.unwrap();
    blocked(&mut wait).await;
    assert_eq!(waiting(&client, "instance/a").await, [2]);
    other.close();
    until("the wait is withdrawn", || async {
        waiting(&client, "instance/a").await.is_empty().then_some(())
    })
    .await;
    free(&client, 1).await;
    take(&client, owner(3), &[("instance/a", Want::Exclusive)]).await;
    let rows = client.call::<wire::LockRows>(&(), LIMIT).await.unwrap();
    let big = rows.iter().find(|row| row.name == "cluster/BGL").unwrap();
    assert_eq!(big.owners, [owner(2)], "what is held stays held");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_call_withdraws_too_and_a_repeat_takes_the_place() {
    let world = World::start().await;
    let client = world.client().await;
    take(&client, owner(1), &[("instance/a", Want::Exclusive)]).await;
    let ask = request(owner(2), &[("instance/a", Want::Shared)]);
    let mut first = client.open::<wire::LockUpdate>(&ask).await.unwrap();
    blocked(&mut first).await;
    let mut again = client.open::<wire::LockUpdate>(&ask).await.unwrap();
    blocked(&mut again).await;
    let replaced = crate::world::news(&mut first).await.unwrap_err();
    assert_eq!(replaced.code(), Some(Code::Stale));
    drop(first);
    assert_eq!(waiting(&client, "instance/a").await, [2], "the earlier call's end withdraws nothing");
    drop(again);
    until("the wait is withdrawn", || async {
        waiting(&client, "instance/a").await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_more_urgent_comes_first() {
    let world = World::start().await;
    let client = world.client().await;
    take(&client, owner(1), &[("node/x", Want::Exclusive)]).await;
    let mut early =
        client.open::<wire::LockUpdate>(&request(owner(2), &[("node/x", Want::Exclusive)])).await.unwrap();
    blocked(&mut early).await;
    let mut late =
        client.open::<wire::LockUpdate>(&request(owner(3), &[("node/x", Want::Exclusive)])).await.unwrap();
    blocked(&mut late).await;
    let urgent = LockPriorityRequest { owner: owner(3), priority: -5 };
    client.call::<wire::LockPriority>(&urgent, LIMIT).await.unwrap();
    free(&client, 1).await;
    granted(&mut late).await;
    assert_eq!(waiting(&client, "node/x").await, [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_survive_kill_9() {
    let mut world = World::start().await;
    let client = world.client().await;
    take(&client, owner(1), &[("cluster/BGL", Want::Shared), ("instance/a", Want::Exclusive)]).await;
    take(&client, owner(2), &[("cluster/BGL", Want::Shared)]).await;
    free(&client, 2).await;
    world.restart().await;
    let client = world.client().await;
    let held = [("cluster/BGL", Want::Shared), ("instance/a", Want::Exclusive)];
    take(&client, owner(1), &held).await;
    let rows = client.call::<wire::LockRows>(&(), LIMIT).await.unwrap();
    let of = |name: &str| rows.iter().find(|row| row.name == name).unwrap().owners.clone();
    assert_eq!((of("cluster/BGL"), of("instance/a")), (vec![owner(1)], vec![owner(1)]));
    let mut wait =
        client.open::<wire::LockUpdate>(&request(owner(3), &[("instance/a", Want::Shared)])).await.unwrap();
    assert_eq!(blocked(&mut wait).await.by, [owner(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_refused_in_ganetis_words() {
    let world = World::start().await;
    let client = world.client().await;
    take(&client, owner(1), &[("node/x", Want::Shared)]).await;
    let below = request(owner(1), &[("instance/a", Want::Shared)]);
    let error = client.call::<wire::LockUpdate>(&below, LIMIT).await.unwrap_err();
    let gantry_rpc::CallError::Fail(fail) = error else { panic!("{error}") };
    assert_eq!(fail.as_ganeti().unwrap().class, "LockError");
    let nameless = request(owner(1), &[("nonsense", Want::Shared)]);
    let error = client.call::<wire::LockUpdate>(&nameless, LIMIT).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::BadRequest));
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_need_their_lock() {
    let world = World::start().await;
    let client = world.client().await;
    let set = || {
        vec![Command::NodeSet {
            node: world.node,
            rev: None,
            set: json!({"powered": false}).as_object().unwrap().clone(),
        }]
    };
    let error = apply_as(&client, Some(owner(1)), 1, set()).await.unwrap_err();
    assert!(error.to_string().contains("does not hold lock node/"), "{error}");
    let lock = format!("node/{}", world.node);
    take(&client, owner(1), &[(&lock, Want::Exclusive)]).await;
    apply_as(&client, Some(owner(1)), 1, set()).await.unwrap();
    apply_as(&client, Some(owner(2)), 1, vec![tag("free")]).await.unwrap();
}
