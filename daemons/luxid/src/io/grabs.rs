//! What wconfd answers to those who ask it about leases, for people who wait: that it has not answered for long, and why it
//! gave out no VM though some are clean.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long an answer may take before those who wait hear of it: many times that of a flush to all copies.
const SILENT_AFTER: Duration = Duration::from_secs(2);

/// Questions under way, and answers. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Grabs(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// When each open question was asked, and why it was answered by no yes or no so far; the number tells apart those of
    /// one moment.
    since: BTreeMap<(Instant, u64), Option<String>>,
    next: u64,
    /// Why the last grab of a pool has to wait; none of those that were granted.
    held: BTreeMap<String, String>,
}

/// One question; answered, or given up, when it is dropped.
#[derive(Debug)]
pub struct Question {
    all: Grabs,
    this: (Instant, u64),
}

impl Grabs {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each change is one step: whole whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a question that is asked now.
    #[must_use]
    pub fn ask(&self) -> Question {
        self.ask_at(Instant::now())
    }

    fn ask_at(&self, now: Instant) -> Question {
        let mut inner = self.lock();
        let this = (now, inner.next);
        inner.next += 1;
        inner.since.insert(this, None);
        Question { all: self.clone(), this }
    }

    /// That wconfd is silent or can't decide, in words; None while it answers in time.
    #[must_use]
    pub fn silence(&self) -> Option<String> {
        self.silence_at(Instant::now())
    }

    fn silence_at(&self, now: Instant) -> Option<String> {
        let inner = self.lock();
        let ((since, _), why) = inner.since.first_key_value()?;
        let silent = now.saturating_duration_since(*since);
        let words = || match why {
            Some(why) => format!("gantry-wconfd has granted nothing for {} s: {why}", silent.as_secs()),
            None => format!("gantry-wconfd has not answered for {} s", silent.as_secs()),
        };
        (silent >= SILENT_AFTER).then(words)
    }

    /// Notes how the newest grab of a pool was answered: why it waits, or that it was granted.
    pub fn answered(&self, pool: &str, waits: Option<&str>) {
        let mut inner = self.lock();
        match waits {
            Some(why) => drop(inner.held.insert(pool.to_owned(), why.to_owned())),
            None if inner.held.is_empty() => {}
            None => drop(inner.held.remove(pool)),
        }
    }

    /// Why the newest grab of a pool has to wait, as wconfd said.
    #[must_use]
    pub fn held(&self, pool: &str) -> Option<String> {
        self.lock().held.get(pool).cloned()
    }
}

impl Question {
    /// It is asked again: this was said, or nothing.
    pub fn again(&self, why: Option<&str>) {
        if let Some(said) = self.all.lock().since.get_mut(&self.this) {
            *said = why.map(str::to_owned);
        }
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
        let (all, begin) = (Grabs::default(), Instant::now());
        let after = |ms: u64| all.silence_at(begin + Duration::from_millis(ms));
        assert_eq!(after(60_000), None, "nothing was asked");
        let (first, same_moment) = (all.ask_at(begin), all.ask_at(begin));
        let later = all.ask_at(begin + Duration::from_secs(4));
        assert_eq!(after(1_999), None);
        assert_eq!(after(7_500).as_deref(), Some("gantry-wconfd has not answered for 7 s"));
        drop(first);
        assert_eq!(after(7_500).as_deref(), Some("gantry-wconfd has not answered for 7 s"), "one of two");
        same_moment.again(Some("no majority"));
        assert_eq!(after(7_500).as_deref(), Some("gantry-wconfd has granted nothing for 7 s: no majority"));
        drop(same_moment);
        assert_eq!(after(7_500).as_deref(), Some("gantry-wconfd has not answered for 3 s"));
        drop(later);
        assert_eq!(after(60_000), None);
    }

    #[test]
    fn the_newest_answer_of_a_pool_is_told() {
        let all = Grabs::default();
        all.answered("p", Some("2 withheld"));
        all.answered("q", None);
        assert_eq!((all.held("p").as_deref(), all.held("q")), (Some("2 withheld"), None));
        all.answered("p", None);
        assert_eq!(all.held("p"), None);
    }
}
