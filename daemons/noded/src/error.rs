//! How failures look to callers. One place, so that a class of failure always has the same code and body.
//!
//! | code | when | body |
//! |---|---|---|
//! | `Fenced` | (epoch, ballot) is older than the node's, or a rival's: the caller must end | `codec` of `Option<Fence>`: the node's |
//! | `NotReady` | a newer epoch that has not claimed the node yet | the same |
//! | `Stale` | generation, floor, state or lease forbid it | `codec` of the slot's `SlotFacts` |
//! | `Busy` | a bound here, a locked VM, or no room on the node | class of the driver's error, if one |
//! | `BadRequest` | the request is wrong in itself, or the image | class of the driver's error, if one |
//! | `Unknown` | the driver's time limit passed: ask again | `timeout` |
//! | `NotFound`, `Internal` | the VM is lost; the driver failed | class of the driver's error |
//! | `NotReady` | the node is unjoined, leaving, stopping | empty |
//! | `Denied` | another cluster or node; what a master may not ask | empty |

use crate::core::fence::FenceError;
use crate::core::join::{TRIES_MAX, TRIES_MS};
use crate::core::slot::Refusal;
use crate::core::ssconf::SsconfError;
use crate::driver::{Class, DriverError};
use crate::io::data::DataError;
use crate::io::files::FileError;
use gantry_proto::codec;
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::noded::SlotFacts;

/// The caller is not this node's master; only one that is out of date is told to end.
#[must_use]
pub fn fenced(error: &FenceError) -> Fail {
    let code = match error {
        FenceError::Old { .. } => Code::Fenced,
        FenceError::Unclaimed { .. } => Code::NotReady,
    };
    let body = codec::encode(&error.current()).unwrap_or_default();
    Fail { code, text: error.to_string(), body }
}

/// The slot's record forbids it.
#[must_use]
pub fn refused(refusal: &Refusal, facts: &SlotFacts) -> Fail {
    let code = match refusal {
        Refusal::Zero => Code::BadRequest,
        Refusal::BelowFloor { .. }
        | Refusal::Used { .. }
        | Refusal::Occupied { .. }
        | Refusal::NotCurrent { .. }
        | Refusal::NotLive { .. }
        | Refusal::Held { .. }
        | Refusal::Over { .. }
        | Refusal::NotOpened { .. }
        | Refusal::Settled { .. }
        | Refusal::WornOut { .. } => Code::Stale,
    };
    let body = codec::encode(facts).unwrap_or_default();
    Fail { code, text: format!("slot {}: {refusal}", facts.slot), body }
}

/// The driver failed.
#[must_use]
pub fn driver(error: &DriverError) -> Fail {
    let code = match error.class {
        Class::BadImage | Class::Refused => Code::BadRequest,
        Class::NoSpace | Class::Locked => Code::Busy,
        Class::Timeout => Code::Unknown,
        Class::NotFound | Class::Lost => Code::NotFound,
        Class::Exists | Class::Running | Class::NotRunning => Code::Internal,
    };
    Fail { code, text: error.to_string(), body: error.class.name().as_bytes().to_vec() }
}

/// The records can't be written: the daemon is about to end.
#[must_use]
pub fn data(error: &DataError) -> Fail {
    Fail::new(Code::Internal, format!("{error}; gantry-noded ends, look at its log"))
}

/// A file can't be written.
#[must_use]
pub fn file(error: &FileError) -> Fail {
    Fail::new(Code::Internal, format!("{error}: {}", error.source))
}

/// Bad ssconf values.
#[must_use]
pub fn ssconf(error: &SsconfError) -> Fail {
    Fail::new(Code::BadRequest, error.to_string())
}

/// Too many wrong join proofs.
#[must_use]
pub fn too_many_tries(wait_ms: u64) -> Fail {
    let text = format!(
        "{TRIES_MAX} wrong proofs within {} s: try again in {} s",
        TRIES_MS / 1000,
        wait_ms.div_ceil(1000)
    );
    Fail::new(Code::Busy, text)
}

/// The task that carried the verb is gone, in practice because the daemon ends.
#[must_use]
pub fn stopping() -> Fail {
    Fail::new(Code::NotReady, "this noded is stopping: ask again")
}
