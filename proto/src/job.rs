//! Verbs of a job process (P4), which it serves on its own socket; luxid is the only caller.
//! Before them, on the socketpair that is the job's stdin, the job writes two lines of JSON: [`Born`], with a pidfd of its own in the
//! same message, and [`Ready`].

use crate::codec::Json;
use crate::verbs;
use gantry_model::ids::{ClusterUuid, Fence, JobOwner, NodeUuid};
use gantry_model::job::Report;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Protocol name in the hello.
pub const PROTOCOL: &str = "job";

verbs! {
    /// Begin (P4.2): sent once `running` is durable. Items are reports; the reply follows when the outcome was
    /// confirmed and the job is about to exit. Repeated by a luxid that restarted it attaches instead.
    1 Go(GoRequest) => Json<Report> as ();
    /// Attach after a restart of luxid: the current report at once, then as [`Go`]. Fails with `NotReady` when the job
    /// has not been told to go.
    2 Attach(JobOwner) => Json<Report> as ();
    /// luxid has durably stored the report of this number: entries up to it need not be sent again.
    3 Confirm(ConfirmRequest) as ();
    /// Cancel: withdraw from lock waits, stop before the next opcode, interrupt what can be interrupted.
    4 Cancel(()) as ();
    /// Change the priority of the unfinished opcodes.
    5 SetPriority(i32) as ();
    /// Alive?
    6 Ping(()) as JobOwner;
}

/// The first line a job writes on its stdin socketpair, before it does anything else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Born {
    /// Pid of the process; the descriptor that comes with this line is of the same.
    pub born: u32,
}

/// The line a job writes on its stdin socketpair once its socket listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Pid of the process that listens.
    pub pid: u32,
}

/// See [`Go`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoRequest {
    /// Job and start; must be the job's own.
    pub owner: JobOwner,
    /// The cluster.
    pub cluster: ClusterUuid,
    /// The master node.
    pub master: NodeUuid,
    /// Epoch and ballot for the nodes.
    pub fence: Fence,
    /// What to do: one entry per opcode.
    pub ops: Json<Vec<GoOp>>,
    /// Next log serial.
    pub next_serial: u64,
}

/// One opcode to execute. Finished ones are sent too, so that indexes stay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GoOp {
    /// The opcode with its secrets put back.
    pub input: Map<String, Value>,
    /// Current priority.
    pub priority: i32,
    /// The word it stands at; `queued` for what is to be done.
    pub status: gantry_model::job::Status,
    /// Result of a finished one.
    #[serde(default)]
    pub result: Value,
}

/// See [`Confirm`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfirmRequest {
    /// Number of the report that is stored.
    pub number: u64,
    /// Highest log serial stored.
    pub log_serial: u64,
}
