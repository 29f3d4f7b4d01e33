//! A slow, obvious model of one pool's slots and leases: plain maps, linear searches. It knows whether a command is
//! accepted and what is there afterwards, not the texts; of a grab it says which VMs may be given, not which are.

use super::*;
use gantry_model::config::{Slot, SlotState};
use gantry_model::ids::{Generation, LeaseUuid};
use gantry_model::lease::{Grab, Lease, LeaseOwner, LeaseState, LeasedVm};
use gantry_model::pool::{SLOT_FAILURES_MAX, slot_backoff_s};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const TTL: u64 = 5_000;
pub(super) const FOR: u64 = 20_000;
pub(super) const MAX: u64 = 3;
pub(super) const LIFETIME_S: f64 = 100.0;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pools {
    pub now: f64,
    pub clock: u64,
    pub stored_clock: u64,
    pub slots: BTreeMap<InstanceUuid, Slot>,
    pub leases: BTreeMap<LeaseUuid, Lease>,
    pub draining: bool,
    pub enabled: bool,
    pub revision: u64,
    pub memory: u64,
    pub claimed: BTreeSet<NodeUuid>,
    pub drained: BTreeSet<NodeUuid>,
}

impl Pools {
    pub fn usable(&self, node: NodeUuid) -> bool {
        self.claimed.contains(&node) && !self.drained.contains(&node)
    }

    fn soil(&mut self, uuid: InstanceUuid) {
        let slot = self.slots.get_mut(&uuid).unwrap();
        if matches!(slot.state, SlotState::Creating | SlotState::Booting | SlotState::Destroying) {
            slot.failures += 1;
            slot.stuck |= slot.failures >= SLOT_FAILURES_MAX;
            slot.backoff_until = Some(self.now + slot_backoff_s(slot.failures));
        }
        slot.state = SlotState::Dirty;
        slot.holder = None;
        if let Some(lease) = slot.lease.take() {
            self.end(lease, LeaseState::Broken);
        }
    }

    fn old(&self, slot: &Slot) -> bool {
        slot.ready_at.is_some_and(|ready| ready + LIFETIME_S <= self.now)
    }

    fn end(&mut self, uuid: LeaseUuid, state: LeaseState) {
        let lease = self.leases.get_mut(&uuid).unwrap();
        if lease.state != LeaseState::Active {
            return;
        }
        lease.state = state;
        self.stored_clock = self.clock;
        let had: Vec<_> =
            self.slots.values().filter(|slot| slot.lease == Some(uuid)).map(|slot| slot.uuid).collect();
        for slot in had {
            let row = &self.slots[&slot];
            if row.opened || row.drained || self.draining || row.revision != self.revision || self.old(row) {
                self.soil(slot);
            } else {
                let row = self.slots.get_mut(&slot).unwrap();
                (row.state, row.lease) = (SlotState::Clean, None);
            }
        }
    }

    fn live(&self, uuid: LeaseUuid) -> bool {
        let live = |lease: &Lease| lease.state == LeaseState::Active && lease.ends() > self.clock;
        self.leases.get(&uuid).is_some_and(live)
    }

    /// The VMs that may be given out.
    pub fn leasable(&self) -> BTreeSet<InstanceUuid> {
        let may = |slot: &&Slot| {
            slot.state == SlotState::Clean && !slot.drained && self.usable(slot.node) && !self.old(slot)
        };
        self.slots.values().filter(may).map(|slot| slot.uuid).collect()
    }

