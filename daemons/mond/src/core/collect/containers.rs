//! `container-usage`, and `xen-cpu-avg-load`: how many CPUs each instance used on average in the last ten minutes. The second has
//! the name and shape that `hbal --mond-xen` reads, which wants every instance of the node in it.

use super::node::View;
use super::slots::ROWS_MAX;
use crate::core::board::Millis;
use crate::core::exposition::Family;
use crate::core::report::Gathered;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, VecDeque};

/// Most samples of a VM: Ganeti's number.
const SAMPLES_MAX: usize = 150;
/// How far back they go, ms.
const SPAN_MS: Millis = 600_000;

/// CPU time of each VM at several times.
#[derive(Debug, Clone, Default)]
pub struct History(BTreeMap<String, VecDeque<(Millis, u64)>>);

impl History {
    /// Takes what all VMs have used by now; those that are gone are forgotten.
    pub fn push(&mut self, at: Millis, view: &View) {
        self.0.retain(|id, _| view.vms.iter().any(|vm| vm.id == *id));
        for vm in &view.vms {
            let samples = self.0.entry(vm.id.clone()).or_default();
            if samples.back().is_some_and(|(last, used)| *last > at || *used > vm.usage.cpu_us) {
                samples.clear();
            }
            samples.push_back((at, vm.usage.cpu_us));
            while samples.len() > SAMPLES_MAX
                || samples.front().is_some_and(|(first, _)| at - first > SPAN_MS)
            {
                samples.pop_front();
            }
        }
    }

    /// CPUs that a VM used on average; 0 while that is not known.
    #[allow(clippy::cast_precision_loss, reason = "microseconds of ten minutes")]
    fn average(&self, id: &str) -> f64 {
        let ends = self.0.get(id).and_then(|samples| Some((samples.front()?, samples.back()?)));
        match ends {
            Some(((from, before), (to, now))) if to > from => {
                (now - before) as f64 / ((to - from) as f64 * 1000.0)
            }
            Some(_) | None => 0.0,
        }
    }

    /// The report of `xen-cpu-avg-load`.
    #[must_use]
    pub fn gathered(&self, view: &View) -> Gathered {
        let rows = view.rows();
        let load = |vm: &super::node::Vm| self.average(&vm.id);
        let data: Map<String, Value> =
            rows.iter().map(|row| (row.name().to_owned(), row.vm.map_or(0.0, load).into())).collect();
        let mut family = Family::gauge(
            "gantry_instance_cpu_load",
            "How many CPUs an instance used in the last ten minutes",
        );
        for row in rows.iter().take(ROWS_MAX) {
            family.add(&[("instance", row.name())], row.vm.map_or(0.0, load));
        }
        Gathered::figures(Value::Object(data), vec![family])
    }
}

