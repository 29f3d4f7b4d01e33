//! The lease clock and the owner's part that follows it: ends leases when due, and stores the clock while one lives. No
//! timer runs while no lease lives.

use super::owner::Owner;
use crate::core::config::Effect;
use gantry_proto::envelope::Fail;
use gantry_rt::clock;
use std::time::Duration;

/// Pause after the store did not take what time brought about: it is full for a moment, or about to stop the daemon.
const RETRY_MS: u64 = 100;

/// Counts milliseconds a master was up, on from the stored value.
#[derive(Debug)]
pub(super) struct LeaseTime {
    stored: u64,
    began: u64,
    /// Not before, in lease time, after a failure.
    retry: u64,
}

impl LeaseTime {
    /// A clock that shows `stored` now.
    pub(super) fn from(stored: u64) -> Self {
        Self { stored, began: clock::millis(), retry: 0 }
    }

    /// The time now. Never steps back.
    pub(super) fn now(&self) -> u64 {
        self.stored.saturating_add(clock::millis() - self.began)
    }
}

impl Owner {
    /// How long until time has something to do; None while no lease lives.
    pub(super) fn lease_pause(&self) -> Option<Duration> {
        let next = self.config.next_end()?.min(self.config.next_tick()?).max(self.lease_time.retry);
        Some(Duration::from_millis(next.saturating_sub(self.lease_time.now())))
    }

    /// Does what time brought about; what is left is due at once again.
    pub(super) fn lease_timer(&mut self) {
        let (now, ms) = (clock::now().epoch(), self.lease_time.now());
        let effect: Effect = match self.config.next_end() {
            Some(end) if end <= ms => self.config.end_due(now, ms),
            Some(_) if self.config.next_tick().is_some_and(|tick| tick <= ms) => self.config.tick(now, ms),
            Some(_) | None => return,
        };
        if let Err(fail) = self.store(effect) {
            // Said once, not at each of the retries that follow at once.
            if ms.saturating_sub(self.lease_time.retry) > RETRY_MS {
                tracing::warn!(why = fail.text, "leases can't follow their time now");
            }
            self.lease_time.retry = ms.saturating_add(RETRY_MS);
        }
    }

    /// After a start: whoever has to renew could not, while no master was up.
    pub(super) fn resume_leases(&mut self) -> Result<(), Fail> {
        let mut after = None;
        while let Some((last, effect)) = self.config.resume_leases(after, clock::now().epoch()) {
            self.store(effect)?;
            after = Some(last);
        }
        Ok(())
    }
}
