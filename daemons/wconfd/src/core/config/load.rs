//! Stored objects back into typed ones, and the checks without which nothing is served
//! (`spec/config.md` §5, "Consistency checks", hard).

use super::members::MembersRow;
use super::object::Object;
use super::pooled::{ClockRow, LeaseRow};
use super::rows::{Applied, Config, SlotRow};
use gantry_model::config::{Cluster, Group, Instance, Meta, Node, Slot, SlotState, kind};
use gantry_model::ids::NodeUuid;
use gantry_model::lease::{Lease, LeaseState};
use gantry_model::pool::{Blueprint, IMAGE_HOST, Image, Pool};
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Why stored objects are no configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// A body is not the JSON of its kind.
    #[error("object {kind}/{key} can't be read: {why}")]
    Body {
        /// Kind.
        kind: String,
        /// Key.
        key: String,
        /// What serde said.
        why: String,
    },
    /// A singleton is missing.
    #[error("there is no {kind} object")]
    Missing {
        /// Kind.
        kind: &'static str,
    },
    /// An object is stored under another key than its own uuid.
    #[error("object {kind}/{key} says that it is {own}")]
    Misplaced {
        /// Kind.
        kind: String,
        /// Key it stands under.
        key: String,
        /// Uuid in its body.
        own: String,
    },
    /// Two objects have one name, address or MAC.
    #[error("{what} '{value}' is there twice")]
    Twice {
        /// What.
        what: &'static str,
        /// Which.
        value: String,
    },
    /// A reference leads nowhere, or a required list is empty.
    #[error("{0}")]
    Broken(String),
}

fn body<T: DeserializeOwned>(object: &Object) -> Result<T, LoadError> {
    serde_json::from_slice(&object.body).map_err(|why| LoadError::Body {
        kind: object.kind.clone(),
        key: object.key.clone(),
        why: why.to_string(),
    })
}

fn placed(object: &Object, own: &impl ToString) -> Result<(), LoadError> {
    let own = own.to_string();
    if own == object.key {
        return Ok(());
    }
    Err(LoadError::Misplaced { kind: object.kind.clone(), key: object.key.clone(), own })
}

fn broken(text: String) -> Result<(), LoadError> {
    Err(LoadError::Broken(text))
}

impl Config {
    /// Reads stored objects. Those of unknown kinds are kept for readers.
    ///
    /// # Errors
    /// When a body can't be read, or a hard consistency check fails.
    pub fn load(objects: impl IntoIterator<Item = Object>) -> Result<Self, LoadError> {
        let (mut meta, mut cluster) = (None, None);
        let mut rest = Vec::new();
        for object in objects {
            match object.kind.as_str() {
                kind::META => meta = Some(body::<Meta>(&object)?),
                kind::CLUSTER => cluster = Some(body::<Cluster>(&object)?),
                _ => rest.push(object),
            }
        }
        let meta = Arc::new(meta.ok_or(LoadError::Missing { kind: kind::META })?);
        let cluster = Arc::new(cluster.ok_or(LoadError::Missing { kind: kind::CLUSTER })?);
        let mut config = Self::bare(meta, cluster);
        rest.into_iter().try_for_each(|object| config.take(object))?;
        config.verify()?;
        Ok(config)
    }

    /// Takes one object that is no singleton.
    fn take(&mut self, object: Object) -> Result<(), LoadError> {
        match object.kind.as_str() {
            kind::NODE => {
                let node: Node = body(&object)?;
                placed(&object, &node.uuid)?;
                self.put_node(node.uuid, Some(Arc::new(node)));
            }
            kind::GROUP => {
                let group: Group = body(&object)?;
                placed(&object, &group.uuid)?;
                self.put_group(group.uuid, Some(Arc::new(group)));
            }
            kind::INSTANCE => {
                let instance: Instance = body(&object)?;
                placed(&object, &instance.uuid)?;
                self.put_instance(instance.uuid, Some(Arc::new(instance)));
            }
            kind::SLOT => {
                let slot: Slot = body(&object)?;
                placed(&object, &slot.uuid)?;
                self.put_slot(slot.uuid, Some(Arc::new(SlotRow { rev: object.rev, slot })));
            }
            kind::BLUEPRINT => {
                let blueprint: Blueprint = body(&object)?;
                placed(&object, &blueprint.uuid)?;
                self.put_blueprint(blueprint.uuid, Some(Arc::new(blueprint)));
            }
            kind::POOL => {
                let pool: Pool = body(&object)?;
                placed(&object, &pool.uuid)?;
                self.put_pool(pool.uuid, Some(Arc::new(pool)));
            }
            kind::IMAGE => {
                let image: Image = body(&object)?;
                placed(&object, &image.name)?;
                self.put_image(&object.key, Some(Arc::new(image)));
            }
            kind::LEASE => {
                let lease: Lease = body(&object)?;
                placed(&object, &lease.uuid)?;
                self.put_lease(lease.uuid, Some(Arc::new(LeaseRow { rev: object.rev, lease })));
            }
            kind::LEASE_CLOCK => {
                placed(&object, &kind::LEASE_CLOCK_KEY)?;
                self.clock = ClockRow { rev: object.rev, clock: body(&object)? };
            }
            kind::MEMBERS => {
                placed(&object, &kind::MEMBERS_KEY)?;
                let members = body(&object)?;
                self.members = Some(Arc::new(MembersRow { rev: object.rev, members }));
            }
            kind::APPLIED => {
                let owner = object.key.parse().map_err(|_| LoadError::Misplaced {
                    kind: object.kind.clone(),
                    key: object.key.clone(),
                    own: "a job's".to_owned(),
                })?;
                self.applied.insert(owner, Arc::new(body::<Applied>(&object)?));
            }
            _ => {
                let key = (object.kind.clone(), object.key.clone());
                self.others.insert(key, Arc::new(object));
            }
        }
        Ok(())
    }