/// The report of `container-usage`.
#[must_use]
pub fn gathered(view: &View) -> Gathered {
    let rows = view.rows();
    let running: Vec<_> = rows.iter().filter_map(|row| Some((row.name(), row.vm?.usage, row.vm?))).collect();
    let mut cpu = Family::counter("gantry_container_cpu_seconds", "CPU time of a VM");
    let mut memory = Family::gauge("gantry_container_memory_bytes", "Memory a VM holds");
    let mut limit = Family::gauge("gantry_container_memory_limit_bytes", "Memory a VM may hold");
    let mut pids = Family::gauge("gantry_container_processes", "Processes and threads of a VM");
    let mut io =
        Family::counter("gantry_container_io_bytes", "Bytes a VM read from and wrote to block devices");
    let mut disk = Family::gauge("gantry_container_disk_bytes", "A VM's own room for files");
    let mut network = Family::counter("gantry_container_network_bytes", "Bytes of a VM's network devices");
    let mut fails =
        Family::counter("gantry_container_beancounter_failures", "How often a VM met a limit, by resource");
    for (name, usage, _) in running.iter().take(ROWS_MAX) {
        let of = [("instance", *name)];
        cpu.add(&of, seconds(usage.cpu_us));
        memory.add(&of, usage.memory);
        usage.memory_max.into_iter().for_each(|bytes| limit.add(&of, bytes));
        pids.add(&of, usage.pids);
        io.add(&of, usage.io);
        if let Some((used, total)) = usage.disk {
            disk.add(&[of[0], ("kind", "used")], used);
            disk.add(&[of[0], ("kind", "total")], total);
        }
        if let Some((received, sent)) = usage.network {
            network.add(&[of[0], ("direction", "receive")], received);
            network.add(&[of[0], ("direction", "transmit")], sent);
        }
        fails.add(&[of[0], ("resource", "memory")], usage.oom_kills);
        fails.add(&[of[0], ("resource", "processes")], usage.forks_refused);
    }
    let value = |(name, usage, vm): &(&str, super::node::Usage, &super::node::Vm)| {
        json!({
            "name": name,
            "uuid": vm.slot,
            "container": vm.id,
            "cpu_seconds": seconds(usage.cpu_us),
            "memory": {"held": usage.memory, "limit": usage.memory_max, "failcnt": usage.oom_kills},
            "swap": usage.swap,
            "disk": {"used": usage.disk.map(|(used, _)| used), "limit": usage.disk.map(|(_, total)| total)},
            "io_bytes": usage.io,
            "processes": {"held": usage.pids, "limit": usage.pids_max, "failcnt": usage.forks_refused},
            "network": {"rx_bytes": usage.network.map(|(rx, _)| rx), "tx_bytes": usage.network.map(|(_, tx)| tx)},
        })
    };
    let data: Vec<Value> = running.iter().map(value).collect();
    Gathered::figures(json!({ "containers": data }), vec![cpu, memory, limit, pids, io, disk, network, fails])
}

#[allow(clippy::cast_precision_loss, reason = "microseconds of a VM's life")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::super::node::SlotState;
    use super::super::node::tests::{instance, slot, vm};
    use super::*;

    fn view(cpu_us: u64) -> View {
        let mut vm = vm(1, 3);
        vm.usage.cpu_us = cpu_us;
        vm.usage.memory = 4096;
        vm.usage.disk = Some((10, 100));
        View {
            instances: Some(vec![instance(1, "oci", "up", None), instance(2, "fake", "up", None)]),
            slots: vec![slot(1, SlotState::Live, "oci"), slot(2, SlotState::Live, "fake")],
            vms: vec![vm],
            ..View::default()
        }
    }

    #[test]
    fn every_instance_has_a_load() {
        let mut history = History::default();
        history.push(0, &view(0));
        assert_eq!(history.gathered(&view(0)).data, json!({"inst1": 0.0, "inst2": 0.0}));
        history.push(10_000, &view(5_000_000));
        assert_eq!(history.gathered(&view(5_000_000)).data, json!({"inst1": 0.5, "inst2": 0.0}));
        // A VM that begins anew under the same name begins anew here.
        history.push(20_000, &view(1));
        assert_eq!(history.gathered(&view(1)).data["inst1"], 0.0);
        // Ten minutes are remembered, no more; and nothing of what is gone.
        for minute in 1..40 {
            history.push(20_000 + minute * 60_000, &view(1 + minute * 60_000_000));
        }
        assert_eq!(history.gathered(&view(0)).data["inst1"], 1.0);
        assert!(history.0.values().all(|samples| samples.len() <= 11));
        history.push(9_000_000, &View::default());
        assert!(history.0.is_empty());
    }

    #[test]
    fn what_a_container_uses_is_told() {
        let found = gathered(&view(1_500_000));
        let one = &found.data["containers"][0];
        assert_eq!(
            (&one["name"], &one["cpu_seconds"], &one["memory"]["held"]),
            (&json!("inst1"), &json!(1.5), &json!(4096))
        );
        assert_eq!(one["disk"], json!({"used": 10, "limit": 100}));
        assert_eq!(one["network"], json!({"rx_bytes": null, "tx_bytes": null}));
        assert_eq!(found.families[0].samples[0].value, "1.5");
        assert!(
            found.families.iter().find(|family| family.name.contains("network")).unwrap().samples.is_empty()
        );
    }
}
