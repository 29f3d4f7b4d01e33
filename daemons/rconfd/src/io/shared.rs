//! What the threads share: the state that is served, the gate, the counts.

use crate::core::admit::Dropped;
use crate::core::gate::Gate;
use crate::core::options::Options;
use crate::core::snapshot::Snapshot;
use gantry_confd::{Form, Keys, Kind};
use gantry_model::network::Network;
use gantry_rt::clock;
use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Sources of the legacy form that are named in the metrics. An operator needs to find the last few.
const SOURCES_MAX: usize = 256;
/// A reason for silence is logged at most so often, ms.
const QUIET_MS: u64 = 10_000;

/// What is served. Replaced as a whole.
#[derive(Debug, Clone, Default)]
pub struct Serving {
    /// The last configuration there was; None = there was none. Ask [`Shared::current`] whether it may be served.
    pub snapshot: Option<Arc<Snapshot>>,
    /// What the cluster says: of the last configuration there was.
    pub options: Options,
    /// Keys that count, the newest first.
    pub keys: Arc<Vec<Keys>>,
    /// Addresses of the cluster's nodes: of the last configuration there was, so that they are told when it is too old.
    pub nodes: Arc<HashSet<IpAddr>>,
}

/// All of it.
#[derive(Debug)]
pub struct Shared {
    serving: RwLock<Arc<Serving>>,
    /// Until when its configuration may be served, ms. Beside it, since each good look moves it, and obeyed by who answers,
    /// so that it holds also while no look ends.
    until: AtomicU64,
    /// Who is let in.
    pub gate: Mutex<Gate>,
    /// What happened.
    pub counts: Counts,
    /// Networks that are answered when the cluster names none.
    pub near: Vec<Network>,
    /// The node's name as JSON.
    pub node: String,
    /// How far clocks may be apart, s.
    pub clock_s: u64,
}

impl Shared {
    /// Serves nothing yet.
    #[must_use]
    pub fn new(gate: Gate, near: Vec<Network>, node: String, clock_s: u64) -> Self {
        let (serving, until, counts) = (RwLock::default(), AtomicU64::new(0), Counts::default());
        Self { serving, until, gate: Mutex::new(gate), counts, near, node, clock_s }
    }

    /// What is served now.
    #[must_use]
    pub fn serving(&self) -> Arc<Serving> {
        Arc::clone(&self.serving.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Serves this from now on.
    pub fn serve(&self, serving: Serving) {
        *self.serving.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(serving);
    }

    /// What is served may be served until then.
    pub fn good_until(&self, ms: u64) {
        self.until.store(ms, Ordering::Relaxed);
    }

    /// The configuration that answers come from now; None = there is none, or it is too old.
    #[must_use]
    pub fn current<'a>(&self, serving: &'a Serving, now_ms: u64) -> Option<&'a Arc<Snapshot>> {
        serving.snapshot.as_ref().filter(|_| now_ms < self.until.load(Ordering::Relaxed))
    }
}

/// Counts since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Datagrams.
    pub received: AtomicU64,
    /// Bytes of answers.
    pub bytes: AtomicU64,
    /// Answers that were too long to be sent.
    pub long: AtomicU64,
    /// Whole readings of the configuration.
    pub loads: AtomicU64,
    /// Readings of what changed.
    pub follows: AtomicU64,
    answered: [[AtomicU64; Kind::ALL.len()]; 2],
    dropped: [AtomicU64; Dropped::ALL.len()],
    quiet: [Quiet; Dropped::ALL.len()],
    legacy: Mutex<BTreeMap<IpAddr, Legacy>>,
}

/// Answers in the legacy form to one source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Legacy {
    /// How many.
    pub count: u64,
    /// When the last was, seconds since 1970.
    pub last_s: u64,
}

#[derive(Debug, Default)]
struct Quiet {
    next: AtomicU64,
    unsaid: AtomicU64,
}

impl Counts {
    /// Answers of a form to questions of that kind.
    #[must_use]
    pub fn answered(&self, form: Form, kind: Kind) -> &AtomicU64 {
        &self.answered[form as usize][kind as usize]
    }

    /// Datagrams without an answer, for that reason.
    #[must_use]
    pub fn dropped(&self, why: Dropped) -> &AtomicU64 {
        &self.dropped[why as usize]
    }

    /// Counts one; how many were not said of, if it is time to say so.
    pub fn drop(&self, why: Dropped) -> Option<u64> {
        self.dropped(why).fetch_add(1, Ordering::Relaxed);
        let quiet = &self.quiet[why as usize];
        let (now, next) = (clock::millis(), quiet.next.load(Ordering::Relaxed));
        let ours = now >= next
            && quiet
                .next
                .compare_exchange(next, now + QUIET_MS, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if ours {
            return Some(quiet.unsaid.swap(0, Ordering::Relaxed));
        }
        quiet.unsaid.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// Counts an answer in the legacy form by who asked. When there are too many, the one that asked longest ago makes room.
    pub fn legacy(&self, from: IpAddr, now_s: u64) {
        let mut all = self.legacy.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains_key(&from) && all.len() >= SOURCES_MAX {
            let oldest = all.iter().min_by_key(|(_, seen)| seen.last_s).map(|(ip, _)| *ip);
            oldest.map(|ip| all.remove(&ip));
        }
        let seen = all.entry(from).or_default();
        seen.count += 1;
        seen.last_s = now_s;
    }

    /// Who asked in the legacy form, how often and when.
    #[must_use]
    pub fn legacy_sources(&self) -> BTreeMap<IpAddr, Legacy> {
        self.legacy.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
