//! What is known of the VMs of this node, from three places: ConfD (which instances live here), noded's records (what became of
//! each slot), the control groups (what runs and what it uses). ConfD may be silent: then instances are named by their uuid.

use super::lease::Held;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// The hypervisors that have VMs with control groups of Gantry's.
pub const OCI: &str = "oci";

/// An instance whose primary node this is, as ConfD has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// Its uuid, also its slot's.
    pub uuid: String,
    /// Its name.
    pub name: String,
    /// What makes its VMs.
    pub hypervisor: String,
    /// `up`, `down` or `offline`.
    pub admin_state: String,
    /// Epoch of its last change.
    pub mtime: f64,
    /// Its pool's name.
    pub pool: Option<String>,
}

impl Instance {
    /// The primary instances of an answer to ConfD's request 8; what is none of them is left out. None: no such answer.
    #[must_use]
    pub fn read_all(answer: &Value) -> Option<Vec<Self>> {
        let primary = answer.get(0)?.as_array()?;
        Some(primary.iter().filter_map(Self::read).collect())
    }

    fn read(value: &Value) -> Option<Self> {
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        Some(Self {
            uuid: text("uuid")?,
            name: text("name")?,
            hypervisor: text("hypervisor")?,
            admin_state: text("admin_state")?,
            mtime: value["mtime"].as_f64().unwrap_or(0.0),
            pool: text("pool"),
        })
    }
}

/// What became of a slot's current generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlotState {
    /// Nothing lives in it.
    #[default]
    Absent,
    /// A VM is being made.
    Creating,
    /// A VM lives.
    Live,
    /// It is being destroyed.
    Destroying,
    /// It is gone and should not be.
    Lost,
}

impl SlotState {
    /// All, in order.
    pub const ALL: [Self; 5] = [Self::Absent, Self::Creating, Self::Live, Self::Destroying, Self::Lost];

    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Creating => "creating",
            Self::Live => "live",
            Self::Destroying => "destroying",
            Self::Lost => "lost",
        }
    }
}

/// noded's record of a slot, as far as it is told; keys of other releases do no harm.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Slot {
    /// The instance's uuid: the row's key.
    #[serde(skip)]
    pub uuid: String,
    /// Of what lives, or lived last.
    pub generation: u64,
    /// What became of it.
    pub state: SlotState,
    /// The lease that works in it.
    pub holder: Option<String>,
    /// What made it.
    pub driver: String,
    /// It became what it is while the control groups were read: that its VM has none says nothing.
    #[serde(skip)]
    pub is_new: bool,
}

impl Slot {
    /// Whether nothing happened to it between two reads.
    fn is_as(&self, other: &Self) -> bool {
        (&self.uuid, self.generation, self.state) == (&other.uuid, other.generation, other.state)
    }

    /// Whether a VM is the one that lives in it.
    fn has(&self, vm: &Vm) -> bool {
        self.uuid == vm.slot && self.generation == vm.generation && self.state != SlotState::Absent
    }

    /// A row of noded's table. None: it is none.
    #[must_use]
    pub fn read(uuid: &str, body: &str) -> Option<Self> {
        let slot: Self = serde_json::from_str(body).ok()?;
        Some(Self { uuid: uuid.to_owned(), ..slot })
    }
}

/// What a VM's control group says, and what it has of the disk and the network. None: not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time, µs.
    pub cpu_us: u64,
    /// Memory held, bytes.
    pub memory: u64,
    /// Memory it may hold, bytes.
    pub memory_max: Option<u64>,
    /// Swap held, bytes.
    pub swap: Option<u64>,
    /// Processes killed for memory.
    pub oom_kills: u64,
    /// Processes and threads.
    pub pids: u64,
    /// How many there may be.
    pub pids_max: Option<u64>,
    /// Forks refused.
    pub forks_refused: u64,
    /// Read from and written to block devices, bytes.
    pub io: u64,
    /// Used and there in all of its own room for files, bytes.
    pub disk: Option<(u64, u64)>,
    /// Received and sent, bytes.
    pub network: Option<(u64, u64)>,
    /// How long its first process has run.
    pub up: Option<Duration>,
}

/// A VM that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    /// Its runtime id, `gantry-CLUSTER8-SLOT-GEN`.
    pub id: String,
    /// Its slot's uuid.
    pub slot: String,
    /// Its generation.
    pub generation: u64,
    /// What it uses.
    pub usage: Usage,
}