    /// The hard consistency checks.
    pub(super) fn verify(&self) -> Result<(), LoadError> {
        self.verify_cluster()?;
        self.verify_unique()?;
        for node in self.nodes.values() {
            if !self.groups.contains_key(&node.group) {
                return broken(format!(
                    "node {} is in group {}, which does not exist",
                    node.name, node.group
                ));
            }
        }
        for (uuid, instance) in &self.instances {
            if !self.nodes.contains_key(&instance.primary_node) {
                let (name, node) = (&instance.name, instance.primary_node);
                return broken(format!("instance {name} is on node {node}, which does not exist"));
            }
            match self.slots.get(uuid) {
                Some(row) if row.slot.node == instance.primary_node => {}
                Some(_) | None => {
                    return broken(format!("instance {} has no slot on its node", instance.name));
                }
            }
        }
        if let Some(uuid) = self.slots.keys().find(|uuid| !self.instances.contains_key(uuid)) {
            return broken(format!("slot {uuid} belongs to no instance"));
        }
        self.verify_pools()?;
        self.verify_leases()
    }

    fn verify_pools(&self) -> Result<(), LoadError> {
        for blueprint in self.blueprints.values() {
            let (name, image) = (&blueprint.name, &blueprint.image);
            if image != IMAGE_HOST && !self.images.contains_key(image) {
                return broken(format!("blueprint {name} is made from image {image}, which does not exist"));
            }
        }
        for pool in self.pools.values() {
            if !self.blueprints.contains_key(&pool.blueprint) {
                let (name, uuid) = (&pool.name, pool.blueprint);
                return broken(format!("pool {name} is made from blueprint {uuid}, which does not exist"));
            }
            if let Some(group) = pool.group.filter(|group| !self.groups.contains_key(group)) {
                return broken(format!("pool {} is in group {group}, which does not exist", pool.name));
            }
        }
        let of =
            |instance: &&Arc<Instance>| instance.pool.as_ref().is_some_and(|pool| self.pool(pool).is_none());
        match self.instances.values().find(of) {
            Some(instance) => broken(format!("slot {} is of a pool that does not exist", instance.name)),
            None => Ok(()),
        }
    }

    /// A slot is LEASED when and only when one active lease has it, in its generation (I1).
    fn verify_leases(&self) -> Result<(), LoadError> {
        let mut leased = BTreeSet::new();
        for (uuid, row) in self.leases.iter().filter(|(_, row)| row.lease.state == LeaseState::Active) {
            for vm in &row.lease.vms {
                let has = self.slots.get(&vm.slot).is_some_and(|row| {
                    let Slot { state, generation, lease, .. } = row.slot;
                    (state, generation, lease) == (SlotState::Leased, vm.generation, Some(*uuid))
                });
                if !has || !leased.insert(vm.slot) {
                    return broken(format!("lease {uuid} has slot {}, which is not leased to it", vm.slot));
                }
            }
        }
        for (uuid, row) in &self.slots {
            let is = row.slot.state == SlotState::Leased;
            if is != row.slot.lease.is_some() || is != leased.contains(uuid) {
                return broken(format!("slot {uuid} is {} without its lease", row.slot.state.as_str()));
            }
        }
        Ok(())
    }

    fn verify_cluster(&self) -> Result<(), LoadError> {
        let cluster = &self.cluster;
        if !self.nodes.contains_key(&NodeUuid(cluster.master_node.0)) {
            return broken(format!("master node {} does not exist", cluster.master_node));
        }
        if cluster.enabled_hypervisors.is_empty() {
            return broken("no hypervisor is enabled".to_owned());
        }
        if cluster.enabled_disk_templates.is_empty() {
            return broken("no disk template is enabled".to_owned());
        }
        match cluster.enabled_hypervisors.iter().find(|name| !cluster.hvparams.contains_key(*name)) {
            Some(name) => broken(format!("enabled hypervisor {name} has no hvparams")),
            None => Ok(()),
        }
    }

    /// An index with fewer entries than rows has lost one to a name used twice.
    fn verify_unique(&self) -> Result<(), LoadError> {
        let mut seen = BTreeSet::new();
        let nodes = self.nodes.values().map(|node| ("node name", node.name.clone()));
        let groups = self.groups.values().map(|group| ("group name", group.name.clone()));
        let instances = self.instances.values().map(|instance| ("instance name", instance.name.clone()));
        let blueprints = self.blueprints.values().map(|row| ("blueprint name", row.name.clone()));
        let pools = self.pools.values().map(|row| ("pool name", row.name.clone()));
        let macs = self.instances.values().flat_map(|instance| instance.nics.iter());
        let macs = macs.map(|nic| ("MAC address", nic.mac.clone()));
        let addresses = self.nodes.values().map(|node| {
            let address = format!("{}:{}", node.primary_ip, node.noded_port);
            ("node address", address)
        });
        let pooled = blueprints.chain(pools);
        for (what, value) in nodes.chain(groups).chain(instances).chain(macs).chain(addresses).chain(pooled) {
            if !seen.insert((what, value.clone())) {
                return Err(LoadError::Twice { what, value });
            }
        }
        Ok(())
    }
}
