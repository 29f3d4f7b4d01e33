//! One committed state of the configuration, keyed as questions need it. Never changes once it is served; the next one
//! shares with it all that is the same. Objects are kept as the text that goes on the wire.

use super::options::Options;
use super::shape;
use super::shards::Shards;
use gantry_confd::REPLY_BYTES_MAX;
use gantry_confd::core::ascii;
use gantry_model::config::{Cluster, Group, Instance, Meta, Node, Params, kind};
use gantry_model::defaults::DEFAULT_SET;
use gantry_model::ids::{InstanceUuid, NodeUuid};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use uuid::Uuid;

/// Longest text of one object. One that is longer can be in no answer anyway.
const OBJECT_BYTES_MAX: usize = 16 * REPLY_BYTES_MAX;

/// An object that is not what its kind says.
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
        source: serde_json::Error,
    },
    /// The key is no uuid.
    #[error("'{key}' is no key of a {kind}")]
    Key {
        /// Kind.
        kind: String,
        /// Key.
        key: String,
    },
}

/// A whole that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// An object that must be there.
    #[error("it has no {0} object")]
    Missing(&'static str),
    /// The master is no node.
    #[error("its master node is not among its nodes")]
    Master,
}

/// The cluster, ready to be asked.
#[derive(Debug)]
pub struct ClusterRow {
    /// The object.
    pub cluster: Cluster,
    /// What RConfD is told.
    pub options: Options,
    /// As Ganeti has it, without secrets.
    pub legacy: Value,
    /// What only Gantry has.
    pub more: Params,
    /// Where instances' interfaces are that name no link.
    pub link: Option<String>,
}

/// An instance, ready to be sent.
#[derive(Debug)]
pub struct InstanceRow {
    /// Its uuid.
    pub uuid: InstanceUuid,
    /// Its name.
    pub name: String,
    /// Where it lives.
    pub node: NodeUuid,
    /// Its serial.
    pub serial: u64,
    /// Whether Ganeti's decoders can read it.
    pub ganetis: bool,
    /// Its pool.
    pub pool: Option<String>,
    /// The object with Ganeti's keys.
    pub legacy: Box<str>,
    /// What only Gantry has of it: an object.
    pub more: Box<str>,
    /// The object itself, if it has disks: where they are depends on the cluster too.
    with_disks: Option<Box<Instance>>,
    /// Links and addresses of its interfaces; no link = the cluster's.
    ips: Vec<(Link, String)>,
}

/// A link; None = the one that the cluster has for interfaces without.
pub type Link = Option<String>;
/// Addresses with their instances.
type Ips = BTreeSet<(String, InstanceUuid)>;
type Texts = Arc<BTreeMap<String, Arc<Value>>>;

/// The state.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Serial and times of the whole.
    pub meta: Option<Arc<Meta>>,
    /// The cluster.
    pub cluster: Option<Arc<ClusterRow>>,
    /// Nodes by uuid.
    pub nodes: Arc<BTreeMap<NodeUuid, Arc<Node>>>,
    node_names: Arc<BTreeMap<String, NodeUuid>>,
    /// Node groups by uuid.
    pub groups: Texts,
    /// Networks by uuid.
    pub networks: Texts,
    /// Filter rules by uuid.
    pub filters: Texts,
    /// Blueprints by uuid.
    pub blueprints: Texts,
    /// Pools by uuid.
    pub pools: Texts,
    /// Images by name.
    pub images: Texts,
    /// Instances by uuid.
    pub instances: Shards<Uuid, Arc<InstanceRow>>,
    instance_names: Shards<String, Uuid>,
    disk_owners: Shards<String, Uuid>,
    hosted: Arc<BTreeMap<NodeUuid, Arc<BTreeSet<InstanceUuid>>>>,
    ips: Arc<BTreeMap<Link, Arc<Ips>>>,
    /// Bodies of slots by instance.
    pub slots: Shards<Uuid, Arc<str>>,
    /// Bodies of leases by uuid.
    pub leases: Shards<Uuid, Arc<str>>,
    /// How far the state goes in the log: the freshness of what is no configuration.
    pub index: u64,
}

