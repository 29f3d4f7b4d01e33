//! A node that belongs to a cluster: its records, its drivers, and the verbs on them.
//!
//! ```text
//! api ── submit ──► one task a verb: waits for its slot's turn, enters the gate,
//!                   decides (core), stores and drives step by step, answers
//! ```
//!
//! Verbs run to their end whoever waits; only the answer is lost when the caller is gone. Repeated verbs queue
//! behind the first and then attach to what it did.

mod audit;
mod candidate;
mod crypto;
mod effects;
pub mod gate;
mod images;
mod legacy;
mod losses;
mod node;
mod office;
mod put;
mod verbs;
mod work;

use crate::config::Settings;
use crate::copies::Copies;
use crate::copies::role::Roles;
use crate::core::slot::{self, Record};
use crate::core::{Rules, fence};
use crate::driver::fake::{Fake, Room};
use crate::driver::oci::{Node, Oci};
use crate::driver::{Driver, Seen, VmId};
use crate::error;
use crate::io::data::{Change, Data, Loaded, SsconfMark};
use crate::io::facts;
use crate::io::images::Images;
use crate::io::room;
use crate::io::uploads::Uploads;
use crate::metrics::Metrics;
use effects::Effects;
use gantry_model::ids::{ClusterUuid, Fence, Generation, InstanceUuid, NodeUuid};
use gantry_model::role::RoleFile;
use gantry_model::root::Root;
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::noded::{ClaimRequest, SlotFacts};
use gantry_rpc::tls::ServerTls;
use gantry_rt::{Tasks, node_toml};
use gate::{Gate, Shut};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Semaphore, broadcast, oneshot};
use tokio_util::sync::CancellationToken;

/// Changing verbs in work or waiting on one node: a pool of a thousand slots made anew at once.
pub const VERBS_MAX: usize = 1024;
/// Verbs in work or waiting on one slot: late duplicates, not a queue.
pub const SLOT_VERBS_MAX: usize = 32;
/// Sleeping [`gantry_proto::noded::TestDelay`] calls on one node.
pub const DELAYS_MAX: usize = 256;
/// Followers of commands on one node: what vmd's connections carry.
pub const FOLLOWERS_MAX: usize = 1_000;
/// VMs asked at once for a sign of life: the places of a connection to vmd, with room for others.
pub const LOOKS_MAX: usize = 64;
/// Callers fetching files at once: each has a thread that reads.
pub const GETTERS_MAX: usize = 32;
/// How long a claim, or leaving, waits for verbs in work: they are told to end, and a driver that hangs must not gather
/// waiting callers. Below what a master waits for the answer.
const DRAIN: std::time::Duration = std::time::Duration::from_secs(30);
/// Records of one node: the inventory of so many (some 70 bytes each) fits one frame with room to spare.
pub const SLOTS_MAX: usize = 40_000;

/// One slot: its durable record and whose turn it is.
#[derive(Debug, Default)]
struct Slot {
    /// Held by the verb in work.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// What is on disk, changed by the verb in work when it is there; until a start is over, what [`slot::after_start`] makes of it.
    record: Mutex<Record>,
    verbs: AtomicUsize,
}

impl Slot {
    fn record(&self) -> Record {
        lock(&self.record).clone()
    }
}

