//! How each copy stands, as numbers for monitoring tools: the names are those of the daemon that leads the log.

use crate::handle::{CopiesHandle, CopyStatus};
use crate::link::Link;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;

/// A family: the end of its name, its help, and its value for one copy.
type Family = (&'static str, &'static str, fn(&CopyStatus) -> Option<f64>);

/// Rows and times are far below 2^52, so each is exact.
#[allow(clippy::cast_precision_loss)]
const FAMILIES: [Family; 5] = [
    ("copy_position", "Last row that a copy has confirmed", |copy| Some(copy.matched.0 as f64)),
    ("copy_lag_rows", "Rows that a copy lacks", |copy| Some(copy.lag as f64)),
    ("copy_suspect", "1 when a copy is not to be believed and does not count", |copy| {
        Some(f64::from(u8::from(copy.suspect.is_some())))
    }),
    ("copy_learner", "1 while a copy is being fed and does not count yet", |copy| {
        Some(f64::from(u8::from(copy.learner)))
    }),
    ("copy_last_answer_seconds", "How long ago a copy answered; absent before it first did", |copy| {
        copy.answered_ms_ago.map(|ms| ms as f64 / 1000.0)
    }),
];

struct Copies<L> {
    prefix: &'static str,
    handle: CopiesHandle<L>,
}

impl<L> fmt::Debug for Copies<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Copies").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// Adds the numbers of all copies but the own to a daemon's, which is called `prefix`.
pub fn register<L: Link>(registry: &mut Registry, prefix: &'static str, handle: CopiesHandle<L>) {
    registry.register_collector(Box::new(Copies { prefix, handle }));
}

impl<L: Link> Collector for Copies<L> {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let copies = self.handle.status();
        for (name, help, value) in FAMILIES {
            let kind = ConstGauge::new(0.0_f64).metric_type();
            let name = format!("{}_{name}", self.prefix);
            let mut family = encoder.encode_descriptor(&name, help, None, kind)?;
            for copy in &copies {
                let Some(value) = value(copy) else { continue };
                ConstGauge::new(value).encode(family.encode_family(&[("node", copy.name.as_str())])?)?;
            }
        }
        Ok(())
    }
}