impl Snapshot {
    /// Takes one change; None = the object is gone. Kinds of newer programs are passed over.
    ///
    /// # Errors
    /// The object can't be read; the snapshot is then not to be used.
    pub fn change(&mut self, of: &str, key: &str, body: Option<&str>) -> Result<(), ObjectError> {
        let change = Change { kind: of, key, body };
        match of {
            kind::META => self.meta = change.read()?.map(Arc::new),
            kind::CLUSTER => self.cluster = change.read()?.map(|cluster| Arc::new(ClusterRow::new(cluster))),
            kind::NODE => self.set_node(NodeUuid(change.uuid()?), change.read()?),
            kind::GROUP => {
                let group = change.read()?.map(|group: Group| shape::group(&group));
                set(&mut self.groups, key, group);
            }
            kind::NETWORK => set(&mut self.networks, key, change.read()?),
            kind::FILTER => set(&mut self.filters, key, change.read()?),
            kind::BLUEPRINT => set(&mut self.blueprints, key, change.read()?),
            kind::POOL => set(&mut self.pools, key, change.read()?),
            kind::IMAGE => set(&mut self.images, key, change.read()?),
            kind::INSTANCE => self.set_instance(change.uuid()?, change.read()?),
            kind::SLOT => set_text(&mut self.slots, change.uuid()?, body),
            kind::LEASE => set_text(&mut self.leases, change.uuid()?, body),
            _ => {}
        }
        Ok(())
    }

