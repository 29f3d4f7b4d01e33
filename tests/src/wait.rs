//! Waiting for a condition, with a deadline and a word for what did not come.

use anyhow::{Context, Result, bail};
use std::time::{Duration, Instant};

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(10);
/// Waits that took longer tell what they waited for at last.
const SLOW: Duration = Duration::from_secs(10);

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

/// Looks until `left` finds nothing that is left, for at most `within`. A slow wait tells what was left last.
///
/// # Errors
/// When time is over: says `what` was waited for, and what is left.
pub fn nothing_left(
    what: &str,
    within: Duration,
    mut left: impl FnMut() -> Result<Vec<String>>,
) -> Result<()> {
    let (begun, mut last) = (Instant::now(), String::new());
    let done = until(what, within, || match left() {
        Ok(left) if left.is_empty() => Some(()),
        Ok(left) => {
            last = left.join("; ");
            None
        }
        Err(why) => {
            last = format!("{why:#}");
            None
        }
    });
    if begun.elapsed() > SLOW {
        eprintln!("    {what}: {:.1?}; at last: {last}", begun.elapsed());
    }
    done.with_context(|| last)
}
