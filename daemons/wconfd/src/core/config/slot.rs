//! Slots: what may live in them and in which generation (`model.md` §2.5, P5). Every change is a
//! compare-and-set on the generation; asking again for what is done already changes nothing.
//!
//! ```text
//!          begin            ready             dirty              begin_destroy
//! ABSENT ────────► CREATING ─────► CLEAN ───────────► DIRTY ──────────────────► DESTROYING ─► ABSENT
//!                     └── dirty ────────────────────────┘ └◄─── dirty ──────────────┘  absent
//! ```

use super::edit::{Context, Edit};
use super::error::{slot_moved, unknown, wrong_input, wrong_state};
use super::rows::Fix;
use gantry_model::config::{Instance, Slot, SlotState};
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::ids::{Generation, InstanceUuid, JobOwner, NodeUuid};
use serde_json::{Value, json};
use std::sync::Arc;

/// Makes the record of a slot dirty. A trait, since the record belongs to the model.
pub(super) trait Soil {
    /// The current generation is to be destroyed, for this reason. What failed is counted.
    fn soil(&mut self, why: String);
}

impl Soil for Slot {
    fn soil(&mut self, why: String) {
        let failed = matches!(self.state, SlotState::Creating | SlotState::Booting | SlotState::Destroying);
        self.failures = self.failures.saturating_add(u32::from(failed));
        self.state = SlotState::Dirty;
        self.holder = None;
        self.lease = None;
        self.why = Some(why);
    }
}

/// Longest reason kept, in bytes: enough for a driver's message.
const WHY_BYTES_MAX: usize = 1024;

impl Edit<'_> {
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
        let node = self.config.node(slot.node).expect("a slot's node exists");
        if node.drained && instance.pool.is_some() {
            return Err(wrong_state(format!("Node '{}' is drained: no new VMs of pools there", node.name)));
        }
        let state = SlotState::Creating;
        let begun = Slot {
            state,
            generation: next,
            holder: Some(holder),
            opened: false,
            lease: None,
            why: None,
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
        let ready = Slot { state: SlotState::Clean, holder: None, failures: 0, ..slot };
        self.set_slot(uuid, Some(ready));
        Ok(Value::Null)
    }

    /// Any live state → DIRTY.
    pub(super) fn slot_dirty(
        &mut self,
        uuid: InstanceUuid,
        generation: Generation,
        why: &str,
    ) -> Result<Value, GanetiError> {
        let (instance, mut slot) = self.slot_and_instance(uuid)?;
        if !slot.state.may_live() || slot.generation != generation {
            let wanted = format!("a VM in generation {generation}");
            return Err(slot_moved(&instance.name, slot.state, slot.generation, wanted));
        }
        if why.is_empty() || why.len() > WHY_BYTES_MAX {
            return Err(wrong_input(format!("The reason must have 1 to {WHY_BYTES_MAX} bytes")));
        }
        if slot.state != SlotState::Dirty {
            slot.soil(why.to_owned());
            self.set_slot(uuid, Some(slot));
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
        let (node, failures) = (slot.node, 0);
        let absent = Slot { generation: floor.max(generation), failures, ..Slot::new(uuid, node) };
        self.set_slot(uuid, Some(absent));
        Ok(Value::Null)
    }

    /// What an inventory found. The generation never falls; what is absent stays so unless something
    /// lives on the node.
    pub(super) fn fix_slot(&mut self, fix: &Fix) {
        let Some(row) = self.config.slots.get(&fix.slot) else { return };
        let mut slot = row.slot.clone();
        slot.generation = slot.generation.max(fix.generation);
        if let Some(why) = &fix.dirty {
            slot.soil(why.clone());
        }
        self.set_slot(fix.slot, Some(slot));
    }

    fn slot_and_instance(&self, uuid: InstanceUuid) -> Result<(Arc<Instance>, Slot), GanetiError> {
        match (self.config.instances.get(&uuid), self.config.slots.get(&uuid)) {
            (Some(instance), Some(row)) => Ok((instance.clone(), row.slot.clone())),
            (None, _) | (_, None) => Err(unknown("Instance", uuid)),
        }
    }

    /// Refuses work on a node that is offline or not claimed (P5.2).
    fn node_takes_work(&self, uuid: NodeUuid) -> Result<(), GanetiError> {
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
