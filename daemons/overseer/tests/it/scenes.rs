//! What the overseer promises, one scene each.

use crate::stage::Stage;
use crate::world::{Asked, World, id};
use gantry_proto::stream::StreamEvent;
use serde_json::{Value, json};
use std::time::Instant;

/// Looks at everything that may still be due when all passes have run once: for the watch that has begun, and for the
/// nodes; one more should an ABSENT slot be seen while the machine stands still.
const LATE_LOOKS_MAX: usize = 3;

fn clean(world: &World, numbers: impl IntoIterator<Item = u128>) -> Option<()> {
    numbers.into_iter().all(|number| world.state(number) == "CLEAN").then_some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_pool_is_filled_and_follows_its_amount() {
    let stage = Stage::new();
    let _luxid = stage.luxid();
    let _overseer = stage.overseer();
    stage.settled().await;
    stage.with(|world| world.pool(20));
    stage.until("twenty clean slots", |world| clean(world, 1..=20)).await;
    stage.with(|world| {
        assert_eq!(world.jobs_of("OP_POOL_EXPAND").len(), 1);
        let lots: Vec<usize> = world.jobs_of("OP_SLOT_CREATE").iter().map(|job| job.slots().len()).collect();
        assert_eq!(lots, [16, 4]);
        world.pool(18);
    });
    let drained =
        stage.until("two go", |world| world.jobs_of("OP_SLOT_DRAIN").first().map(|job| job.slots())).await;
    assert_eq!(drained, [id(19), id(20)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_vm_is_replaced_at_once_and_nothing_else_is_read() {
    let stage = Stage::new();
    stage.with(|world| {
        world.pool(100);
        (1..=100).for_each(|number| world.slot(number, "CLEAN"));
    });
    let _luxid = stage.luxid();
    let _overseer = stage.overseer();
    stage.settled().await;
    stage.with(|world| world.asked.clear());
    let mut took = Vec::new();
    for number in 1..=20 {
        stage.with(|world| world.turn(&id(number), "LEASED"));
        let begun = Instant::now();
        stage.with(|world| world.turn(&id(number), "DIRTY"));
        stage.until("it is destroyed and made anew", |world| clean(world, [number])).await;
        took.push(stage.with(|world| world.jobs.last().unwrap().at - begun));
    }
    took.sort();
    eprintln!("  from DIRTY to its job: median {:?}, worst {:?}", took[10], took[19]);
    stage.with(|world| {
        assert_eq!(world.jobs_of("OP_SLOT_DESTROY").len(), 20);
        assert_eq!(world.jobs_of("OP_SLOT_CREATE").len(), 0, "the same job made it anew");
        // What its first events and the first word of the nodes brought forward may come late on a busy machine, and
        // looks at everything; what the twenty bring does not.
        let whole = world.asked.iter().filter(|(kind, _)| kind == "pool").count();
        assert!(whole <= LATE_LOOKS_MAX, "{whole} looks at everything");
        let own = |(kind, filter): &&Asked| kind == "slot" && filter.as_array().is_some_and(|f| f.len() == 2);
        let own = world.asked.iter().filter(own).count();
        assert!(own + whole >= 20, "{own} were looked at by themselves, {whole} by a look at everything");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_luxid_that_was_killed_is_found_again_and_what_happened_meanwhile_too() {
    let stage = Stage::new();
    stage.with(|world| {
        world.pool(3);
        (1..=3).for_each(|number| world.slot(number, "CLEAN"));
    });
    let luxid = stage.luxid();
    let _overseer = stage.overseer();
    stage.settled().await;
    drop(luxid);
    stage.health("not ready", |health| !health.ready && health.why.contains("waiting for luxid")).await;
    // Nobody hears of these.
    stage.with(|world| {
        world.turn(&id(1), "DIRTY");
        world.turn(&id(2), "ABSENT");
    });
    let _luxid = stage.luxid();
    stage.until("all are clean", |world| clean(world, 1..=3)).await;
    stage.health("ready again", |health| health.ready).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overseer_that_was_killed_has_lost_nothing() {
    let stage = Stage::new();
    stage.with(|world| {
        world.pool(2);
        (1..=2).for_each(|number| world.slot(number, "CLEAN"));
    });
    let _luxid = stage.luxid();
    let overseer = stage.overseer();
    stage.settled().await;
    overseer.kill();
    stage.with(|world| world.turn(&id(1), "DIRTY"));
    let _overseer = stage.overseer();
    stage.until("it is clean", |world| clean(world, [1])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_events_are_made_up_for() {
    let stage = Stage::new();
    stage.with(|world| {
        world.pool(1);
        world.slot(1, "CLEAN");
    });
    let _luxid = stage.luxid();
    let _overseer = stage.overseer();
    stage.settled().await;
    stage.with(|world| {
        world.set("slot", &id(1), "state", json!("DIRTY"));
        world.events.send(StreamEvent::Lost).unwrap();
    });
    stage.until("it is clean", |world| clean(world, [1])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_never_come_are_made_up_for_by_the_period() {
    let stage = Stage::new();
    stage.settings("destroy_dirty_s = 1\nhealth_check_s = 1");
    stage.with(|world| {
        world.pool(2);
        (1..=2).for_each(|number| world.slot(number, "CLEAN"));
    });
    let _luxid = stage.luxid();
    let _overseer = stage.overseer();
    stage.settled().await;
    stage.with(|world| world.set("slot", &id(1), "state", json!("DIRTY")));
    stage.until("it is clean", |world| clean(world, [1])).await;
    stage
        .until("a health check of both", |world| {
            world.jobs_of("OP_SLOT_VERIFY").iter().any(|job| job.slots().len() == 2).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_job_holds_up_its_own_slot_only_and_not_for_ever() {
    let stage = Stage::new();
    let key = format!("slot-destroy:{}:1", id(3));
    stage.with(|world| {
        world.pool(8);
        (1..=8).for_each(|number| world.slot(number, "CLEAN"));
        world.live.insert(key.clone(), 77);
    });
    let _luxid = stage.luxid();
    let _overseer = stage.overseer();
    stage.settled().await;
    stage.with(|world| (1..=8).for_each(|number| world.turn(&id(number), "DIRTY")));
    stage.until("the others are clean", |world| clean(world, [1, 2, 4, 5, 6, 7, 8])).await;
    stage.with(|world| {
        assert_eq!(world.state(3), "DIRTY");
        assert!(world.jobs_of("OP_SLOT_DESTROY").len() <= 4, "halves, not single slots");
        world.live.remove(&key);
    });
    stage.until("its job ended badly; it is tried again", |world| clean(world, [3])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_failed_is_tried_when_its_pause_is_over() {
    let stage = Stage::new();
    stage.with(|world| {
        world.pool(2);
        (1..=2).for_each(|number| world.slot(number, "CLEAN"));
    });
    let _luxid = stage.luxid();
    let _overseer = stage.overseer();
    stage.settled().await;
    let until = gantry_rt::clock::now().epoch() + 0.7;
    stage.with(|world| {
        world.set("slot", &id(1), "backoff_until", json!(until));
        world.turn(&id(1), "DIRTY");
        world.set("slot", &id(2), "backoff_until", json!(until));
        world.turn(&id(2), "ABSENT");
    });
    stage.until("both are clean", |world| clean(world, 1..=2)).await;
    assert!(gantry_rt::clock::now().epoch() >= until, "not before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_away_is_left_alone_and_looked_at_when_it_is_back() {
    let stage = Stage::new();
    stage.with(|world| {
        world.pool(2);
        (1..=2).for_each(|number| world.slot(number, "CLEAN"));
        world.set("node", &id(500), "mtotal", Value::Null);
    });
    let _luxid = stage.luxid();
    let _overseer = stage.overseer();
    stage.settled().await;
    stage.with(|world| {
        world.turn(&id(1), "DIRTY");
        world.turn(&id(2), "LEASED");
        world.asked.clear();
    });
    stage
        .until("it was looked at", |world| world.asked.iter().any(|(kind, _)| kind == "slot").then_some(()))
        .await;
    stage.with(|world| {
        world.turn(&id(2), "CLEAN");
        assert_eq!(world.jobs.len(), 0, "{:?}", world.jobs);
        world.set("node", &id(500), "mtotal", json!(512));
    });
    stage.until("the used VM is replaced", |world| clean(world, 1..=2)).await;
    stage.until("its node is audited", |world| world.jobs_of("OP_NODE_AUDIT").first().map(drop)).await;
    stage.until("its VMs are verified", |world| world.jobs_of("OP_SLOT_VERIFY").first().map(drop)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_on_a_lost_node_are_broken_and_its_slots_replaced_but_not_before() {
    let stage = Stage::new();
    stage.settings("node_lost_s = 2");
    stage.with(|world| {
        world.pool(1);
        world.slot(1, "LEASED");
    });
    let _luxid = stage.luxid();
    let _overseer = stage.overseer();
    stage.settled().await;
    let begun = Instant::now();
    stage.with(|world| world.set("node", &id(500), "mtotal", Value::Null));
    let op = stage
        .until("its lease is broken", |world| {
            world.jobs_of("OP_SLOT_RECYCLE").first().map(|job| job.op.clone())
        })
        .await;
    assert!(begun.elapsed().as_millis() >= 2_000);
    assert_eq!(
        (&op["slots"][0][1], &op["force"], &op["only_lost"], &op["why"]),
        (&json!(1), &json!(true), &json!(true), &json!("node lost")),
        "{op:?}"
    );
    stage
        .until("its slot is wanted elsewhere", |world| world.jobs_of("OP_POOL_EXPAND").first().map(drop))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_want_that_cannot_be_met_is_not_repeated_at_every_event() {
    let stage = Stage::new();
    stage.with(|world| {
        world.works = false;
        world.pool(5);
        world.set("pool", &id(700), "spare", json!(1));
        (1..=2).for_each(|number| world.slot(number, "CLEAN"));
    });
    let _luxid = stage.luxid();
    let _overseer = stage.overseer();
    stage.settled().await;
    for _ in 0..3 {
        stage.with(|world| {
            world.asked.clear();
            world.turn(&id(1), "LEASED");
        });
        stage
            .until("it was looked at", |world| {
                world.asked.iter().any(|(kind, _)| kind == "slot").then_some(())
            })
            .await;
    }
    stage.with(|world| assert_eq!(world.jobs_of("OP_POOL_EXPAND").len(), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_what_each_pass_did_and_how_it_went() {
    let stage = Stage::new();
    stage.with(|world| {
        world.pool(2);
        world.slot(1, "CLEAN");
        world.slot(2, "CREATING");
        world.set("slot", &id(2), "stuck", json!(true));
    });
    let _luxid = stage.luxid();
    let _overseer = stage.overseer();
    stage.settled().await;
    stage.with(|world| world.turn(&id(1), "DIRTY"));
    stage.until("it is clean", |world| clean(world, [1])).await;
    stage.with(|world| {
        world.refuses = Some("The job queue is drained");
        world.turn(&id(1), "DIRTY");
    });
    let text = loop {
        let text = stage.metrics().await;
        if text.contains("overseer_refused_total{pass=\"destroy-dirty\"} 1") {
            break text;
        }
        tokio::task::yield_now().await;
    };
    assert!(text.contains("overseer_submitted_total{pass=\"destroy-dirty\"} 1"), "{text}");
    assert!(text.contains("overseer_failed{pass=\"destroy-dirty\"} 1"), "{text}");
    assert!(text.contains("overseer_failed{pass=\"create-slots\"} 0"), "{text}");
    assert!(text.contains("slots_stuck{pool=\"p\"} 1"), "{text}");
    stage.with(|world| world.refuses = None);
    stage.until("it is tried again", |world| clean(world, [1])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_a_script_it_runs_once_and_says_what_it_did() {
    let stage = Stage::new();
    let run = async |args: &[&str]| {
        let mut command = stage.command();
        command.arg("--once").args(args);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    let (good, _, error) = run(&[]).await;
    assert!(!good && error.contains("luxid does not answer on luxi.sock"), "{error}");
    let _luxid = stage.luxid();
    stage.with(|world| {
        world.pool(1);
        world.slot(1, "DIRTY");
    });
    let (good, text, _) = run(&["--only", "health-check"]).await;
    assert_eq!((good, text.as_str()), (true, "health-check: nothing to do\n"));
    let (good, text, _) = run(&["--only", "destroy-dirty"]).await;
    assert_eq!((good, text), (true, format!("destroy-dirty: job 1: slot-destroy:{}:1\n", id(1))));
    let (good, text, _) = run(&[]).await;
    assert!(good && text.contains(&format!("audit-nodes: job 3: node-audit:{}\n", id(500))), "{text}");
    stage.with(|world| {
        world.slot(1, "DIRTY");
        world.refuses = Some("The job queue is drained");
    });
    let (good, text, _) = run(&["--only", "destroy-dirty"]).await;
    assert!(!good && text.contains("refused (The job queue is drained)"), "{text}");
    let (good, _, error) = run(&["--only", "nonsense"]).await;
    assert!(!good && error.contains("there is no pass 'nonsense'; there are destroy-dirty"), "{error}");
}
