//! Slots of pools: added and removed by number, drained, stuck, and whether one may be made now.

use super::edit::{Context, Edit};
use super::error::{exists, unknown, wrong_input, wrong_state};
use gantry_model::config::{Instance, Node, Slot, SlotState};
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::ids::{InstanceUuid, NodeUuid};
use gantry_model::pool::{Pool, PoolState, SLOT_STUCK_S, slot_name};
use serde_json::{Value, json};
use std::sync::Arc;

/// Why a clean slot that was drained is dirty.
pub(super) const DRAINED: &str = "drained";

impl Edit<'_> {
    /// Adds a slot to an active pool.
    pub(super) fn slot_add(
        &mut self,
        instance: &Instance,
        context: &mut Context,
    ) -> Result<Value, GanetiError> {
        let Instance { uuid, name, primary_node, .. } = instance;
        let pool = instance
            .pool
            .as_deref()
            .ok_or_else(|| wrong_input(format!("Instance '{name}' names no pool: a slot is added to one")))?;
        let pool = self.config.pool(pool).cloned().ok_or_else(|| unknown("Pool", pool))?;
        if let Some(there) = self.slot_there(instance)? {
            return Ok(json!(there));
        }
        if pool.state == PoolState::Draining {
            return Err(wrong_state(format!("Pool '{}' is draining: no new slots", pool.name)));
        }
        let number = name.rsplit_once('-').and_then(|(_, number)| number.parse::<u64>().ok());
        if !number.is_some_and(|number| number > 0 && slot_name(&pool.name, number) == *name) {
            let pool = &pool.name;
            return Err(wrong_input(format!(
                "'{name}' is not a slot's name of pool '{pool}': those are {pool}-1, …"
            )));
        }
        if !instance.forthcoming {
            return Err(wrong_input(format!("Slot '{name}' must be forthcoming, as all slots of pools are")));
        }
        self.in_group(&pool, *primary_node)?;
        // Slots on lost nodes do not count: whoever could add them there could add them without end.
        self.node_takes_work(*primary_node)?;
        let counted = self.counted(&pool.name);
        if counted >= pool.max {
            return Err(wrong_state(format!(
                "Pool '{}' has {counted} slots, at most {}",
                pool.name, pool.max
            )));
        }
        self.instance_put(instance, context)?;
        Ok(json!(uuid))
    }

    /// The slot that is there already, from the same request made before.
    fn slot_there(&self, instance: &Instance) -> Result<Option<InstanceUuid>, GanetiError> {
        let named = self.config.index.instance_names.get(&instance.name);
        let there = named.and_then(|uuid| self.config.instances.get(uuid));
        match there.or_else(|| self.config.instances.get(&instance.uuid)) {
            None => Ok(None),
            Some(there) => {
                let key = |row: &Instance| (row.name.clone(), row.pool.clone(), row.primary_node);
                if key(there) == key(instance) {
                    return Ok(Some(there.uuid));
                }
                Err(exists(format!("Slot '{}' is already in the cluster, on another node", there.name)))
            }
        }
    }

    /// Removes an ABSENT slot that is drained or on a node that takes no work; from an offline node, which may never
    /// come back, a drained one in any state but LEASED. Should it come back, what lives there is a stranger to it.
    pub(super) fn slot_remove(&mut self, uuid: InstanceUuid) -> Result<Value, GanetiError> {
        let (instance, slot) = self.slot_of_pool(uuid)?;
        let node = self.config.node(slot.node).ok_or_else(|| unknown("Node", slot.node))?;
        let given_up = node.offline && slot.drained && slot.state != SlotState::Leased;
        if slot.state != SlotState::Absent && !given_up {
            return Err(wrong_state(format!(
                "Slot '{}' is {} in generation {}: only what is ABSENT is removed",
                instance.name,
                slot.state.as_str(),
                slot.generation
            )));
        }
        if !slot.drained && self.usable(node) {
            return Err(wrong_state(format!(
                "Slot '{}' is neither drained nor on a lost node",
                instance.name
            )));
        }
        self.set_slot(uuid, None);
        self.set_instance(uuid, None);
        Ok(Value::Null)
    }

    /// Sets or clears the drained flag. A lease goes on; its VM is destroyed when it ends (I16).
    pub(super) fn slot_drain(&mut self, uuid: InstanceUuid, drained: bool) -> Result<Value, GanetiError> {
        let (_, slot) = self.slot_of_pool(uuid)?;
        let slot = Slot { drained, ..slot };
        if drained && slot.state == SlotState::Clean {
            self.soil(slot, DRAINED.to_owned());
        } else {
            self.set_slot(uuid, Some(slot));
        }
        Ok(Value::Null)
    }

    /// Forgets failures, so that the slot is tried again at once.
    pub(super) fn slot_unstick(&mut self, uuid: InstanceUuid) -> Result<Value, GanetiError> {
        let (_, slot) = self.slot_of_pool(uuid)?;
        self.set_slot(uuid, Some(Slot { stuck: false, failures: 0, backoff_until: None, ..slot }));
        Ok(Value::Null)
    }

    /// Whether a slot may be made now, and from which revision of its blueprint; 0 outside pools.
    pub(super) fn pool_takes_work(&self, instance: &Instance, slot: &Slot) -> Result<u64, GanetiError> {
        let Some(pool) = &instance.pool else { return Ok(0) };
        let name = &instance.name;
        let pool = self.config.pool(pool).ok_or_else(|| unknown("Pool", pool))?;
        let node = self.config.node(slot.node).ok_or_else(|| unknown("Node", slot.node))?;
        if node.drained {
            return Err(wrong_state(format!("Node '{}' is drained: no new VMs of pools there", node.name)));
        }
        if pool.state == PoolState::Draining {
            return Err(wrong_state(format!("Pool '{}' is draining: no new VMs of it", pool.name)));
        }
        let blueprint = self.blueprint(pool.blueprint)?;
        if !blueprint.enabled {
            return Err(wrong_state(format!("Blueprint '{}' is disabled: no new VMs of it", blueprint.name)));
        }
        if slot.drained {
            return Err(wrong_state(format!("Slot '{name}' is drained: no new VM in it")));
        }
        // A longer pause was set by a wall clock that has stepped back since.
        let pause = slot.backoff_until.map_or(0.0, |until| until - self.now);
        if pause > 0.0 && pause <= SLOT_STUCK_S {
            let failed = format!("Slot '{name}' failed {} times", slot.failures);
            let text = if slot.stuck {
                format!(
                    "{failed} and is stuck: not again within {pause:.1} s; find out why, then gnt-slot recycle {name}"
                )
            } else {
                format!("{failed}: not again within {pause:.1} s")
            };
            return Err(GanetiError::prereq(text, Ecode::TempInsufficientResources));
        }
        Ok(blueprint.stamp.serial_no)
    }

    /// Whether a node takes work of pools.
    pub(super) fn usable(&self, node: &Node) -> bool {
        !node.offline && !node.drained && self.config.claimed.contains(&node.uuid)
    }

    pub(super) fn usable_node(&self, uuid: NodeUuid) -> bool {
        self.config.node(uuid).is_some_and(|node| self.usable(node))
    }

    /// Slots that count towards a pool's size: those on nodes that take work.
    fn counted(&self, pool: &str) -> u64 {
        let nodes = self.config.index.pools.by_node.get(pool).into_iter().flatten();
        nodes.filter(|(node, _)| self.usable_node(**node)).map(|(_, number)| number).sum()
    }

    fn in_group(&self, pool: &Pool, uuid: NodeUuid) -> Result<(), GanetiError> {
        let node = self.config.node(uuid).ok_or_else(|| unknown("Node", uuid))?;
        match pool.group {
            Some(group) if group != node.group => Err(wrong_input(format!(
                "Node '{}' is not in the node group of pool '{}'",
                node.name, pool.name
            ))),
            Some(_) | None => Ok(()),
        }
    }

    fn slot_of_pool(&self, uuid: InstanceUuid) -> Result<(Arc<Instance>, Slot), GanetiError> {
        let (instance, slot) = self.slot_and_instance(uuid)?;
        if instance.pool.is_none() {
            return Err(wrong_input(format!("Instance '{}' is in no pool", instance.name)));
        }
        Ok((instance, slot))
    }
}
