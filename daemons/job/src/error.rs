//! How things end badly: an opcode, and the process itself.

use gantry_model::error::{Ecode, GanetiError};
use gantry_proto::envelope::{Code, Fail};
use gantry_rpc::CallError;
use std::io;

/// How an opcode ends, if not well.
#[derive(Debug)]
pub enum OpFail {
    /// In error.
    Error(GanetiError),
    /// By request, before it began to work.
    Canceled,
    /// The cluster has another master: nothing this process does counts any more (P4.10).
    Fenced(String),
}

impl OpFail {
    /// `OpExecError`.
    pub fn exec(text: impl Into<String>) -> Self {
        Self::Error(GanetiError::exec(text))
    }

    /// `OpPrereqError`.
    pub fn prereq(text: impl Into<String>, ecode: Ecode) -> Self {
        Self::Error(GanetiError::prereq(text, ecode))
    }
}

/// What a failed call means for the opcode.
pub fn failed(why: CallError) -> OpFail {
    match why {
        CallError::Fail(fail) => refused(fail),
        other => OpFail::exec(other.to_string()),
    }
}

fn refused(fail: Fail) -> OpFail {
    match (fail.code, fail.as_ganeti()) {
        (Code::Fenced, _) => OpFail::Fenced(fail.text),
        (_, Some(error)) => OpFail::Error(error),
        _ => OpFail::exec(fail.text),
    }
}

/// Why a job process left without doing its work. The job itself is luxid's to end or start again.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Not started by luxid.
    #[error("stdin is no socket: gantry-job is started by gantry-luxid only")]
    Stdin(#[source] io::Error),
    /// The job's socket.
    #[error("can't listen on {path}: {source}")]
    Bind {
        /// The path.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The spool file.
    #[error("can't write the spool file: {0}")]
    Spool(#[source] io::Error),
    /// luxid left before go.
    #[error("luxid is gone before it said go: nothing was done")]
    NeverBegan,
    /// Another master rules.
    #[error("the cluster has another master now ({0}): this job ends without a word")]
    Fenced(String),
}