    /// Whether the command is accepted; if so it is carried out. `answer` is what was answered to a grab.
    pub fn one(&mut self, command: &Command, answer: Option<&Value>) -> bool {
        use SlotState::{Absent, Booting, Clean, Creating, Destroying, Dirty};
        let now = self.now;
        match command {
            Command::PoolSet { set, .. } => {
                self.draining = set["state"] == "draining";
                true
            }
            Command::BlueprintSet { set, .. } => {
                let before = (self.enabled, self.memory);
                self.enabled = set.get("enabled").map_or(self.enabled, |on| on == true);
                self.memory = set.get("memory_mib").map_or(self.memory, |mib| mib.as_u64().unwrap());
                self.revision += u64::from(before != (self.enabled, self.memory));
                true
            }
            Command::NodeSet { node, set, .. } => {
                if set["drained"] == true {
                    self.drained.insert(*node)
                } else {
                    self.drained.remove(node)
                };
                true
            }
            Command::SlotAdd { instance } => {
                let node = instance.primary_node;
                if let Some(slot) = self.slots.get(&instance.uuid) {
                    return slot.node == node;
                }
                let counted = self.slots.values().filter(|slot| self.usable(slot.node)).count() as u64;
                if self.draining || !self.usable(node) || counted >= MAX {
                    return false;
                }
                self.slots.insert(instance.uuid, Slot::new(instance.uuid, node));
                true
            }
            Command::SlotRemove { slot } => {
                let Some(row) = self.slots.get(slot) else { return false };
                let may = row.state == Absent && (row.drained || !self.usable(row.node));
                if may {
                    self.slots.remove(slot);
                }
                may
            }
            Command::SlotDrain { slot, drained } => {
                let Some(row) = self.slots.get_mut(slot) else { return false };
                row.drained = *drained;
                if *drained && row.state == Clean {
                    self.soil(*slot);
                }
                true
            }
            Command::SlotUnstick { slot } => {
                let Some(row) = self.slots.get_mut(slot) else { return false };
                (row.stuck, row.failures, row.backoff_until) = (false, 0, None);
                true
            }
            Command::SlotBegin { slot, expected, holder } => {
                let Some(row) = self.slots.get(slot) else { return false };
                let next = Generation(expected.0 + 1);
                if (row.state, row.generation, row.holder) == (Creating, next, Some(*holder)) {
                    return true;
                }
                let waits = row.backoff_until.is_some_and(|until| until > now);
                let may = row.state == Absent
                    && row.generation == *expected
                    && self.usable(row.node)
                    && self.enabled
                    && !(self.draining || row.drained || waits);
                let revision = self.revision;
                let row = self.slots.get_mut(slot).unwrap();
                if may {
                    (row.state, row.generation, row.holder) = (Creating, next, Some(*holder));
                    (row.opened, row.ready_at, row.revision) = (false, None, revision);
                }
                may
            }
            Command::SlotReady { slot, generation } => {
                let Some(row) = self.slots.get_mut(slot) else { return false };
                if row.generation != *generation || ![Creating, Booting, Clean].contains(&row.state) {
                    return false;
                }
                if row.state != Clean {
                    (row.state, row.holder, row.failures) = (Clean, None, 0);
                    (row.stuck, row.backoff_until, row.ready_at) = (false, None, Some(now));
                    if row.drained {
                        self.soil(*slot);
                    }
                }
                true
            }
            Command::SlotDirty { slot, generation, .. } => {
                let Some(row) = self.slots.get(slot) else { return false };
                if row.generation != *generation || row.state == Absent {
                    return false;
                }
                if row.state != Dirty {
                    self.soil(*slot);
                }
                true
            }
            Command::SlotBeginDestroy { slot, generation, holder } => {
                let Some(row) = self.slots.get(slot) else { return false };
                if row.generation != *generation {
                    return false;
                }
                if row.state == Destroying && row.holder == Some(*holder) {
                    return true;
                }
                let may = row.state == Dirty && self.claimed.contains(&row.node);
                let row = self.slots.get_mut(slot).unwrap();
                if may {
                    (row.state, row.holder) = (Destroying, Some(*holder));
                }
                may
            }
            Command::SlotAbsent { slot, generation, floor } => {
                let Some(row) = self.slots.get_mut(slot) else { return false };
                if row.state == Absent && row.generation >= *generation {
                    return true;
                }
                let may = row.state == Destroying && row.generation == *generation && floor >= generation;
                if may {
                    (row.state, row.generation, row.holder) = (Absent, *floor, None);
                    (row.opened, row.ready_at, row.revision) = (false, None, 0);
                }
                may
            }
            Command::LeaseGrab { lease, owner, count, ttl_ms, .. } => {
                self.grab(*lease, owner, *count, *ttl_ms, answer)
            }
            Command::LeaseRenew { lease } => {
                let live = self.live(*lease);
                if live {
                    let lease = self.leases.get_mut(lease).unwrap();
                    if lease.renewed != self.clock {
                        (lease.renewed, self.stored_clock) = (self.clock, self.clock);
                    }
                }
                live
            }
            Command::LeaseOpen { lease, slot, generation } => {
                let live = self.live(*lease);
                let Some(row) = self.slots.get_mut(slot) else { return false };
                let may = live && row.lease == Some(*lease) && row.generation == *generation;
                row.opened |= may;
                may
            }
            Command::LeaseEnd { lease, .. } => {
                if self.leases.contains_key(lease) {
                    self.end(*lease, LeaseState::Released);
                } else {
                    let owner = LeaseOwner::User { name: String::new() };
                    let row = self.lease(*lease, &owner, "", Vec::new(), None);
                    let (until, state) = (self.clock, LeaseState::Released);
                    self.leases.insert(*lease, Lease { until, state, ..row });
                    self.stored_clock = self.clock;
                }
                true
            }
            Command::LeaseDestroy { lease, slot, generation, holder } => {
                let Some(row) = self.slots.get(slot) else { return false };
                if row.lease == Some(*lease) && row.generation == *generation {
                    if !matches!(self.leases[lease].owner, LeaseOwner::Task { .. }) {
                        return false;
                    }
                    self.end(*lease, LeaseState::Released);
                }
                let (slot, generation, holder) = (*slot, *generation, *holder);
                self.one(&Command::SlotBeginDestroy { slot, generation, holder }, None)
            }
            Command::LeaseReturn { lease: uuid, lost } => {
                let Some(lease) = self.leases.get(uuid).cloned() else { return true };
                let active = lease.state == LeaseState::Active;
                let had: Vec<_> = self.slots.values().filter(|slot| slot.lease == Some(*uuid)).collect();
                if matches!(lease.owner, LeaseOwner::Task { .. })
                    || lease.state == LeaseState::Released
                    || active && !self.live(*uuid)
                {
                    return false;
                }
                if active && lost.is_empty() {
                    return true;
                }
                if had.iter().any(|slot| slot.opened) {
                    return false;
                }
                // As an end, but for the VMs that do not live; then it never was.
                self.end(*uuid, LeaseState::Released);
                for (slot, _) in lost.iter().filter(|_| active) {
                    self.soil(*slot);
                }
                self.leases.remove(uuid);
                self.stored_clock = self.clock;
                true
            }
            Command::LeaseForget { leases } => {
                for uuid in leases {
                    if self.leases.get(uuid).is_some_and(|lease| lease.state != LeaseState::Active) {
                        self.leases.remove(uuid);
                        self.stored_clock = self.clock;
                    }
                }
                true
            }
            other => panic!("{other:?} is not in these histories"),
        }
    }

