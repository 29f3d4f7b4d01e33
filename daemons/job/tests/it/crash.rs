//! Instances through every crash of the job that works on them (`model.md` §2.7, C12 to C14): it is killed around each
//! durable step and each order to the node; the operator types the same command again; that must lead where it was to
//! lead, and an order of the dead that arrives late must do no harm.

use crate::bed::{Bed, log};
use crate::luxid::{Luxid, go};
use crate::master::{Master, Side};
use crate::pool::entries;
use crate::{SOON, start};
use gantry_model::config::{AdminState, Node, SlotState, kind};
use gantry_model::ids::LeaseUuid;
use gantry_model::job::{Outcome, Status};
use gantry_model::lease::LeaseState;
use gantry_proto::envelope::Code;
use gantry_proto::job::{Cancel, Confirm, ConfirmRequest, Go};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const NAME: &str = "inst1.example.test";
/// More steps than any opcode here takes.
const STEPS_MAX: usize = 20;

fn op(id: &str) -> Value {
    json!({"OP_ID": id, "instance_name": NAME})
}

fn create() -> Value {
    json!({"OP_ID": "OP_INSTANCE_CREATE", "instance_name": NAME, "mode": "create", "os_type": "noop",
           "disk_template": "diskless", "hypervisor": "fake", "beparams": {"memory": 128}, "nics": [], "start": true})
}

/// How an instance is to stand in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    Up,
    Down,
    Gone,
}

impl Bed {
    /// A pool of four slots: one on the first node, on the second one leased, one clean, one empty; then the second is
    /// marked offline, as what never comes back is.
    async fn with_slots_on_a_dead_node(&mut self, lease: LeaseUuid) {
        self.with_pool(4).await;
        let made = entries(self)[1..3].to_vec();
        self.succeeds(&json!({"OP_ID": "OP_SLOT_CREATE", "slots": made})).await;
        let mut state = self.master.state();
        let slots = state.slots("py");
        let second = state.config.nodes().find(|node| node.uuid != self.master.node).unwrap().uuid;
        ["py-2", "py-3", "py-4"].iter().for_each(|name| state.move_slot(slots[*name].uuid, second));
        state.lease("py", lease);
        state.meddle(kind::NODE, second, |node: &mut Node| node.offline = true);
    }

    /// What an operator does: the same again, and for a create that got half-way, a start.
    async fn again(&mut self, same: &Value, goal: Goal) {
        let there = self.master.state().instance(NAME).is_some();
        match (same["OP_ID"].as_str().unwrap(), there, goal) {
            ("OP_INSTANCE_CREATE", true, _) => self.succeeds(&op("OP_INSTANCE_STARTUP")).await,
            (_, false, Goal::Gone) => {}
            _ => self.succeeds(same).await,
        }
    }

    /// The state is the goal's, the node has what it says, and nothing else.
    fn check(&self, goal: Goal, at: &str) {
        let state = self.master.state();
        let found = state.instance(NAME);
        let wanted = match (&found, goal) {
            (None, Goal::Gone) => BTreeSet::new(),
            (Some((instance, slot)), Goal::Down) => {
                assert_eq!((instance.admin_state, slot.state), (AdminState::Down, SlotState::Absent), "{at}");
                BTreeSet::new()
            }
            (Some((instance, slot)), Goal::Up) => {
                assert_eq!((instance.admin_state, slot.state), (AdminState::Up, SlotState::Clean), "{at}");
                BTreeSet::from([(slot.uuid, slot.generation)])
            }
            (Some(_), Goal::Gone) | (None, Goal::Up | Goal::Down) => panic!("{at}: {found:?} for {goal:?}"),
        };
        assert_eq!(state.vms, wanted, "{at}");
        if let Some((_, slot)) = found {
            assert_eq!(slot.holder, None, "{at}");
            let floor = state.records.get(&slot.uuid).map(|record| record.floor).unwrap_or_default();
            assert!(slot.generation >= floor, "{at}: generation below the node's floor");
        }
    }

