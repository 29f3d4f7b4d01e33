//! Instances: what is wanted of them. What lives is the slot's affair.

use super::cluster::memory_in_order;
use super::edit::{Context, Edit, fresh};
use super::error::{exists, not_unique, unknown, wrong_input, wrong_state};
use super::fields;
use gantry_model::config::{AdminState, Instance, Params, Slot, SlotState};
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::ids::{InstanceUuid, NodeUuid};
use gantry_model::names::is_host_name;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use uuid::Uuid;

/// Back ends an instance may have: Gantry's own and the names Ganeti's clients know.
const HYPERVISORS: &[&str] = &["fake", "oci", "openvz", "chroot", "kvm", "lxc", "xen-hvm", "xen-pvm"];
/// Most NICs of one instance, Ganeti's limit.
const NICS_MAX: usize = 8;
/// Most disks of one instance, Ganeti's limit.
const DISKS_MAX: usize = 16;
/// MACs that ask for a generated one.
const MAC_WISHES: [&str; 3] = ["", "auto", "generate"];
/// Attempts to draw a free MAC: with 50,000 of 16 million taken, a tenth failure is beyond belief.
const MAC_DRAWS_MAX: usize = 10;

impl Edit<'_> {
    /// Adds an instance and its slot.
    pub(super) fn instance_add(
        &mut self,
        instance: &Instance,
        context: &mut Context,
    ) -> Result<Value, GanetiError> {
        if instance.pool.is_some() {
            let name = &instance.name;
            return Err(wrong_input(format!(
                "Instance '{name}' names a pool: those are added by growing the pool"
            )));
        }
        self.no_slots_name(&instance.name)?;
        self.instance_put(instance, context)
    }

    /// Puts an instance with its slot in, after the checks that all kinds of them have.
    pub(super) fn instance_put(
        &mut self,
        instance: &Instance,
        context: &mut Context,
    ) -> Result<Value, GanetiError> {
        let mut instance = instance.clone();
        let uuid = instance.uuid;
        self.never_removed("Instance", uuid.0)?;
        self.check_name(&instance)?;
        if self.config.instances.contains_key(&uuid) {
            return Err(exists(format!("Instance '{}' is already in the cluster", instance.name)));
        }
        self.home(instance.primary_node)?;
        self.complete_nics(&mut instance, context)?;
        check(&instance)?;
        self.set_slot(uuid, Some(Slot::new(uuid, instance.primary_node)));
        self.set_instance(uuid, Some(instance));
        Ok(json!(uuid))
    }

    /// Removes an instance in whose slot nothing lives; or, outside pools, whose node is offline: a host that never
    /// comes back would keep it for ever. Should it come back, what lives there is a stranger to it.
    pub(super) fn instance_remove(&mut self, uuid: InstanceUuid) -> Result<Value, GanetiError> {
        let instance = self.known_instance(uuid)?;
        let home = self.config.node(instance.primary_node);
        not_of_pool(&instance)?;
        if !home.is_some_and(|node| node.offline) {
            self.nothing_lives(&instance, "removed")?;
        }
        self.set_slot(uuid, None);
        self.set_instance(uuid, None);
        Ok(Value::Null)
    }

    /// Sets what the operator wants.
    pub(super) fn instance_set_state(
        &mut self,
        uuid: InstanceUuid,
        state: AdminState,
        source: &str,
    ) -> Result<Value, GanetiError> {
        let mut instance = (*self.known_instance(uuid)?).clone();
        not_of_pool(&instance)?;
        if !["admin", "user"].contains(&source) {
            return Err(wrong_input(format!("Source of the state must be admin or user, not '{source}'")));
        }
        instance.admin_state = state;
        source.clone_into(&mut instance.admin_state_source);
        self.set_instance(uuid, Some(instance));
        Ok(Value::Null)
    }

    /// Changes an instance by its field names.
    pub(super) fn instance_set(
        &mut self,
        uuid: InstanceUuid,
        rev: Option<u64>,
        set: &Params,
        context: &mut Context,
    ) -> Result<Value, GanetiError> {
        let old = self.known_instance(uuid)?;
        not_of_pool(&old)?;
        let mut new = fields::set("Instance", &*old, fields::INSTANCE, set)?;
        fresh(old.stamp.serial_no, rev, new != *old)?;
        if new.name != old.name {
            self.check_name(&new)?;
            self.no_slots_name(&new.name)?;
        }
        if new.primary_node != old.primary_node {
            self.rehome(&old, new.primary_node)?;
        }
        if set.contains_key("nics") {
            self.complete_nics(&mut new, context)?;
        }
        check(&new)?;
        self.set_instance(uuid, Some(new));
        Ok(Value::Null)
    }

    /// Gives an instance in whose slot nothing lives another home.
    fn rehome(&mut self, instance: &Instance, node: NodeUuid) -> Result<(), GanetiError> {
        self.nothing_lives(instance, "moved to another node")?;
        self.home(node)?;
        let row = self.config.slots.get(&instance.uuid).ok_or_else(|| unknown("Instance", instance.uuid))?;
        let slot = Slot { node, ..row.slot.clone() };
        self.set_slot(instance.uuid, Some(slot));
        Ok(())
    }

    fn nothing_lives(&self, instance: &Instance, what: &str) -> Result<(), GanetiError> {
        match self.config.slots.get(&instance.uuid) {
            Some(row) if row.slot.state != SlotState::Absent => Err(wrong_state(format!(
                "Instance '{}' can't be {what} while it has a VM (slot {}, generation {}): destroy that first",
                instance.name,
                row.slot.state.as_str(),
                row.slot.generation
            ))),
            Some(_) | None => Ok(()),
        }
    }

    /// A node that takes new instances.
    fn home(&self, uuid: NodeUuid) -> Result<(), GanetiError> {
        let node = self.config.node(uuid).ok_or_else(|| unknown("Node", uuid))?;
        let why = match (node.offline, node.drained, node.vm_capable) {
            (true, ..) => "offline",
            (_, true, _) => "drained",
            (.., false) => "non-vm_capable",
            (false, false, true) => return Ok(()),
        };
        Err(wrong_state(format!("Cannot use {why} primary node '{}'", node.name)))
    }

    fn check_name(&self, instance: &Instance) -> Result<(), GanetiError> {
        if !is_host_name(&instance.name) {
            return Err(wrong_input(format!("'{}' is not an instance name", instance.name)));
        }
        if self.config.index.instance_names.contains_key(&instance.name) {
            return Err(exists(format!("Instance '{}' is already in the cluster", instance.name)));
        }
        Ok(())
    }

    /// Refuses a name that a pool will want for one of its slots.
    fn no_slots_name(&self, name: &str) -> Result<(), GanetiError> {
        match self.config.pool_of_name(name) {
            Some(pool) => Err(wrong_input(format!(
                "'{name}' is the name of a slot of pool '{}': choose another",
                pool.name
            ))),
            None => Ok(()),
        }
    }

    /// Gives each NIC its uuid and MAC, and refuses MACs of others.
    fn complete_nics(&self, instance: &mut Instance, context: &mut Context) -> Result<(), GanetiError> {
        let mut own = BTreeSet::new();
        for nic in &mut instance.nics {
            if nic.uuid.is_empty() {
                nic.uuid = uuid::Builder::from_random_bytes(context.ids.fresh()).into_uuid().to_string();
            }
            if Uuid::try_parse(&nic.uuid).is_err() {
                return Err(wrong_input(format!("'{}' is not the uuid of a NIC", nic.uuid)));
            }
            if MAC_WISHES.contains(&nic.mac.as_str()) {
                nic.mac = self.free_mac(&own, context)?;
            }
            nic.mac = nic.mac.to_ascii_lowercase();
            if !is_mac(&nic.mac) {
                return Err(wrong_input(format!("Invalid MAC address '{}'", nic.mac)));
            }
            let taken = self.config.index.macs.get(&nic.mac).is_some_and(|other| *other != instance.uuid);
            if taken || !own.insert(nic.mac.clone()) {
                return Err(not_unique(format!("MAC address {} already in use in cluster", nic.mac)));
            }
        }
        Ok(())
    }

    fn free_mac(&self, own: &BTreeSet<String>, context: &mut Context) -> Result<String, GanetiError> {
        for _ in 0..MAC_DRAWS_MAX {
            let [a, b, c, ..] = context.ids.fresh();
            let mac = format!("{}:{a:02x}:{b:02x}:{c:02x}", self.config.cluster.mac_prefix);
            if !self.config.index.macs.contains_key(&mac) && !own.contains(&mac) {
                return Ok(mac);
            }
        }
        let text = format!("No free MAC address found under {}", self.config.cluster.mac_prefix);
        Err(GanetiError::prereq(text, Ecode::InsufficientResources))
    }

    fn known_instance(&self, uuid: InstanceUuid) -> Result<Arc<Instance>, GanetiError> {
        self.config.instances.get(&uuid).cloned().ok_or_else(|| unknown("Instance", uuid))
    }
}