    /// Whether questions can be answered from it.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), Invalid> {
        self.meta.as_ref().ok_or(Invalid::Missing(kind::META))?;
        let row = self.cluster.as_ref().ok_or(Invalid::Missing(kind::CLUSTER))?;
        if self.nodes.contains_key(&row.cluster.master_node) { Ok(()) } else { Err(Invalid::Master) }
    }

    /// Serial of the cluster object.
    #[must_use]
    pub fn cluster_serial(&self) -> u64 {
        self.cluster.as_ref().map_or(0, |row| row.cluster.stamp.serial_no)
    }

    /// Serial of the whole configuration.
    #[must_use]
    pub fn config_serial(&self) -> u64 {
        self.meta.as_ref().map_or(0, |meta| meta.serial_no)
    }

    /// What RConfD is told.
    #[must_use]
    pub fn options(&self) -> Options {
        self.cluster.as_ref().map(|row| row.options.clone()).unwrap_or_default()
    }

    /// A node by uuid, name, or what its name begins with up to a dot, if that is one alone.
    #[must_use]
    pub fn node(&self, given: &str) -> Option<&Arc<Node>> {
        let uuid = given.parse().ok().filter(|uuid| self.nodes.contains_key(uuid));
        let uuid = uuid.or_else(|| one_named(&self.node_names, given).copied())?;
        self.nodes.get(&uuid)
    }

    /// An instance likewise.
    #[must_use]
    pub fn instance(&self, given: &str) -> Option<&Arc<InstanceRow>> {
        let by_uuid = Uuid::try_parse(given).ok().and_then(|uuid| self.instances.get(&uuid));
        by_uuid.or_else(|| self.instances.get(one_named(self.instance_names.near(given), given)?))
    }

    /// The instance with that disk.
    #[must_use]
    pub fn disk_owner(&self, disk: &str) -> Option<&Arc<InstanceRow>> {
        self.instances.get(self.disk_owners.get(disk)?)
    }

    /// Instances that live on a node, by uuid.
    pub fn hosted(&self, node: NodeUuid) -> impl Iterator<Item = &Arc<InstanceRow>> {
        let uuids = self.hosted.get(&node).into_iter().flat_map(|set| set.iter());
        uuids.filter_map(|uuid| self.instances.get(&uuid.0))
    }

    /// All instances, by uuid.
    #[must_use]
    pub fn sorted(&self) -> Vec<&Arc<InstanceRow>> {
        let mut all: Vec<_> = self.instances.iter().map(|(_, row)| row).collect();
        all.sort_by_key(|row| row.uuid);
        all
    }

    /// Addresses on a link, each once, sorted.
    #[must_use]
    pub fn ips(&self, link: Option<&str>) -> BTreeSet<&str> {
        self.sets(link).flat_map(|set| set.iter()).map(|(ip, _)| ip.as_str()).collect()
    }

    /// The instance with an address on a link; of several the one with the highest uuid, as Ganeti has it.
    #[must_use]
    pub fn by_ip(&self, link: Option<&str>, ip: &str) -> Option<&Arc<InstanceRow>> {
        let last = |set: &Ips| {
            let from = (ip.to_owned(), InstanceUuid(Uuid::nil()));
            set.range(from..).take_while(|(found, _)| found == ip).last().map(|(_, uuid)| *uuid)
        };
        let uuid = self.sets(link).filter_map(|set| last(set)).max()?;
        self.instances.get(&uuid.0)
    }

    /// The addresses of a link (None = the default one): those that name it, and those that name none if it is the default.
    fn sets(&self, link: Option<&str>) -> impl Iterator<Item = &Arc<Ips>> {
        let default = self.cluster.as_ref().and_then(|row| row.link.as_deref());
        let link = link.or(default);
        let named = self.ips.get(&link.map(str::to_owned));
        let unnamed = if link.is_some() && link == default { self.ips.get(&None) } else { None };
        named.into_iter().chain(unnamed)
    }

    fn set_node(&mut self, uuid: NodeUuid, node: Option<Node>) {
        let (nodes, names) = (Arc::make_mut(&mut self.nodes), Arc::make_mut(&mut self.node_names));
        if let Some(old) = nodes.remove(&uuid)
            && names.get(&old.name) == Some(&uuid)
        {
            names.remove(&old.name);
        }
        if let Some(node) = node {
            names.insert(node.name.clone(), uuid);
            nodes.insert(uuid, Arc::new(node));
        }
    }

    fn set_instance(&mut self, uuid: Uuid, instance: Option<Instance>) {
        if let Some(old) = self.instances.remove(&uuid) {
            self.forget(&old);
        }
        let Some(instance) = instance else { return };
        let row = InstanceRow::new(&instance);
        self.instance_names.insert(row.name.clone(), uuid);
        for disk in row.disk_ids() {
            self.disk_owners.insert(disk.to_owned(), uuid);
        }
        Arc::make_mut(Arc::make_mut(&mut self.hosted).entry(row.node).or_default()).insert(row.uuid);
        if !row.ips.is_empty() {
            let links = Arc::make_mut(&mut self.ips);
            for (link, ip) in &row.ips {
                Arc::make_mut(links.entry(link.clone()).or_default()).insert((ip.clone(), row.uuid));
            }
        }
        self.instances.insert(uuid, Arc::new(row));
    }

    fn forget(&mut self, row: &InstanceRow) {
        if self.instance_names.get(row.name.as_str()) == Some(&row.uuid.0) {
            self.instance_names.remove(row.name.as_str());
        }
        for disk in row.disk_ids() {
            self.disk_owners.remove(disk);
        }
        let hosted = Arc::make_mut(&mut self.hosted);
        if let Some(set) = hosted.get_mut(&row.node) {
            Arc::make_mut(set).remove(&row.uuid);
            if set.is_empty() {
                hosted.remove(&row.node);
            }
        }
        if row.ips.is_empty() {
            return;
        }
        let links = Arc::make_mut(&mut self.ips);
        for (link, ip) in &row.ips {
            if let Some(set) = links.get_mut(link) {
                Arc::make_mut(set).remove(&(ip.clone(), row.uuid));
            }
        }
        links.retain(|_, set| !set.is_empty());
    }
}

