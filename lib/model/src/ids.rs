//! Ids. Each noun has its own type, so that a node's uuid can't be passed where an instance's is wanted.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// Why a text is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not {what}")]
pub struct IdError {
    /// What was given.
    pub text: String,
    /// What was expected, with its article.
    pub what: &'static str,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The first eight hex digits: enough for people, never for comparison.
            #[must_use]
            pub fn short(&self) -> String {
                self.0.simple().to_string()[..8].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Uuid::try_parse(text)
                    .map(Self)
                    .map_err(|_| IdError { text: text.to_owned(), what: $what })
            }
        }
    };
}

uuid_id!(
    /// A cluster.
    ClusterUuid, "a cluster uuid"
);
uuid_id!(
    /// A node (one machine, or one virtual node on a shared machine).
    NodeUuid, "a node uuid"
);
uuid_id!(
    /// A node group.
    GroupUuid, "a node group uuid"
);
uuid_id!(
    /// An instance; for a pool's slot also the slot's uuid.
    InstanceUuid, "an instance uuid"
);
uuid_id!(
    /// A lease, made by who asks for it, before it is asked for.
    LeaseUuid, "a lease uuid"
);

uuid_id!(
    /// A blueprint.
    BlueprintUuid, "a blueprint uuid"
);
uuid_id!(
    /// A pool.
    PoolUuid, "a pool uuid"
);

/// A task's number: positive, rising, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(pub u64);

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for TaskId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        match text.parse() {
            Ok(number) if number > 0 => Ok(Self(number)),
            _ => Err(IdError { text: text.to_owned(), what: "a task id" }),
        }
    }
}

/// A job's number: positive, rising, never used twice (`spec/jobs.md` §1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for JobId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        match text.parse() {
            Ok(number) if number > 0 => Ok(Self(number)),
            _ => Err(IdError { text: text.to_owned(), what: "a job id" }),
        }
    }
}

/// The number of one start of a job: (epoch, run of luxid, counter), never used twice (P4.1).
/// Written `E-R-C` in paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StartNo {
    /// The epoch of the master that started it.
    pub epoch: u64,
    /// The run of that master's luxid.
    pub run: u64,
    /// Counts the starts of that run.
    pub counter: u64,
}

impl fmt::Display for StartNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.epoch, self.run, self.counter)
    }
}

impl FromStr for StartNo {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let bad = || IdError { text: text.to_owned(), what: "a start number (E-R-C)" };
        let mut parts = text.split('-').map(|part| part.parse::<u64>().map_err(|_| bad()));
        let mut next = || parts.next().unwrap_or_else(|| Err(bad()));
        let start = Self { epoch: next()?, run: next()?, counter: next()? };
        if parts.next().is_some() { Err(bad()) } else { Ok(start) }
    }
}

/// Who owns job locks: one start of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobOwner {
    /// The job.
    pub job: JobId,
    /// Its start.
    pub start: StartNo,
}

impl fmt::Display for JobOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.job, self.start)
    }
}

impl FromStr for JobOwner {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let (job, start) = text
            .split_once('.')
            .ok_or_else(|| IdError { text: text.to_owned(), what: "a job owner (ID.E-R-C)" })?;
        Ok(Self { job: job.parse()?, start: start.parse()? })
    }
}

/// Generation of a slot: only rises; 0 = nothing ever lived there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A master's claim to be the master: the epoch and the ballot it was won with (P1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fence {
    /// The epoch.
    pub epoch: u64,
    /// 128 random bits, drawn per attempt.
    pub ballot: [u8; 16],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_read_back_as_written() {
        let owner = JobOwner { job: JobId(7), start: StartNo { epoch: 1, run: 2, counter: 3 } };
        assert_eq!(owner.to_string(), "7.1-2-3");
        assert_eq!("7.1-2-3".parse(), Ok(owner));
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in ["", "7", "7.1-2", "7.1-2-3-4", "0.1-2-3", "-1.1-2-3", "7.a-2-3"] {
            assert!(text.parse::<JobOwner>().is_err(), "{text}");
        }
        assert!("0".parse::<JobId>().is_err());
    }
}
