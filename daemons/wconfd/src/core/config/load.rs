//! Stored objects back into typed ones, and the checks without which nothing is served
//! (`spec/config.md` §5, "Consistency checks", hard).

use super::object::Object;
use super::rows::{Applied, Config, Indexes, SlotRow};
use gantry_model::config::{Cluster, Group, Instance, Meta, Node, Slot, kind};
use gantry_model::ids::NodeUuid;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
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
        let mut config = Self {
            meta: Arc::new(meta.ok_or(LoadError::Missing { kind: kind::META })?),
            cluster: Arc::new(cluster.ok_or(LoadError::Missing { kind: kind::CLUSTER })?),
            nodes: BTreeMap::new(),
            groups: BTreeMap::new(),
            instances: BTreeMap::new(),
            slots: BTreeMap::new(),
            applied: BTreeMap::new(),
            others: BTreeMap::new(),
            index: Indexes::default(),
            claimed: BTreeSet::new(),
        };
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
        match self.slots.keys().find(|uuid| !self.instances.contains_key(uuid)) {
            Some(uuid) => broken(format!("slot {uuid} belongs to no instance")),
            None => Ok(()),
        }
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
        let macs = self.instances.values().flat_map(|instance| instance.nics.iter());
        let macs = macs.map(|nic| ("MAC address", nic.mac.clone()));
        let addresses = self.nodes.values().map(|node| {
            let address = format!("{}:{}", node.primary_ip, node.noded_port);
            ("node address", address)
        });
        for (what, value) in nodes.chain(groups).chain(instances).chain(macs).chain(addresses) {
            if !seen.insert((what, value.clone())) {
                return Err(LoadError::Twice { what, value });
            }
        }
        Ok(())
    }
}
