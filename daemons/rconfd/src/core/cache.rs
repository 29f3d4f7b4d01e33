//! Answers that cost more than finding one object, kept as long as the snapshot they come from. One for each thread, so
//! that nothing waits.

use super::answer::{Answer, answer};
use super::snapshot::Snapshot;
use gantry_confd::{Form, Kind, Query};
use std::collections::HashMap;
use std::sync::Arc;

/// Most answers kept; each has at most 60 KiB. Who asks about more nodes or pointers than this in one snapshot's time
/// pays for each.
const ANSWERS_MAX: usize = 256;

/// The answers of one snapshot.
#[derive(Debug, Default)]
pub struct Cache {
    of: Option<Arc<Snapshot>>,
    answers: HashMap<(Form, Kind, Option<String>), Arc<Answer>>,
}

impl Cache {
    /// The answer to a question.
    pub fn answer(&mut self, snapshot: &Arc<Snapshot>, form: Form, kind: Kind, query: &Query) -> Arc<Answer> {
        let key = match (kind, query) {
            (Kind::NodeIps | Kind::CandidateIps | Kind::Collectors | Kind::Pools, _) => None,
            (Kind::InstanceIps | Kind::Leases, Query::Null) => None,
            (Kind::InstanceIps | Kind::Instances | Kind::Config | Kind::Slots, Query::Text(text)) => {
                Some(text.clone())
            }
            _ => return Arc::new(answer(snapshot, form, kind, query)),
        };
        if !self.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, snapshot)) {
            self.answers.clear();
            self.of = Some(Arc::clone(snapshot));
        }
        let key = (form, kind, key);
        if let Some(known) = self.answers.get(&key) {
            return Arc::clone(known);
        }
        let new = Arc::new(answer(snapshot, form, kind, query));
        if self.answers.len() < ANSWERS_MAX {
            self.answers.insert(key, Arc::clone(&new));
        }
        new
    }
}
