//! What readers ask for: objects by key and name, all of a kind, and the whole for the watch stream.

use super::members::MembersRow;
use super::object::Object;
use super::pooled::{ClockRow, LeaseRow};
use super::rows::{Config, SlotRow};
use gantry_model::config::{Cluster, Group, Instance, Meta, Node, kind};
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::ids::{BlueprintUuid, GroupUuid, InstanceUuid, LeaseUuid, NodeUuid, PoolUuid};
use gantry_model::names::{Resolved, resolve};
use gantry_model::pool::{Blueprint, Image, Pool};
use gantry_proto::wconfd::ReadKey;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use uuid::Uuid;

/// Object kinds that have names, as `(kind, noun)`.
const NAMED: [(&str, &str); 6] = [
    (kind::NODE, "Node"),
    (kind::GROUP, "Node group"),
    (kind::INSTANCE, "Instance"),
    (kind::BLUEPRINT, "Blueprint"),
    (kind::POOL, "Pool"),
    (kind::IMAGE, "Image"),
];

/// One object, not yet written as JSON: cheap to take, so that the writing happens elsewhere.
#[derive(Debug, Clone)]
enum Item {
    Meta(Arc<Meta>),
    Cluster(Arc<Cluster>),
    Node(Arc<Node>),
    Group(Arc<Group>),
    Instance(Arc<Instance>),
    Slot(Arc<SlotRow>),
    Blueprint(Arc<Blueprint>),
    Pool(Arc<Pool>),
    Image(Arc<Image>),
    Lease(Arc<LeaseRow>),
    Clock(ClockRow),
    Members(Arc<MembersRow>),
    Other(Arc<Object>),
}

impl Item {
    fn object(&self) -> Object {
        match self {
            Self::Meta(row) => of(kind::META, kind::META_KEY, row.serial_no, &**row),
            Self::Cluster(row) => of(kind::CLUSTER, kind::CLUSTER_KEY, row.stamp.serial_no, &**row),
            Self::Node(row) => of(kind::NODE, row.uuid, row.stamp.serial_no, &**row),
            Self::Group(row) => of(kind::GROUP, row.uuid, row.stamp.serial_no, &**row),
            Self::Instance(row) => of(kind::INSTANCE, row.uuid, row.stamp.serial_no, &**row),
            Self::Slot(row) => of(kind::SLOT, row.slot.uuid, row.rev, &row.slot),
            Self::Blueprint(row) => of(kind::BLUEPRINT, row.uuid, row.stamp.serial_no, &**row),
            Self::Pool(row) => of(kind::POOL, row.uuid, row.stamp.serial_no, &**row),
            Self::Image(row) => of(kind::IMAGE, &row.name, row.stamp.serial_no, &**row),
            Self::Lease(row) => of(kind::LEASE, row.lease.uuid, row.rev, &row.lease),
            Self::Clock(row) => of(kind::LEASE_CLOCK, kind::LEASE_CLOCK_KEY, row.rev, &row.clock),
            Self::Members(row) => of(kind::MEMBERS, kind::MEMBERS_KEY, row.rev, &row.members),
            Self::Other(object) => (**object).clone(),
        }
    }
}

fn of(kind: &str, key: impl ToString, rev: u64, value: &impl Serialize) -> Object {
    let body = serde_json::to_vec(value).expect("objects are plain JSON: their maps have texts as keys");
    Object { kind: kind.to_owned(), key: key.to_string(), rev, body }
}

/// Objects as they stood when it was taken.
#[derive(Debug, Clone, Default)]
pub struct Snapshot(Vec<Item>);

impl Snapshot {
    /// The objects, written as JSON one by one.
    pub fn objects(&self) -> impl Iterator<Item = Object> {
        self.0.iter().map(Item::object)
    }

    /// The cluster, if it is among them.
    #[must_use]
    pub fn cluster(&self) -> Option<&Cluster> {
        self.0.iter().find_map(|item| if let Item::Cluster(row) = item { Some(&**row) } else { None })
    }

