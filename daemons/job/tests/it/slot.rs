//! VMs of pools through creates, destroys and checks, and through every crash of the job that does them.

use crate::bed::{Bed, log};
use crate::master::{Side, State};
use crate::pool::{blueprint, entries, on, pool, store, with};
use gantry_model::config::{Node, Slot, SlotState, kind};
use gantry_model::ids::{Generation, LeaseUuid};
use gantry_model::pool::Blueprint;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const CREATE: &str = "OP_SLOT_CREATE";
const DESTROY: &str = "OP_SLOT_DESTROY";
/// More steps than any opcode here takes.
const STEPS_MAX: usize = 24;

fn op(id: &str, slots: Vec<Value>) -> Value {
    json!({"OP_ID": id, "slots": slots})
}

impl Bed {
    /// A pool of so many slots, in which nothing lives.
    pub async fn with_pool(&mut self, slots: u64) {
        self.succeeds(&blueprint()).await;
        self.succeeds(&pool(slots)).await;
        self.succeeds(&on("OP_POOL_EXPAND")).await;
    }

    /// Runs an opcode on all slots as they stand: its words and texts.
    async fn on_all(&mut self, id: &str, more: Value) -> Vec<(String, String)> {
        let op = with(op(id, entries(self)), more);
        words(&self.result(&op).await)
    }

    fn states(&self) -> Vec<(SlotState, u64)> {
        self.master.state().slots("py").values().map(|slot| (slot.state, slot.generation.0)).collect()
    }

    fn soil(&mut self, name: &str) {
        let uuid = self.master.state().slots("py")[name].uuid;
        self.master.state().meddle(kind::SLOT, uuid, |slot: &mut Slot| {
            (slot.state, slot.why) = (SlotState::Dirty, Some("used".to_owned()));
        });
    }
}

