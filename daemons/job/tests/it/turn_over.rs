//! The run of a task and the turn-over of its VM in one process: in which order, what luxid must have stored in between,
//! and every crash.

use crate::bed::Bed;
use crate::luxid::{go, last_of};
use crate::master::Side;
use crate::pool::entries;
use crate::slot::{check, converge};
use crate::{SOON, start};
use gantry_model::config::SlotState;
use gantry_model::ids::{JobOwner, LeaseUuid, TaskId};
use gantry_model::job::{Outcome, Report, Status};
use gantry_model::lease::{LeaseOwner, LeaseState, LeasedVm};
use gantry_proto::job::{Cancel, Confirm, ConfirmRequest, Go};
use gantry_proto::wconfd::Command;
use gantry_rpc::Event;
use serde_json::{Value, json};

const LEASE: LeaseUuid = LeaseUuid(uuid::Uuid::from_u128(78));
/// More steps than both opcodes take.
const STEPS_MAX: usize = 24;

/// What luxid does when the result is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Luxid {
    Stores,
    Leaves,
    Cancels,
}

fn task() -> LeaseOwner {
    LeaseOwner::Task { task: TaskId(5), attempt: 1 }
}

impl Bed {
    /// A pool of one VM that this one leases.
    async fn lent(&mut self, owner: LeaseOwner) -> LeasedVm {
        self.with_pool(1).await;
        self.succeeds(&json!({"OP_ID": "OP_SLOT_CREATE", "slots": entries(self)})).await;
        self.master.state().lend("py", LEASE, owner)
    }

    fn lease_state(&self) -> LeaseState {
        self.master.state().config.lease(LEASE).expect("it is known").lease.state
    }

    fn slot(&self) -> (SlotState, u64) {
        let slot = self.master.state().slots("py")["py-1"].clone();
        (slot.state, slot.generation.0)
    }

    /// Runs both opcodes; None when the job was killed.
    async fn run_both(
        &mut self,
        vm: &LeasedVm,
        kill: Option<(usize, Side)>,
        luxid: Luxid,
    ) -> (JobOwner, Option<Report>) {
        self.starts += 1;
        let owner = start(self.starts);
        let mut job = self.luxid.spawn(owner).await;
        match kill {
            Some((step, side)) => self.master.state().kill_at(step, side, job.child.id().unwrap()),
            None => self.master.state().let_live(),
        }
        let client = self.luxid.connect(owner).await;
        let mut stream = client.open::<Go>(&go(owner, &ops(vm))).await.unwrap();
        let (mut told, mut last) = (false, None);
        let outcome = async {
            while let Ok(Event::Item(item)) = stream.next().await {
                let report = item.read().unwrap();
                let ran = report.ops[0].status == Status::Success;
                if !told {
                    assert_ne!(self.lease_state(), LeaseState::Released, "its result is not stored");
                }
                if ran && !told && luxid == Luxid::Leaves {
                    return;
                }
                if ran && !told && luxid == Luxid::Cancels {
                    client.call::<Cancel>(&(), SOON).await.unwrap();
                }
                let over = report.outcome == Outcome::Ended;
                told |= ran;
                if over || ran && luxid == Luxid::Stores {
                    let confirm = ConfirmRequest { number: report.number, log_serial: 0 };
                    // It may be killed at any time.
                    let _ = client.call::<Confirm>(&confirm, SOON).await;
                }
                if over {
                    last = Some(report);
                    return;
                }
            }
        };
        tokio::time::timeout(SOON, outcome).await.expect("the job ends or dies");
        drop(stream);
        client.close();
        job.exit().await;
        (owner, last)
    }

    /// What luxid and the overseer do when the job is over: the lease ends, a DIRTY slot is made anew.
    async fn clean_up(&mut self, owner: JobOwner, at: &str) {
        self.master.state().owner_gone(owner);
        self.master.state().apply_as_luxid(Command::LeaseEnd { lease: LEASE, why: "over".to_owned() });
        converge(self, at).await;
    }
}