    /// Kills the job of `op` around each of its steps, each time from `prepare`'s state on.
    async fn through(&mut self, before: &[Before], op: &Value, goal: Goal) -> Vec<&'static str> {
        for step in 0..STEPS_MAX {
            for (side, told) in
                [(Side::Before, true), (Side::Before, false), (Side::After, true), (Side::After, false)]
            {
                self.prepare(before).await;
                let (owner, report) = self.run(op, Some((step, side))).await;
                if let Some(report) = report {
                    assert_eq!(report.ops[0].status, Status::Success, "{}", report.ops[0].result);
                    self.check(goal, "undisturbed");
                    return self.master.state().steps.clone();
                }
                let at = format!("{} killed {side:?} step {step}, told: {told}", op["OP_ID"]);
                let late = self.master.state().late.take();
                // That the dead one's locks are free is all the next one needs.
                if told {
                    self.master.state().owner_gone(owner);
                }
                self.again(op, goal).await;
                self.check(goal, &at);
                if let Some((slot, verb)) = late {
                    let _ = self.master.state().node(slot, &verb);
                    self.check(goal, &format!("{at}, then its order {verb:?} arrives"));
                }
            }
        }
        panic!("{op} takes more than {STEPS_MAX} steps")
    }

    async fn prepare(&mut self, before: &[Before]) {
        self.master.reset();
        for what in before {
            match what {
                Before::Created => self.succeeds(&create()).await,
                Before::Stopped => self.succeeds(&op("OP_INSTANCE_SHUTDOWN")).await,
                Before::Lost => {
                    let mut state = self.master.state();
                    let (instance, _) = state.instance(NAME).unwrap();
                    state.lose_vm(instance.uuid);
                }
            }
        }
    }
}

