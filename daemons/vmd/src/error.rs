//! How failures look to noded: a code, and the driver's error class as body.

use gantry_proto::envelope::{Code, Fail};

/// Classes, as drivers name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// No such VM or command.
    NotFound,
    /// There already.
    Exists,
    /// It runs.
    Running,
    /// It does not run.
    NotRunning,
    /// Later, perhaps.
    Locked,
    /// Out of something.
    NoSpace,
    /// The image is not usable.
    BadImage,
    /// Took too long.
    Timeout,
    /// Gone.
    Lost,
    /// Not what this VM allows.
    Refused,
}

impl Class {
    fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::Exists => "exists",
            Self::Running => "running",
            Self::NotRunning => "not-running",
            Self::Locked => "locked",
            Self::NoSpace => "no-space",
            Self::BadImage => "bad-image",
            Self::Timeout => "timeout",
            Self::Lost => "lost",
            Self::Refused => "refused",
        }
    }

    fn code(self) -> Code {
        match self {
            Self::NotFound => Code::NotFound,
            Self::Exists | Self::Running | Self::NotRunning => Code::Stale,
            Self::Locked | Self::NoSpace => Code::Busy,
            Self::BadImage | Self::Refused => Code::BadRequest,
            Self::Timeout => Code::Unknown,
            Self::Lost => Code::Internal,
        }
    }
}

/// A failure of `class`.
pub fn fail(class: Class, text: impl Into<String>) -> Fail {
    Fail { code: class.code(), text: text.into(), body: class.name().as_bytes().to_vec() }
}

/// The machine failed at `what`.
pub fn io(what: &str, error: &std::io::Error) -> Fail {
    let class = match error.kind() {
        std::io::ErrorKind::StorageFull
        | std::io::ErrorKind::QuotaExceeded
        | std::io::ErrorKind::OutOfMemory => Class::NoSpace,
        std::io::ErrorKind::TimedOut => Class::Timeout,
        _ => Class::Locked,
    };
    fail(class, format!("can't {what}: {error}"))
}
