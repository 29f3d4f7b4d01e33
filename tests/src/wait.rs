//! Waiting for a condition, with a deadline and a word for what did not come.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// Looks until `ready` yields something, for at most `within`.
///
/// # Errors
/// When time is over: says `what` was waited for.
pub fn until<T>(what: &str, within: Duration, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
    let end = Instant::now() + within;
    loop {
        if let Some(found) = ready() {
            return Ok(found);
        }
        if Instant::now() >= end {
            bail!("waited {within:?} in vain: {what}");
        }
        std::thread::sleep(LOOK);
    }
}
