//! `inst-status` and its parts by hypervisor: whether each instance is in the state it should be in (`spec/mond.md` §3).
//!
//! A slot of a pool has its VM made and destroyed again and again: that nothing lives in it is no trouble, and one that was lost
//! is made anew by itself.

use super::lease::Held;
use super::node::{OCI, Row, SlotState, View};
use crate::core::exposition::Family;
use crate::core::report::{Code, Gathered, Status};
use serde_json::{Value, json};
use std::time::Duration;

/// Whether a collector is about instances of a hypervisor.
fn is_of(collector: &str, hypervisor: &str) -> bool {
    match collector.strip_prefix("inst-status-") {
        None => true,
        Some("xen") => matches!(hypervisor, "xen-pvm" | "xen-hvm"),
        Some(name) => name == hypervisor,
    }
}

/// The report of `inst-status` or one of its parts. The whole one has the metrics too.
#[must_use]
pub fn gathered(collector: &str, view: &View) -> Gathered {
    let rows = view.rows();
    let rows: Vec<&Row<'_>> = rows.iter().filter(|row| is_of(collector, row.hypervisor())).collect();
    let parts: Vec<Status> = rows.iter().map(|row| status(row)).collect();
    let instances = rows.iter().zip(&parts).map(|(row, status)| value(view, row, status));
    let instances: Vec<Value> = instances.collect();
    let whole = collector == "inst-status";
    let families = if whole { families(&rows, &parts) } else { Vec::new() };
    Gathered::status(json!({ "instances": instances }), Status::worst(&parts), families)
}

fn value(view: &View, row: &Row<'_>, status: &Status) -> Value {
    let lease = row.slot.and_then(|slot| slot.holder.as_deref());
    json!({
        "name": row.name(),
        "uuid": row.uuid,
        "adminState": admin_state(row),
        "actualState": actual_state(row),
        "uptime": row.vm.and_then(|vm| vm.usage.up).map(uptime),
        "mtime": row.instance.map_or(0.0, |instance| instance.mtime),
        "state_reason": [],
        "status": status.value(),
        "lease": lease.map(|id| Held::entry(id, view.leases.get(id))),
    })
}

/// While nobody says otherwise, what lives shall live.
fn admin_state<'a>(row: &Row<'a>) -> &'a str {
    row.instance.map_or("up", |instance| &instance.admin_state)
}

/// A VM without its control group, which was there already when the groups were read.
fn has_crashed(row: &Row<'_>) -> bool {
    row.hypervisor() == OCI && row.vm.is_none() && !row.slot.is_some_and(|slot| slot.is_new)
}

