//! A pool and the leases of its slots, as the fake wconfd has them.

use crate::fake_wconfd::FakeWconfd;
use gantry_model::config::{AdminState, Instance, Node, Params, Slot, SlotState, Stamp, kind};
use gantry_model::ids::{BlueprintUuid, Generation, GroupUuid, InstanceUuid, LeaseUuid, PoolUuid};
use gantry_model::lease::{Grab, Lease, LeaseOwner, LeaseState, LeasedVm};
use gantry_model::pool::{Blueprint, Pool};
use gantry_proto::wconfd::{Apply, ApplyReply, Command};
use gantry_rpc::{Call, Code, Fail, reply};
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use uuid::Uuid;

/// Key of an object, and its body unless it goes.
pub type Set = (&'static str, String, Option<Value>);

fn set(kind: &'static str, key: impl ToString, body: &impl Serialize) -> Set {
    (kind, key.to_string(), Some(serde_json::to_value(body).unwrap()))
}

fn uuid(kind: u64, number: u64) -> Uuid {
    Uuid::from_u64_pair(kind, number)
}

impl FakeWconfd {
    /// Makes pool `py` of blueprint `small`, without slots.
    pub fn make_pool(&self) {
        let blueprint: Blueprint = serde_json::from_value(json!({
            "uuid": uuid(1, 1), "name": "small", "driver": "fake", "image": "host", "memory_mib": 256, "vcpus": 1,
            "disk_mib": 64, "pids": 64, "wall_s_max": 600, "lease_s_max": 3600, "enabled": true, "serial_no": 1,
            "ctime": 1.0, "mtime": 1.0,
        }))
        .unwrap();
        let pool: Pool = serde_json::from_value(json!({
            "uuid": uuid(2, 1), "name": "py", "blueprint": uuid(1, 1), "min": 0, "max": 8, "amount": 2,
            "connect_timeout_s": 60, "serial_no": 1, "ctime": 1.0, "mtime": 1.0,
        }))
        .unwrap();
        let node = Node {
            uuid: self.node,
            name: "node1".to_owned(),
            primary_ip: String::new(),
            secondary_ip: String::new(),
            master_candidate: true,
            offline: false,
            drained: false,
            group: GroupUuid(uuid(3, 1)),
            master_capable: true,
            vm_capable: true,
            ndparams: Params::new(),
            powered: true,
            noded_port: 1,
            stamp: Stamp::new(0.0),
            extra: Params::new(),
        };
        self.commit(vec![
            set(kind::NODE, self.node, &node),
            set(kind::BLUEPRINT, BlueprintUuid(uuid(1, 1)), &blueprint),
            set(kind::POOL, PoolUuid(uuid(2, 1)), &pool),
        ]);
    }

    /// Adds a clean slot of that number.
    pub fn add_slot(&self, number: u64) {
        let id = InstanceUuid(uuid(4, number));
        let instance = Instance {
            uuid: id,
            name: format!("py-{number}"),
            primary_node: self.node,
            os: "noop".to_owned(),
            hypervisor: "fake".to_owned(),
            hvparams: Params::new(),
            beparams: Params::new(),
            osparams: Params::new(),
            admin_state: AdminState::Down,
            admin_state_source: "admin".to_owned(),
            nics: vec![],
            disk_template: "diskless".to_owned(),
            disks: vec![],
            forthcoming: true,
            pool: Some("py".to_owned()),
            stamp: Stamp::new(0.0),
            extra: Params::new(),
        };
        let slot = Slot { generation: Generation(1), state: SlotState::Clean, ..Slot::new(id, self.node) };
        self.commit(vec![set(kind::INSTANCE, id, &instance), set(kind::SLOT, id, &slot)]);
    }

    /// The leases there are.
    pub fn leases(&self) -> Vec<Lease> {
        self.all(kind::LEASE)
    }

    fn slots(&self) -> Vec<Slot> {
        self.all(kind::SLOT)
    }

    fn lease(&self, lease: LeaseUuid) -> Option<Lease> {
        self.leases().into_iter().find(|row| row.uuid == lease)
    }

    pub(crate) fn apply(&self, call: &Call) -> Result<Vec<u8>, Fail> {
        let request = call.request::<Apply>()?;
        let commands = request.commands.read().unwrap();
        let mut results = Vec::new();
        for command in &commands {
            results.push(self.command(command)?);
        }
        let lose = |left: u32| left.checked_sub(1);
        if self.lost_answers.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lose).is_ok() {
            return Err(Fail::new(Code::Unknown, "done, perhaps"));
        }
        let index = *self.index.borrow();
        reply::<Apply>(&ApplyReply { index, results: gantry_proto::codec::Json::of(&results).unwrap() })
    }

    fn command(&self, command: &Command) -> Result<Value, Fail> {
        let stale = || Fail::new(Code::Stale, "the lease is over");
        match command {
            Command::LeaseGrab { lease, owner, pool, count, for_ms, ttl_ms } => {
                let known = self.lease(*lease);
                let grab = match known {
                    Some(row) if row.state == LeaseState::Active => Grab::Granted { vms: row.vms },
                    Some(_) => return Err(stale()),
                    None => self.grab(*lease, owner, pool, *count as usize, (*for_ms, *ttl_ms)),
                };
                Ok(serde_json::to_value(grab).unwrap())
            }
            Command::LeaseEnd { lease, why } => {
                self.end_lease(*lease, LeaseState::Released, why);
                Ok(Value::Null)
            }
            Command::LeaseReturn { lease, .. } => match self.lease(*lease) {
                Some(row) if row.state == LeaseState::Released => Err(stale()),
                _ => Ok(Value::Null),
            },
            Command::LeaseRenew { lease } => match self.lease(*lease) {
                Some(row) if row.state == LeaseState::Active => Ok(Value::Null),
                _ => Err(stale()),
            },
            Command::LeaseForget { leases } => {
                let over =
                    |lease: &&LeaseUuid| self.lease(**lease).is_some_and(|r| r.state != LeaseState::Active);
                let gone = leases.iter().filter(over).map(|lease| (kind::LEASE, lease.to_string(), None));
                let gone: Vec<Set> = gone.collect();
                self.commit(gone);
                Ok(Value::Null)
            }
            other => panic!("luxid sends {other:?}"),
        }
    }

    fn grab(
        &self,
        lease: LeaseUuid,
        owner: &LeaseOwner,
        pool: &str,
        count: usize,
        times: (u64, Option<u64>),
    ) -> Grab {
        let clean: Vec<Slot> =
            self.slots().into_iter().filter(|slot| slot.state == SlotState::Clean).take(count).collect();
        if clean.len() < count {
            return Grab::Wait { why: "no clean slot".to_owned() };
        }
        let vm = |slot: &Slot| LeasedVm { slot: slot.uuid, generation: slot.generation, node: slot.node };
        let vms: Vec<LeasedVm> = clean.iter().map(vm).collect();
        let row = Lease {
            uuid: lease,
            owner: owner.clone(),
            pool: pool.to_owned(),
            vms: vms.clone(),
            granted: 1,
            until: 1 + times.0,
            ttl_ms: times.1,
            renewed: 1,
            state: LeaseState::Active,
            why: None,
            granted_at: 1.0,
        };
        let leased = |slot: Slot| Slot { state: SlotState::Leased, lease: Some(lease), ..slot };
        let mut sets = vec![set(kind::LEASE, lease, &row)];
        sets.extend(clean.into_iter().map(leased).map(|slot| set(kind::SLOT, slot.uuid, &slot)));
        self.commit(sets);
        Grab::Granted { vms }
    }

    /// Ends a lease; its VMs are made anew at once.
    pub fn end_lease(&self, lease: LeaseUuid, state: LeaseState, why: &str) {
        let Some(row) = self.lease(lease).filter(|row| row.state == LeaseState::Active) else { return };
        let row = Lease { state, why: Some(why.to_owned()), ..row };
        let mut sets = vec![set(kind::LEASE, lease, &row)];
        for slot in self.slots().into_iter().filter(|slot| slot.lease == Some(lease)) {
            let generation = Generation(slot.generation.0 + 1);
            let slot = Slot { state: SlotState::Clean, lease: None, generation, ..slot };
            sets.push(set(kind::SLOT, slot.uuid, &slot));
        }
        self.commit(sets);
    }
}
