//! Clean VMs that die or stand still: told to the master at once, or found when they are looked at.

use crate::bed::*;
use crate::oci::{member, request};
use crate::work::{init_of, open};
use gantry_proto::noded::{self as wire, SlotFacts, VmState};
use gantry_rpc::{CallError, Client, Code, Event, Stream};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

async fn check(client: &Client, number: u128, generation: u64) -> Result<(), CallError> {
    client.call::<wire::VmCheck>(&vm(fence(1), slot(number), generation), PATIENCE).await
}

async fn watch(client: &Client) -> Stream<wire::Losses> {
    client.open::<wire::Losses>(&fence(1)).await.expect("opened")
}

async fn next(stream: &mut Stream<wire::Losses>) -> Result<SlotFacts, CallError> {
    match tokio::time::timeout(PATIENCE, stream.next()).await.expect("in time")? {
        Event::Item(facts) => Ok(facts),
        Event::End(()) => panic!("the stream has ended"),
    }
}

#[tokio::test]
async fn a_look_touches_nothing_and_finds_what_does_not_live() {
    let cluster = Cluster::new();
    let (node, client) = cluster.member("n1").await;
    for number in 1..=3 {
        create(&client, slot(number), 1).await.expect("created");
    }
    open(&client, slot(3), None).await.expect("opened");
    check(&client, 1, 1).await.expect("it lives");
    let seen = facts(&client, fence(1), slot(1)).await.expect("known");
    assert_eq!((seen.opened, seen.holder), (false, None), "as clean as before");
    assert_eq!(code(check(&client, 1, 2).await), Code::Stale);
    assert_eq!(code(check(&client, 9, 1).await), Code::NotFound);
    let mut losses = watch(&client).await;
    let stop = |number| format!(r#"{{"slot": "{}"}}"#, slot(number));
    node.faults(&format!(r#"{{"stop": [{}, {}]}}"#, stop(1), stop(3)));
    assert_eq!(code(check(&client, 3, 1).await), Code::Stale);
    assert_eq!(code(check(&client, 1, 1).await), Code::Stale);
    let told = next(&mut losses).await.expect("told");
    assert_eq!(
        (told.slot, told.state),
        (slot(1), VmState::Lost),
        "not the one whose holder hears of it himself"
    );
    check(&client, 2, 1).await.expect("the neighbour lives");
    let first = next(&mut watch(&client).await).await.expect("told");
    assert_eq!(first, told, "who listens later hears it first");
    claim(&client, &cluster, &node, fence(2)).await.expect("claimed");
    let fenced = next(&mut losses).await.map(drop).expect_err("its master is no more");
    assert_eq!(fenced.code(), Some(Code::Fenced));
    assert_eq!(code(check(&client, 2, 1).await), Code::Fenced);
}

#[tokio::test]
async fn the_death_of_a_clean_vm_is_told_unasked() {
    let cluster = Cluster::new();
    let (node, client, mut vmd) = member(&cluster).await;
    client.call::<wire::VmCreate>(&request(slot(1), 1), PATIENCE).await.expect("created");
    let mut losses = watch(&client).await;
    kill(Pid::from_raw(init_of(&vmd)), Signal::SIGKILL).expect("killed");
    let told = next(&mut losses).await.expect("told");
    assert_eq!((told.slot, told.state, told.opened), (slot(1), VmState::Lost, false));
    destroy(&client, slot(1), 1).await.expect("destroyed");
    // All of them at once, when vmd dies: seen as soon as there is another.
    client.call::<wire::VmCreate>(&request(slot(2), 1), PATIENCE).await.expect("created");
    vmd.kill();
    let mut vmd = crate::oci::Vmd::start(&node);
    let told = next(&mut losses).await.expect("told");
    assert_eq!((told.slot, told.state), (slot(2), VmState::Lost));
    destroy(&client, slot(2), 1).await.expect("destroyed");
    vmd.stop();
}

#[tokio::test]
async fn a_clean_vm_that_stands_still_is_found_by_a_look() {
    let cluster = Cluster::new();
    let (_node, client, mut vmd) = member(&cluster).await;
    client.call::<wire::VmCreate>(&request(slot(1), 1), PATIENCE).await.expect("created");
    check(&client, 1, 1).await.expect("it lives");
    let mut losses = watch(&client).await;
    kill(Pid::from_raw(init_of(&vmd)), Signal::SIGSTOP).expect("stopped");
    assert_eq!(code(check(&client, 1, 1).await), Code::Stale);
    assert_eq!(next(&mut losses).await.expect("told").slot, slot(1));
    destroy(&client, slot(1), 1).await.expect("destroyed");
    vmd.stop();
}
