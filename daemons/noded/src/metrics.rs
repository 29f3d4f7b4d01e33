//! What noded counts. One set a process, shared by all nodes it serves.

use gantry_proto::envelope::Fail;
use gantry_proto::noded::VERBS;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Labels of a counted call; both come from closed lists.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    verb: &'static str,
    result: String,
}

/// Handles of the counters. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    calls: Family<CallLabels, Counter>,
    lost: Counter,
}

impl Metrics {
    /// Counters that `registry` serves.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("noded_calls", "Answered calls by verb and result", metrics.calls.clone());
        registry.register("noded_vms_lost", "VMs found gone that should live", metrics.lost.clone());
        metrics
    }

    /// Counts the answer to verb number `verb`.
    pub fn called(&self, verb: u16, answer: &Result<Vec<u8>, Fail>) {
        let verb = VERBS.iter().find(|(id, _)| *id == verb).map_or("unknown", |(_, name)| *name);
        let result = match answer {
            Ok(_) => "ok".to_owned(),
            Err(fail) => format!("{:?}", fail.code),
        };
        self.calls.get_or_create(&CallLabels { verb, result }).inc();
    }

    /// Counts a lost VM.
    pub fn lost(&self) {
        self.lost.inc();
    }
}
