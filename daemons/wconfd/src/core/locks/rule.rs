//! The rules a request must keep whoever else holds what (`spec/locks.md` §3). They look at the locks of
//! its owner only, so what kept them keeps them while it waits.

use super::error::LockError;
use super::name::LockName;
use super::request::{Mode, Wants};
use std::collections::BTreeMap;

/// Most locks one owner may hold: every one of 50,000 instances twice over. A bound on what one
/// mistaken job can make wconfd remember.
pub const HELD_PER_OWNER_MAX: usize = 100_000;

/// Whether the owner of `held` (not empty) may ask for `wants`.
///
/// # Errors
/// The first rule that a wish breaks.
pub(super) fn verify(held: &BTreeMap<LockName, Mode>, wants: &Wants) -> Result<(), LockError> {
    let count = held.len() + wants.as_slice().len();
    if count > HELD_PER_OWNER_MAX {
        return Err(LockError::TooManyHeld { count });
    }
    let highest = held.last_key_value().map(|(lock, _)| lock);
    wants.acquisitions().try_for_each(|(lock, mode)| verify_one(held, highest, lock, mode))
}

/// The first lock that is held shared and wanted exclusively.
pub(super) fn upgrade<'a>(held: &BTreeMap<LockName, Mode>, wants: &'a Wants) -> Option<&'a LockName> {
    let shared = |lock: &LockName| held.get(lock) == Some(&Mode::Shared);
    wants.acquisitions().find(|(lock, mode)| *mode == Mode::Exclusive && shared(lock)).map(|(lock, _)| lock)
}

/// The rules for one wish of an owner that holds something.
fn verify_one(
    held: &BTreeMap<LockName, Mode>,
    highest: Option<&LockName>,
    lock: &LockName,
    mode: Mode,
) -> Result<(), LockError> {
    let own_mode = held.get(lock).copied();
    if own_mode == Some(mode) {
        // Repeating is fine. Without this, a request granted a moment ago for a shared group lock and
        // one of its members exclusively would be refused when asked again.
        return Ok(());
    }
    let group = lock.group();
    let group_mode = group.as_ref().and_then(|group| held.get(group)).copied();
    if let (Some(group), Mode::Exclusive, Some(Mode::Shared)) = (group, mode, group_mode) {
        return Err(LockError::GroupShared { lock: lock.clone(), group });
    }
    let covered = own_mode.max(group_mode) >= Some(mode);
    match highest {
        Some(highest) if lock < highest && !covered => {
            Err(LockError::Order { lock: lock.clone(), highest: highest.clone() })
        }
        Some(_) | None => Ok(()),
    }
}
