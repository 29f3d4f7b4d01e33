//! Leases: which VMs are whose, and until when (P5.4, `model.md` §2.5). A lease has all its VMs or does not exist; once
//! ended it stays so for ever (I8), also when it ended before it was granted.
//!
//! ```text
//!          grab                    end, time, VM lost                         forget
//! CLEAN ─────────► LEASED, active ───────────────────► released or broken ───────────► gone
//!   ▲                │ never opened, nothing against it        │ else
//!   └────────────────┘◄────────────────────────────────────────┴──► DIRTY
//! ```

use super::edit::{Edit, Effect};
use super::error::{Refusal, unknown, wrong_input};
use super::pooled::epoch_ms;
use super::rows::Config;
use super::slot::WHY_BYTES_MAX;
use gantry_model::config::{Slot, SlotState};
use gantry_model::error::GanetiError;
use gantry_model::ids::{Generation, InstanceUuid, LeaseUuid, NodeUuid};
use gantry_model::lease::{
    CLOCK_STORE_MS, Grab, LEASE_MS_MAX, LEASE_VMS_MAX, Lease, LeaseOwner, LeaseState, LeasedVm, TTL_MS_MIN,
};
use gantry_model::pool::{Pool, PoolState};
use gantry_proto::wconfd::Command;
use serde_json::{Value, json};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;

/// Leases forgotten by one command, so that its batch stays small.
const FORGET_MAX: usize = 1_000;
/// VMs and leases touched by one batch that time brings about, so that it fits a frame of the watch stream.
const TIMED_MAX: usize = 500;
/// Longest name of a user who leases, bytes.
const USER_BYTES_MAX: usize = 255;

/// Why a VM is dirty that was looked at before its lease was told.
const GAVE_NO_SIGN: &str = "it gave no sign of life when it was to be leased";

/// A wish for VMs.
struct Wish<'a> {
    lease: LeaseUuid,
    owner: &'a LeaseOwner,
    pool: &'a str,
    count: u32,
    for_ms: u64,
    ttl_ms: Option<u64>,
}

fn stale(text: String) -> Refusal {
    Refusal::Stale(text)
}

impl Config {
    /// Ends leases whose time is over, a bounded number at once: ask again while [`Config::next_end`] is not later.
    pub fn end_due(&mut self, now: f64, clock: u64) -> Effect {
        let due = self.index.pools.ends.iter().take_while(|(end, _)| *end <= clock).map(|(_, uuid)| *uuid);
        let due = self.some_leases(due);
        let mut edit = Edit::new(self, now, clock);
        for uuid in due {
            let Some(row) = edit.config.leases.get(&uuid) else { continue };
            let why = match row.lease.ttl_ms {
                Some(ttl) if row.lease.ends() < row.lease.until => {
                    format!("not renewed for {} s", ttl.div_ceil(1000))
                }
                Some(_) | None => "its time is over".to_owned(),
            };
            edit.end_lease(uuid, LeaseState::Released, why);
        }
        edit.end(Vec::new(), None)
    }

    /// Gives leases a whole ttl after a start: nobody could renew them while no master was up. A bounded number at once,
    /// those after the given one; None in the end.
    pub fn resume_leases(&mut self, after: Option<LeaseUuid>, now: f64) -> Option<(LeaseUuid, Effect)> {
        let from = (after.map_or(Unbounded, Excluded), Unbounded);
        let rows = self.leases.range(from).map(|(uuid, _)| *uuid);
        let some = self.some_leases(rows);
        let last = *some.last()?;
        let clock = self.lease_clock();
        let mut edit = Edit::new(self, now, clock);
        for uuid in some {
            let Some(row) = edit.config.leases.get(&uuid) else { continue };
            if row.lease.state == LeaseState::Active && row.lease.ttl_ms.is_some() {
                let lease = Lease { renewed: clock, ..row.lease.clone() };
                edit.set_lease(uuid, Some(lease));
            }
        }
        Some((last, edit.end(Vec::new(), None)))
    }

