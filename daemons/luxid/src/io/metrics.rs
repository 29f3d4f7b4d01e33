//! luxid's metrics.

use super::view::View;
use crate::core::queue::{Counts, STATUSES};
use gantry_store::Writer;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// The queue's numbers as of its last step. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Numbers(Arc<Mutex<Counts>>);

impl Numbers {
    /// Replaces them.
    pub fn counts(&self, counts: Counts) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }

    fn get(&self) -> Counts {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct LuxidMetrics {
    numbers: Numbers,
    view: View,
    writer: Writer,
}

/// Adds luxid's metrics to the daemon's.
pub fn register(registry: &mut Registry, numbers: Numbers, view: View, writer: Writer) {
    registry.register_collector(Box::new(LuxidMetrics { numbers, view, writer }));
}

impl Collector for LuxidMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let counts = self.numbers.get();
        let store = self.writer.stats();
        for (name, help, value) in [
            ("luxid_job_starts", "Job processes started by this luxid", counts.starts),
            ("luxid_job_deaths", "Jobs whose process died after it was told to go", counts.deaths),
            ("luxid_store_batches", "Batches committed to queue.data", store.batches),
            ("luxid_store_transactions", "Transactions that committed them", store.transactions),
        ] {
            let counter = ConstCounter::new(value);
            let metric = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        for (name, help, value) in [
            ("luxid_jobs_live", "Jobs that are not archived", counts.live),
            ("luxid_jobs_ready", "Queued jobs that wait for nothing but a place", counts.ready),
            ("luxid_tasks_open", "Tasks that wait or run", counts.tasks),
            ("luxid_lease_requests_open", "Lease requests that wait or are granted", counts.requests),
            ("luxid_leases_ending", "Leases whose end wconfd has not confirmed", counts.ending),
            ("luxid_jobs_with_process", "Jobs with a process", counts.running),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        let family = ConstGauge::new(0_i64);
        let mut states =
            encoder.encode_descriptor("luxid_jobs", "Live jobs by status", None, family.metric_type())?;
        for (status, count) in STATUSES.iter().zip(self.view.by_status()) {
            let labels = [("status", status.as_str())];
            ConstGauge::new(count).encode(states.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