/// A member node.
pub struct Member {
    settings: Settings,
    cluster: ClusterUuid,
    node: NodeUuid,
    boot_id: String,
    copies: Copies,
    gate: Gate,
    data: Data,
    slots: Mutex<HashMap<InstanceUuid, Arc<Slot>>>,
    drivers: BTreeMap<&'static str, Arc<dyn Driver>>,
    ssconf: Mutex<SsconfMark>,
    /// Held by the one claim that changes the fence.
    claiming: tokio::sync::Mutex<()>,
    /// Held by the one verb that changes the node's files.
    filing: tokio::sync::Mutex<()>,
    verbs: Arc<Semaphore>,
    delays: Semaphore,
    /// Places of those who follow commands.
    followers: Semaphore,
    /// Places of those who fetch files.
    getters: Semaphore,
    uploads: Uploads,
    images: Images,
    effects: Effects,
    /// Clean VMs that are found dead.
    losses: broadcast::Sender<SlotFacts>,
    /// The listener that renewed certificates are given to; None before it listens.
    tls: Mutex<Option<ServerTls>>,
    /// The key of the last certificate request, PEM.
    asked: Mutex<Option<String>>,
    tasks: Tasks,
    metrics: Metrics,
    /// Names of the drivers that worked when last probed, and when that was.
    probed: tokio::sync::Mutex<Option<(u64, Vec<String>)>>,
    /// Slots whose VMs died with the machine, until [`Member::store_fallen`].
    fell: Mutex<Vec<InstanceUuid>>,
    /// Cancelled once the node has left its cluster.
    left: CancellationToken,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Values behind these locks are replaced whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the VM of a record dies with the machine. One whose driver is not known here may live on.
fn dies_with_machine(drivers: &BTreeMap<&'static str, Arc<dyn Driver>>, record: &Record) -> bool {
    drivers.get(record.driver.as_str()).is_some_and(|driver| driver.dies_with_machine())
}

fn shut(why: Shut) -> Fail {
    match why {
        Shut::Fenced(why) => error::fenced(&why),
        Shut::Leaving => Fail::new(Code::NotReady, "this node is leaving its cluster"),
    }
}

impl Member {
    /// A member with what its files say.
    ///
    /// # Errors
    /// When the machine can't be looked at or a driver named in node.toml is not known.
    pub fn new(
        settings: Settings,
        role: RoleFile,
        (data, loaded): (Data, Loaded),
        (tasks, metrics): (Tasks, Metrics),
    ) -> std::io::Result<Arc<Self>> {
        let boot_id = facts::boot_id()?;
        let drivers = drivers(&settings, &role, &boot_id)?;
        let images = Images::open(&settings.root, room::RESERVE_BYTES)?;
        let effects = Effects::new(&settings.root);
        let uploads = Uploads::open(&settings.root.lib().join("put"), room::RESERVE_BYTES)?;
        let live = loaded.slots.iter().filter(|(_, record)| record.state == slot::State::Live);
        uploads.keep(&live.map(|(slot, record)| put::name(*slot, record.generation)).collect())?;
        let mut fell = Vec::new();
        let slots = loaded.slots.into_iter().map(|(slot, stored)| {
            let mortal = dies_with_machine(&drivers, &stored);
            let record = slot::after_start(Rules::ALL, stored.clone(), &boot_id, mortal);
            if record != stored {
                fell.push(slot);
            }
            (slot, Arc::new(Slot { record: Mutex::new(record), ..Slot::default() }))
        });
        let slots = Mutex::new(slots.collect());
        Ok(Arc::new(Self {
            cluster: role.cluster,
            node: role.node,
            boot_id,
            copies: Copies::new(settings.root.clone(), Roles::new(settings.root.clone(), role))?,
            gate: Gate::new(loaded.fence),
            data,
            slots,
            drivers,
            ssconf: Mutex::new(loaded.ssconf),
            claiming: tokio::sync::Mutex::default(),
            filing: tokio::sync::Mutex::default(),
            verbs: Arc::new(Semaphore::new(VERBS_MAX)),
            delays: Semaphore::new(DELAYS_MAX),
            followers: Semaphore::new(FOLLOWERS_MAX),
            getters: Semaphore::new(GETTERS_MAX),
            uploads,
            images,
            effects,
            losses: broadcast::channel(losses::LOSSES_MAX).0,
            tls: Mutex::default(),
            asked: Mutex::default(),
            tasks,
            metrics,
            probed: tokio::sync::Mutex::default(),
            fell: Mutex::new(fell),
            left: CancellationToken::new(),
            settings,
        }))
    }

    /// Its cluster.
    #[must_use]
    pub fn cluster(&self) -> ClusterUuid {
        self.cluster
    }

    /// Its uuid.
    #[must_use]
    pub fn node(&self) -> NodeUuid {
        self.node
    }

    /// Its copies of the logs, and its role.
    #[must_use]
    pub fn copies(&self) -> &Copies {
        &self.copies
    }

    /// Its counters.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The epoch it obeys.
    #[must_use]
    pub fn epoch(&self) -> Option<u64> {
        self.gate.fence().map(|fence| fence.epoch)
    }

    /// Names the listener that is told of renewed certificates.
    pub fn listens_by(&self, tls: ServerTls) {
        *lock(&self.tls) = Some(tls);
    }

    /// Cancelled once the node has left its cluster.
    #[must_use]
    pub fn left(&self) -> &CancellationToken {
        &self.left
    }

    /// Runs `work` in a task of its own and waits for its answer; the work goes on when the caller does not.
    async fn detached<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T, Fail>> + Send + 'static,
    ) -> Result<T, Fail> {
        let (done, answer) = oneshot::channel();
        self.tasks.spawn(name, async move {
            let result = work.await;
            if let Err(fail) = &result {
                tracing::debug!(verb = name, code = ?fail.code, why = fail.text, "refused or failed");
            }
            // The caller may be gone: the work is done all the same.
            let _ = done.send(result);
        });
        answer.await.map_err(|_| error::stopping())?
    }