    /// Stores the lease clock.
    pub fn tick(&mut self, now: f64, clock: u64) -> Effect {
        let mut edit = Edit::new(self, now, clock);
        let change = edit.tick();
        let mut effect = edit.end(Vec::new(), None);
        effect.changes.push(change);
        effect
    }

    /// The lease clock at which it has to be stored again at the latest; None while no lease lives.
    #[must_use]
    pub fn next_tick(&self) -> Option<u64> {
        self.next_end().map(|_| self.lease_clock().saturating_add(CLOCK_STORE_MS))
    }

    /// As many of these as one batch may touch; one at least.
    fn some_leases(&self, uuids: impl Iterator<Item = LeaseUuid>) -> Vec<LeaseUuid> {
        let mut size = 0;
        let small = |uuid: &LeaseUuid| {
            let before = size;
            size += 1 + self.leases.get(uuid).map_or(0, |row| row.lease.vms.len());
            before < TIMED_MAX
        };
        uuids.take_while(small).collect()
    }
}

impl Edit<'_> {
    /// A command on a lease.
    pub(super) fn lease_command(&mut self, command: &Command) -> Result<Value, Refusal> {
        match command {
            Command::LeaseGrab { lease, owner, pool, count, for_ms, ttl_ms } => {
                let (lease, count, for_ms, ttl_ms) = (*lease, *count, *for_ms, *ttl_ms);
                self.lease_grab(&Wish { lease, owner, pool, count, for_ms, ttl_ms }).map(|grab| json!(grab))
            }
            Command::LeaseRenew { lease } => self.lease_renew(*lease),
            Command::LeaseOpen { lease, slot, generation } => self.lease_open(*lease, *slot, *generation),
            Command::LeaseReturn { lease, lost } => self.lease_return(*lease, lost),
            Command::LeaseEnd { lease, why } => Ok(self.lease_end(*lease, why)?),
            Command::LeaseForget { leases } => Ok(self.lease_forget(leases)?),
            other => Err(wrong_input(format!("{other:?} is no command on a lease")).into()),
        }
    }

    /// All VMs wished for, or none.
    fn lease_grab(&mut self, wish: &Wish) -> Result<Grab, Refusal> {
        if let Some(row) = self.config.leases.get(&wish.lease) {
            return self.grabbed(&row.lease, wish);
        }
        let pool = self.config.pool(wish.pool).cloned().ok_or_else(|| unknown("Pool", wish.pool))?;
        self.check_wish(wish, &pool)?;
        if pool.state == PoolState::Draining {
            // It may be undone; who asked in the moment before waits as those in line do.
            return Ok(Grab::Wait { why: format!("pool {} is draining", pool.name) });
        }
        let count = wish.count as usize;
        let found = self.pick(&pool, count);
        if found.len() < count {
            return Ok(Grab::Wait { why: self.shortage(&pool, found.len(), count) });
        }
        if let Some(last) = found.last() {
            self.config.rotor.insert(pool.name.clone(), last.node);
        }
        // A task opens its VM as the first thing it does: its grant says so at once, which saves a commit of its own (I12).
        let opened = matches!(wish.owner, LeaseOwner::Task { .. });
        for vm in &found {
            self.lend(vm, wish.lease, opened);
        }
        let lease = Lease {
            uuid: wish.lease,
            owner: wish.owner.clone(),
            pool: pool.name.clone(),
            vms: found.clone(),
            granted: self.clock,
            until: self.clock.saturating_add(wish.for_ms.min(self.longest(&pool)?)),
            ttl_ms: wish.ttl_ms,
            renewed: self.clock,
            state: LeaseState::Active,
            why: None,
            granted_at: self.now,
        };
        self.set_lease(wish.lease, Some(lease));
        Ok(Grab::Granted { vms: found })
    }

    /// The answer to a grab whose uuid is known.
    fn grabbed(&self, lease: &Lease, wish: &Wish) -> Result<Grab, Refusal> {
        self.live(lease)?;
        if (&lease.owner, &*lease.pool, lease.vms.len()) != (wish.owner, wish.pool, wish.count as usize) {
            let Lease { uuid, owner, pool, .. } = lease;
            return Err(wrong_input(format!(
                "Lease {uuid} is of {owner} in pool '{pool}': a uuid is never used for a second lease"
            ))
            .into());
        }
        Ok(Grab::Granted { vms: lease.vms.clone() })
    }

    /// How long leases of a pool may last, ms.
    fn longest(&self, pool: &Pool) -> Result<u64, GanetiError> {
        Ok(LEASE_MS_MAX.min(self.blueprint(pool.blueprint)?.lease_s_max.saturating_mul(1000)))
    }

    fn check_wish(&self, wish: &Wish, pool: &Pool) -> Result<(), GanetiError> {
        let Wish { count, for_ms, .. } = *wish;
        if count == 0 || count > LEASE_VMS_MAX || u64::from(count) > pool.max {
            let most = u64::from(LEASE_VMS_MAX).min(pool.max);
            return Err(wrong_input(format!(
                "A lease of pool '{}' has 1 to {most} VMs, {count} were asked for",
                pool.name
            )));
        }
        let most = self.longest(pool)?;
        // A task's was checked when it was submitted; what it asks for beside its steps may be cut.
        let cut = matches!(wish.owner, LeaseOwner::Task { .. });
        if for_ms == 0 || (for_ms > most && !cut) {
            return Err(wrong_input(format!(
                "A lease of pool '{}' lasts at most {} s, {} s were asked for",
                pool.name,
                most / 1000,
                for_ms.div_ceil(1000)
            )));
        }
        if wish.ttl_ms.is_some_and(|ttl| ttl < TTL_MS_MIN) {
            return Err(wrong_input(format!("A lease's ttl is {} s at least", TTL_MS_MIN / 1000)));
        }
        match wish.owner {
            LeaseOwner::User { name } if name.is_empty() || name.len() > USER_BYTES_MAX => {
                Err(wrong_input(format!("The name of a lease's owner has 1 to {USER_BYTES_MAX} bytes")))
            }
            LeaseOwner::User { .. } | LeaseOwner::Task { .. } => Ok(()),
        }
    }

    /// Up to `count` VMs that may be leased: one from each node in turn, beginning behind the node that gave the last.
    fn pick(&self, pool: &Pool, count: usize) -> Vec<LeasedVm> {
        let Some(nodes) = self.config.index.pools.clean.get(&pool.name) else { return Vec::new() };
        let at = self.config.rotor.get(&pool.name).copied().unwrap_or(NodeUuid(uuid::Uuid::nil()));
        let ring = nodes.range((Excluded(at), Unbounded)).chain(nodes.range((Unbounded, Included(at))));
        let mut lanes = ring.filter(|(node, _)| self.usable_node(**node)).map(|(_, slots)| {
            slots.iter().filter(|(ready, _)| self.young(pool, *ready)).map(|(_, uuid)| *uuid)
        });
        let (mut found, mut begun) = (Vec::new(), Vec::new());
        while found.len() < count
            && let Some(mut lane) = lanes.next()
        {
            if let Some(uuid) = lane.next() {
                found.push(uuid);
                begun.push(lane);
            }
        }
        while found.len() < count && !begun.is_empty() {
            begun.retain_mut(|lane| {
                let next = if found.len() < count { lane.next() } else { None };
                found.extend(next);
                next.is_some()
            });
        }
        let vm = |uuid: InstanceUuid| {
            let slot = &self.config.slots.get(&uuid)?.slot;
            Some(LeasedVm { slot: uuid, generation: slot.generation, node: slot.node })
        };
        found.into_iter().filter_map(vm).collect()
    }

    /// Whether a VM that was ready then is not past its pool's lifetime.
    fn young(&self, pool: &Pool, ready_ms: u64) -> bool {
        let lifetime = pool.lifetime_s.saturating_mul(1000);
        lifetime == 0 || ready_ms.saturating_add(lifetime) > epoch_ms(self.now)
    }

    fn lend(&mut self, vm: &LeasedVm, lease: LeaseUuid, opened: bool) {
        let Some(row) = self.config.slots.get(&vm.slot) else { return };
        let state = SlotState::Leased;
        let slot = Slot { state, lease: Some(lease), opened, ..row.slot.clone() };
        self.set_slot(vm.slot, Some(slot));
    }

    /// Why a grab waits, for people.
    fn shortage(&self, pool: &Pool, found: usize, count: usize) -> String {
        let name = &pool.name;
        let head = match found {
            0 => format!("no clean slot in pool {name}"),
            1 => format!("only 1 clean slot in pool {name}, {count} needed"),
            _ => format!("only {found} clean slots in pool {name}, {count} needed"),
        };
        let states = self.config.index.pools.by_state.get(name);
        let of = |wanted: &[SlotState]| -> u64 { wanted.iter().filter_map(|state| states?.get(state)).sum() };
        let withheld = of(&[SlotState::Clean]).saturating_sub(found as u64);
        let parts = [
            (withheld, "withheld (drained, too old or on a lost node)"),
            (of(&[SlotState::Creating, SlotState::Booting]), "creating"),
            (of(&[SlotState::Leased]), "leased"),
            (of(&[SlotState::Dirty, SlotState::Destroying]), "being destroyed"),
            (of(&[SlotState::Absent]), "absent"),
        ];
        let parts: Vec<_> =
            parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        if parts.is_empty() {
            format!("{head}, it has no others")
        } else {
            format!("{head}: {}", parts.join(", "))
        }
    }

    /// Refuses a lease that is over, also when its end was not carried out yet.
    fn live(&self, lease: &Lease) -> Result<(), Refusal> {
        let why = lease.why.as_deref().unwrap_or("its time is over");
        if lease.state != LeaseState::Active || lease.ends() <= self.clock {
            return Err(stale(format!("lease {} is over: {why}", lease.uuid)));
        }
        Ok(())
    }

    fn live_lease(&self, uuid: LeaseUuid) -> Result<Lease, Refusal> {
        let row = self.config.leases.get(&uuid).ok_or_else(|| stale(format!("lease {uuid} is not known")))?;
        self.live(&row.lease)?;
        Ok(row.lease.clone())
    }

    /// Counts from now again.
    fn lease_renew(&mut self, uuid: LeaseUuid) -> Result<Value, Refusal> {
        let lease = self.live_lease(uuid)?;
        self.set_lease(uuid, Some(Lease { renewed: self.clock, ..lease }));
        Ok(Value::Null)
    }

    /// The VM is about to be touched (I12).
    fn lease_open(
        &mut self,
        uuid: LeaseUuid,
        slot: InstanceUuid,
        generation: Generation,
    ) -> Result<Value, Refusal> {
        let lease = self.live_lease(uuid)?;
        let row = self.config.slots.get(&slot).filter(|row| row.slot.lease == Some(uuid));
        let row = row.filter(|row| row.slot.generation == generation).ok_or_else(|| {
            stale(format!("lease {} does not have generation {generation} of slot {slot}", lease.uuid))
        })?;
        let opened = Slot { opened: true, ..row.slot.clone() };
        self.set_slot(slot, Some(opened));
        Ok(Value::Null)
    }

    /// A grant nobody was told of is taken back: its uuid is as new. Whoever was told has had it durably in luxid before.
    fn lease_return(
        &mut self,
        uuid: LeaseUuid,
        lost: &[(InstanceUuid, Generation)],
    ) -> Result<Value, Refusal> {
        let Some(row) = self.config.leases.get(&uuid) else { return Ok(Value::Null) };
        let lease = row.lease.clone();
        if let LeaseOwner::Task { .. } = lease.owner {
            return Err(
                wrong_input(format!("Lease {uuid} is of {}: its attempt ends it", lease.owner)).into()
            );
        }
        if lease.state != LeaseState::Broken {
            self.live(&lease)?;
            if lost.is_empty() {
                return Ok(Value::Null);
            }
        }
        let held: Vec<Slot> = lease
            .vms
            .iter()
            .filter_map(|vm| self.config.slots.get(&vm.slot).map(|row| row.slot.clone()))
            .filter(|slot| slot.lease == Some(uuid))
            .collect();
        if held.iter().any(|slot| slot.opened) {
            return Err(stale(format!("lease {uuid} was used: its VMs go with its end")));
        }
        // First, so that a lost VM does not break it: nobody has had it.
        self.set_lease(uuid, None);
        for slot in held {
            if lost.contains(&(slot.uuid, slot.generation)) {
                self.soil(slot, GAVE_NO_SIGN.to_owned());
            } else {
                self.give_back(slot);
            }
        }
        Ok(Value::Null)
    }

    /// Ends a lease. One that was never granted never will be.
    fn lease_end(&mut self, uuid: LeaseUuid, why: &str) -> Result<Value, GanetiError> {
        if why.is_empty() || why.len() > WHY_BYTES_MAX {
            return Err(wrong_input(format!("The reason must have 1 to {WHY_BYTES_MAX} bytes")));
        }
        if self.config.leases.contains_key(&uuid) {
            self.end_lease(uuid, LeaseState::Released, why.to_owned());
            return Ok(Value::Null);
        }
        let tombstone = Lease {
            uuid,
            owner: LeaseOwner::User { name: String::new() },
            pool: String::new(),
            vms: Vec::new(),
            granted: self.clock,
            until: self.clock,
            ttl_ms: None,
            renewed: self.clock,
            state: LeaseState::Released,
            why: Some(why.to_owned()),
            granted_at: self.now,
        };
        self.set_lease(uuid, Some(tombstone));
        Ok(Value::Null)
    }

    /// Forgets ended leases.
    fn lease_forget(&mut self, uuids: &[LeaseUuid]) -> Result<Value, GanetiError> {
        if uuids.len() > FORGET_MAX {
            return Err(wrong_input(format!("At most {FORGET_MAX} leases are forgotten at once")));
        }
        for uuid in uuids {
            let ended = |row: &Arc<super::pooled::LeaseRow>| row.lease.state != LeaseState::Active;
            if self.config.leases.get(uuid).is_some_and(ended) {
                self.set_lease(*uuid, None);
            }
        }
        Ok(Value::Null)
    }

    /// Ends an active lease and takes its VMs back.
    pub(super) fn end_lease(&mut self, uuid: LeaseUuid, state: LeaseState, why: String) {
        let Some(row) = self.config.leases.get(&uuid) else { return };
        if row.lease.state != LeaseState::Active {
            return;
        }
        let lease = Lease { state, why: Some(why), ..row.lease.clone() };
        let vms = lease.vms.clone();
        self.set_lease(uuid, Some(lease));
        for vm in vms {
            let slot = self.config.slots.get(&vm.slot).map(|row| row.slot.clone());
            let Some(slot) = slot.filter(|slot| slot.lease == Some(uuid)) else { continue };
            self.give_back(slot);
        }
    }

    /// A VM whose lease is over is CLEAN again if it is as new.
    fn give_back(&mut self, slot: Slot) {
        match self.worn(&slot) {
            Some(why) => self.soil(slot, why),
            None => self.set_slot(slot.uuid, Some(Slot { state: SlotState::Clean, lease: None, ..slot })),
        }
    }

    /// Why a VM whose lease ended is not clean again; None when it is as new.
    fn worn(&self, slot: &Slot) -> Option<String> {
        let pool = self.config.instances.get(&slot.uuid)?.pool.as_deref()?;
        let pool = self.config.pool(pool)?;
        let revision = self.config.blueprints.get(&pool.blueprint)?.stamp.serial_no;
        let why = if slot.opened {
            "it was used by a lease"
        } else if slot.drained || pool.state == PoolState::Draining {
            super::pool_slot::DRAINED
        } else if slot.revision != revision {
            "its blueprint has changed"
        } else if !self.young(pool, slot.ready_at.map_or(0, epoch_ms)) {
            "it is past its pool's lifetime"
        } else {
            return None;
        };
        Some(why.to_owned())
    }
}
