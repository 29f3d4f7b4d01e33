//! Leases over the real socket, on a real store: nothing granted is lost, nothing ends early, many at once are quick.

use crate::nodes::{Site, live};
use crate::world::{LIMIT, apply, apply_as, meta_serial, owner, read, until};
use gantry_model::config::{AdminState, Instance, Params, Stamp};
use gantry_model::ids::{BlueprintUuid, Generation, InstanceUuid, LeaseUuid, NodeUuid, PoolUuid, TaskId};
use gantry_model::lease::{Grab, LeaseOwner, LeasedVm};
use gantry_model::pool::{Blueprint, Pool, PoolState, Recycle};
use gantry_proto::noded::{SlotFacts, VmState};
use gantry_proto::wconfd::{Command, ReadKey};
use gantry_rpc::{Client, Code};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use uuid::Uuid;

fn blueprint(uuid: BlueprintUuid) -> Blueprint {
    Blueprint {
        uuid,
        name: "bp".to_owned(),
        driver: "fake".to_owned(),
        image: "host".to_owned(),
        memory_mib: 64,
        vcpus: 1,
        disk_mib: 64,
        pids: 64,
        recycle: Recycle::Destroy,
        wall_s_max: 60,
        lease_s_max: 3600,
        enabled: true,
        stamp: Stamp::new(0.0),
        extra: Params::new(),
    }
}

fn pool(blueprint: BlueprintUuid, slots: u64) -> Pool {
    Pool {
        uuid: PoolUuid(Uuid::new_v4()),
        name: "py".to_owned(),
        blueprint,
        group: None,
        min: 0,
        max: slots,
        amount: slots,
        spare: 0,
        lifetime_s: 0,
        connect_timeout_s: 60,
        state: PoolState::Active,
        stamp: Stamp::new(0.0),
        extra: Params::new(),
    }
}

fn slot(uuid: InstanceUuid, number: usize, node: NodeUuid) -> Command {
    let instance = Instance {
        uuid,
        name: format!("py-{number}"),
        primary_node: node,
        os: "noop".to_owned(),
        hypervisor: "fake".to_owned(),
        hvparams: Params::new(),
        beparams: Params::new(),
        osparams: Params::new(),
        admin_state: AdminState::Up,
        admin_state_source: "admin".to_owned(),
        nics: Vec::new(),
        disk_template: "diskless".to_owned(),
        disks: Vec::new(),
        forthcoming: true,
        pool: Some("py".to_owned()),
        stamp: Stamp::new(0.0),
        extra: Params::new(),
    };
    Command::SlotAdd { instance: Box::new(instance) }
}

/// A site whose noded is claimed, with a pool of clean slots.
async fn with_clean(slots: usize) -> (Site, Vec<InstanceUuid>) {
    let site = Site::start().await;
    let client = site.world.client().await;
    site.claimed(&client, true).await;
    let bp = BlueprintUuid(Uuid::new_v4());
    let pool = pool(bp, slots as u64);
    let made = vec![
        Command::BlueprintAdd { blueprint: Box::new(blueprint(bp)) },
        Command::PoolAdd { pool: Box::new(pool) },
    ];
    apply(&client, made).await.unwrap();
    let uuids: Vec<_> = (0..slots).map(|_| InstanceUuid(Uuid::new_v4())).collect();
    let facts = uuids.iter().map(|uuid| live(*uuid));
    // The node has them before wconfd counts on them, so that no inventory calls them lost.
    site.set_facts(facts.collect());
    for (number, uuid) in uuids.iter().enumerate() {
        let (slot_uuid, generation) = (*uuid, Generation(1));
        let life = vec![
            slot(slot_uuid, number + 1, site.world.node),
            Command::SlotBegin { slot: slot_uuid, expected: Generation(0), holder: owner(1) },
            Command::SlotReady { slot: slot_uuid, generation },
        ];
        apply(&client, life).await.unwrap();
    }
    (site, uuids)
}

fn lease() -> LeaseUuid {
    LeaseUuid(Uuid::new_v4())
}

fn grab(lease: LeaseUuid, for_ms: u64, ttl_ms: Option<u64>) -> Command {
    let owner = LeaseOwner::User { name: "ada".to_owned() };
    Command::LeaseGrab { lease, owner, pool: "py".to_owned(), count: 1, for_ms, ttl_ms }
}

fn end(lease: LeaseUuid) -> Command {
    Command::LeaseEnd { lease, why: "done".to_owned() }
}

async fn granted(client: &Client, grab: Command) -> Option<LeasedVm> {
    let (_, results) = apply(client, vec![grab]).await.unwrap();
    match serde_json::from_value(results[0].clone()).unwrap() {
        Grab::Granted { vms } => Some(vms[0]),
        Grab::Wait { .. } => None,
    }
}

