//! Keeps a want that cannot be met from being asked for again and again: a pool that finds no room for its slots.

use crate::core::job::KeyedJob;
use std::collections::BTreeMap;

/// How long the same want is not repeated, ms: as long as the pass's own period.
pub const REPEAT_MS: u64 = 60_000;

/// What was asked for lately, by pool.
#[derive(Debug, Clone, Default)]
pub struct Restraint {
    asked: BTreeMap<String, ((u64, u64), u64)>,
}

impl Restraint {
    /// Whether a job may be asked for now; notes that it is.
    pub fn allows(&mut self, now: u64, job: &KeyedJob) -> bool {
        let KeyedJob::Expand { uuid, gap, .. } = job else { return true };
        self.asked.retain(|_, (_, until)| *until > now);
        if self.asked.get(uuid).is_some_and(|(asked, _)| asked == gap) {
            return false;
        }
        self.asked.insert(uuid.clone(), (*gap, now + REPEAT_MS));
        true
    }

    /// Forgets all: what was asked for may not have arrived.
    pub fn clear(&mut self) {
        self.asked.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_want_waits_and_a_new_one_does_not() {
        let expand = |gap| KeyedJob::Expand { uuid: "u".to_owned(), name: "p".to_owned(), gap };
        let mut restraint = Restraint::default();
        assert!(restraint.allows(0, &expand((1, 3))));
        assert!(!restraint.allows(REPEAT_MS - 1, &expand((1, 3))));
        assert!(restraint.allows(REPEAT_MS - 1, &expand((1, 4))), "more is wanted");
        assert!(!restraint.allows(REPEAT_MS, &expand((1, 4))));
        assert!(restraint.allows(2 * REPEAT_MS, &expand((1, 4))));
        restraint.clear();
        assert!(restraint.allows(2 * REPEAT_MS, &expand((1, 4))));
        let audit = KeyedJob::Audit { uuid: "n".to_owned(), name: "n".to_owned() };
        assert!(restraint.allows(0, &audit) && restraint.allows(0, &audit));
    }
}
