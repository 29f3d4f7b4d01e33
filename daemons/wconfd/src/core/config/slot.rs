//! Slots: what may live in them and in which generation (`model.md` §2.5, P5). Every change is a
//! compare-and-set on the generation; asking again for what is done already changes nothing.
//!
//! ```text
//!          begin            ready             dirty              begin_destroy
//! ABSENT ────────► CREATING ─────► CLEAN ───────────► DIRTY ──────────────────► DESTROYING ─► ABSENT
//!                     └── dirty ────────────────────────┘ └◄─── dirty ──────────────┘  absent
//! ```
//! A task's lease that ends with `lease_destroy` goes from LEASED to DESTROYING in one batch.

use super::edit::{Context, Edit};
use super::error::{slot_moved, unknown, wrong_input, wrong_state};
use super::pool_slot::DRAINED;
use super::rows::Fix;
use gantry_model::config::{Instance, Slot, SlotState};
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::ids::{Generation, InstanceUuid, JobOwner, LeaseUuid, NodeUuid};
use gantry_model::lease::{LeaseOwner, LeaseState};
use gantry_model::pool::{SLOT_FAILURES_MAX, slot_backoff_s};
use gantry_proto::wconfd::Command;
use serde_json::{Value, json};
use std::sync::Arc;

/// Longest reason kept, in bytes: enough for a driver's message.
pub(super) const WHY_BYTES_MAX: usize = 1024;
/// Why a lease ends that its attempt's job ends.
const ATTEMPT_OVER: &str = "its attempt is over";

