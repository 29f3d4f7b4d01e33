//! Times as Ganeti writes them. The one place of the lean programs that reads the wall clock.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// `[seconds, microseconds]` since 1970, as in job records (`spec/luxi.md`, "Time units").
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ts(pub u64, pub u32);

impl Ts {
    /// From nanoseconds since 1970.
    #[must_use]
    pub fn from_nanos(ns: u64) -> Self {
        let micros = (ns / 1_000) % 1_000_000;
        Self(ns / 1_000_000_000, u32::try_from(micros).expect("below a million"))
    }

    /// Seconds since 1970 with their fraction, as config objects carry them ("epoch").
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "seconds stay far below 2^52")]
    pub fn epoch(self) -> f64 {
        self.0 as f64 + f64::from(self.1) / 1e6
    }
}

/// Nanoseconds since 1970, by the wall clock.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "this is the clock others are told to use")]
pub fn now_nanos() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The wall clock as [`Ts`].
#[must_use]
pub fn now() -> Ts {
    Ts::from_nanos(now_nanos())
}