/// Slots of pools are nobody's to change by hand.
fn not_of_pool(instance: &Instance) -> Result<(), GanetiError> {
    match &instance.pool {
        Some(pool) => Err(wrong_state(format!(
            "Instance '{0}' is a slot of pool '{pool}', which keeps it: to have it made anew, gnt-slot recycle {0}",
            instance.name
        ))),
        None => Ok(()),
    }
}

fn check(instance: &Instance) -> Result<(), GanetiError> {
    if !HYPERVISORS.contains(&instance.hypervisor.as_str()) {
        return Err(wrong_input(format!(
            "Unknown hypervisor '{}', use one of {}",
            instance.hypervisor,
            HYPERVISORS.join(", ")
        )));
    }
    if !fields::DISK_TEMPLATES.contains(&instance.disk_template.as_str()) {
        return Err(wrong_input(format!("Invalid disk template name '{}'", instance.disk_template)));
    }
    if (instance.disk_template == "diskless") != instance.disks.is_empty() {
        return Err(wrong_input(
            "Disk template 'diskless' is for instances without disks, and only for them",
        ));
    }
    if instance.nics.len() > NICS_MAX || instance.disks.len() > DISKS_MAX {
        return Err(wrong_input(format!("An instance has at most {NICS_MAX} NICs and {DISKS_MAX} disks")));
    }
    if let Some(disk) = instance.disks.iter().find(|disk| !["rw", "ro"].contains(&disk.mode.as_str())) {
        return Err(wrong_input(format!("Invalid disk access mode '{}'", disk.mode)));
    }
    fields::check_keys("Instance beparams", fields::BEPARAMS, &instance.beparams)?;
    memory_in_order(&instance.beparams)
}

/// Six bytes, lower-case hex with colons, not a group address.
fn is_mac(text: &str) -> bool {
    match (text.get(..8), text.get(8..9), text.get(9..)) {
        (Some(prefix), Some(":"), Some(rest)) => {
            let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            let tail = rest.split(':').all(|part| part.len() == 2 && part.bytes().all(hex));
            super::cluster::is_mac_prefix(prefix) && rest.split(':').count() == 3 && tail
        }
        (Some(_) | None, Some(_) | None, Some(_) | None) => false,
    }
}
