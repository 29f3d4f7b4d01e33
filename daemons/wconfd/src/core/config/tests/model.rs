//! A slow, obvious model of the commands: plain maps, linear searches, a copy of everything to go
//! back to. It knows whether a command is accepted and what is there afterwards, not the texts.

use super::*;
use gantry_model::config::{Slot, SlotState};
use gantry_model::ids::Generation;
use gantry_proto::wconfd::TagTarget;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Model {
    pub meta: u64,
    pub cluster: u64,
    pub cluster_tags: BTreeSet<String>,
    pub max_running: u64,
    pub nodes: BTreeMap<NodeUuid, Node>,
    pub groups: BTreeMap<GroupUuid, Group>,
    pub instances: BTreeMap<InstanceUuid, Instance>,
    pub slots: BTreeMap<InstanceUuid, Slot>,
    pub claimed: BTreeSet<NodeUuid>,
}

type Verdict = Option<()>;

fn only(good: bool) -> Verdict {
    good.then_some(())
}

impl Model {
    pub fn of(config: &Config) -> Self {
        Self {
            meta: config.meta.serial_no,
            cluster: config.cluster.stamp.serial_no,
            cluster_tags: config.cluster.stamp.tags.clone(),
            max_running: config.cluster.max_running_jobs,
            nodes: config.nodes.iter().map(|(k, v)| (*k, (**v).clone())).collect(),
            groups: config.groups.iter().map(|(k, v)| (*k, (**v).clone())).collect(),
            instances: config.instances.iter().map(|(k, v)| (*k, (**v).clone())).collect(),
            slots: config.slots.iter().map(|(k, v)| (*k, v.slot.clone())).collect(),
            claimed: config.claimed.clone(),
        }
    }

    /// Whether the batch is accepted; if so it is carried out, with serials.
    pub fn apply(&mut self, commands: &[Command]) -> bool {
        let before = self.clone();
        let mut gone = BTreeSet::new();
        if commands.iter().all(|command| self.one(command, &mut gone).is_some()) {
            self.stamp(&before);
            return true;
        }
        *self = before;
        false
    }

    fn stamp(&mut self, before: &Self) {
        let mut bump = self.cluster_tags != before.cluster_tags || self.max_running != before.max_running;
        let mut any = bump;
        for (uuid, node) in &mut self.nodes {
            let old = before.nodes.get(uuid);
            if old != Some(&*node) {
                (bump, any) = (true, true);
                node.stamp.serial_no = old.map_or(1, |old| old.stamp.serial_no + 1);
                node.stamp.mtime = NOW;
                node.stamp.ctime = old.map_or(NOW, |old| old.stamp.ctime);
            }
        }
        for (uuid, group) in &mut self.groups {
            let old = before.groups.get(uuid);
            if old != Some(&*group) {
                (bump, any) = (bump || old.is_none(), true);
                group.stamp.serial_no = old.map_or(1, |old| old.stamp.serial_no + 1);
                group.stamp.mtime = NOW;
                group.stamp.ctime = old.map_or(NOW, |old| old.stamp.ctime);
            }
        }
        for (uuid, instance) in &mut self.instances {
            let old = before.instances.get(uuid);
            if old != Some(&*instance) {
                (bump, any) = (bump || old.map(|old| &old.name) != Some(&instance.name), true);
                instance.stamp.serial_no = old.map_or(1, |old| old.stamp.serial_no + 1);
                instance.stamp.mtime = NOW;
                instance.stamp.ctime = old.map_or(NOW, |old| old.stamp.ctime);
            }
        }
        let went = before.nodes.keys().any(|uuid| !self.nodes.contains_key(uuid))
            || before.groups.keys().any(|uuid| !self.groups.contains_key(uuid))
            || before.instances.keys().any(|uuid| !self.instances.contains_key(uuid));
        self.cluster += u64::from(bump || went);
        self.meta += u64::from(any || went);
    }

