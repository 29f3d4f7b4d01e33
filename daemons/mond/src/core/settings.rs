//! Which collectors are on and how often they look, as the cluster says, or as built in (`spec/mond.md` §4).

use super::catalogue::Index;
use gantry_model::collector::{COLLECTORS, INTERVAL_US, interval_us};
use serde_json::Value;
use std::time::Duration;

/// Of one collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Whether it is listed and reported.
    pub active: bool,
    /// How often it looks, µs.
    pub interval_us: u64,
}

impl Setting {
    /// How often it looks.
    #[must_use]
    pub fn interval(self) -> Duration {
        Duration::from_micros(self.interval_us)
    }
}

/// Of all collectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings([Setting; COLLECTORS.len()]);

/// Of a hypervisor that nobody has until the cluster says otherwise.
const XEN: &str = "inst-status-xen";

impl Default for Settings {
    fn default() -> Self {
        Self(COLLECTORS.map(|collector| Setting {
            active: collector.active && collector.name != XEN,
            interval_us: INTERVAL_US,
        }))
    }
}

impl Settings {
    /// Those of an answer to ConfD's request 11: an object of `{"active": bool, "interval": µs}` by name. What it does
    /// not say, or says in a way that makes no sense, is as built in.
    #[must_use]
    pub fn read(answer: &Value) -> Self {
        let mut all = Self::default();
        for (collector, setting) in COLLECTORS.iter().zip(&mut all.0) {
            let given = &answer[collector.name];
            if let Some(active) = given["active"].as_bool() {
                setting.active = active;
            }
            if let Some(us) = interval_us(&given["interval"]) {
                setting.interval_us = us;
            }
        }
        all
    }

    /// That of a collector.
    #[must_use]
    pub fn get(&self, index: Index) -> Setting {
        self.0[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::catalogue::index;
    use gantry_model::collector::INTERVAL_US_MIN;
    use serde_json::json;

    #[test]
    fn what_the_cluster_does_not_say_is_as_built_in() {
        let of = |settings: &Settings, name| settings.get(index(name).unwrap());
        let read = Settings::read(&json!({
            "lv": {"active": false, "interval": 7_000_000},
            "drbd": {"interval": 1.5e6},
            "diskstats": {"active": 3, "interval": 1},
            "unheard-of": {"active": true},
        }));
        assert_eq!(of(&read, "lv"), Setting { active: false, interval_us: 7_000_000 });
        assert_eq!(of(&read, "drbd").interval_us, 1_500_000);
        assert_eq!(of(&read, "diskstats"), Setting { active: true, interval_us: INTERVAL_US_MIN });
        assert_eq!(Settings::read(&json!(null)), Settings::default());
        assert!(!of(&Settings::default(), XEN).active && of(&Settings::default(), "cpu-avg-load").active);
    }
}
