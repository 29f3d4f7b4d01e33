//! `slot-status`, `pool-status`, `lease-status`: what became of the slots of this node, by themselves, by pool, by lease.

use super::node::{Row, SlotState, View};
use crate::core::exposition::Family;
use crate::core::report::{Code, Gathered, Status};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Most instances that metrics tell of; a node has dozens.
pub const ROWS_MAX: usize = 1024;
/// Most pools that metrics tell of.
const POOLS_MAX: usize = 256;
/// The label of slots whose pool is not known, or that have none.
const NO_POOL: &str = "";

fn slots<'a>(rows: &'a [Row<'a>]) -> impl Iterator<Item = &'a Row<'a>> {
    rows.iter().filter(|row| row.slot.is_some())
}

/// A lost VM is destroyed and made anew by the overseer.
fn status(row: &Row<'_>) -> Status {
    match row.state() {
        SlotState::Lost => Status::new(Code::Temporary, format!("{}: its VM was lost", row.name())),
        SlotState::Absent | SlotState::Creating | SlotState::Live | SlotState::Destroying => Status::ok(),
    }
}

/// The report of `slot-status`.
#[must_use]
pub fn slot_status(view: &View) -> Gathered {
    let rows = view.rows();
    let parts: Vec<Status> = slots(&rows).map(status).collect();
    let value = |row: &Row<'_>| {
        let slot = row.slot?;
        Some(json!({
            "name": row.name(), "uuid": row.uuid, "pool": row.pool(), "generation": slot.generation,
            "state": slot.state.word(), "driver": slot.driver, "lease": slot.holder, "status": status(row).value(),
        }))
    };
    let listed: Vec<Value> = slots(&rows).filter_map(value).collect();
    Gathered::status(json!({ "slots": listed }), Status::worst(&parts), Vec::new())
}

/// Counts of one pool.
#[derive(Debug, Default)]
struct Count {
    states: BTreeMap<SlotState, u64>,
    leased: u64,
}

/// The report of `pool-status`: this node's part of each pool.
#[must_use]
pub fn pool_status(view: &View) -> Gathered {
    let rows = view.rows();
    let mut pools: BTreeMap<Option<&str>, Count> = BTreeMap::new();
    for row in slots(&rows) {
        let count = pools.entry(row.pool()).or_default();
        *count.states.entry(row.state()).or_default() += 1;
        count.leased += u64::from(row.slot.is_some_and(|slot| slot.holder.is_some()));
    }
    let parts: Vec<Status> = slots(&rows).map(status).collect();
    let value = |(name, count): (&Option<&str>, &Count)| {
        let states: Map<String, Value> = SlotState::ALL
            .iter()
            .map(|state| (state.word().to_owned(), states(count, *state).into()))
            .collect();
        json!({"name": name, "slots": states, "leased": count.leased})
    };
    let mut held = Family::gauge("gantry_node_slots", "Slots of the node by pool and state");
    for (name, count) in pools.iter().take(POOLS_MAX) {
        for state in SlotState::ALL {
            let labels = [("pool", name.unwrap_or(NO_POOL)), ("state", state.word())];
            held.add(&labels, states(count, state));
        }
    }
    let listed: Vec<Value> = pools.iter().map(value).collect();
    Gathered::status(json!({ "pools": listed }), Status::worst(&parts), vec![held])
}

fn states(count: &Count, state: SlotState) -> u64 {
    count.states.get(&state).copied().unwrap_or(0)
}

/// The report of `lease-status`: leases that work on this node, and VMs that nobody owns.
#[must_use]
pub fn lease_status(view: &View) -> Gathered {
    let held = |state: SlotState| {
        let held = view.slots.iter().filter(move |slot| slot.state == state);
        held.filter_map(|slot| slot.holder.as_deref()).collect::<BTreeSet<&str>>()
    };
    let (active, broken) = (held(SlotState::Live).len(), held(SlotState::Lost).len());
    let orphans: Vec<&str> = view.orphans().map(|vm| vm.id.as_str()).collect();
    let mut parts = Vec::new();
    if broken > 0 {
        parts.push(Status::new(Code::Temporary, format!("{broken} lease(s) lost a VM here")));
    }
    for id in &orphans {
        // The next audit of the node removes it.
        parts.push(Status::new(Code::Temporary, format!("{id} runs and belongs to no slot")));
    }
    let leases = Family::gauge("gantry_node_leases", "Leases that work on the node, by state")
        .with(&[("state", "active")], active)
        .with(&[("state", "broken")], broken);
    let strays = Family::gauge("gantry_node_orphaned_containers", "VMs that run and belong to no slot")
        .with(&[], orphans.len());
    let data =
        json!({"counts": {"active": active, "broken": broken}, "oldest_overdue": null, "orphans": orphans});
    Gathered::status(data, Status::worst(&parts), vec![leases, strays])
}

#[cfg(test)]
mod tests {
    use super::super::node::tests::{instance, slot, vm};
    use super::*;

    fn view() -> View {
        let mut leased = slot(1, SlotState::Live, "oci");
        leased.holder = Some("l1".into());
        View {
            instances: Some(vec![instance(1, "oci", "up", Some("p")), instance(2, "oci", "up", Some("p"))]),
            slots: vec![leased, slot(2, SlotState::Lost, "oci"), slot(3, SlotState::Live, "fake")],
            vms: vec![vm(1, 3), vm(9, 1)],
            ..View::default()
        }
    }

    #[test]
    fn slots_and_pools_are_counted() {
        let data = slot_status(&view()).data;
        assert_eq!(data["slots"].as_array().unwrap().len(), 3);
        assert_eq!(
            data["slots"][1],
            json!({
                "name": "inst1", "uuid": view().slots[0].uuid, "pool": "p", "generation": 3, "state": "live", "driver": "oci",
                "lease": "l1", "status": {"code": 0, "message": ""},
            })
        );
        assert_eq!(data["status"], json!({"code": 1, "message": "inst2: its VM was lost"}));
        let found = pool_status(&view());
        let none = json!({"absent": 0, "creating": 0, "live": 1, "destroying": 0, "lost": 0});
        let pool = json!({"absent": 0, "creating": 0, "live": 1, "destroying": 0, "lost": 1});
        let want =
            json!([{"name": null, "slots": none, "leased": 0}, {"name": "p", "slots": pool, "leased": 1}]);
        assert_eq!(found.data["pools"], want);
        assert_eq!(found.families[0].samples.len(), 10);
    }

    #[test]
    fn a_vm_without_a_slot_is_an_orphan() {
        let found = lease_status(&view());
        assert_eq!(found.data["counts"], json!({"active": 1, "broken": 0}));
        assert_eq!(found.data["orphans"], json!([vm(9, 1).id]));
        assert_eq!(found.data["status"]["code"], 1);
        let mut quiet = view();
        quiet.vms.pop();
        assert_eq!(lease_status(&quiet).data["status"]["code"], 0);
    }
}
