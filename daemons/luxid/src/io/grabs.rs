//! What wconfd was asked about leases and has not answered: whoever waits for a VM then waits for wconfd, and is told so.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long an answer may take before those who wait hear of it: many times that of a flush to all copies.
const SILENT_AFTER: Duration = Duration::from_secs(2);

/// Questions under way. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Unanswered(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    /// When each was asked; the number tells apart those of one moment.
    since: BTreeSet<(Instant, u64)>,
    next: u64,
}

/// One question; answered, or given up, when it is dropped.
#[derive(Debug)]
pub struct Question {
    all: Unanswered,
    this: (Instant, u64),
}

impl Unanswered {
    fn lock(&self) -> MutexGuard<'_, Open> {
        // Each change is one step: whole whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a question that is asked now.
    #[must_use]
    pub fn ask(&self) -> Question {
        self.ask_at(Instant::now())
    }

    fn ask_at(&self, now: Instant) -> Question {
        let mut open = self.lock();
        let this = (now, open.next);
        open.next += 1;
        open.since.insert(this);
        Question { all: self.clone(), this }
    }

    /// That wconfd is silent, in words; None while it answers in time.
    #[must_use]
    pub fn words(&self) -> Option<String> {
        self.words_at(Instant::now())
    }

    fn words_at(&self, now: Instant) -> Option<String> {
        let silent = now.saturating_duration_since(self.lock().since.first()?.0);
        (silent >= SILENT_AFTER).then(|| format!("gantry-wconfd has not answered for {} s", silent.as_secs()))
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.all.lock().since.remove(&self.this);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_question_tells_how_long_nobody_answers() {
        let (all, begin) = (Unanswered::default(), Instant::now());
        let after = |ms: u64| all.words_at(begin + Duration::from_millis(ms));
        assert_eq!(after(60_000), None, "nothing was asked");
        let (first, same_moment) = (all.ask_at(begin), all.ask_at(begin));
        let later = all.ask_at(begin + Duration::from_secs(4));
        assert_eq!(after(1_999), None);
        assert_eq!(after(7_500).as_deref(), Some("gantry-wconfd has not answered for 7 s"));
        drop(first);
        assert_eq!(after(7_500).as_deref(), Some("gantry-wconfd has not answered for 7 s"), "one of two");
        drop(same_moment);
        assert_eq!(after(7_500).as_deref(), Some("gantry-wconfd has not answered for 3 s"));
        drop(later);
        assert_eq!(after(60_000), None);
    }
}
