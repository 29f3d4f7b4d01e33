//! The overseer's metrics: what each pass did, and how it went last.

use crate::core::pass::Pass;
use crate::core::seen::Seen;
use crate::io::submit::Outcome;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    runs: u64,
    submitted: u64,
    known: u64,
    refused: u64,
    failed: bool,
}

/// Numbers by pass, and of what they saw. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Numbers(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    passes: BTreeMap<Pass, Count>,
    /// Slots that are stuck, by pool, as last seen.
    stuck: BTreeMap<String, i64>,
}

impl Numbers {
    /// A pass ran; none = luxid could not be asked.
    pub fn ran(&self, pass: Pass, outcome: Option<&Outcome>) {
        let mut all = self.lock();
        let count = all.passes.entry(pass).or_default();
        count.runs += 1;
        count.failed = outcome.is_none_or(|outcome| !outcome.refused.is_empty());
        if let Some(outcome) = outcome {
            count.submitted += outcome.new.len() as u64;
            count.known += outcome.known.len() as u64;
            count.refused += outcome.refused.len() as u64;
        }
    }

    /// All slots were looked at.
    pub fn saw(&self, seen: &Seen) {
        let mut stuck: BTreeMap<String, i64> = seen.pools.iter().map(|pool| (pool.name.clone(), 0)).collect();
        for slot in seen.slots.iter().filter(|slot| slot.stuck) {
            *stuck.entry(slot.pool.clone()).or_default() += 1;
        }
        self.lock().stuck = stuck;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Changes are single assignments: whole whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, pass: Pass) -> Count {
        self.lock().passes.get(&pass).copied().unwrap_or_default()
    }
}

/// One number of a pass.
type Get = fn(Count) -> u64;

#[derive(Debug)]
struct OverseerMetrics(Numbers);

/// Adds the overseer's metrics to the daemon's.
pub fn register(registry: &mut Registry, numbers: Numbers) {
    registry.register_collector(Box::new(OverseerMetrics(numbers)));
}

impl Collector for OverseerMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let counters: [(&str, &str, Get); 4] = [
            ("overseer_runs", "Runs of a pass", |c| c.runs),
            ("overseer_submitted", "New jobs of a pass", |c| c.submitted),
            ("overseer_known", "Wants of a pass whose key a live job had", |c| c.known),
            ("overseer_refused", "Jobs of a pass that luxid refused", |c| c.refused),
        ];
        for (name, help, get) in counters {
            let kind = ConstCounter::new(0_u64);
            let mut family = encoder.encode_descriptor(name, help, None, kind.metric_type())?;
            for pass in Pass::ALL {
                let labels = [("pass", pass.name())];
                ConstCounter::new(get(self.0.get(pass))).encode(family.encode_family(&labels)?)?;
            }
        }
        let kind = ConstGauge::new(0_i64);
        let help = "Whether the last run of a pass failed";
        let mut family = encoder.encode_descriptor("overseer_failed", help, None, kind.metric_type())?;
        for pass in Pass::ALL {
            let labels = [("pass", pass.name())];
            ConstGauge::new(i64::from(self.0.get(pass).failed)).encode(family.encode_family(&labels)?)?;
        }
        let help = "Slots that failed so often that they are tried seldom";
        let mut family = encoder.encode_descriptor("slots_stuck", help, None, kind.metric_type())?;
        for (pool, count) in &self.0.lock().stuck {
            let labels = [("pool", pool.as_str())];
            ConstGauge::new(*count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