    /// Makes the caller's master this node's master and answers the inventory. Verbs of older masters have ended when
    /// this returns.
    ///
    /// # Errors
    /// `Denied` for another cluster or node, `Fenced` for an older claim.
    pub async fn claim(self: &Arc<Self>, request: ClaimRequest) -> Result<Vec<SlotFacts>, Fail> {
        if (request.cluster, request.node) != (self.cluster, self.node) {
            let text = format!(
                "this is node {} of cluster {}, not node {} of cluster {}",
                self.node, self.cluster, request.node, request.cluster
            );
            return Err(Fail::new(Code::Denied, text));
        }
        let member = Arc::clone(self);
        self.detached("claim", async move { member.claim_now(request.fence).await }).await
    }

    async fn claim_now(self: &Arc<Self>, given: Fence) -> Result<Vec<SlotFacts>, Fail> {
        {
            let _one = self.claiming.lock().await;
            match fence::claim(Rules::ALL, self.gate.fence(), given).map_err(|why| error::fenced(&why))? {
                fence::Claimed::Same => {}
                fence::Claimed::Raised(fence) => {
                    self.data.put(Change::Fence(fence)).await.map_err(|why| error::data(&why))?;
                    self.gate.raise(fence);
                    tracing::info!(epoch = fence.epoch, "claimed by a master");
                }
            }
            // Also of a claim that is repeated: the first may have failed just here.
            self.copies.heard(given.epoch).await?;
        }
        self.drain(Some(given)).await?;
        self.inventory_now(given).await
    }

    /// Waits for the verbs in work, but those of `spared`.
    async fn drain(&self, spared: Option<Fence>) -> Result<(), Fail> {
        self.gate.drained(spared, DRAIN).await.map_err(|left| {
            let text = format!(
                "{left} calls are in work on this node still, after {} s: ask again, or restart its gantry-noded",
                DRAIN.as_secs()
            );
            Fail::new(Code::Busy, text)
        })
    }

    /// What this node has of each slot. Slots whose verb is in work are told as stored.
    ///
    /// # Errors
    /// `Fenced` when the fence is not the node's; the driver's when its VMs can't be listed.
    pub async fn inventory(self: &Arc<Self>, given: Fence) -> Result<Vec<SlotFacts>, Fail> {
        self.gate.check(given).map_err(shut)?;
        let member = Arc::clone(self);
        // Detached, since it may store that a VM is lost.
        self.detached("inventory", async move { member.inventory_now(given).await }).await
    }

    async fn inventory_now(self: &Arc<Self>, given: Fence) -> Result<Vec<SlotFacts>, Fail> {
        self.find_lost(|_| true).await?;
        let slots = lock(&self.slots);
        let mut all: Vec<_> =
            slots.iter().filter_map(|(slot, of)| slot::facts(Rules::ALL, *slot, &of.record())).collect();
        drop(slots);
        all.sort_by_key(|facts| facts.slot);
        // A claim may have come between the check and the look.
        self.gate.check(given).map_err(shut)?;
        Ok(all)
    }

    /// Stores, and tells, what is lost since the machine was off. Before anybody is served: nobody else has a slot's turn.
    pub async fn store_fallen(self: &Arc<Self>) {
        let fell = std::mem::take(&mut *lock(&self.fell));
        let mut tasks = tokio::task::JoinSet::new();
        for id in fell {
            let Some(slot) = lock(&self.slots).get(&id).map(Arc::clone) else { continue };
            let record = slot.record();
            tracing::warn!(vm = %self.vm(id, record.generation), "a VM is lost: the machine was off");
            self.metrics.lost();
            let member = Arc::clone(self);
            tasks.spawn(async move { member.store(id, &slot, record).await });
        }
        while let Some(done) = tasks.join_next().await {
            if let Ok(Err(why)) = done {
                tracing::error!(why = why.text, "what was lost with the machine can't be stored");
            }
        }
    }