fn words(result: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    result.as_array().unwrap().iter().map(|row| (text(&row[1]), text(&row[2]))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lot_is_made_side_by_side_in_three_steps_of_the_configuration() {
    let mut bed = Bed::new().await;
    bed.with_pool(4).await;
    {
        // No create answers before all four have come.
        let mut state = bed.master.state();
        (state.gather, state.gathered) = (4, 0);
    }
    let all = bed.on_all(CREATE, json!({})).await;
    assert_eq!(all, vec![("ok".to_owned(), "created generation 1".to_owned()); 4]);
    assert_eq!(bed.states(), [(SlotState::Clean, 1); 4]);
    let steps = bed.master.state().steps.clone();
    assert_eq!(steps, ["apply", "create", "create", "create", "create", "apply"]);
    // Again: out of date, which is no error.
    let old: Vec<Value> = bed.master.state().slots("py").values().map(|slot| json!([slot.uuid, 0])).collect();
    let again = words(&bed.result(&op(CREATE, old)).await);
    assert_eq!(again[0], ("skipped".to_owned(), "py-1 is in generation 1 now, not 0".to_owned()));
    let now = bed.on_all(CREATE, json!({})).await;
    assert_eq!(now[0], ("skipped".to_owned(), "py-1 is CLEAN, not ABSENT".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fails_is_dirty_and_does_not_keep_the_others() {
    let mut bed = Bed::new().await;
    bed.with_pool(3).await;
    let bad = bed.master.state().slots("py")["py-2"].uuid;
    bed.master.state().broken.insert(bad, "no space left".to_owned());
    let all = bed.on_all(CREATE, json!({})).await;
    assert_eq!(all[1].0, "failed");
    assert!(all[1].1.starts_with("create failed: node ") && all[1].1.ends_with("no space left"), "{all:?}");
    let states = bed.states();
    assert_eq!(states, [(SlotState::Clean, 1), (SlotState::Dirty, 1), (SlotState::Clean, 1)]);
    let slot: Slot = bed.master.state().slots("py")["py-2"].clone();
    assert_eq!(slot.failures, 1);
    assert!(slot.why.unwrap().contains("no space left"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_out_of_date_when_it_begins_does_not_keep_the_others() {
    let mut bed = Bed::new().await;
    bed.with_pool(2).await;
    // Its node is not claimed: wconfd refuses the whole batch, then that entry.
    let second = bed.master.state().config.nodes().find(|node| !node.vm_capable).unwrap().uuid;
    let uuid = bed.master.state().slots("py")["py-2"].uuid;
    {
        let mut state = bed.master.state();
        state.meddle(kind::NODE, second, |node: &mut Node| node.vm_capable = true);
        state.move_slot(uuid, second);
        state.config.set_claimed(second, false);
    }
    let all = bed.on_all(CREATE, json!({})).await;
    assert_eq!((all[0].0.as_str(), all[1].0.as_str()), ("ok", "skipped"));
    assert!(all[1].1.contains("does not answer the master"), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_sent_once_to_a_node_that_lacks_it() {
    let mut bed = Bed::new().await;
    // Two pieces and a bit.
    let body = store(&bed, &vec![7u8; (512 << 10) + 5]);
    let import =
        json!({"OP_ID": "OP_OS_IMPORT", "image_name": "alpine", "digest": body.digest, "bytes": body.bytes});
    bed.succeeds(&import).await;
    bed.succeeds(&with(blueprint(), json!({"image": "alpine"}))).await;
    bed.succeeds(&pool(3)).await;
    bed.succeeds(&on("OP_POOL_EXPAND")).await;
    bed.master.state().wants_images = true;
    let all = bed.on_all(CREATE, json!({})).await;
    assert!(all.iter().all(|(word, _)| word == "ok"), "{all:?}");
    let guests = bed.master.state().guests.clone();
    let guests = guests.lock().unwrap();
    assert_eq!((guests.image_puts, guests.images[&body.digest].len() as u64), (3, body.bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn dirty_slots_are_destroyed_and_made_anew_in_one_job() {
    let mut bed = Bed::new().await;
    bed.with_pool(3).await;
    bed.on_all(CREATE, json!({})).await;
    bed.soil("py-1");
    bed.soil("py-3");
    let all = bed.on_all(DESTROY, json!({"recreate": true})).await;
    assert_eq!(all[0], ("ok".to_owned(), "destroyed; created generation 2".to_owned()));
    assert_eq!(all[1], ("skipped".to_owned(), "py-2 is CLEAN, not DIRTY".to_owned()));
    assert_eq!(bed.states(), [(SlotState::Clean, 2), (SlotState::Clean, 1), (SlotState::Clean, 2)]);
    // The old one's end and the new one's begin are one step.
    let steps = bed.master.state().steps.clone();
    assert_eq!(steps, ["apply", "destroy", "destroy", "apply", "create", "create", "apply"]);
    bed.soil("py-1");
    bed.succeeds(&on("OP_POOL_DRAIN")).await;
    let all = bed.on_all(DESTROY, json!({"recreate": true})).await;
    assert_eq!(all[0], ("ok".to_owned(), "destroyed; not made anew: pool py is draining".to_owned()));
    assert_eq!(bed.states()[0], (SlotState::Absent, 2));
}

/// wconfd refuses the begin of the new one together with the end of the old one; the end is stored all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_drained_while_its_vm_is_destroyed_is_absent_after_it() {
    let mut bed = Bed::new().await;
    bed.with_pool(2).await;
    bed.on_all(CREATE, json!({})).await;
    bed.soil("py-1");
    bed.soil("py-2");
    let first = bed.master.state().slots("py")["py-1"].uuid;
    bed.master.state().before_apply = Some(Box::new(move |state: &mut State| {
        state.meddle(kind::SLOT, first, |slot: &mut Slot| slot.drained = true);
    }));
    let all = bed.on_all(DESTROY, json!({"recreate": true})).await;
    assert!(all[0].0 == "ok" && all[0].1.starts_with("destroyed; not made anew: "), "{all:?}");
    assert_eq!(all[1].1, "destroyed; created generation 2");
    assert_eq!(bed.states(), [(SlotState::Absent, 1), (SlotState::Clean, 2)]);
}

/// wconfd lets the new VM begin, and then none is wanted: it is dirty, with the reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_was_begun_and_is_not_to_be_made_is_dirty() {
    let mut bed = Bed::new().await;
    bed.with_pool(1).await;
    bed.on_all(CREATE, json!({})).await;
    bed.soil("py-1");
    let disable = |state: &mut State| {
        let blueprint = state.config.pool("py").unwrap().blueprint;
        state.meddle(kind::BLUEPRINT, blueprint, |row: &mut Blueprint| row.enabled = false);
    };
    // After the second batch, which ends the old VM and begins the new one.
    let later = move |state: &mut State| state.after_apply = Some(Box::new(disable));
    bed.master.state().after_apply = Some(Box::new(later));
    let all = bed.on_all(DESTROY, json!({"recreate": true})).await;
    let why = "create failed: blueprint small is disabled";
    assert_eq!(all[0], ("failed".to_owned(), format!("destroyed; {why}")));
    assert_eq!(bed.states(), [(SlotState::Dirty, 2)]);
    assert_eq!(bed.master.state().slots("py")["py-1"].why.as_deref(), Some(why));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_finds_what_does_not_live() {
    let mut bed = Bed::new().await;
    bed.with_pool(3).await;
    bed.on_all(CREATE, json!({})).await;
    let [one, two] = ["py-1", "py-2"].map(|name| bed.master.state().slots("py")[name].uuid);
    bed.master.state().lose_vm(one);
    bed.master.state().records.remove(&two);
    let all = bed.on_all("OP_SLOT_VERIFY", json!({})).await;
    assert!(all[0].1.starts_with("dirty: health check: the vm is lost on node"), "{all:?}");
    assert!(all[1].1.contains("does not know the slot"), "{all:?}");
    assert_eq!(all[2], ("ok".to_owned(), "lives".to_owned()));
    let states: Vec<SlotState> = bed.states().into_iter().map(|(state, _)| state).collect();
    assert_eq!(states, [SlotState::Dirty, SlotState::Dirty, SlotState::Clean]);
}

#[tokio::test(flavor = "multi_thread")]
async fn drained_slots_go_when_nothing_lives_there() {
    let mut bed = Bed::new().await;
    bed.with_pool(2).await;
    let first = entries(&bed)[..1].to_vec();
    bed.succeeds(&op(CREATE, first)).await;
    let all = bed.on_all("OP_SLOT_DRAIN", json!({"why": "node leaves"})).await;
    let told = |text: &str| ("ok".to_owned(), text.to_owned());
    assert_eq!(all, [told("drained: node leaves"), told("removed: node leaves")]);
    assert_eq!(bed.states(), [(SlotState::Dirty, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_recycles_by_name_and_breaks_leases_only_by_force() {
    let mut bed = Bed::new().await;
    bed.with_pool(3).await;
    let two = entries(&bed)[..2].to_vec();
    bed.succeeds(&op(CREATE, two)).await;
    bed.master.state().lease("py", LeaseUuid(uuid::Uuid::from_u128(7)));
    let slots = bed.master.state().slots("py");
    let leased = slots.iter().find(|(_, slot)| slot.state == SlotState::Leased).unwrap().0.clone();
    let recycle =
        |names: Vec<String>| json!({"OP_ID": "OP_SLOT_RECYCLE", "slots": names, "why": "looks odd"});
    let all: Vec<String> = slots.keys().cloned().collect();
    let (_, text, code) = bed.fails(&recycle(all.clone())).await;
    assert!(code == "wrong_state" && text.contains(&format!("{leased} is leased by lease")), "{text}");
    assert_eq!(bed.states().iter().filter(|(state, _)| *state == SlotState::Dirty).count(), 0, "all or none");
    let told = bed.result(&with(recycle(all), json!({"force": true}))).await;
    assert_eq!(told[2], json!(["py-3", "nothing lives there; it is tried again at once"]));
    assert_eq!(bed.states().iter().filter(|(state, _)| *state == SlotState::Dirty).count(), 2);
    // By the beginning of its uuid.
    let prefix = slots["py-3"].uuid.to_string()[..13].to_owned();
    assert_eq!(bed.result(&recycle(vec![prefix])).await[0][0], "py-3");
    assert_eq!(bed.fails(&recycle(vec!["py-9".to_owned()])).await.2, "unknown_entity");
}

/// Between the look and the change the VM may be given to somebody.
#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_leased_while_it_is_about_to_be_recycled_is_left_alone() {
    let mut bed = Bed::new().await;
    bed.with_pool(1).await;
    bed.on_all(CREATE, json!({})).await;
    let recycle = json!({"OP_ID": "OP_SLOT_RECYCLE", "slots": ["py-1"], "why": "old"});
    bed.master.state().before_apply = Some(Box::new(|state| {
        state.lease("py", LeaseUuid(uuid::Uuid::from_u128(7)));
    }));
    assert_eq!(bed.result(&recycle).await, json!([["py-1", "was leased meanwhile and is left alone"]]));
    let slot = bed.master.state().slots("py")["py-1"].clone();
    assert_eq!((slot.state, slot.drained), (SlotState::Leased, false));
}

/// A busy pool does not stand still while an operator recycles all of it.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_changes_while_it_is_about_to_be_recycled_does_not_keep_the_others() {
    let mut bed = Bed::new().await;
    bed.with_pool(3).await;
    bed.on_all(CREATE, json!({})).await;
    let op =
        |names: &[&str]| json!({"OP_ID": "OP_SLOT_RECYCLE", "slots": names, "why": "old", "force": true});
    let second = bed.master.state().slots("py")["py-2"].uuid;
    // As after a destroy and a create of another job.
    let next = move |state: &mut State| {
        state.meddle(kind::SLOT, second, |slot: &mut Slot| slot.generation.0 += 1);
    };
    bed.master.state().before_apply = Some(Box::new(next));
    let told = bed.result(&op(&["py-1", "py-2", "py-3"])).await;
    assert_eq!(
        (&told[0], &told[2]),
        (&json!(["py-1", "was CLEAN, is DIRTY"]), &json!(["py-3", "was CLEAN, is DIRTY"]))
    );
    let text = told[1][1].as_str().unwrap();
    assert!(
        text.starts_with("changed meanwhile and is left alone: ") && text.contains("generation"),
        "{text}"
    );
    assert_eq!(bed.states(), [(SlotState::Dirty, 1), (SlotState::Clean, 2), (SlotState::Dirty, 1)]);
    // Where nothing was done at all, that is no success.
    bed.master.state().before_apply = Some(Box::new(next));
    let (class, text, _) = bed.fails(&op(&["py-2"])).await;
    assert!(class == "OpExecError" && text.contains("generation"), "{text}");
    assert_eq!(bed.states()[1], (SlotState::Clean, 3));
}

/// The overseer's job may be late: what changed since it looked is left alone, and keeps no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_job_of_the_overseer_breaks_no_living_lease() {
    let mut bed = Bed::new().await;
    bed.with_pool(3).await;
    bed.on_all(CREATE, json!({})).await;
    let before = entries(&bed);
    bed.master.state().lease("py", LeaseUuid(uuid::Uuid::from_u128(7)));
    let leased = bed.states().iter().position(|(state, _)| *state == SlotState::Leased).unwrap();
    let words = |told: &Value| -> Vec<String> {
        told.as_array().unwrap().iter().map(|row| row[1].as_str().unwrap().to_owned()).collect()
    };
    // For an older blueprint: a leased one of the lot does not keep the others.
    let op = |slots: Vec<Value>, more: Value| with(op("OP_SLOT_RECYCLE", slots), more);
    let told = bed.result(&op(before.clone(), json!({"why": "revision"}))).await;
    let wanted: Vec<_> = (0..3).map(|at| if at == leased { "skipped" } else { "ok" }).collect();
    assert_eq!(words(&told), wanted, "{told}");
    // For a node that was lost: it is back.
    let lost = json!({"force": true, "only_lost": true, "why": "node lost"});
    let one = vec![before[leased].clone()];
    let told = bed.result(&op(one.clone(), lost.clone())).await;
    assert!(told[0][2].as_str().unwrap().contains("is not lost any more"), "{told}");
    assert_eq!(bed.states()[leased].0, SlotState::Leased);
    // It is lost, but when the overseer looked another VM was in the slot.
    bed.master.state().lost = true;
    let told = bed.result(&op(vec![json!([one[0][0], 0])], lost.clone())).await;
    assert!(told[0][2].as_str().unwrap().contains("is in generation 1 now, not 0"), "{told}");
    assert_eq!(bed.states()[leased].0, SlotState::Leased);
    let told = bed.result(&op(one, lost)).await;
    assert_eq!((words(&told), bed.states()[leased].0), (vec!["ok".to_owned()], SlotState::Dirty), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_slot_is_recycled_without_force() {
    let mut bed = Bed::new().await;
    bed.with_pool(1).await;
    bed.on_all(CREATE, json!({})).await;
    let recycle = json!({"OP_ID": "OP_SLOT_RECYCLE", "slots": ["py-1"], "why": "old"});
    assert_eq!(bed.result(&recycle).await, json!([["py-1", "was CLEAN, is DIRTY"]]));
    let slot = bed.master.state().slots("py")["py-1"].clone();
    assert_eq!((slot.state, slot.drained, slot.failures), (SlotState::Dirty, false, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_of_a_pool_is_no_instance_for_ganetis_opcodes() {
    let mut bed = Bed::new().await;
    bed.with_pool(1).await;
    for id in ["OP_INSTANCE_STARTUP", "OP_INSTANCE_SHUTDOWN", "OP_INSTANCE_REMOVE"] {
        let (_, text, code) = bed.fails(&json!({"OP_ID": id, "instance_name": "py-1"})).await;
        assert_eq!(text, "Instance py-1 belongs to pool py: use gnt-slot recycle py-1");
        assert_eq!(code, "wrong_state");
    }
}

/// What the overseer does until all is CLEAN and the node has just that: each round a new job.
pub async fn converge(bed: &mut Bed, at: &str) {
    for _ in 0..3 {
        // Failures make pauses.
        bed.master.state().now += 60.0;
        let slots = bed.master.state().slots("py");
        let of = |wanted: SlotState| -> Vec<Value> {
            let own = slots.values().filter(|slot| slot.state == wanted);
            own.map(|slot| json!([slot.uuid, slot.generation])).collect()
        };
        for (state, id) in
            [(SlotState::Dirty, DESTROY), (SlotState::Destroying, DESTROY), (SlotState::Absent, CREATE)]
        {
            if !of(state).is_empty() {
                let more = if id == DESTROY { json!({"recreate": true}) } else { json!({}) };
                bed.succeeds(&with(op(id, of(state)), more)).await;
            }
        }
    }
    check(bed, at);
}

pub fn check(bed: &Bed, at: &str) {
    let state = bed.master.state();
    let slots = state.slots("py");
    assert!(
        slots.values().all(|slot| slot.state == SlotState::Clean && slot.holder.is_none()),
        "{at}: {slots:?}"
    );
    let wanted: BTreeSet<_> = slots.values().map(|slot| (slot.uuid, slot.generation)).collect();
    assert_eq!(state.vms, wanted, "{at}");
}

/// Kills the job around each of its steps; luxid's word of its death, the overseer's next jobs, and orders of the dead
/// that arrive late.
async fn through(id: &str, more: Value, prepared: &[&str]) -> usize {
    let mut bed = Bed::new().await;
    for step in 0..STEPS_MAX {
        for side in [Side::Before, Side::After] {
            bed.master.reset();
            bed.with_pool(2).await;
            if id == DESTROY {
                bed.on_all(CREATE, json!({})).await;
            }
            prepared.iter().for_each(|name| bed.soil(name));
            let op = with(op(id, entries(&bed)), more.clone());
            let (owner, report) = bed.run(&op, Some((step, side))).await;
            let at = format!("{id} killed {side:?} step {step}");
            if report.is_some() {
                converge(&mut bed, "undisturbed").await;
                return step;
            }
            let late = bed.master.state().late.take();
            bed.master.state().owner_gone(owner);
            converge(&mut bed, &at).await;
            if let Some((slot, verb)) = late {
                let _ = bed.master.state().node(slot, &verb);
                check(&bed, &format!("{at}, then its order {verb:?} arrives"));
            }
        }
    }
    panic!("{id} takes more than {STEPS_MAX} steps")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_of_slots_converges_from_every_crash() {
    assert_eq!(through(CREATE, json!({}), &[]).await, 4, "begin, two creates, ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destroy_of_slots_converges_from_every_crash() {
    assert_eq!(through(DESTROY, json!({}), &["py-1", "py-2"]).await, 4, "begin, two destroys, absent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_over_of_slots_converges_from_every_crash() {
    assert_eq!(through(DESTROY, json!({"recreate": true}), &["py-1", "py-2"]).await, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_told_in_the_log() {
    let mut bed = Bed::new().await;
    bed.with_pool(1).await;
    let uuid = bed.master.state().slots("py")["py-1"].uuid;
    bed.master.state().broken.insert(uuid, "no crun".to_owned());
    let report = bed.report(&op(CREATE, entries(&bed))).await;
    assert!(log(&report)[0].starts_with(" - WARNING: py-1: node "), "{:?}", log(&report));
    assert_eq!(Generation(1), bed.master.state().slots("py")["py-1"].generation);
}
