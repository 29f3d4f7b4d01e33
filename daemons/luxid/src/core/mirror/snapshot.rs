//! One committed state of the configuration, keyed and indexed for queries.

use super::counts::PoolCounts;
use super::map::Map;
use super::table::{Place, Table};
use super::touched::Touched;
use gantry_model::config::{Cluster, Group, Instance, Members, Meta, Node, Slot, kind};
use gantry_model::error::GanetiError;
use gantry_model::ids::{BlueprintUuid, GroupUuid, InstanceUuid, LeaseUuid, NodeUuid, PoolUuid};
use gantry_model::lease::{Lease, LeaseClock};
use gantry_model::pool::{Blueprint, Image, Pool};
use gantry_proto::wconfd::WatchChange;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::str::FromStr;
use std::sync::Arc;
use uuid::Uuid;

/// An object of the stream that is not what its kind says.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The body is no value of the kind's type.
    #[error("can't read {kind} {key}")]
    Body {
        /// Kind.
        kind: String,
        /// Key.
        key: String,
        /// Why.
        #[source]
        why: serde_json::Error,
    },
    /// The key is no id of the kind.
    #[error("'{key}' is no key of a {kind}")]
    Key {
        /// Kind.
        kind: String,
        /// Key.
        key: String,
    },
}

/// An instance with the runtime record of its slot.
#[derive(Debug, Clone)]
pub struct InstanceRow {
    /// The wanted state.
    pub instance: Arc<Instance>,
    /// None while no record exists.
    pub slot: Option<Arc<Slot>>,
}

/// Instances in natural order of their names.
pub type InstanceSet = Map<Place<InstanceUuid>, ()>;

/// A committed state. Never changes once readers have it; `Clone` is O(1).
#[derive(Clone, Default)]
pub struct Snapshot {
    index: u64,
    history: Option<Uuid>,
    cluster: Option<Arc<Cluster>>,
    meta: Option<Arc<Meta>>,
    members: Option<Arc<Members>>,
    nodes: Table<NodeUuid, Arc<Node>>,
    groups: Table<GroupUuid, Arc<Group>>,
    instances: Table<InstanceUuid, InstanceRow>,
    slots: Map<InstanceUuid, Arc<Slot>>,
    networks: Table<String, Arc<Value>>,
    filters: Map<String, Arc<Value>>,
    blueprints: Table<BlueprintUuid, Arc<Blueprint>>,
    pools: Table<PoolUuid, Arc<Pool>>,
    images: Table<String, Arc<Image>>,
    leases: Map<LeaseUuid, Arc<Lease>>,
    lease_clock: u64,
    pub(super) counts: Map<Arc<str>, PoolCounts>,
    instances_of: Map<NodeUuid, InstanceSet>,
    nodes_of: Map<GroupUuid, Map<Place<NodeUuid>, ()>>,
}

impl Snapshot {
    pub(super) fn empty(index: u64, history: Uuid) -> Self {
        Self { index, history: Some(history), ..Self::default() }
    }

    pub(super) fn reached(&mut self, index: u64) {
        self.index = index;
    }

    /// Committed index of W that this state stands at.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// History of the log; None before anything came.
    #[must_use]
    pub fn history(&self) -> Option<Uuid> {
        self.history
    }

    /// The cluster.
    ///
    /// # Errors
    /// `ConfigurationError` while no configuration has come.
    pub fn cluster(&self) -> Result<&Arc<Cluster>, GanetiError> {
        let none = || GanetiError::new("ConfigurationError", "no configuration from wconfd yet, try again");
        self.cluster.as_ref().ok_or_else(none)
    }

    /// Serial and times of the whole configuration.
    #[must_use]
    pub fn meta(&self) -> Option<&Arc<Meta>> {
        self.meta.as_ref()
    }

    /// Whose copies of the logs count; None while none came.
    #[must_use]
    pub fn members(&self) -> Option<&Arc<Members>> {
        self.members.as_ref()
    }

    /// Nodes.
    #[must_use]
    pub fn nodes(&self) -> &Table<NodeUuid, Arc<Node>> {
        &self.nodes
    }

    /// Node groups.
    #[must_use]
    pub fn groups(&self) -> &Table<GroupUuid, Arc<Group>> {
        &self.groups
    }

    /// Instances, slots of pools among them.
    #[must_use]
    pub fn instances(&self) -> &Table<InstanceUuid, InstanceRow> {
        &self.instances
    }

    /// Networks by uuid text, as JSON.
    #[must_use]
    pub fn networks(&self) -> &Table<String, Arc<Value>> {
        &self.networks
    }

    /// Job filter rules by uuid text, as JSON.
    #[must_use]
    pub fn filters(&self) -> &Map<String, Arc<Value>> {
        &self.filters
    }

    /// Blueprints.
    #[must_use]
    pub fn blueprints(&self) -> &Table<BlueprintUuid, Arc<Blueprint>> {
        &self.blueprints
    }