    /// Marks live records without a running VM as lost, of those that are `meant`.
    async fn find_lost(self: &Arc<Self>, meant: fn(&Record) -> bool) -> Result<(), Fail> {
        let all: HashSet<VmId> =
            self.seen().await?.into_iter().filter(|seen| seen.running).map(|seen| seen.vm).collect();
        let looks = Arc::new(Semaphore::new(LOOKS_MAX));
        let mut tasks = tokio::task::JoinSet::new();
        for (slot, of) in self.live().into_iter().filter(|(_, of)| meant(&of.record())) {
            let vm = self.vm(slot, of.record().generation);
            let (member, looks, listed) = (Arc::clone(self), Arc::clone(&looks), all.contains(&vm));
            tasks.spawn(async move {
                let _place = looks.acquire().await;
                // Whoever has the turn looks for itself.
                let turn = of.turn.try_lock();
                match turn {
                    Ok(_turn) if !listed || !member.gives_sign(&of, &vm).await? => {
                        member.observe(slot, &of).await
                    }
                    _ => Ok(()),
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.map_err(|_| error::stopping())??;
        }
        Ok(())
    }

    async fn gives_sign(&self, of: &Slot, vm: &VmId) -> Result<bool, Fail> {
        let record = of.record();
        let driver = self.driver(&record.driver)?;
        Ok(record.settled || verbs::is_alive(&**driver, vm).await?)
    }

    /// Every VM of this cluster that the drivers have.
    async fn seen(&self) -> Result<Vec<Seen>, Fail> {
        let mut all = Vec::new();
        for driver in self.drivers.values() {
            all.extend(self.listed(&**driver).await?.into_iter().flatten());
        }
        Ok(all)
    }

    /// Whether some record says that the driver may have a VM.
    fn has_records_of(&self, driver: &str) -> bool {
        let slots = lock(&self.slots);
        slots.values().any(|of| {
            let record = lock(&of.record);
            record.driver == driver && record.state != slot::State::Absent
        })
    }

    fn vm(&self, slot: InstanceUuid, generation: Generation) -> VmId {
        VmId { cluster: self.cluster, slot, generation }
    }

    /// The slot's cell, made when `make`; None for one never seen.
    fn slot(&self, slot: InstanceUuid, make: bool) -> Result<Option<Arc<Slot>>, Fail> {
        let mut slots = lock(&self.slots);
        if let Some(found) = slots.get(&slot) {
            return Ok(Some(Arc::clone(found)));
        }
        if !make {
            return Ok(None);
        }
        if slots.len() >= SLOTS_MAX {
            let text = format!(
                "this node has records of {SLOTS_MAX} slots: remove it from the cluster and add it anew"
            );
            return Err(Fail::new(Code::Busy, text));
        }
        Ok(Some(Arc::clone(slots.entry(slot).or_default())))
    }
}

/// A place among a slot's verbs, given back when dropped.
struct Place(Arc<Slot>);

impl Place {
    fn take(slot: &Arc<Slot>) -> Result<Self, Fail> {
        let place = Self(Arc::clone(slot));
        if slot.verbs.fetch_add(1, Ordering::Relaxed) >= SLOT_VERBS_MAX {
            return Err(Fail::new(Code::Busy, format!("{SLOT_VERBS_MAX} verbs wait for this slot")));
        }
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.verbs.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Drivers used where node.toml names none; those that do not work here are not told. `fake` is never among them.
const FOUND: [&str; 1] = ["oci"];

fn drivers(
    settings: &Settings,
    role: &RoleFile,
    boot_id: &str,
) -> std::io::Result<BTreeMap<&'static str, Arc<dyn Driver>>> {
    let mut drivers: BTreeMap<&'static str, Arc<dyn Driver>> = BTreeMap::new();
    let names = match settings.drivers.as_slice() {
        [] => FOUND.map(str::to_owned).to_vec(),
        named => named.to_vec(),
    };
    for name in &names {
        let offer = facts::offer(&settings.root, settings.capacity)?;
        let room = Room { memory_mib: offer.memory_mib(), disk_mib: offer.disk_total_mib };
        let driver: Arc<dyn Driver> = match name.as_str() {
            "fake" => Arc::new(Fake::new(&settings.root, role.cluster, boot_id.to_owned(), room)),
            "oci" => {
                let (root, uid_base) = (settings.root.clone(), uid_base(&settings.root)?);
                let etc = "/etc".into();
                let node = Node { root, cluster: role.cluster, node: role.node, uid_base, room, etc };
                Arc::new(Oci::new(node))
            }
            other => {
                let text = format!("node.toml names the driver '{other}', this release has: fake, oci");
                return Err(std::io::Error::other(text));
            }
        };
        drivers.insert(driver.name(), driver);
    }
    Ok(drivers)
}

/// First uid of this node's VMs; nodes of an identities file without a node.toml have the default.
fn uid_base(root: &Root) -> std::io::Result<u32> {
    if !root.node_toml().exists() {
        return Ok(node_toml::UID_BASE);
    }
    node_toml::load(root).map(|toml| toml.uid_base).map_err(std::io::Error::other)
}