fn ops(vm: &LeasedVm) -> [Value; 2] {
    let spec = json!({"pool": "py", "execute": [{"command": "echo hello"}]});
    [
        json!({"OP_ID": "OP_TASK_RUN", "task": 5, "attempt": 1, "lease": LEASE, "slot": vm.slot,
               "generation": vm.generation, "node": vm.node, "spec": spec}),
        json!({"OP_ID": "OP_SLOT_DESTROY", "slots": [[vm.slot, vm.generation]], "recreate": true}),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_runs_and_its_vm_is_made_anew_in_one_process() {
    let mut bed = Bed::new().await;
    let vm = bed.lent(task()).await;
    let (_, report) = bed.run_both(&vm, None, Luxid::Stores).await;
    let report = report.expect("nobody kills it");
    assert_eq!(report.ops[0].result["state"], 5, "{}", report.ops[0].result);
    assert_eq!(report.ops[1].result[0][2], "destroyed; created generation 2");
    assert_eq!((bed.slot(), bed.lease_state()), ((SlotState::Clean, 2), LeaseState::Released));
    // The end of the lease and the begin of the destroying are one step.
    let steps = bed.master.state().steps.clone();
    assert_eq!(steps, ["open", "exec", "apply", "destroy", "apply", "create", "apply"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_nobody_stores_ends_no_lease() {
    let mut bed = Bed::new().await;
    for luxid in [Luxid::Leaves, Luxid::Cancels] {
        bed.master.reset();
        let vm = bed.lent(task()).await;
        let (owner, report) = bed.run_both(&vm, None, luxid).await;
        let report = report.or_else(|| last_of(&bed.luxid.root, owner)).expect("a last word");
        assert_eq!((report.outcome, report.ops[0].status), (Outcome::Ended, Status::Success));
        let text = report.ops[1].result[0][2].as_str().unwrap_or_default();
        assert!(text.starts_with("left to the overseer"), "{luxid:?}: {}", report.ops[1].result);
        assert_eq!(bed.slot(), (SlotState::Leased, 1), "{luxid:?}");
        assert_eq!(bed.lease_state(), LeaseState::Active, "{luxid:?}");
        bed.clean_up(owner, "left").await;
        assert_eq!(bed.slot(), (SlotState::Clean, 2), "{luxid:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_lease_is_not_ended() {
    let mut bed = Bed::new().await;
    let vm = bed.lent(LeaseOwner::User { name: "ada".to_owned() }).await;
    let open = Command::LeaseOpen { lease: LEASE, slot: vm.slot, generation: vm.generation };
    bed.master.state().apply_as_luxid(open);
    let (_, report) = bed.run_both(&vm, None, Luxid::Stores).await;
    let report = report.expect("nobody kills it");
    assert_eq!(report.ops[1].result[0][1], "skipped", "{}", report.ops[1].result);
    assert_eq!((bed.slot(), bed.lease_state()), ((SlotState::Leased, 1), LeaseState::Active));
}

/// Killed anywhere it leaves what luxid's end of the lease and the overseer's next job bring in order; orders of the dead
/// that come late do no harm.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_kills_it_the_vm_is_made_anew() {
    let mut bed = Bed::new().await;
    for step in 0..STEPS_MAX {
        for side in [Side::Before, Side::After] {
            bed.master.reset();
            let vm = bed.lent(task()).await;
            let (owner, report) = bed.run_both(&vm, Some((step, side)), Luxid::Stores).await;
            if report.is_some() {
                assert_eq!(step, 7, "all steps were tried");
                return;
            }
            let at = format!("killed {side:?} step {step}");
            let late = bed.master.state().late.take();
            bed.clean_up(owner, &at).await;
            if let Some((slot, verb)) = late {
                let _ = bed.master.state().node(slot, &verb);
                check(&bed, &format!("{at}, then its order {verb:?} arrives"));
            }
            let (_, generation) = bed.slot();
            assert!(generation > 1, "{at}: what was granted to a task is not given out again (I12)");
            assert_eq!(bed.lease_state(), LeaseState::Released, "{at}");
        }
    }
    panic!("both opcodes take more than {STEPS_MAX} steps")
}