enum Before {
    Created,
    Stopped,
    Lost,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_converges_from_every_crash() {
    let steps = Bed::new().await.through(&[], &create(), Goal::Up).await;
    assert_eq!(steps, ["apply", "apply", "create", "apply"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_startup_converges_from_every_crash() {
    let startup = op("OP_INSTANCE_STARTUP");
    let steps = Bed::new().await.through(&[Before::Created, Before::Stopped], &startup, Goal::Up).await;
    assert_eq!(steps, ["apply", "apply", "create", "apply"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_startup_after_the_vm_was_lost_converges_from_every_crash() {
    let startup = op("OP_INSTANCE_STARTUP");
    let steps = Bed::new().await.through(&[Before::Created, Before::Lost], &startup, Goal::Up).await;
    assert_eq!(steps, ["apply", "destroy", "apply", "apply", "create", "apply"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_converges_from_every_crash() {
    let steps = Bed::new().await.through(&[Before::Created], &op("OP_INSTANCE_SHUTDOWN"), Goal::Down).await;
    assert_eq!(steps, ["apply", "apply", "destroy", "apply"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remove_converges_from_every_crash() {
    let steps = Bed::new().await.through(&[Before::Created], &op("OP_INSTANCE_REMOVE"), Goal::Gone).await;
    assert_eq!(steps, ["apply", "destroy", "apply", "apply"]);
}

/// A node is never a member of a cluster that does not know it.
#[tokio::test(flavor = "multi_thread")]
async fn the_removal_of_a_node_converges_from_every_crash() {
    const NODE: &str = "node2.example.test";
    let remove = json!({"OP_ID": "OP_NODE_REMOVE", "node_name": NODE});
    let mut bed = Bed::new().await;
    let known = |bed: &Bed| bed.master.state().config.nodes().any(|node| node.name == NODE);
    for step in 0..STEPS_MAX {
        for side in [Side::Before, Side::After] {
            bed.master.reset();
            let (_, report) = bed.run(&remove, Some((step, side))).await;
            if let Some(report) = report {
                assert_eq!(report.ops[0].status, Status::Success, "{}", report.ops[0].result);
                assert_eq!(bed.master.state().steps, ["leave", "apply"]);
                return;
            }
            if known(&bed) {
                bed.succeeds(&remove).await;
            }
            assert!(!known(&bed) && bed.master.state().left, "killed {side:?} step {step}");
        }
    }
}

/// A node that never comes back is given up with its slots, whoever dies on the way.
#[tokio::test(flavor = "multi_thread")]
async fn the_removal_of_a_dead_node_with_slots_converges_from_every_crash() {
    const NODE: &str = "node2.example.test";
    let remove = json!({"OP_ID": "OP_NODE_REMOVE", "node_name": NODE});
    let lease = LeaseUuid(uuid::Uuid::from_u128(77));
    let mut bed = Bed::new().await;
    for step in 0..STEPS_MAX {
        for side in [Side::Before, Side::After] {
            bed.master.reset();
            bed.with_slots_on_a_dead_node(lease).await;
            let (owner, report) = bed.run(&remove, Some((step, side))).await;
            bed.master.state().owner_gone(owner);
            let known = bed.master.state().config.nodes().any(|node| node.name == NODE);
            let at = format!("killed {side:?} step {step}");
            if report.is_none() && known {
                bed.succeeds(&remove).await;
            }
            let state = bed.master.state();
            assert!(!state.config.nodes().any(|node| node.name == NODE), "{at}");
            assert_eq!(state.slots("py").keys().collect::<Vec<_>>(), ["py-1"], "{at}");
            let ended = &state.config.lease(lease).expect("luxid has not forgotten it").lease;
            let why = ended.why.as_deref().unwrap_or_default();
            assert!(
                ended.state == LeaseState::Broken && why.ends_with(": its node is removed"),
                "{at}: {why}"
            );
            if let Some(report) = report {
                assert_eq!(report.ops[0].status, Status::Success, "{}", report.ops[0].result);
                assert_eq!(state.steps, ["apply", "apply"], "the slots, the node");
                let said = log(&report);
                let told = "node node2.example.test is offline: what may live in 2 of its slots (py-2, py-3) was not \
                            destroyed; 1 lease on it ends as broken; do not bring it back without removing its var/lib/gantry";
                assert!(said.iter().any(|text| text.contains(told)), "{said:?}");
                return;
            }
        }
    }
    panic!("a removal takes more than {STEPS_MAX} steps")
}

/// A wconfd that stops in good order, or can't keep up, may have stored what it does not answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_answer_is_lost_is_asked_for_again_and_done_once() {
    let mut bed = Bed::new().await;
    for code in [Code::Unknown, Code::NotReady, Code::Busy] {
        bed.master.reset();
        bed.master.state().lost_answers = [code; 3].into();
        bed.succeeds(&create()).await;
        bed.check(Goal::Up, &format!("{code:?}"));
        assert!(bed.master.state().lost_answers.is_empty(), "{code:?}");
    }
}

/// Another master rules (P4.10): the job is not this one's to report, nor to leave a word of.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_fenced_leaves_without_a_word() {
    let mut bed = Bed::new().await;
    bed.master.state().lost_answers = [Code::Fenced].into();
    let (owner, report) = bed.run(&create(), None).await;
    assert!(report.is_none(), "{report:?}");
    assert!(crate::luxid::last_of(&bed.luxid.root, owner).is_none(), "nothing was spooled");
    assert_eq!(bed.master.state().steps, ["apply"], "and nothing more was done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_says_that_it_waits_for_wconfd_and_goes_on_when_it_is_there() {
    let luxid = Luxid::new();
    let stop = CancellationToken::new();
    let mut bed = Bed { master: Master::start(&luxid.root).await, luxid, starts: 0 };
    // As if it had never been: no socket.
    std::fs::remove_file(bed.luxid.root.socket("wconfd.sock")).unwrap();
    let mut job = bed.luxid.spawn(start(1)).await;
    let client = bed.luxid.connect(start(1)).await;
    let mut stream = client.open::<Go>(&go(start(1), &[create()])).await.unwrap();
    let waits = crate::report(&mut stream, |report| !report.ops[0].log.is_empty()).await;
    let text = waits.ops[0].log[0].3.as_str().unwrap().to_owned();
    assert!(text.starts_with("waiting for wconfd: "), "{text}");
    bed.master.serve_wconfd(&bed.luxid.root, stop.clone());
    let last = crate::report(&mut stream, |report| report.outcome == Outcome::Ended).await;
    assert_eq!(last.ops[0].status, Status::Success, "{}", last.ops[0].result);
    bed.check(Goal::Up, "after the wait");
    let confirm = ConfirmRequest { number: last.number, log_serial: 0 };
    client.call::<Confirm>(&confirm, Duration::from_secs(20)).await.unwrap();
    drop((stream, client));
    job.exit().await;
    bed.starts = 1;
    stop.cancel();
}

/// A stopped wconfd (SIGSTOP) takes connections and says nothing; one that is away does not even that.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_for_a_wconfd_that_says_nothing_says_so_and_can_be_cancelled() {
    let op = json!({"OP_ID": "OP_TEST_DELAY", "duration": 0.0, "on_master": true, "on_nodes": []});
    let mut bed = Bed::new().await;
    bed.master.state().silent = true;
    for (counter, wanted) in
        [(1, "waiting for wconfd to answer a request for locks"), (2, "waiting for wconfd: ")]
    {
        if counter == 2 {
            std::fs::remove_file(bed.luxid.root.socket("wconfd.sock")).unwrap();
        }
        let mut job = bed.luxid.spawn(start(counter)).await;
        let client = bed.luxid.connect(start(counter)).await;
        let mut stream = client.open::<Go>(&go(start(counter), std::slice::from_ref(&op))).await.unwrap();
        let waits = crate::report(&mut stream, |report| !report.ops[0].log.is_empty()).await;
        let text = waits.ops[0].log[0].3.as_str().unwrap().to_owned();
        assert!(text.starts_with(wanted), "{text}");
        client.call::<Cancel>(&(), SOON).await.unwrap();
        let last = crate::report(&mut stream, |report| report.outcome == Outcome::Ended).await;
        assert_eq!(last.ops[0].status, Status::Canceled, "{}", last.ops[0].result);
        let confirm = ConfirmRequest { number: last.number, log_serial: 0 };
        client.call::<Confirm>(&confirm, SOON).await.unwrap();
        drop((stream, client));
        job.exit().await;
    }
}

/// Before each phase of hooks the master is confirmed; one before the effect that fails prevents it, one after it does not.
#[tokio::test(flavor = "multi_thread")]
async fn hooks_surround_the_effect_and_the_master_is_confirmed_before_each() {
    let mut bed = Bed::new().await;
    let all = ["confirm", "instance-add-pre", "confirm", "instance-add-post"];
    bed.succeeds(&create()).await;
    assert_eq!(bed.master.state().effects, all);
    bed.master.reset();
    bed.master.state().bad_hook = Some("instance-add-pre");
    let (_, report) = bed.run(&create(), None).await;
    let op = report.unwrap().ops[0].clone();
    let wanted = json!(["HooksAbort", [[["node1.example.test", "it", "no"]]]]);
    assert_eq!((op.status, op.result), (Status::Error, wanted));
    assert_eq!(bed.master.state().effects, all[..2]);
    assert_eq!(bed.master.state().steps, Vec::<&str>::new(), "nothing was done");
    bed.master.reset();
    bed.master.state().bad_hook = Some("instance-add-post");
    bed.succeeds(&create()).await;
    bed.check(Goal::Up, "a hook after the effect failed");
    assert_eq!(bed.master.state().effects, all);
}
