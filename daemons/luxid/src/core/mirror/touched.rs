//! What an item of the stream changed for readers: who waits for pools and leases is woken by it, watchers are told.

use gantry_model::ids::LeaseUuid;
use gantry_proto::wconfd::WatchChange;
use std::collections::BTreeSet;

/// One object that changed, in the words of [`gantry_proto::stream::StreamEvent::Changed`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectChange {
    /// Its kind.
    pub kind: String,
    /// Its key.
    pub key: String,
    /// Where it stands, in a word; empty when it has none or is gone.
    pub state: &'static str,
}

/// What changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// A whole state came anew: everything may have changed, and nothing else is listed.
    pub all: bool,
    /// Names of the pools that changed themselves, by their blueprint, by a slot or by a node that has one.
    pub pools: BTreeSet<String>,
    /// Leases that changed.
    pub leases: BTreeSet<LeaseUuid>,
    /// Every object that changed, in the order of the batch; the lease clock is none.
    pub objects: Vec<ObjectChange>,
}

impl Touched {
    pub(super) fn object(&mut self, change: &WatchChange, state: &'static str) {
        self.objects.push(ObjectChange { kind: change.kind.clone(), key: change.key.clone(), state });
    }

    pub(super) fn pool(&mut self, name: &str) {
        if !self.pools.contains(name) {
            self.pools.insert(name.to_owned());
        }
    }
}
