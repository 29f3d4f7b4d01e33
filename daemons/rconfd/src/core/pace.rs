//! When the files are looked at (`spec/confd.md` §4). Pure.

/// Looks are at least so far apart, ms.
pub const LOOK_MS_MIN: u64 = 250;
/// And at most, ms.
pub const LOOK_MS_MAX: u64 = 17_000;

/// When to look next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    last: u64,
    due: u64,
}

impl Pace {
    /// Looked at `now` for the first time.
    #[must_use]
    pub fn new(now: u64) -> Self {
        Self { last: now, due: now + LOOK_MS_MAX }
    }

    /// When to look.
    #[must_use]
    pub fn due(&self) -> u64 {
        self.due
    }

    /// Something was written.
    pub fn event(&mut self, now: u64) {
        self.due = self.due.min(now.max(self.last + LOOK_MS_MIN));
    }

    /// Looked at `now`. After a write another look follows soon: what is written is seen a moment before it is committed,
    /// and the commit itself makes no event.
    pub fn looked(&mut self, now: u64, after_event: bool) {
        self.last = now;
        self.due = now + if after_event { LOOK_MS_MIN } else { LOOK_MS_MAX };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_looked_at_twice_and_many_at_most_four_times_a_second() {
        let mut pace = Pace::new(0);
        assert_eq!(pace.due(), 17_000);
        pace.event(5_000);
        assert_eq!(pace.due(), 5_000);
        pace.looked(5_000, true);
        assert_eq!(pace.due(), 5_250, "the commit may have come after the look");
        pace.event(5_001);
        pace.event(5_100);
        assert_eq!(pace.due(), 5_250);
        pace.looked(5_250, true);
        pace.looked(5_500, false);
        assert_eq!(pace.due(), 22_500);
    }
}
