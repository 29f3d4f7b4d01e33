//! The owner's part that deals with job locks: who waits, who is told what blocks him.

use super::mailbox::{Reply, Ticket};
use super::owner::{Blocked, Owner};
use crate::core::locks::{Answer, LockError, LockName, LockTable, Mode, Outcome, Step, Want};
use gantry_model::error::GanetiError;
use gantry_model::ids::JobOwner;
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::wconfd::{self as wire, FreeScope, LockBlocked};
use gantry_store::{LocalChange, LocalRow};
use std::collections::BTreeSet;

/// A request that waits.
pub(super) struct Waiter {
    pub ticket: Ticket,
    reply: Reply<()>,
    blocked: Blocked,
}

/// What is asked of the lock table.
pub struct Request {
    /// Who.
    pub owner: JobOwner,
    /// Lower is more urgent.
    pub priority: i32,
    /// Which locks, and how.
    pub wants: Vec<(LockName, Want)>,
}

/// A stored row that is no job lock.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Key or body is not what is written there.
    #[error("the stored job lock '{key}' can't be read")]
    Row {
        /// Its key.
        key: String,
    },
    /// The locks exclude each other.
    #[error("the stored job locks contradict each other")]
    Table(#[from] LockError),
}

/// The lock table as it was written. Nobody waits in it.
///
/// # Errors
/// When rows can't be read or exclude each other, which is a bug of an earlier process.
pub fn restore(rows: &[LocalRow]) -> Result<LockTable<JobOwner>, RestoreError> {
    let held = rows.iter().map(|row| {
        let bad = || RestoreError::Row { key: row.key.clone() };
        let (owner, lock) = row.key.split_once(' ').ok_or_else(bad)?;
        let mode: Mode = serde_json::from_slice(&row.body).map_err(|_| bad())?;
        Ok((owner.parse().map_err(|_| bad())?, lock.parse().map_err(|_| bad())?, mode))
    });
    let held: Vec<_> = held.collect::<Result<_, RestoreError>>()?;
    Ok(LockTable::restore(held)?)
}

fn lock_fail(error: &LockError) -> Fail {
    GanetiError::new("LockError", error.to_string()).into()
}

impl Owner {
    /// Takes, changes or gives back locks. Who is blocked waits, and is shown by whom.
    pub fn lock(&mut self, request: Request, ticket: Ticket, blocked: Blocked, reply: Reply<()>) {
        if reply.is_closed() {
            // Its wait was dropped before it began.
            return;
        }
        let owner = request.owner;
        match self.try_lock(request) {
            Err(fail) => self.answer(reply, Err(fail)),
            Ok(Answer { outcome, step }) => {
                self.carry_out(step);
                match outcome {
                    Outcome::Granted => self.answer(reply, Ok(())),
                    Outcome::Blocked(_) => self.wait(owner, Waiter { ticket, reply, blocked }),
                }
            }
        }
    }

    fn try_lock(&mut self, request: Request) -> Result<Answer<JobOwner>, Fail> {
        self.has_room()?;
        self.has_room_for_locks()?;
        let Request { owner, priority, wants } = request;
        self.lives(owner)?;
        self.locks.update_waiting(&owner, priority, wants).map_err(|error| lock_fail(&error))
    }

    /// A repeated request takes the place of the earlier one.
    fn wait(&mut self, owner: JobOwner, waiter: Waiter) {
        self.blockers_moved = true;
        if let Some(earlier) = self.waiters.insert(owner, waiter) {
            let fail = Fail::new(Code::Stale, "the job asked for the same locks again on another call");
            self.answer(earlier.reply, Err(fail));
        }
    }

    /// Gives locks back.
    pub fn free(&mut self, owner: JobOwner, scope: FreeScope, reply: Reply<()>) {
        let done = self.try_free(owner, scope);
        self.answer(reply, done);
    }