async fn state(client: &Client, kind: &str, key: String) -> Value {
    read(client, ReadKey::Key(kind.to_owned(), key)).await[0].1["state"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_survives_kill_9_between_grant_and_reply() {
    let (mut site, slots) = with_clean(4).await;
    let (mut asked, mut given) = (Vec::new(), Vec::new());
    for n in 0..slots.len() {
        let client = site.world.client().await;
        let (uuid, wish) = (lease(), grab(lease(), 600_000, None));
        let Command::LeaseGrab { owner, pool, count, for_ms, ttl_ms, .. } = wish else { unreachable!() };
        let wish = Command::LeaseGrab { lease: uuid, owner, pool, count, for_ms, ttl_ms };
        let first = tokio::spawn({
            let wish = wish.clone();
            async move { apply(&client, vec![wish]).await }
        });
        // From nothing at all to an answer already on its way.
        tokio::time::timeout(Duration::from_micros(400 * n as u64), std::future::pending::<()>())
            .await
            .unwrap_err();
        site.world.kill();
        let heard = first.await.unwrap();
        site.world.boot().await;
        let client = site.world.client().await;
        site.claimed(&client, true).await;
        let again = granted(&client, wish.clone()).await.expect("there are enough");
        if let Ok((_, results)) = heard {
            let Grab::Granted { vms } = serde_json::from_value(results[0].clone()).unwrap() else { panic!() };
            assert_eq!(vms, [again], "what was promised is kept");
        }
        assert_eq!(granted(&client, wish.clone()).await, Some(again), "the same VMs again");
        assert!(!given.contains(&again), "no VM is given twice");
        given.push(again);
        asked.push(wish);
    }
    let client = site.world.client().await;
    assert_eq!(granted(&client, grab(lease(), 600_000, None)).await, None, "all are leased");
    for (wish, vm) in asked.into_iter().zip(given) {
        assert_eq!(granted(&client, wish).await, Some(vm));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_by_time_also_after_a_restart() {
    let (mut site, _) = with_clean(2).await;
    let client = site.world.client().await;
    let (short, renewed) = (lease(), lease());
    let vm = granted(&client, grab(short, 1_500, None)).await.unwrap();
    let kept = granted(&client, grab(renewed, 60_000, Some(5_000))).await.unwrap();
    let open = Command::LeaseOpen { lease: short, slot: vm.slot, generation: vm.generation };
    apply_as(&client, Some(owner(2)), 1, vec![open.clone()]).await.unwrap();
    let serial = meta_serial(&client).await;
    let began = Instant::now();
    site.world.restart().await;
    let client = site.world.client().await;
    assert_eq!(state(&client, "lease", short.to_string()).await, "active", "a restart ends none");
    until("the end of the lease", || async {
        (state(&client, "lease", short.to_string()).await == "released").then_some(())
    })
    .await;
    // The clock is stored with the end, and not again before it has gone on by seconds.
    let clock = read(&client, ReadKey::Kind("lease_clock".to_owned())).await[0].1["ms"].as_u64().unwrap();
    let lease = read(&client, ReadKey::Key("lease".to_owned(), short.to_string())).await;
    let due = lease[0].1["until"].as_u64().unwrap();
    assert!((due..due + 3_000).contains(&clock), "it ends when due: {due}, {clock}");
    assert_eq!(state(&client, "slot", vm.slot.to_string()).await, "DIRTY", "it was opened");
    let late = apply_as(&client, Some(owner(2)), 2, vec![open]).await.unwrap_err();
    assert_eq!(late.code(), Some(Code::Stale));
    let late = apply(&client, vec![grab(short, 1_500, None)]).await.unwrap_err();
    assert_eq!(late.code(), Some(Code::Stale), "ended leases never live again");
    // The other one has a whole ttl from the start on; nobody renews it.
    until("the end of the other", || async {
        (state(&client, "lease", renewed.to_string()).await == "released").then_some(())
    })
    .await;
    assert!(began.elapsed() >= Duration::from_secs(5), "a whole ttl: {:?}", began.elapsed());
    assert_eq!(state(&client, "slot", kept.slot.to_string()).await, "CLEAN", "it was never opened");
    assert_eq!(meta_serial(&client).await, serial, "leases are no part of config.data");
}

/// The kernel took PID 1 for the user's own memory, perhaps: his failure, which is not tried again. His job knows, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_vm_is_left_to_the_attempt_that_works_in_it_for_a_while() {
    let (mut site, _) = with_clean(3).await;
    let client = site.world.client().await;
    let leases = [lease(), lease(), lease()];
    let mut facts = Vec::new();
    for (number, uuid) in leases.into_iter().enumerate() {
        let Command::LeaseGrab { owner: user, pool, count, for_ms, ttl_ms, .. } = grab(uuid, 600_000, None)
        else {
            unreachable!()
        };
        let task = LeaseOwner::Task { task: TaskId(9), attempt: 1 };
        let owner_of = if number == 0 { user } else { task };
        let wish = Command::LeaseGrab { lease: uuid, owner: owner_of, pool, count, for_ms, ttl_ms };
        let LeasedVm { slot, generation, .. } = granted(&client, wish).await.unwrap();
        if number == 0 {
            apply_as(&client, Some(owner(2)), 1, vec![Command::LeaseOpen { lease: uuid, slot, generation }])
                .await
                .unwrap();
        }
        // The last one's attempt has not come to open it.
        let holder = (number < 2).then_some(uuid);
        facts.push(SlotFacts { state: VmState::Lost, holder, opened: holder.is_some(), ..live(slot) });
    }
    site.set_facts(facts);
    site.reconnect(&client).await;
    let now = async |n: usize| state(&client, "lease", leases[n].to_string()).await;
    assert_eq!(now(0).await, "broken", "a person's, who is told so");
    assert_eq!(now(1).await, "active", "an attempt's");
    assert_eq!(now(2).await, "broken", "an attempt's that has not begun");
    // A job that says nothing does not keep it for ever.
    until("the next inventory", || async { (now(1).await == "broken").then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_before_the_grant_refuses_it_for_ever() {
    let (mut site, _) = with_clean(1).await;
    let client = site.world.client().await;
    let uuid = lease();
    apply(&client, vec![end(uuid)]).await.unwrap();
    site.world.restart().await;
    let client = site.world.client().await;
    site.claimed(&client, true).await;
    let late = apply(&client, vec![grab(uuid, 1_000, None)]).await.unwrap_err();
    assert_eq!(late.code(), Some(Code::Stale));
    let job = apply_as(&client, Some(owner(1)), 1, vec![grab(lease(), 1_000, None)]).await.unwrap_err();
    assert_eq!(job.code(), Some(Code::Denied), "jobs grant nothing");
    apply(&client, vec![Command::LeaseForget { leases: vec![uuid] }]).await.unwrap();
    assert!(read(&client, ReadKey::Kind("lease".to_owned())).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_luxid_that_was_followed_grants_and_ends_nothing() {
    let (site, _) = with_clean(1).await;
    let old = site.world.luxid(1).await;
    let uuid = lease();
    granted(&old, grab(uuid, 600_000, None)).await.unwrap();
    let new = site.world.luxid(2).await;
    let late = apply(&old, vec![end(uuid)]).await.unwrap_err();
    assert_eq!(late.code(), Some(Code::Stale));
    assert_eq!(state(&new, "lease", uuid.to_string()).await, "active");
    apply(&new, vec![end(uuid)]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_lost_breaks_its_lease() {
    let (site, slots) = with_clean(1).await;
    let client = site.world.client().await;
    let uuid = lease();
    let vm = granted(&client, grab(uuid, 600_000, None)).await.unwrap();
    assert_eq!(vm.slot, slots[0]);
    let mut facts = live(vm.slot);
    (facts.state, facts.holder) = (VmState::Lost, Some(uuid));
    site.set_facts(vec![facts]);
    until("the break", || async {
        (state(&client, "lease", uuid.to_string()).await == "broken").then_some(())
    })
    .await;
    assert_eq!(state(&client, "slot", vm.slot.to_string()).await, "DIRTY");
    let late = apply(&client, vec![Command::LeaseRenew { lease: uuid }]).await.unwrap_err();
    assert_eq!(late.code(), Some(Code::Stale));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_grabs_from_sixty_four_in_flight() {
    const IN_FLIGHT: usize = 64;
    const EACH: usize = 16;
    let (site, _) = with_clean(IN_FLIGHT).await;
    let mut tasks = tokio::task::JoinSet::new();
    let began = Instant::now();
    for _ in 0..IN_FLIGHT {
        let client = site.world.client().await;
        tasks.spawn(async move {
            for _ in 0..EACH {
                let uuid = lease();
                granted(&client, grab(uuid, 600_000, None)).await.expect("one for each in flight");
                apply(&client, vec![end(uuid)]).await.unwrap();
                apply(&client, vec![Command::LeaseForget { leases: vec![uuid] }]).await.unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let all = IN_FLIGHT * EACH;
    println!("{all} durable grants, releases and forgets in {:?}", began.elapsed());
    let client = site.world.client().await;
    assert!(read(&client, ReadKey::Kind("lease".to_owned())).await.is_empty(), "all were forgotten");
    let slots = read(&client, ReadKey::Kind("slot".to_owned())).await;
    assert!(slots.iter().all(|(_, slot)| slot["state"] == json!("CLEAN") && slot.get("lease").is_none()));
    assert!(began.elapsed() < LIMIT, "{:?}", began.elapsed());
}