impl ClusterRow {
    fn new(cluster: Cluster) -> Self {
        let (legacy, more) = shape::cluster(&cluster);
        let default = cluster.nicparams.get(DEFAULT_SET).and_then(|set| set.get("link"));
        let link = default.and_then(Value::as_str).map(str::to_owned);
        Self { options: Options::of(&cluster), legacy, more, link, cluster }
    }
}

impl InstanceRow {
    fn new(instance: &Instance) -> Self {
        let link = |params: &Params| params.get("link").and_then(Value::as_str).map(str::to_owned);
        let ips = instance.nics.iter().filter_map(|nic| Some((link(&nic.nicparams), nic.ip.clone()?)));
        Self {
            uuid: instance.uuid,
            name: instance.name.clone(),
            node: instance.primary_node,
            serial: instance.stamp.serial_no,
            ganetis: shape::is_ganetis(instance),
            pool: instance.pool.clone(),
            legacy: text(&shape::instance(instance)),
            more: text(&shape::instance_more(instance)),
            with_disks: (!instance.disks.is_empty()).then(|| Box::new(instance.clone())),
            ips: ips.collect(),
        }
    }

    fn disk_ids(&self) -> impl Iterator<Item = &str> {
        self.with_disks.iter().flat_map(|instance| &instance.disks).map(|disk| disk.uuid.as_str())
    }

    /// Its disks, in order.
    #[must_use]
    pub fn disks(&self, cluster: Option<&ClusterRow>) -> Vec<Value> {
        let all =
            self.with_disks.as_ref().map(|instance| shape::disks(instance, cluster.map(|row| &row.cluster)));
        all.unwrap_or_default()
    }

    /// The object with all keys.
    #[must_use]
    pub fn whole(&self) -> String {
        let inside = self.more.trim_start_matches('{');
        format!("{},{inside}", self.legacy.strip_suffix('}').unwrap_or(&self.legacy))
    }
}

/// The text of an object. One beyond the limit could be in no answer, and is a text beyond the limit.
fn text<T: Serialize + ?Sized>(value: &T) -> Box<str> {
    let long = |_| format!("\"{}\"", "x".repeat(REPLY_BYTES_MAX));
    ascii::to_string(value, OBJECT_BYTES_MAX).unwrap_or_else(long).into_boxed_str()
}

fn set(all: &mut Texts, key: &str, value: Option<Value>) {
    let all = Arc::make_mut(all);
    match value {
        Some(value) => all.insert(key.to_owned(), Arc::new(value)),
        None => all.remove(key),
    };
}

fn set_text(all: &mut Shards<Uuid, Arc<str>>, key: Uuid, body: Option<&str>) {
    match body {
        Some(body) => all.insert(key, Arc::from(body)),
        None => all.remove(&key),
    };
}

/// The value of exactly that name, else of the only name that goes on with a dot after it.
fn one_named<'a, T>(names: &'a BTreeMap<String, T>, given: &str) -> Option<&'a T> {
    if given.is_empty() {
        return None;
    }
    if let Some(found) = names.get(given) {
        return Some(found);
    }
    let prefix = format!("{given}.");
    let mut longer = names.range(prefix.clone()..).take_while(|(name, _)| name.starts_with(&prefix));
    let (first, second) = (longer.next(), longer.next());
    if second.is_none() { first.map(|(_, value)| value) } else { None }
}

struct Change<'a> {
    kind: &'a str,
    key: &'a str,
    body: Option<&'a str>,
}

impl Change<'_> {
    fn uuid(&self) -> Result<Uuid, ObjectError> {
        let wrong = |_| ObjectError::Key { kind: self.kind.to_owned(), key: self.key.to_owned() };
        Uuid::try_parse(self.key).map_err(wrong)
    }

    fn read<T: DeserializeOwned>(&self) -> Result<Option<T>, ObjectError> {
        let wrong =
            |source| ObjectError::Body { kind: self.kind.to_owned(), key: self.key.to_owned(), source };
        self.body.map(serde_json::from_str).transpose().map_err(wrong)
    }
}
