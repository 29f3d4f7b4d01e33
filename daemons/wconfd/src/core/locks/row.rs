//! What the `lock` query shows: a row for each lock held or waited for, and for the group lock it
//! belongs to (`spec/query.md` §5, Lock).

use super::name::LockName;
use super::request::Mode;
use super::table::LockTable;
use std::collections::BTreeMap;

/// One lock as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockRow<O> {
    /// The lock.
    pub name: LockName,
    /// How it is held; none when nobody holds it itself.
    pub mode: Option<Mode>,
    /// Who holds it, in the order of owners.
    pub owners: Vec<O>,
    /// Who waits with a request that asks for it, the most urgent first.
    pub pending: Vec<LockWaiter<O>>,
}

/// One owner that waits with a request that asks for a lock. Another lock of the request may be what
/// it waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockWaiter<O> {
    /// How it wants the lock.
    pub mode: Mode,
    /// Who.
    pub owner: O,
}

impl<O> LockRow<O> {
    fn empty(name: LockName) -> Self {
        Self { name, mode: None, owners: Vec::new(), pending: Vec::new() }
    }
}

impl<O: Ord + Clone> LockTable<O> {
    /// All rows, in lock order. Costs as much as there are held and wanted locks.
    #[must_use]
    pub fn rows(&self) -> Vec<LockRow<O>> {
        let mut rows = BTreeMap::new();
        for (lock, holders) in self.held.locks() {
            let row = row_of(&mut rows, lock);
            row.mode = holders.values().next().copied();
            row.owners = holders.keys().cloned().collect();
        }
        let mut waiting: Vec<_> = self.waiting.iter().collect();
        waiting.sort_by_key(|(owner, pending)| (pending.priority, *owner));
        for (owner, pending) in waiting {
            for (lock, mode) in pending.wants.acquisitions() {
                let waiter = LockWaiter { mode, owner: owner.clone() };
                row_of(&mut rows, lock).pending.push(waiter);
            }
        }
        rows.into_values().collect()
    }
}

/// The row of `lock`, made if need be, together with that of its group lock.
fn row_of<'a, O>(rows: &'a mut BTreeMap<LockName, LockRow<O>>, lock: &LockName) -> &'a mut LockRow<O> {
    if let Some(group) = lock.group() {
        rows.entry(group.clone()).or_insert_with(|| LockRow::empty(group));
    }
    rows.entry(lock.clone()).or_insert_with(|| LockRow::empty(lock.clone()))
}
