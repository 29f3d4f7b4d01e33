//! The data collectors of MonD: their names, and what of them the cluster's settings may say. `spec/mond.md` §3 and §6.1
//! decide the names; MonD's own table says what each reports.

use serde_json::Value;

/// A data collector as the settings know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collector {
    /// Its name, for ever.
    pub name: &'static str,
    /// Whether it is on in a new cluster.
    pub active: bool,
}

const fn on(name: &'static str) -> Collector {
    Collector { name, active: true }
}

const fn off(name: &'static str) -> Collector {
    Collector { name, active: false }
}

/// All of them: Ganeti's six in Ganeti's order, then Gantry's.
pub const COLLECTORS: [Collector; 16] = [
    on("cpu-avg-load"),
    on("xen-cpu-avg-load"),
    on("diskstats"),
    on("drbd"),
    on("inst-status-xen"),
    on("lv"),
    on("inst-status"),
    on("inst-status-oci"),
    // Of hypervisors that no driver makes yet: somebody who knows better turns them on.
    off("inst-status-openvz"),
    off("inst-status-kvm"),
    on("node-resources"),
    on("container-usage"),
    on("daemon-status"),
    on("pool-status"),
    on("slot-status"),
    on("lease-status"),
];

/// How often a collector looks unless the settings say otherwise, µs: Ganeti's.
pub const INTERVAL_US: u64 = 5_000_000;
/// Shortest interval, µs: ten looks a second still cost less than one percent of a CPU.
pub const INTERVAL_US_MIN: u64 = 100_000;
/// Longest interval, µs: a day; what is older tells nothing.
pub const INTERVAL_US_MAX: u64 = 86_400_000_000;

/// The collector of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Collector> {
    COLLECTORS.iter().find(|collector| collector.name == name)
}

/// The interval that a value of `data_collectors` means, µs, within the bounds: a number of any kind, since Ganeti writes
/// floats. None = it means none.
#[must_use]
pub fn interval_us(value: &Value) -> Option<u64> {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "cut to the bounds, never negative"
    )]
    let whole = |float: f64| (float >= 0.0).then_some(float as u64);
    let us = value.as_u64().or_else(|| whole(value.as_f64()?))?;
    Some(us.clamp(INTERVAL_US_MIN, INTERVAL_US_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_interval_is_a_number_of_any_kind_cut_to_the_bounds() {
        for (value, us) in [
            (json!(7_000_000), Some(7_000_000)),
            (json!(7e6), Some(7_000_000)),
            (json!(1_500_000.7), Some(1_500_000)),
            (json!(0), Some(INTERVAL_US_MIN)),
            (json!(0.5), Some(INTERVAL_US_MIN)),
            (json!(u64::MAX), Some(INTERVAL_US_MAX)),
            (json!(1e300), Some(INTERVAL_US_MAX)),
            (json!(-1), None),
            (json!(-0.5), None),
            (json!("5"), None),
            (Value::Null, None),
        ] {
            assert_eq!(interval_us(&value), us, "{value}");
        }
    }
}