    fn one(&mut self, command: &Command, gone: &mut BTreeSet<Uuid>) -> Verdict {
        match command {
            Command::ClusterSet { rev, set } => {
                let value = set.get("max_running_jobs")?.as_u64()?;
                let differs = value != self.max_running;
                only(rev.is_none_or(|rev| rev == self.cluster || (rev + 1 == self.cluster && !differs)))?;
                only(value > 0)?;
                self.max_running = value;
            }
            Command::NodeAdd { node } => {
                only(!gone.contains(&node.uuid.0) && !self.nodes.contains_key(&node.uuid))?;
                only(!self.nodes.values().any(|old| old.name == node.name))?;
                only(!self.nodes.values().any(|old| old.primary_ip == node.primary_ip))?;
                only(self.groups.contains_key(&node.group) && !node.master_candidate)?;
                self.nodes.insert(node.uuid, (**node).clone());
            }
            Command::NodeRemove { node } => {
                only(*node != node_uuid(1) && self.nodes.contains_key(node))?;
                only(!self.instances.values().any(|instance| instance.primary_node == *node))?;
                self.nodes.remove(node);
                gone.insert(node.0);
            }
            Command::NodeSet { node, rev, set } => self.node_set(*node, *rev, set)?,
            Command::GroupAdd { group } => {
                only(!gone.contains(&group.uuid.0) && !self.groups.contains_key(&group.uuid))?;
                only(!self.groups.values().any(|old| old.name == group.name))?;
                self.groups.insert(group.uuid, (**group).clone());
            }
            Command::GroupRemove { group } => {
                only(self.groups.contains_key(group) && self.groups.len() > 1)?;
                only(!self.nodes.values().any(|node| node.group == *group))?;
                self.groups.remove(group);
                gone.insert(group.0);
            }
            Command::GroupSet { group, rev: _, set } => {
                let name = set.get("name")?.as_str()?.to_owned();
                only(!self.groups.iter().any(|(uuid, old)| old.name == name && uuid != group))?;
                self.groups.get_mut(group)?.name = name;
            }
            Command::GroupAssign { group, nodes } => {
                only(self.groups.contains_key(group))?;
                for node in nodes {
                    self.nodes.get_mut(node)?.group = *group;
                }
            }
            Command::InstanceAdd { instance } => {
                let uuid = instance.uuid;
                only(!gone.contains(&uuid.0) && !self.instances.contains_key(&uuid))?;
                self.free_name(&instance.name)?;
                self.home(instance.primary_node)?;
                self.instances.insert(uuid, (**instance).clone());
                self.slots.insert(uuid, Slot::new(uuid, instance.primary_node));
            }
            Command::InstanceRemove { instance } => {
                let home = self.nodes.get(&self.instances.get(instance)?.primary_node)?;
                only(self.slots.get(instance)?.state == SlotState::Absent || home.offline)?;
                self.instances.remove(instance);
                self.slots.remove(instance);
                gone.insert(instance.0);
            }
            Command::InstanceSetState { instance, state, source } => {
                only(source == "admin" || source == "user")?;
                let instance = self.instances.get_mut(instance)?;
                instance.admin_state = *state;
                instance.admin_state_source.clone_from(source);
            }
            Command::InstanceSet { instance, rev: _, set } => self.instance_set(*instance, set)?,
            Command::TagsAdd { target, tags } => {
                only(tags.iter().all(|tag| !tag.contains(' ')))?;
                self.tags(target)?.extend(tags.iter().cloned());
            }
            Command::TagsDel { target, tags } => {
                let there = self.tags(target)?;
                only(tags.is_subset(there))?;
                there.retain(|tag| !tags.contains(tag));
            }
            Command::SlotBegin { .. }
            | Command::SlotReady { .. }
            | Command::SlotDirty { .. }
            | Command::SlotBeginDestroy { .. }
            | Command::SlotAbsent { .. } => self.slot(command)?,
            // Pools and leases have a model of their own.
            Command::BlueprintAdd { .. }
            | Command::BlueprintSet { .. }
            | Command::BlueprintRemove { .. }
            | Command::PoolAdd { .. }
            | Command::PoolSet { .. }
            | Command::PoolRemove { .. }
            | Command::ImageAdd { .. }
            | Command::ImageRemove { .. }
            | Command::SlotAdd { .. }
            | Command::SlotRemove { .. }
            | Command::SlotDrain { .. }
            | Command::SlotUnstick { .. }
            | Command::LeaseGrab { .. }
            | Command::LeaseRenew { .. }
            | Command::LeaseOpen { .. }
            | Command::LeaseEnd { .. }
            | Command::LeaseDestroy { .. }
            | Command::LeaseReturn { .. }
            | Command::LeaseForget { .. } => return None,
        }
        Some(())
    }

    fn tags(&mut self, target: &TagTarget) -> Option<&mut BTreeSet<String>> {
        Some(match target {
            TagTarget::Cluster => &mut self.cluster_tags,
            TagTarget::Node(uuid) => &mut self.nodes.get_mut(uuid)?.stamp.tags,
            TagTarget::Group(uuid) => &mut self.groups.get_mut(uuid)?.stamp.tags,
            TagTarget::Instance(uuid) => &mut self.instances.get_mut(uuid)?.stamp.tags,
        })
    }

    fn free_name(&self, name: &str) -> Verdict {
        only(!self.instances.values().any(|old| old.name == name))
    }

    fn home(&self, uuid: NodeUuid) -> Verdict {
        let node = self.nodes.get(&uuid)?;
        only(!node.offline && !node.drained && node.vm_capable)
    }