/// Slot and generation of a runtime id.
#[must_use]
pub fn of_runtime_id(id: &str) -> Option<(&str, u64)> {
    const UUID_CHARS: usize = 36;
    let rest = id.strip_prefix("gantry-")?.split_once('-')?.1;
    let (slot, generation) = (rest.get(..UUID_CHARS)?, rest.get(UUID_CHARS..)?.strip_prefix('-')?);
    Some((slot, generation.parse().ok()?))
}

/// All of it at one time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    /// None: nobody said.
    pub instances: Option<Vec<Instance>>,
    /// noded's records.
    pub slots: Vec<Slot>,
    /// What runs.
    pub vms: Vec<Vm>,
    /// What is known of leases, by uuid.
    pub leases: BTreeMap<String, Held>,
}

/// An instance with what is known of it.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// The uuid.
    pub uuid: &'a str,
    /// ConfD's.
    pub instance: Option<&'a Instance>,
    /// noded's.
    pub slot: Option<&'a Slot>,
    /// The VM of the slot's generation.
    pub vm: Option<&'a Vm>,
}

impl<'a> Row<'a> {
    /// Its name; its uuid while nobody told a name.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.instance.map_or(self.uuid, |instance| &instance.name)
    }

    /// What makes its VMs.
    #[must_use]
    pub fn hypervisor(&self) -> &'a str {
        let made = self.slot.map_or("", |slot| slot.driver.as_str());
        self.instance.map_or(made, |instance| &instance.hypervisor)
    }

    /// Its pool's name.
    #[must_use]
    pub fn pool(&self) -> Option<&'a str> {
        self.instance?.pool.as_deref()
    }

    /// What became of its slot.
    #[must_use]
    pub fn state(&self) -> SlotState {
        self.slot.map_or(SlotState::Absent, |slot| slot.state)
    }
}

impl View {
    /// What was read in this order: records, VMs with a control group, records again. What changed meanwhile is as the second
    /// records say, and is not held against the groups.
    #[must_use]
    pub fn read(
        instances: Option<Vec<Instance>>,
        before: &[Slot],
        mut vms: Vec<Vm>,
        mut slots: Vec<Slot>,
    ) -> Self {
        let lives = |slots: &[Slot], vm: &Vm| slots.iter().any(|slot| slot.has(vm));
        // What was known before and is not now has just been destroyed.
        vms.retain(|vm| lives(&slots, vm) || !lives(before, vm));
        let known: BTreeMap<&str, &Slot> = before.iter().map(|slot| (slot.uuid.as_str(), slot)).collect();
        for slot in &mut slots {
            slot.is_new = !known.get(slot.uuid.as_str()).is_some_and(|old| slot.is_as(old));
        }
        Self { instances, slots, vms, leases: BTreeMap::new() }
    }

