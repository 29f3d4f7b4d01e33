//! The clocks of daemons.

use gantry_model::time::Ts;
use std::sync::OnceLock;
use std::time::Instant;

static START: OnceLock<Instant> = OnceLock::new();

/// The wall clock.
#[must_use]
pub fn now() -> Ts {
    gantry_model::time::now()
}

/// Milliseconds since this process began (its first look at this clock); never steps back.
#[must_use]
pub fn millis() -> u64 {
    let start = START.get_or_init(Instant::now);
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}
