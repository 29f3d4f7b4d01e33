//! Why the lock table refuses a request. A refused request changes nothing.

use super::name::LockName;
use super::request::LOCKS_PER_REQUEST_MAX;
use super::rule::HELD_PER_OWNER_MAX;

/// A request that is wrong, as opposed to one that has to wait.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    /// One request asks for one lock in two ways.
    #[error("inconsistent requests for lock {lock}")]
    Inconsistent {
        /// The lock.
        lock: LockName,
    },
    /// The request names more locks than allowed.
    #[error("{count} locks in one request, at most {LOCKS_PER_REQUEST_MAX} are allowed")]
    TooMany {
        /// How many were named.
        count: usize,
    },
    /// The owner would hold too many locks.
    #[error("{count} locks for one owner, at most {HELD_PER_OWNER_MAX} are allowed")]
    TooManyHeld {
        /// How many it would hold.
        count: usize,
    },
    /// A lock below one already held was asked for.
    #[error("order violation: requesting {lock} while holding {highest}")]
    Order {
        /// The lock asked for.
        lock: LockName,
        /// The highest lock held.
        highest: LockName,
    },
    /// A member was asked for exclusively under a shared group lock.
    #[error("order violation: requesting {lock} exclusively while sharing its group lock {group}")]
    GroupShared {
        /// The lock asked for.
        lock: LockName,
        /// Its group lock.
        group: LockName,
    },
    /// A shared lock was to become exclusive and the request is not free: waiting could last for ever.
    #[error("making {lock} exclusive would have to wait: release it first")]
    UpgradeWaits {
        /// The lock held shared.
        lock: LockName,
    },
    /// The owner has another request pending.
    #[error("the owner's earlier request is still pending")]
    RequestPending,
    /// The locks to restore exclude each other.
    #[error("lock {lock} is held in conflict with another holder")]
    Conflict {
        /// The first lock that did not fit.
        lock: LockName,
    },
}