    /// The blueprint of this uuid.
    #[must_use]
    pub fn blueprint(&self, uuid: BlueprintUuid) -> Option<&Arc<Blueprint>> {
        self.blueprints.get(&uuid)
    }

    /// Pools.
    #[must_use]
    pub fn pools(&self) -> &Table<PoolUuid, Arc<Pool>> {
        &self.pools
    }

    /// The pool of this name.
    #[must_use]
    pub fn pool_named(&self, name: &str) -> Option<&Arc<Pool>> {
        self.pools.named(name)
    }

    /// Imported images, by name.
    #[must_use]
    pub fn images(&self) -> &Table<String, Arc<Image>> {
        &self.images
    }

    /// Leases from their grant on until they are forgotten.
    #[must_use]
    pub fn leases(&self) -> &Map<LeaseUuid, Arc<Lease>> {
        &self.leases
    }

    /// The lease clock as last stored, ms: behind the true one by at most
    /// [`gantry_model::lease::CLOCK_STORE_MS`] while a lease lives.
    #[must_use]
    pub fn lease_clock(&self) -> u64 {
        self.lease_clock
    }

    /// The instances whose primary node this is; None when there are none.
    #[must_use]
    pub fn instances_of(&self, node: NodeUuid) -> Option<&InstanceSet> {
        self.instances_of.get(&node)
    }

    /// The nodes of a group; None when there are none.
    #[must_use]
    pub fn nodes_of(&self, group: GroupUuid) -> Option<&Map<Place<NodeUuid>, ()>> {
        self.nodes_of.get(&group)
    }

    /// Takes one change and notes what it touches. Kinds of newer programs are passed over.
    pub(super) fn change(&mut self, change: &WatchChange, touched: &mut Touched) -> Result<(), ObjectError> {
        let mut state = "";
        match change.kind.as_str() {
            kind::CLUSTER => self.cluster = body(change)?,
            kind::META => self.meta = body(change)?,
            kind::MEMBERS => self.members = body(change)?,
            kind::NODE => self.set_node(id(change, NodeUuid)?, body(change)?, touched),
            kind::GROUP => self.set_group(id(change, GroupUuid)?, body(change)?),
            kind::INSTANCE => self.set_instance(id(change, InstanceUuid)?, body(change)?, touched),
            kind::SLOT => {
                let slot: Option<Arc<Slot>> = body(change)?;
                state = slot.as_ref().map_or("", |slot| slot.state.as_str());
                self.set_slot(id(change, InstanceUuid)?, slot, touched);
            }
            kind::NETWORK => self.set_network(&change.key, body(change)?),
            kind::FILTER => self.set_filter(&change.key, body(change)?),
            kind::BLUEPRINT => self.set_blueprint(id(change, BlueprintUuid)?, body(change)?, touched),
            kind::POOL => {
                let pool: Option<Arc<Pool>> = body(change)?;
                state = pool.as_ref().map_or("", |pool| pool.state.as_str());
                self.set_pool(id(change, PoolUuid)?, pool, touched);
            }
            kind::IMAGE => self.set_image(&change.key, body(change)?),
            kind::LEASE => {
                let lease: Option<Arc<Lease>> = body(change)?;
                state = lease.as_ref().map_or("", |lease| lease.state.as_str());
                self.set_lease(id(change, LeaseUuid)?, lease, touched);
            }
            kind::LEASE_CLOCK => {
                self.lease_clock = body::<LeaseClock>(change)?.map_or(0, |clock| clock.ms);
                return Ok(());
            }
            _ => return Ok(()),
        }
        touched.object(change, state);
        Ok(())
    }

    fn set_node(&mut self, uuid: NodeUuid, node: Option<Arc<Node>>, touched: &mut Touched) {
        self.recount_node(uuid, node.as_deref(), touched);
        let old = self.nodes.get(&uuid).cloned();
        let stays = |old: &Node| node.as_ref().is_some_and(|n| n.group == old.group && n.name == old.name);
        if let Some(old) = old.filter(|old| !stays(old)) {
            let place = Place { name: Arc::from(old.name.as_str()), id: uuid };
            leave(&mut self.nodes_of, &old.group, &place);
        }
        match node {
            Some(node) => {
                self.nodes.put(uuid, &node.name, Arc::clone(&node));
                enter(&mut self.nodes_of, node.group, self.nodes.name(&uuid), uuid);
            }
            None => self.nodes.remove(&uuid),
        }
    }

    fn set_group(&mut self, uuid: GroupUuid, group: Option<Arc<Group>>) {
        match group {
            Some(group) => self.groups.put(uuid, &group.name, Arc::clone(&group)),
            None => self.groups.remove(&uuid),
        }
    }

