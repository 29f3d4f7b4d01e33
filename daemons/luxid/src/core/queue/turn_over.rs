//! The second opcode of an attempt's job: when the result is stored, the process that is there already ends the lease
//! and makes its VM anew. What it does not come to is the overseer's, who looks at DIRTY slots as ever: so nothing waits
//! for it, its failure is no failure of the attempt, and its end needs no place that others wait for.
//!
//! ```text
//! run ──report──▶ result stored (I6) ──confirmed──▶ lease ended, VM destroyed, the next one made ──▶ job ends
//! ```
//! The job has the key of the slot's turn-over from its first moment, so that nobody submits another (I10).

use super::event::Action;
use super::{Holder, Queue};
use gantry_model::ids::{JobId, LeaseUuid};
use gantry_model::job::{Job, Status};
use gantry_model::lease::LeasedVm;
use gantry_model::opcode::OP_ID;
use gantry_model::task::AttemptRef;
use serde_json::{Map, Value, json};

/// The key of the turn-over of a VM, as the overseer names it.
pub(super) fn key(vm: &LeasedVm) -> String {
    format!("slot-destroy:{}:{}", vm.slot, vm.generation)
}

/// Its opcode.
pub(super) fn op(vm: &LeasedVm, priority: i32) -> Map<String, Value> {
    let slots = json!([[vm.slot, vm.generation]]);
    let op = json!({OP_ID: "OP_SLOT_DESTROY", "slots": slots, "recreate": true, "priority": priority});
    match op {
        Value::Object(op) => op,
        _ => Map::new(),
    }
}

/// The lease of an attempt's job.
pub(super) fn lease(job: &Job) -> Option<LeaseUuid> {
    job.ops.first()?.input.get("lease")?.as_str()?.parse().ok()
}

/// What stands in a job for a result that its task has.
fn mark(at: AttemptRef) -> Value {
    json!({"task": at.task})
}

/// Whether the task has the result of this attempt's job: what is left of it is the turn-over.
pub(super) fn is_stored(job: &Job) -> bool {
    let run = job.ops.first().filter(|op| op.status == Status::Success);
    run.is_some_and(|op| job.attempt.is_some_and(|at| op.result == mark(at)))
}

/// The task has the result now: the job needs it no more.
pub(super) fn set_stored(job: &mut Job) {
    let Some(at) = job.attempt else { return };
    if let Some(op) = job.ops.first_mut().filter(|op| op.status == Status::Success) {
        op.result = mark(at);
    }
}

impl Queue {
    /// The key, and the opcode that goes with it; none while another job has the key.
    pub(super) fn free_turn_over(
        &self,
        vm: &LeasedVm,
        priority: i32,
    ) -> Option<(String, Map<String, Value>)> {
        let key = key(vm);
        (!self.keys.contains_key(&key)).then(|| (key, op(vm, priority)))
    }

    /// Whether the job may go on to its turn-over as soon as this step is stored.
    pub(super) fn may_turn_over(&self, id: JobId) -> bool {
        self.live.get(&id).is_some_and(|entry| entry.job.ops.len() > 1 && is_stored(&entry.job))
    }

    /// The lease of an attempt is wanted no more.
    pub(super) fn close_lease(&mut self, lease: LeaseUuid) {
        if self.holders.get(&lease) != Some(&Holder::Ended) {
            self.holders.insert(lease, Holder::Closing);
        }
    }

    /// Forgets a lease that the copy of the configuration shows as ended; false when it does not.
    pub(super) fn forget_ended(&mut self, lease: LeaseUuid) -> bool {
        let ended = self.holders.get(&lease) == Some(&Holder::Ended);
        if ended {
            self.holders.remove(&lease);
            self.out.actions.push(Action::ForgetLease(lease));
        }
        ended
    }
}
