//! What is due when, by the wall clock: pauses of tasks and lines, and the ends of lease requests. When that clock is set
//! back they keep what was left of them, for they are short, and it may be long until the clock is there again.

use super::{Queue, Timer};
use gantry_model::time::Ts;

/// The clock counts as set back when it is so many seconds behind the last step: what is less passes by itself.
const CLOCK_BACK_S: u64 = 1;

impl Queue {
    /// When [`Event::Tick`](super::Event::Tick) is wanted next.
    #[must_use]
    pub fn due(&self) -> Option<Ts> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Before anything else of a step: what begins in it is of the clock as it is now.
    pub(super) fn look_at_clock(&mut self, now: Ts) {
        let before = std::mem::replace(&mut self.looked, now);
        if before.0 > now.0 + CLOCK_BACK_S {
            self.clock_went_back(before, now);
        }
    }

    /// Does what is due.
    pub(super) fn fire(&mut self, now: Ts) {
        while self.timers.first().is_some_and(|(due, _)| *due <= now) {
            match self.timers.pop_first().map(|(_, timer)| timer) {
                Some(Timer::Task(id)) => self.task_due(id),
                Some(Timer::Request(lease)) => self.request_due(now, lease),
                Some(Timer::Pool(pool)) => self.pool_due(pool),
                None => return,
            }
        }
    }

    fn clock_went_back(&mut self, before: Ts, now: Ts) {
        let moved = |due: Ts| {
            let left = micros(due).saturating_sub(micros(before));
            Ts::from_nanos((micros(now) + left) * 1_000)
        };
        for (due, timer) in std::mem::take(&mut self.timers) {
            if let Timer::Request(lease) = timer {
                self.request_moved(lease, moved);
            }
            self.timers.insert((moved(due), timer));
        }
    }
}

fn micros(at: Ts) -> u64 {
    at.0 * 1_000_000 + u64::from(at.1)
}