impl Edit<'_> {
    /// A command on a slot.
    pub(super) fn slot_command(
        &mut self,
        command: &Command,
        context: &mut Context,
    ) -> Result<Value, GanetiError> {
        match command {
            Command::SlotBegin { slot, expected, holder } => {
                self.slot_begin(*slot, *expected, *holder, context)
            }
            Command::SlotReady { slot, generation } => self.slot_ready(*slot, *generation, context),
            Command::SlotDirty { slot, generation, why } => self.slot_dirty(*slot, *generation, why),
            Command::SlotBeginDestroy { slot, generation, holder } => {
                self.slot_begin_destroy(*slot, *generation, *holder, context)
            }
            Command::LeaseDestroy { lease, slot, generation, holder } => {
                self.lease_destroy(*lease, *slot, *generation, *holder, context)
            }
            Command::SlotAbsent { slot, generation, floor } => {
                self.slot_absent(*slot, *generation, *floor, context)
            }
            Command::SlotAdd { instance } => self.slot_add(instance, context),
            Command::SlotRemove { slot } => self.slot_remove(*slot),
            Command::SlotDrain { slot, drained } => self.slot_drain(*slot, *drained),
            Command::SlotUnstick { slot } => self.slot_unstick(*slot),
            other => Err(wrong_input(format!("{other:?} is no command on a slot"))),
        }
    }

    /// The current generation is to be destroyed, for this reason. What failed is counted, and in a pool put off. A
    /// lease that has it is broken.
    pub(super) fn soil(&mut self, mut slot: Slot, why: String) {
        let instance = self.config.instances.get(&slot.uuid);
        let pooled = instance.is_some_and(|instance| instance.pool.is_some());
        let name = instance.map_or_else(|| slot.uuid.to_string(), |instance| instance.name.clone());
        let broken = slot.lease.take();
        if matches!(slot.state, SlotState::Creating | SlotState::Booting | SlotState::Destroying) {
            slot.failures = slot.failures.saturating_add(1);
            if pooled {
                slot.stuck |= slot.failures >= SLOT_FAILURES_MAX;
                slot.backoff_until = Some(self.now + slot_backoff_s(slot.failures));
            }
        }
        (slot.state, slot.holder, slot.why) = (SlotState::Dirty, None, Some(why.clone()));
        self.set_slot(slot.uuid, Some(slot));
        if let Some(lease) = broken {
            self.end_lease(lease, LeaseState::Broken, format!("VM {name}: {why}"));
        }
    }

    /// ABSENT → CREATING with the next generation (P5.3).
    pub(super) fn slot_begin(
        &mut self,
        uuid: InstanceUuid,
        expected: Generation,
        holder: JobOwner,
        context: &Context,
    ) -> Result<Value, GanetiError> {
        let (instance, slot) = self.slot_and_instance(uuid)?;
        own(holder, context)?;
        let next = Generation(expected.0 + 1);
        let repeated = slot.state == SlotState::Creating && slot.generation == next;
        if repeated && slot.holder == Some(holder) {
            return Ok(json!(next));
        }
        if slot.state != SlotState::Absent || slot.generation != expected {
            let wanted = format!("ABSENT in generation {expected}");
            return Err(slot_moved(&instance.name, slot.state, slot.generation, wanted));
        }
        self.node_takes_work(slot.node)?;
        let revision = self.pool_takes_work(&instance, &slot)?;
        let state = SlotState::Creating;
        let begun = Slot {
            state,
            generation: next,
            holder: Some(holder),
            opened: false,
            lease: None,
            why: None,
            revision,
            ready_at: None,
            ..slot
        };
        self.set_slot(uuid, Some(begun));
        Ok(json!(next))
    }

    /// CREATING or BOOTING → CLEAN.
    pub(super) fn slot_ready(
        &mut self,
        uuid: InstanceUuid,
        generation: Generation,
        context: &Context,
    ) -> Result<Value, GanetiError> {
        let (instance, slot) = self.slot_and_instance(uuid)?;
        match slot.state {
            SlotState::Clean if slot.generation == generation => return Ok(Value::Null),
            SlotState::Creating | SlotState::Booting if slot.generation == generation => {}
            SlotState::Absent
            | SlotState::Creating
            | SlotState::Booting
            | SlotState::Clean
            | SlotState::Leased
            | SlotState::Dirty
            | SlotState::Destroying => {
                let wanted = format!("CREATING in generation {generation}");
                return Err(slot_moved(&instance.name, slot.state, slot.generation, wanted));
            }
        }
        held_by(&instance, &slot, context)?;
        let ready = Slot {
            state: SlotState::Clean,
            holder: None,
            failures: 0,
            stuck: false,
            backoff_until: None,
            ready_at: Some(self.now),
            ..slot
        };
        if ready.drained {
            self.soil(ready, DRAINED.to_owned());
        } else {
            self.set_slot(uuid, Some(ready));
        }
        Ok(Value::Null)
    }

    /// Any live state → DIRTY.
    pub(super) fn slot_dirty(
        &mut self,
        uuid: InstanceUuid,
        generation: Generation,
        why: &str,
    ) -> Result<Value, GanetiError> {
        let (instance, slot) = self.slot_and_instance(uuid)?;
        if !slot.state.may_live() || slot.generation != generation {
            let wanted = format!("a VM in generation {generation}");
            return Err(slot_moved(&instance.name, slot.state, slot.generation, wanted));
        }
        if why.is_empty() || why.len() > WHY_BYTES_MAX {
            return Err(wrong_input(format!("The reason must have 1 to {WHY_BYTES_MAX} bytes")));
        }
        if slot.state != SlotState::Dirty {
            self.soil(slot, why.to_owned());
        }
        Ok(Value::Null)
    }

    /// DIRTY → DESTROYING.
    pub(super) fn slot_begin_destroy(
        &mut self,
        uuid: InstanceUuid,
        generation: Generation,
        holder: JobOwner,
        context: &Context,
    ) -> Result<Value, GanetiError> {
        let (instance, slot) = self.slot_and_instance(uuid)?;
        own(holder, context)?;
        let same = slot.generation == generation;
        if same && slot.state == SlotState::Destroying && slot.holder == Some(holder) {
            return Ok(Value::Null);
        }
        if !same || slot.state != SlotState::Dirty {
            let wanted = format!("DIRTY in generation {generation}");
            return Err(slot_moved(&instance.name, slot.state, slot.generation, wanted));
        }
        self.node_takes_work(slot.node)?;
        self.set_slot(uuid, Some(Slot { state: SlotState::Destroying, holder: Some(holder), ..slot }));
        Ok(Value::Null)
    }

    /// LEASED → DESTROYING: a task's lease ends and its VM with it, in one.
    fn lease_destroy(
        &mut self,
        lease: LeaseUuid,
        uuid: InstanceUuid,
        generation: Generation,
        holder: JobOwner,
        context: &Context,
    ) -> Result<Value, GanetiError> {
        let (instance, slot) = self.slot_and_instance(uuid)?;
        if slot.state == SlotState::Leased && slot.generation == generation && slot.lease == Some(lease) {
            let owner = self.config.leases.get(&lease).map(|row| &row.lease.owner);
            if !matches!(owner, Some(LeaseOwner::Task { .. })) {
                let name = &instance.name;
                return Err(wrong_state(format!("Lease {lease} of instance '{name}' is no task's")));
            }
            self.end_lease(lease, LeaseState::Released, ATTEMPT_OVER.to_owned());
        }
        self.slot_begin_destroy(uuid, generation, holder, context)
    }

    /// DESTROYING → ABSENT, on the node's word (P5.7).
    pub(super) fn slot_absent(
        &mut self,
        uuid: InstanceUuid,
        generation: Generation,
        floor: Generation,
        context: &Context,
    ) -> Result<Value, GanetiError> {
        let (instance, slot) = self.slot_and_instance(uuid)?;
        if slot.state == SlotState::Absent && slot.generation >= generation {
            return Ok(Value::Null);
        }
        if slot.state != SlotState::Destroying || slot.generation != generation {
            let wanted = format!("DESTROYING in generation {generation}");
            return Err(slot_moved(&instance.name, slot.state, slot.generation, wanted));
        }
        held_by(&instance, &slot, context)?;
        if floor < generation {
            return Err(wrong_state(format!(
                "Node says absent but names floor {floor} for instance '{}', generation {generation}: a \
                 late create could still land there",
                instance.name
            )));
        }
        // Failures are forgotten by success only: else a create that never works would be tried without a pause.
        let Slot { node, failures, drained, stuck, backoff_until, .. } = slot;
        let generation = floor.max(generation);
        let absent = Slot { generation, failures, drained, stuck, backoff_until, ..Slot::new(uuid, node) };
        self.set_slot(uuid, Some(absent));
        Ok(Value::Null)
    }

    /// What an inventory found. The generation never falls; what is absent stays so unless something
    /// lives on the node.
    pub(super) fn fix_slot(&mut self, fix: &Fix) {
        let Some(row) = self.config.slots.get(&fix.slot) else { return };
        let mut slot = row.slot.clone();
        slot.generation = slot.generation.max(fix.generation);
        match &fix.dirty {
            Some(why) => self.soil(slot, why.clone()),
            None => self.set_slot(fix.slot, Some(slot)),
        }
    }

    pub(super) fn slot_and_instance(&self, uuid: InstanceUuid) -> Result<(Arc<Instance>, Slot), GanetiError> {
        match (self.config.instances.get(&uuid), self.config.slots.get(&uuid)) {
            (Some(instance), Some(row)) => Ok((instance.clone(), row.slot.clone())),
            (None, _) | (_, None) => Err(unknown("Instance", uuid)),
        }
    }

    /// Refuses work on a node that is offline or not claimed (P5.2).
    pub(super) fn node_takes_work(&self, uuid: NodeUuid) -> Result<(), GanetiError> {
        let node = self.config.node(uuid).ok_or_else(|| unknown("Node", uuid))?;
        if node.offline {
            return Err(wrong_state(format!("Node '{}' is offline", node.name)));
        }
        if !self.config.claimed.contains(&uuid) {
            let text = format!("Node '{}' does not answer the master now; try again when it does", node.name);
            return Err(GanetiError::prereq(text, Ecode::EnvironmentError));
        }
        Ok(())
    }
}

/// A job names itself as holder, nobody else.
fn own(holder: JobOwner, context: &Context) -> Result<(), GanetiError> {
    match context.owner {
        Some((owner, _)) if owner != holder => {
            Err(wrong_input(format!("Job {owner} can't take a slot for job {holder}")))
        }
        Some(_) | None => Ok(()),
    }
}

/// Only the job that creates or destroys says how that ended.
fn held_by(instance: &Instance, slot: &Slot, context: &Context) -> Result<(), GanetiError> {
    match (context.owner, slot.holder) {
        (Some((owner, _)), Some(holder)) if owner != holder => Err(wrong_state(format!(
            "Slot of instance '{}' is in the hands of job {}, not of job {}",
            instance.name, holder.job, owner.job
        ))),
        (Some(_) | None, _) => Ok(()),
    }
}