    fn lease(
        &self,
        uuid: LeaseUuid,
        owner: &LeaseOwner,
        pool: &str,
        vms: Vec<LeasedVm>,
        ttl_ms: Option<u64>,
    ) -> Lease {
        let (granted, granted_at, until) = (self.clock, self.now, self.clock + FOR);
        let (owner, pool, state) = (owner.clone(), pool.to_owned(), LeaseState::Active);
        Lease {
            uuid,
            owner,
            pool,
            vms,
            granted,
            until,
            ttl_ms,
            renewed: granted,
            state,
            why: None,
            granted_at,
        }
    }

    fn grab(
        &mut self,
        uuid: LeaseUuid,
        owner: &LeaseOwner,
        count: u32,
        ttl_ms: Option<u64>,
        answer: Option<&Value>,
    ) -> bool {
        let grab: Option<Grab> = answer.map(|answer| serde_json::from_value(answer.clone()).unwrap());
        if let Some(lease) = self.leases.get(&uuid) {
            let same = self.live(uuid) && lease.vms.len() == count as usize && lease.owner == *owner;
            if same {
                assert_eq!(grab, Some(Grab::Granted { vms: lease.vms.clone() }), "the same VMs again");
            }
            return same;
        }
        if u64::from(count) > MAX {
            return false;
        }
        let may = if self.draining { BTreeSet::new() } else { self.leasable() };
        let vms = match grab.expect("accepted") {
            Grab::Wait { why } => {
                assert!(may.len() < count as usize && !why.is_empty(), "waits only for want of VMs: {why}");
                return true;
            }
            Grab::Granted { vms } => vms,
        };
        let given: BTreeSet<_> = vms.iter().map(|vm| vm.slot).collect();
        assert!(given.len() == count as usize && vms.len() == given.len(), "as many as were asked for");
        assert!(given.is_subset(&may), "only what may be given: {given:?} of {may:?}");
        for vm in &vms {
            let row = self.slots.get_mut(&vm.slot).unwrap();
            assert_eq!((row.generation, row.node), (vm.generation, vm.node));
            (row.state, row.lease) = (SlotState::Leased, Some(uuid));
            row.opened = matches!(owner, LeaseOwner::Task { .. });
        }
        let lease = self.lease(uuid, owner, "py", vms, ttl_ms);
        self.leases.insert(uuid, lease);
        self.stored_clock = self.clock;
        true
    }

    /// Time passes on both clocks; what is due ends.
    pub fn pass(&mut self, ms: u64) {
        self.clock += ms;
        self.now += ms as f64 / 1000.0;
        let due: Vec<_> = self.leases.values().filter(|lease| lease.ends() <= self.clock).collect();
        let due: Vec<_> = due.into_iter().map(|lease| lease.uuid).collect();
        due.into_iter().for_each(|uuid| self.end(uuid, LeaseState::Released));
    }

    /// The daemon starts anew: the clock goes on from what was stored, ttls count from there.
    pub fn restart(&mut self) {
        self.clock = self.stored_clock;
        let alive = |lease: &&mut Lease| lease.state == LeaseState::Active && lease.ttl_ms.is_some();
        self.leases.values_mut().filter(alive).for_each(|lease| lease.renewed = self.clock);
        self.claimed.clear();
    }

    pub fn gone(&mut self, owner: JobOwner) {
        let held: Vec<_> =
            self.slots.values().filter(|slot| slot.holder == Some(owner)).map(|slot| slot.uuid).collect();
        held.into_iter().for_each(|uuid| self.soil(uuid));
    }

    pub fn lost(&mut self, uuid: InstanceUuid, raised: u64) {
        if let Some(slot) = self.slots.get_mut(&uuid) {
            slot.generation.0 += raised;
            self.soil(uuid);
        }
    }
}