    /// Everything there is on this node: ConfD's instances, and slots in which something lives. Sorted by name.
    #[must_use]
    pub fn rows(&self) -> Vec<Row<'_>> {
        let mut all: BTreeMap<&str, Row<'_>> = BTreeMap::new();
        let empty = |uuid| Row { uuid, instance: None, slot: None, vm: None };
        for instance in self.instances.iter().flatten() {
            all.entry(&instance.uuid).or_insert(empty(&instance.uuid)).instance = Some(instance);
        }
        for slot in &self.slots {
            // noded keeps records for ever; of what is gone only those of instances that are there count.
            if slot.state != SlotState::Absent || all.contains_key(slot.uuid.as_str()) {
                all.entry(&slot.uuid).or_insert(empty(&slot.uuid)).slot = Some(slot);
            }
        }
        for vm in &self.vms {
            if let Some(row) = all.get_mut(vm.slot.as_str())
                && row.slot.is_some_and(|slot| slot.generation == vm.generation)
            {
                row.vm = Some(vm);
            }
        }
        let mut rows: Vec<Row<'_>> = all.into_values().collect();
        rows.sort_by_key(Row::name);
        rows
    }

    /// VMs that no slot has: noded's record does not say that this generation lives.
    pub fn orphans(&self) -> impl Iterator<Item = &Vm> {
        let known = |vm: &Vm| self.slots.iter().any(|slot| slot.has(vm));
        self.vms.iter().filter(move |vm| !known(vm))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    pub fn uuid(number: u8) -> String {
        format!("00000000-0000-4000-8000-{number:012}")
    }

    pub fn instance(number: u8, hypervisor: &str, admin_state: &str, pool: Option<&str>) -> Instance {
        let name = format!("inst{number}");
        let (hypervisor, admin_state) = (hypervisor.to_owned(), admin_state.to_owned());
        Instance {
            uuid: uuid(number),
            name,
            hypervisor,
            admin_state,
            mtime: 1.5,
            pool: pool.map(str::to_owned),
        }
    }

    pub fn slot(number: u8, state: SlotState, driver: &str) -> Slot {
        let (uuid, driver) = (uuid(number), driver.to_owned());
        Slot { uuid, generation: 3, state, holder: None, driver, is_new: false }
    }

    pub fn vm(number: u8, generation: u64) -> Vm {
        let id = format!("gantry-01234567-{}-{generation}", uuid(number));
        Vm { id, slot: uuid(number), generation, usage: Usage::default() }
    }

    #[test]
    fn runtime_ids_are_read() {
        let one = vm(7, 12);
        assert_eq!(of_runtime_id(&one.id), Some((uuid(7).as_str(), 12)));
        for wrong in
            ["", "gantry-", "gantry-01234567-x-1", "other-01234567-00000000-0000-4000-8000-000000000007-1"]
        {
            assert_eq!(of_runtime_id(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn confds_answer_and_nodeds_records_are_read() {
        let answer = json!([[{"uuid": "u", "name": "n", "hypervisor": "oci", "admin_state": "up", "mtime": 2.5, "pool": "p"}, {}], []]);
        let read = Instance::read_all(&answer).unwrap();
        assert_eq!((read.len(), read[0].pool.as_deref(), read[0].mtime), (1, Some("p"), 2.5));
        assert_eq!(Instance::read_all(&json!(0)), None);
        let body = r#"{"floor":3,"generation":3,"state":"live","holder":"l","opened":true,"settled":false,"closed":[],"driver":"oci"}"#;
        let want = Slot {
            uuid: "u".into(),
            generation: 3,
            state: SlotState::Live,
            holder: Some("l".into()),
            driver: "oci".into(),
            is_new: false,
        };
        assert_eq!(Slot::read("u", body), Some(want));
        assert_eq!(Slot::read("u", "{\"state\":\"new\"}"), None);
    }

    #[test]
    fn rows_join_what_belongs_together() {
        let view = View {
            instances: Some(vec![instance(1, "oci", "up", None), instance(2, "oci", "up", None)]),
            slots: vec![
                slot(1, SlotState::Live, "oci"),
                slot(3, SlotState::Absent, "oci"),
                slot(4, SlotState::Lost, "fake"),
            ],
            vms: vec![vm(1, 3), vm(4, 2), vm(3, 3)],
            leases: BTreeMap::new(),
        };
        let rows = view.rows();
        let names: Vec<&str> = rows.iter().map(Row::name).collect();
        assert_eq!(names, [uuid(4).as_str(), "inst1", "inst2"]);
        assert!(rows[1].vm.is_some() && rows[0].vm.is_none() && rows[2].slot.is_none());
        assert_eq!(rows[0].hypervisor(), "fake");
        let orphans: Vec<&str> = view.orphans().map(|vm| vm.slot.as_str()).collect();
        assert_eq!(orphans, [uuid(4).as_str(), uuid(3).as_str()]);
    }

    #[test]
    fn what_changes_between_two_reads_is_new() {
        use SlotState::{Absent, Creating, Destroying, Live};
        let before = [
            slot(1, Live, "oci"),
            slot(2, Creating, "oci"),
            Slot { generation: 2, ..slot(3, Live, "oci") },
            slot(5, Live, "oci"),
            slot(6, Live, "oci"),
        ];
        let after = vec![
            slot(1, Live, "oci"),
            slot(2, Live, "oci"),
            slot(3, Live, "oci"),
            slot(4, Live, "oci"),
            slot(5, Destroying, "oci"),
            slot(6, Absent, "oci"),
        ];
        let view = View::read(None, &before, vec![vm(6, 3), vm(7, 1), vm(5, 3)], after);
        let new: Vec<bool> = view.slots.iter().map(|slot| slot.is_new).collect();
        assert_eq!(new, [false, true, true, true, true, true]);
        // One that has just been destroyed is no orphan; one that nobody ever knew is.
        assert_eq!(view.vms, [vm(7, 1), vm(5, 3)]);
        assert_eq!(view.orphans().collect::<Vec<_>>(), [&vm(7, 1)]);
    }
}