    fn set_instance(&mut self, uuid: InstanceUuid, instance: Option<Arc<Instance>>, touched: &mut Touched) {
        self.uncount(uuid, touched);
        let old = self.instances.get(&uuid).map(|row| Arc::clone(&row.instance));
        let stays = |old: &Instance| {
            instance.as_ref().is_some_and(|n| n.primary_node == old.primary_node && n.name == old.name)
        };
        if let Some(old) = old.filter(|old| !stays(old)) {
            let place = Place { name: Arc::from(old.name.as_str()), id: uuid };
            leave(&mut self.instances_of, &old.primary_node, &place);
        }
        match instance {
            Some(instance) => {
                let slot = self.slots.get(&uuid).cloned();
                let row = InstanceRow { instance: Arc::clone(&instance), slot };
                self.instances.put(uuid, &instance.name, row);
                enter(&mut self.instances_of, instance.primary_node, self.instances.name(&uuid), uuid);
            }
            None => self.instances.remove(&uuid),
        }
        self.count(uuid, touched);
    }

    /// A slot's record is kept also while its instance is unknown: chunks come in any order.
    fn set_slot(&mut self, uuid: InstanceUuid, slot: Option<Arc<Slot>>, touched: &mut Touched) {
        self.uncount(uuid, touched);
        match &slot {
            Some(slot) => self.slots.insert(uuid, Arc::clone(slot)),
            None => self.slots.remove(&uuid),
        };
        if let Some(row) = self.instances.get(&uuid) {
            let instance = Arc::clone(&row.instance);
            let row = InstanceRow { instance: Arc::clone(&instance), slot };
            self.instances.put(uuid, &instance.name, row);
        }
        self.count(uuid, touched);
    }

    fn set_network(&mut self, key: &str, network: Option<Arc<Value>>) {
        let id = key.to_owned();
        match network {
            Some(network) => {
                let name = network.get("name").and_then(Value::as_str).unwrap_or(key).to_owned();
                self.networks.put(id, &name, network);
            }
            None => self.networks.remove(&id),
        }
    }

    fn set_filter(&mut self, key: &str, rule: Option<Arc<Value>>) {
        match rule {
            Some(rule) => self.filters.insert(key.to_owned(), rule),
            None => self.filters.remove(key),
        };
    }

    fn set_blueprint(
        &mut self,
        uuid: BlueprintUuid,
        blueprint: Option<Arc<Blueprint>>,
        touched: &mut Touched,
    ) {
        let users = self.pools.iter().filter(|(_, pool)| pool.blueprint == uuid);
        touched.pools.extend(users.map(|(place, _)| place.name.to_string()));
        match blueprint {
            Some(blueprint) => self.blueprints.put(uuid, &blueprint.name, Arc::clone(&blueprint)),
            None => self.blueprints.remove(&uuid),
        }
    }

    fn set_pool(&mut self, uuid: PoolUuid, pool: Option<Arc<Pool>>, touched: &mut Touched) {
        let names = self.pools.get(&uuid).into_iter().chain(&pool).map(|pool| pool.name.clone());
        touched.pools.extend(names);
        match pool {
            Some(pool) => self.pools.put(uuid, &pool.name, Arc::clone(&pool)),
            None => self.pools.remove(&uuid),
        }
    }

    fn set_image(&mut self, key: &str, image: Option<Arc<Image>>) {
        match image {
            Some(image) => self.images.put(key.to_owned(), key, image),
            None => self.images.remove(&key.to_owned()),
        }
    }

    fn set_lease(&mut self, uuid: LeaseUuid, lease: Option<Arc<Lease>>, touched: &mut Touched) {
        touched.leases.insert(uuid);
        match lease {
            Some(lease) => self.leases.insert(uuid, lease),
            None => self.leases.remove(&uuid),
        };
    }
}

fn enter<P: Ord + Clone, Id: Ord + Clone>(
    index: &mut Map<P, Map<Place<Id>, ()>>,
    parent: P,
    name: Option<&Arc<str>>,
    id: Id,
) {
    let Some(name) = name else { return };
    let place = Place { name: Arc::clone(name), id };
    if index.get(&parent).is_some_and(|set| set.get(&place).is_some()) {
        return;
    }
    let mut set = index.get(&parent).cloned().unwrap_or_default();
    set.insert(place, ());
    index.insert(parent, set);
}

fn leave<P: Ord + Clone, Id: Ord + Clone>(
    index: &mut Map<P, Map<Place<Id>, ()>>,
    parent: &P,
    place: &Place<Id>,
) {
    let Some(mut set) = index.get(parent).cloned() else { return };
    set.remove(place);
    if set.is_empty() {
        index.remove(parent);
    } else {
        index.insert(parent.clone(), set);
    }
}

fn id<Id>(change: &WatchChange, of: impl FnOnce(Uuid) -> Id) -> Result<Id, ObjectError> {
    Uuid::from_str(&change.key)
        .map(of)
        .map_err(|_| ObjectError::Key { kind: change.kind.clone(), key: change.key.clone() })
}

fn body<T: DeserializeOwned>(change: &WatchChange) -> Result<Option<Arc<T>>, ObjectError> {
    let Some(text) = &change.body else { return Ok(None) };
    match serde_json::from_str(text) {
        Ok(object) => Ok(Some(Arc::new(object))),
        Err(why) => Err(ObjectError::Body { kind: change.kind.clone(), key: change.key.clone(), why }),
    }
}