    /// The nodes among them.
    #[must_use]
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.0
            .iter()
            .filter_map(|item| if let Item::Node(row) = item { Some(row.clone()) } else { None })
            .collect()
    }

    /// The groups among them.
    #[must_use]
    pub fn groups(&self) -> Vec<Arc<Group>> {
        self.0
            .iter()
            .filter_map(|item| if let Item::Group(row) = item { Some(row.clone()) } else { None })
            .collect()
    }

    /// The instances among them.
    #[must_use]
    pub fn instances(&self) -> Vec<Arc<Instance>> {
        let of = |item: &Item| if let Item::Instance(row) = item { Some(row.clone()) } else { None };
        self.0.iter().filter_map(of).collect()
    }

    /// Uuid and name of the networks among them.
    #[must_use]
    pub fn networks(&self) -> Vec<(String, String)> {
        let of = |item: &Item| {
            let Item::Other(object) = item else { return None };
            let body: serde_json::Value = serde_json::from_slice(&object.body).ok()?;
            let name = body.get("name")?.as_str()?.to_owned();
            (object.kind == kind::NETWORK).then(|| (object.key.clone(), name))
        };
        self.0.iter().filter_map(of).collect()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Config {
    /// Everything. Costs a pointer per object.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let kinds = [
            kind::META,
            kind::CLUSTER,
            kind::MEMBERS,
            kind::GROUP,
            kind::NODE,
            kind::IMAGE,
            kind::BLUEPRINT,
            kind::POOL,
            kind::INSTANCE,
            kind::LEASE_CLOCK,
            kind::LEASE,
            kind::SLOT,
        ];
        let mut items: Vec<Item> = kinds.into_iter().flat_map(|kind| self.all(kind)).collect();
        items.extend(self.others.values().cloned().map(Item::Other));
        Snapshot(items)
    }

    /// The objects asked for, in the order asked. Keys that do not exist yield nothing.
    ///
    /// # Errors
    /// An ambiguous short name, or a name of a kind without names.
    pub fn read(&self, keys: &[ReadKey]) -> Result<Snapshot, GanetiError> {
        let mut items = Vec::new();
        for key in keys {
            match key {
                ReadKey::Key(kind, key) => items.extend(self.one(kind, key)),
                ReadKey::Name(kind, name) => items.extend(self.named(kind, name)?),
                ReadKey::Kind(kind) => items.extend(self.all(kind)),
                ReadKey::InstancesOf(node) => items.extend(self.instances_of(*node)),
                ReadKey::SlotWhole(slot) => items.extend(self.slot_whole(*slot)),
            }
        }
        Ok(Snapshot(items))
    }

    fn one(&self, kind: &str, key: &str) -> Option<Item> {
        let uuid = Uuid::try_parse(key).ok();
        match kind {
            kind::META if key == kind::META_KEY => Some(Item::Meta(self.meta.clone())),
            kind::CLUSTER if key == kind::CLUSTER_KEY => Some(Item::Cluster(self.cluster.clone())),
            kind::NODE => self.nodes.get(&NodeUuid(uuid?)).cloned().map(Item::Node),
            kind::GROUP => self.groups.get(&GroupUuid(uuid?)).cloned().map(Item::Group),
            kind::INSTANCE => self.instances.get(&InstanceUuid(uuid?)).cloned().map(Item::Instance),
            kind::SLOT => self.slots.get(&InstanceUuid(uuid?)).cloned().map(Item::Slot),
            kind::BLUEPRINT => self.blueprints.get(&BlueprintUuid(uuid?)).cloned().map(Item::Blueprint),
            kind::POOL => self.pools.get(&PoolUuid(uuid?)).cloned().map(Item::Pool),
            kind::IMAGE => self.images.get(key).cloned().map(Item::Image),
            kind::LEASE => self.leases.get(&LeaseUuid(uuid?)).cloned().map(Item::Lease),
            kind::LEASE_CLOCK if key == kind::LEASE_CLOCK_KEY => self.clock_item(),
            kind::MEMBERS if key == kind::MEMBERS_KEY => self.members_item(),
            _ => self.others.get(&(kind.to_owned(), key.to_owned())).cloned().map(Item::Other),
        }
    }

    fn clock_item(&self) -> Option<Item> {
        (self.clock.rev > 0).then_some(Item::Clock(self.clock))
    }

    fn members_item(&self) -> Option<Item> {
        self.members.clone().map(Item::Members)
    }

    fn all(&self, kind: &str) -> Vec<Item> {
        match kind {
            kind::META => vec![Item::Meta(self.meta.clone())],
            kind::CLUSTER => vec![Item::Cluster(self.cluster.clone())],
            kind::NODE => self.nodes.values().cloned().map(Item::Node).collect(),
            kind::GROUP => self.groups.values().cloned().map(Item::Group).collect(),
            kind::INSTANCE => self.instances.values().cloned().map(Item::Instance).collect(),
            kind::SLOT => self.slots.values().cloned().map(Item::Slot).collect(),
            kind::BLUEPRINT => self.blueprints.values().cloned().map(Item::Blueprint).collect(),
            kind::POOL => self.pools.values().cloned().map(Item::Pool).collect(),
            kind::IMAGE => self.images.values().cloned().map(Item::Image).collect(),
            kind::LEASE => self.leases.values().cloned().map(Item::Lease).collect(),
            kind::LEASE_CLOCK => self.clock_item().into_iter().collect(),
            kind::MEMBERS => self.members_item().into_iter().collect(),
            _ => {
                let from = (Bound::Included((kind.to_owned(), String::new())), Bound::Unbounded);
                let rows = self.others.range(from).take_while(|((of, _), _)| of == kind);
                rows.map(|(_, object)| Item::Other(object.clone())).collect()
            }
        }
    }

    /// By full name, short name or uuid text.
    fn named(&self, kind: &str, name: &str) -> Result<Option<Item>, GanetiError> {
        let Some((_, noun)) = NAMED.into_iter().find(|(named, _)| *named == kind) else {
            let text = format!("Objects of kind '{kind}' have no names");
            return Err(GanetiError::prereq(text, Ecode::WrongInput));
        };
        let index = &self.index;
        let found = match kind {
            kind::NODE => short(&index.node_names, name, |uuid| uuid.0),
            // These are called by their whole names only.
            kind::GROUP => whole(index.group_names.get(name).map(|uuid| uuid.0)),
            kind::BLUEPRINT => whole(index.pools.blueprint_names.get(name).map(|uuid| uuid.0)),
            kind::POOL => whole(index.pools.pool_names.get(name).map(|uuid| uuid.0)),
            // The name is the key.
            kind::IMAGE => Resolved::Unknown,
            _ => short(&index.instance_names, name, |uuid| uuid.0),
        };
        match found {
            Resolved::One(uuid) => Ok(self.one(kind, &uuid.to_string())),
            Resolved::Unknown => Ok(self.one(kind, name)),
            Resolved::Ambiguous(names) => {
                let text = format!("{noun} name '{name}' is ambiguous: {}", names.join(", "));
                Err(GanetiError::prereq(text, Ecode::WrongInput))
            }
        }
    }

    /// A slot and all that decides what is made in it.
    fn slot_whole(&self, uuid: InstanceUuid) -> impl Iterator<Item = Item> {
        let instance = self.instances.get(&uuid);
        let node = instance.and_then(|instance| self.nodes.get(&instance.primary_node));
        let pool = instance.and_then(|instance| self.pool(instance.pool.as_deref()?));
        let blueprint = pool.and_then(|pool| self.blueprints.get(&pool.blueprint));
        let image = blueprint.and_then(|blueprint| self.images.get(&blueprint.image));
        let items = [
            self.slots.get(&uuid).cloned().map(Item::Slot),
            instance.cloned().map(Item::Instance),
            node.cloned().map(Item::Node),
            pool.cloned().map(Item::Pool),
            blueprint.cloned().map(Item::Blueprint),
            image.cloned().map(Item::Image),
        ];
        items.into_iter().flatten()
    }

    fn instances_of(&self, node: NodeUuid) -> Vec<Item> {
        let uuids = self.index.node_instances.get(&node).into_iter().flatten();
        let rows = uuids.flat_map(|uuid| {
            let instance = self.instances.get(uuid).cloned().map(Item::Instance);
            [instance, self.slots.get(uuid).cloned().map(Item::Slot)]
        });
        rows.flatten().collect()
    }
}

fn whole(found: Option<Uuid>) -> Resolved<Uuid> {
    found.map_or(Resolved::Unknown, Resolved::One)
}

/// The one object that `given` names: itself, or the beginning of its name up to a dot.
fn short<K: Copy>(names: &BTreeMap<String, K>, given: &str, uuid: impl Fn(K) -> Uuid) -> Resolved<Uuid> {
    let exact = names.get_key_value(given).into_iter();
    let prefix = format!("{given}.");
    let longer = names.range(prefix.clone()..).take_while(|(name, _)| name.starts_with(&prefix));
    resolve(given, exact.chain(longer).map(|(name, key)| (name.as_str(), uuid(*key))))
}