fn actual_state(row: &Row<'_>) -> &'static str {
    match row.state() {
        SlotState::Absent | SlotState::Creating => "shutdown",
        // Its control group is gone though nobody took it: noded will see it.
        SlotState::Live if has_crashed(row) => "crashed",
        SlotState::Live => "running",
        SlotState::Destroying => "dying",
        SlotState::Lost => "crashed",
    }
}

/// `3:04:05`, days before it where there are some.
fn uptime(up: Duration) -> String {
    let seconds = up.as_secs();
    let clock = format!("{}:{:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match seconds / 86_400 {
        0 => clock,
        1 => format!("1 day, {clock}"),
        days => format!("{days} days, {clock}"),
    }
}

fn status(row: &Row<'_>) -> Status {
    let (admin, actual) = (admin_state(row), actual_state(row));
    let say = |code, text: &str| Status::new(code, format!("{}: {text}", row.name()));
    match (admin, actual) {
        ("offline", _) => say(Code::Unknown, "it is marked offline"),
        ("down", "shutdown" | "dying") | ("up", "running") => Status::ok(),
        ("down", _) => say(Code::Bad, &format!("it should be down and is {actual}")),
        // Its slot makes and destroys VMs by itself, and makes a lost one anew.
        (_, "shutdown" | "dying") if row.pool().is_some() || row.instance.is_none() => Status::ok(),
        (_, _) if row.pool().is_some() || row.instance.is_none() => {
            say(Code::Temporary, "its VM was lost and is made anew")
        }
        (_, _) => say(Code::Bad, &format!("it should be up and is {actual}")),
    }
}

fn families(rows: &[&Row<'_>], parts: &[Status]) -> Vec<Family> {
    let mut up = Family::gauge("gantry_instance_up", "Whether an instance's VM runs");
    let mut code = Family::gauge(
        "gantry_instance_status_code",
        "Status of an instance: 0 ok, 1 being repaired, 2 unknown, 4 bad",
    );
    for (row, status) in rows.iter().zip(parts).take(super::slots::ROWS_MAX) {
        let runs = u8::from(actual_state(row) == "running");
        up.add(&[("instance", row.name()), ("hypervisor", row.hypervisor())], runs);
        code.add(&[("instance", row.name())], status.code.number());
    }
    vec![up, code]
}

#[cfg(test)]
mod tests {
    use super::super::node::tests::{instance, slot, uuid, vm};
    use super::*;

    fn view(admin: &str, pool: Option<&str>, state: SlotState, runs: bool) -> View {
        View {
            instances: Some(vec![instance(1, "oci", admin, pool)]),
            slots: vec![slot(1, state, "oci")],
            vms: if runs { vec![vm(1, 3)] } else { Vec::new() },
            ..View::default()
        }
    }

    #[test]
    fn what_is_not_as_it_should_be_is_told() {
        use SlotState::{Absent, Creating, Destroying, Live, Lost};
        for (admin, pool, state, runs, actual, code) in [
            ("up", None, Live, true, "running", 0),
            ("up", None, Live, false, "crashed", 4),
            ("up", None, Absent, false, "shutdown", 4),
            ("down", None, Absent, false, "shutdown", 0),
            ("down", None, Destroying, true, "dying", 0),
            ("down", None, Live, true, "running", 4),
            ("offline", None, Absent, false, "shutdown", 2),
            ("up", Some("p"), Absent, false, "shutdown", 0),
            ("up", Some("p"), Creating, false, "shutdown", 0),
            ("up", Some("p"), Live, true, "running", 0),
            ("up", Some("p"), Lost, false, "crashed", 1),
            ("up", Some("p"), Destroying, true, "dying", 0),
        ] {
            let data = gathered("inst-status", &view(admin, pool, state, runs)).data;
            let one = &data["instances"][0];
            let got = (one["actualState"].as_str().unwrap(), one["status"]["code"].as_u64().unwrap());
            assert_eq!(got, (actual, code), "{admin} {pool:?} {state:?} {runs}");
            assert_eq!(data["status"]["code"], code);
        }
    }

    /// Records are written after the control group is there, and read after the groups.
    #[test]
    fn a_vm_that_was_made_while_groups_were_read_has_not_crashed() {
        for pool in [None, Some("p")] {
            let mut view = view("up", pool, SlotState::Live, false);
            view.slots[0].is_new = true;
            let data = gathered("inst-status", &view).data;
            assert_eq!(
                (&data["instances"][0]["actualState"], &data["status"]["code"]),
                (&json!("running"), &json!(0))
            );
        }
    }

    #[test]
    fn the_parts_are_by_hypervisor() {
        let mut view = view("up", None, SlotState::Live, true);
        view.slots.push(slot(2, SlotState::Live, "fake"));
        let names = |collector: &str| {
            let data = gathered(collector, &view).data;
            let names = data["instances"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one["name"].as_str().unwrap().to_owned());
            names.collect::<Vec<_>>()
        };
        assert_eq!(names("inst-status-oci"), ["inst1"]);
        assert_eq!(names("inst-status"), [uuid(2), "inst1".to_owned()]);
        assert!(names("inst-status-xen").is_empty() && names("inst-status-kvm").is_empty());
        assert!(is_of("inst-status-xen", "xen-pvm"));
    }

    #[test]
    fn an_instance_has_ganetis_keys_and_its_lease() {
        let mut view = view("up", Some("p"), SlotState::Live, true);
        view.slots[0].holder = Some("l1".into());
        view.leases.insert("l1".into(), Held { owner: "ada".into(), expires: 7.5 });
        view.vms[0].usage.up = Some(Duration::from_secs(90_061));
        let data = gathered("inst-status-oci", &view).data;
        assert_eq!(
            data["instances"][0],
            json!({
                "name": "inst1", "uuid": uuid(1), "adminState": "up", "actualState": "running", "uptime": "1 day, 1:01:01",
                "mtime": 1.5, "state_reason": [], "status": {"code": 0, "message": ""},
                "lease": {"id": "l1", "owner": "ada", "expires": 7.5},
            })
        );
    }
}