    fn node_set(&mut self, uuid: NodeUuid, rev: Option<u64>, set: &Params) -> Verdict {
        let old = self.nodes.get(&uuid)?.clone();
        let mut new = old.clone();
        let flag = |name: &str, was: bool| set.get(name).map_or(was, |value| value == true);
        new.offline = flag("offline", old.offline);
        new.drained = flag("drained", old.drained);
        new.vm_capable = flag("vm_capable", old.vm_capable);
        new.master_candidate = flag("master_candidate", old.master_candidate);
        let serial = old.stamp.serial_no;
        only(rev.is_none_or(|rev| rev == serial || (rev + 1 == serial && new == old)))?;
        let roles = |node: &Node| (node.master_candidate, node.offline, node.drained);
        let (master, moved) = (uuid == node_uuid(1), roles(&new) != roles(&old));
        only(!(master && moved))?;
        only(master || !new.master_candidate)?;
        only(!(new.offline && new.drained))?;
        let used = self.instances.values().any(|instance| instance.primary_node == uuid);
        only(new.vm_capable || !old.vm_capable || !used)?;
        self.nodes.insert(uuid, new);
        Some(())
    }

    fn instance_set(&mut self, uuid: InstanceUuid, set: &Params) -> Verdict {
        let old = self.instances.get(&uuid)?.clone();
        let mut new = old.clone();
        if let Some(name) = set.get("name") {
            name.as_str()?.clone_into(&mut new.name);
        }
        if let Some(node) = set.get("primary_node") {
            new.primary_node = node.as_str()?.parse().ok()?;
        }
        if new.name != old.name {
            self.free_name(&new.name)?;
        }
        if new.primary_node != old.primary_node {
            self.home(new.primary_node)?;
            let slot = self.slots.get_mut(&uuid)?;
            only(slot.state == SlotState::Absent)?;
            slot.node = new.primary_node;
        }
        self.instances.insert(uuid, new);
        Some(())
    }

    fn slot(&mut self, command: &Command) -> Verdict {
        use SlotState::{Absent, Booting, Clean, Creating, Destroying, Dirty, Leased};
        let (Command::SlotBegin { slot: uuid, .. }
        | Command::SlotReady { slot: uuid, .. }
        | Command::SlotDirty { slot: uuid, .. }
        | Command::SlotBeginDestroy { slot: uuid, .. }
        | Command::SlotAbsent { slot: uuid, .. }) = command
        else {
            return None;
        };
        let works = |model: &Self, node| model.claimed.contains(&node) && !model.nodes[&node].offline;
        let mut slot = self.slots.get(uuid)?.clone();
        match command {
            Command::SlotBegin { expected, holder, .. } => {
                let next = Generation(expected.0 + 1);
                if (slot.state, slot.generation, slot.holder) == (Creating, next, Some(*holder)) {
                    return Some(());
                }
                only(slot.state == Absent && slot.generation == *expected && works(self, slot.node))?;
                (slot.state, slot.generation, slot.holder, slot.why) = (Creating, next, Some(*holder), None);
                slot.ready_at = None;
            }
            Command::SlotReady { generation, .. } => {
                only(slot.generation == *generation && [Creating, Booting, Clean].contains(&slot.state))?;
                if slot.state != Clean {
                    (slot.state, slot.holder, slot.failures) = (Clean, None, 0);
                    slot.ready_at = Some(NOW);
                }
            }
            Command::SlotDirty { generation, why, .. } => {
                only(slot.generation == *generation && slot.state != Absent)?;
                if slot.state != Dirty {
                    slot.failures += u32::from(![Clean, Leased].contains(&slot.state));
                    (slot.state, slot.holder, slot.why) = (Dirty, None, Some(why.clone()));
                }
            }
            Command::SlotBeginDestroy { generation, holder, .. } => {
                only(slot.generation == *generation)?;
                if slot.state == Destroying && slot.holder == Some(*holder) {
                    return Some(());
                }
                only(slot.state == Dirty && works(self, slot.node))?;
                (slot.state, slot.holder) = (Destroying, Some(*holder));
            }
            Command::SlotAbsent { generation, floor, .. } => {
                if slot.state == Absent && slot.generation >= *generation {
                    return Some(());
                }
                only(slot.state == Destroying && slot.generation == *generation && floor >= generation)?;
                let failures = slot.failures;
                slot = Slot { generation: *floor, failures, ..Slot::new(*uuid, slot.node) };
            }
            _ => return None,
        }
        self.slots.insert(*uuid, slot);
        Some(())
    }

    pub fn owner_gone(&mut self, owner: JobOwner) {
        for slot in self.slots.values_mut().filter(|slot| slot.holder == Some(owner)) {
            let doing = if slot.state == SlotState::Destroying { "destroying" } else { "creating" };
            slot.why = Some(format!("job {} died while {doing} it", owner.job));
            (slot.state, slot.holder, slot.failures) = (SlotState::Dirty, None, slot.failures + 1);
        }
    }
}
