//! RConfD's metrics.

use super::shared::Shared;
use crate::core::admit::Dropped;
use gantry_confd::{Form, Kind};
use gantry_model::config::confd;
use gantry_rt::clock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

#[derive(Debug)]
struct RconfdMetrics(Arc<Shared>);

/// Adds RConfD's metrics to the daemon's.
pub fn register(registry: &mut Registry, shared: Arc<Shared>) {
    registry.register_collector(Box::new(RconfdMetrics(shared)));
}

fn get(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

impl Collector for RconfdMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let counts = &self.0.counts;
        for (name, help, value) in [
            ("confd_received", "Datagrams received", get(&counts.received)),
            ("confd_bytes", "Bytes of answers", get(&counts.bytes)),
            ("confd_too_long", "Answers too long for any datagram", get(&counts.long)),
            ("confd_loads", "Readings of the whole configuration", get(&counts.loads)),
            ("confd_follows", "Readings of what changed in it", get(&counts.follows)),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        self.families(&mut encoder)?;
        let serving = self.0.serving();
        let snapshot = self.0.current(&serving, clock::millis());
        let remembered = self.0.gate.lock().unwrap_or_else(PoisonError::into_inner).remembered() as u64;
        for (name, help, value) in [
            ("confd_config_serial", "Serial of what is served", snapshot.map_or(0, |s| s.config_serial())),
            ("confd_config_index", "Log index of what is served", snapshot.map_or(0, |s| s.index)),
            ("confd_keys", "Keys that count", serving.keys.len() as u64),
            ("confd_remembered", "Requests that are remembered", remembered),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

impl RconfdMetrics {
    fn families(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let counts = &self.0.counts;
        let kind = ConstCounter::new(0_u64).metric_type();
        let mut family = encoder.encode_descriptor("confd_answered", "Answers", None, kind)?;
        for form in [Form::Legacy, Form::Second] {
            for (what, _, name) in
                Kind::ALL.into_iter().filter(|(_, number, _)| Kind::of(u64::from(*number), form).is_some())
            {
                let labels = [("form", form.as_str()), ("type", name)];
                ConstCounter::new(get(counts.answered(form, what))).encode(family.encode_family(&labels)?)?;
            }
        }
        let mut family = encoder.encode_descriptor("confd_dropped", "Datagrams not answered", None, kind)?;
        for (why, name) in Dropped::ALL {
            let labels = [("reason", name)];
            ConstCounter::new(get(counts.dropped(why))).encode(family.encode_family(&labels)?)?;
        }
        let help = "Answers in the legacy form; when none come any more, confd_digest may be sha256";
        let mut family = encoder.encode_descriptor("confd_legacy", help, None, kind)?;
        let sources = counts.legacy_sources();
        for (from, seen) in &sources {
            let from = from.to_string();
            let labels = [("source", from.as_str())];
            ConstCounter::new(seen.count).encode(family.encode_family(&labels)?)?;
        }
        let help = "When the last answer in the legacy form was";
        let kind = ConstGauge::new(0_i64).metric_type();
        let mut family = encoder.encode_descriptor(confd::LEGACY_LAST, help, None, kind)?;
        for (from, seen) in &sources {
            let from = from.to_string();
            let last = ConstGauge::new(i64::try_from(seen.last_s).unwrap_or(i64::MAX));
            last.encode(family.encode_family(&[("source", from.as_str())])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::gate::{Gate, Limits, Now, Rate};

    #[test]
    fn names_are_those_of_the_specification() {
        let rate = Rate { per_s: 1, burst: 1 };
        let limits = Limits { replays: 1, requests: rate, bytes: rate };
        let gate = Gate::new(limits, Now { ms: 0, s: 0 });
        let shared = Arc::new(Shared::new(gate, Vec::new(), "\"n\"".to_owned(), 300));
        shared.counts.legacy("192.0.2.7".parse().expect("an address"), 1_700_000_000);
        let mut registry = Registry::with_prefix("gantry");
        register(&mut registry, shared);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encoded");
        let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        assert!(names.iter().all(|name| name.starts_with("gantry_confd_")) && names.len() > 10, "{names:?}");
        for wanted in [
            "gantry_confd_received_total 0",
            "gantry_confd_legacy_total{source=\"192.0.2.7\"} 1",
            // NodeD looks for it.
            &format!("gantry_{}{{source=\"192.0.2.7\"}} 1700000000", confd::LEGACY_LAST),
        ] {
            assert!(text.lines().any(|line| line == wanted), "{wanted} is not in\n{text}");
        }
    }
}