    fn try_free(&mut self, owner: JobOwner, scope: FreeScope) -> Result<(), Fail> {
        let bad = |error: &dyn std::error::Error| Fail::new(Code::BadRequest, error.to_string());
        let step = match scope {
            FreeScope::All => self.locks.free_all(&owner),
            FreeScope::Level(level) => {
                let level = level.parse().map_err(|error| bad(&error))?;
                self.locks.free_level(&owner, level)
            }
            FreeScope::Keep(names) => {
                let names = names.iter().map(|name| name.parse()).collect::<Result<BTreeSet<LockName>, _>>();
                self.locks.keep_only(&owner, &names.map_err(|error| bad(&error))?)
            }
        };
        self.end_wait(owner, "the job gave its locks back");
        self.carry_out(step);
        Ok(())
    }

    /// Takes everything from an owner.
    pub(super) fn free_all(&mut self, owner: JobOwner, why: &str) {
        let step = self.locks.free_all(&owner);
        self.end_wait(owner, why);
        self.carry_out(step);
    }

    fn end_wait(&mut self, owner: JobOwner, why: &str) {
        if let Some(waiter) = self.waiters.remove(&owner) {
            self.answer(waiter.reply, Err(Fail::new(Code::Stale, why)));
        }
    }

    /// Changes the urgency of a waiting request.
    pub fn priority(&mut self, owner: JobOwner, priority: i32, reply: Reply<()>) {
        self.locks.set_priority(&owner, priority);
        self.answer(reply, Ok(()));
    }

    /// All locks held or waited for.
    pub fn rows(&mut self, reply: Reply<Vec<wire::LockRow>>) {
        let rows = self.locks.rows().into_iter().map(|row| wire::LockRow {
            name: row.name.to_string(),
            mode: row.mode.map(wanted),
            owners: row.owners,
            pending: row.pending.into_iter().map(|waiter| (wanted(waiter.mode), waiter.owner)).collect(),
        });
        let rows = rows.collect();
        self.answer(reply, Ok(rows));
    }

    /// Whether the job holds the big lock alone, and lives.
    pub fn holds_bgl(&mut self, owner: JobOwner, reply: Reply<()>) {
        let big = LockName::bgl();
        let holds = self.locks.held(&owner).any(|(lock, mode)| *lock == big && mode == Mode::Exclusive);
        let told = self.lives(owner).and_then(|()| {
            let text = format!("job {} does not hold lock {big} exclusively", owner.job);
            if holds { Ok(()) } else { Err(GanetiError::new("LockError", text).into()) }
        });
        self.answer(reply, told);
    }

    /// Writes what a step changed, then answers those it granted.
    fn carry_out(&mut self, step: Step<JobOwner>) {
        let Step { granted, held } = step;
        self.blockers_moved |= !held.is_empty();
        let changes = held.iter().map(|change| LocalChange {
            key: format!("{} {}", change.owner, change.lock),
            body: change.mode.map(|mode| serde_json::to_vec(&mode).expect("a mode is a word")),
        });
        self.store_local(changes.collect());
        for owner in granted {
            if let Some(waiter) = self.waiters.remove(&owner) {
                self.answer(waiter.reply, Ok(()));
            }
        }
    }

    /// Shows all who wait who blocks them, where that has changed.
    pub(super) fn tell_blockers(&mut self) {
        if !std::mem::take(&mut self.blockers_moved) {
            return;
        }
        for (owner, waiter) in &self.waiters {
            let now = blocked(&self.locks, owner);
            waiter.blocked.send_if_modified(|shown| {
                let changed = *shown != now;
                if changed {
                    shown.clone_from(&now);
                }
                changed
            });
        }
    }
}

/// Owners named in the text; the list beside it has all.
const NAMED_MAX: usize = 5;

fn blocked(locks: &LockTable<JobOwner>, owner: &JobOwner) -> Option<LockBlocked> {
    let pending = locks.pending(owner)?;
    let by: Vec<_> = locks.blockers(owner).into_iter().collect();
    let jobs: Vec<_> = by.iter().take(NAMED_MAX).map(|owner| owner.job.to_string()).collect();
    let noun = if by.len() == 1 { "job" } else { "jobs" };
    let more = by.len().saturating_sub(NAMED_MAX);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    let text = format!("{} held by {noun} {}{rest}", pending.wanted, jobs.join(", "));
    Some(LockBlocked { by, text })
}

fn wanted(mode: Mode) -> wire::Want {
    match mode {
        Mode::Shared => wire::Want::Shared,
        Mode::Exclusive => wire::Want::Exclusive,
    }
}
