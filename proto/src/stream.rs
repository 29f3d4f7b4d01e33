//! Verbs of LuxiD's `stream.sock`: what LUXI cannot carry (DESIGN §4). Callers: our CLI, rapid and overseer. One request
//! and one answer stays LUXI.
//!
//! Errors for users travel as [`Code::Ganeti`](crate::envelope::Code::Ganeti), as LUXI would say them.

use crate::noded::{Bytes, CommandEnd, OutputPiece, PieceReply, Stream};
use crate::verbs;
use gantry_model::ids::{LeaseUuid, TaskId};
use serde::{Deserialize, Serialize};

/// Protocol name in the hello.
pub const PROTOCOL: &str = "stream";

verbs! {
    /// A piece of a body. Durable when the reply says done. A body that is there already is done at once. Repeated pieces
    /// are known by their offset.
    1 BlobPut(BlobPutRequest) as PieceReply;
    /// A body, from an offset on.
    2 BlobGet(BlobGetRequest) => Bytes as ();
    /// Output of a task's steps, live or stored, from a place on. With `follow` it ends when the task is final; else with
    /// what is there.
    3 TaskLog(TaskLogRequest) => TaskLogPiece as TaskLogEnd;
    /// Runs a command in a VM of a lease; items are its output. The first command opens the VM. Closing the stream leaves
    /// the command running; asking again with its name attaches.
    4 LeaseExec(LeaseExecRequest) => OutputPiece as CommandEnd;
    /// Signals a command of a lease.
    5 LeaseSignal(LeaseSignalRequest) as ();
    /// A piece of a tar archive that is unpacked in the home of a lease's VM.
    6 LeasePut(LeasePutRequest) as PieceReply;
    /// Files of a lease's VM as a tar archive.
    7 LeaseGet(LeaseGetRequest) => Bytes as LeaseGetReply;
    /// What changes from now on, for ever: objects of these kinds. A watcher that is too slow is told
    /// [`StreamEvent::Lost`] and looks anew.
    8 Watch(WatchRequest) => StreamEvent as ();
}

/// See [`BlobPut`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobPutRequest {
    /// SHA-256 of the whole, lower-case hex.
    pub digest: String,
    /// Size of the whole, bytes.
    pub total: u64,
    /// Where the piece begins.
    pub offset: u64,
    /// At most [`crate::noded::PIECE_BYTES_MAX`]; may be empty to ask how far it is.
    #[serde(with = "crate::codec::raw")]
    pub bytes: Vec<u8>,
}

/// See [`BlobGet`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobGetRequest {
    /// Which.
    pub digest: String,
    /// First byte wanted.
    pub offset: u64,
}

/// A place in a task's output: that of one step of one attempt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPlace {
    /// From 1; 0 = the newest.
    pub attempt: u32,
    /// 0 = compile, execute steps from 1.
    pub step: u32,
    /// First byte of standard output wanted.
    pub out: u64,
    /// First byte of standard error wanted.
    pub err: u64,
}

/// See [`TaskLog`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskLogRequest {
    /// Which.
    pub task: TaskId,
    /// Where to begin.
    pub from: LogPlace,
    /// Go on as it grows.
    pub follow: bool,
}

/// See [`TaskLog`]. One without bytes tells a follower why nothing comes: the reason stands in place of the step's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskLogPiece {
    /// The attempt.
    pub attempt: u32,
    /// The step, as in [`LogPlace`].
    pub step: u32,
    /// The step's name.
    pub name: String,
    /// Of which stream.
    pub stream: Stream,
    /// Where it begins.
    pub offset: u64,
    /// The bytes.
    #[serde(with = "crate::codec::raw")]
    pub bytes: Vec<u8>,
}

/// See [`TaskLog`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskLogEnd {
    /// Number of the task's state.
    pub state: u8,
    /// Why it waits or ended.
    pub why: String,
}

/// See [`LeaseExec`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseExecRequest {
    /// The lease.
    pub lease: LeaseUuid,
    /// Which of its VMs, from 0.
    pub vm: u32,
    /// Names the command within the lease: letters, digits, `.`, `_`, `-`, at most 64.
    pub exec: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Added to PATH, HOME and LANG.
    pub env: Vec<(String, String)>,
    /// Working directory; None = the home.
    pub cwd: Option<String>,
    /// Standard input; empty = /dev/null.
    #[serde(with = "crate::codec::raw")]
    pub stdin: Vec<u8>,
    /// Most bytes kept of each stream.
    pub output_bytes_max: u64,
    /// Wall clock, ms.
    pub wall_ms: u64,
    /// CPU time, ms.
    pub cpu_ms: u64,
    /// First bytes of both streams wanted, when attaching.
    pub out: u64,
    /// See `out`.
    pub err: u64,
}

/// See [`LeaseSignal`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseSignalRequest {
    /// The lease.
    pub lease: LeaseUuid,
    /// Which of its VMs.
    pub vm: u32,
    /// The command.
    pub exec: String,
    /// The signal's number; 0 = end it as cancelled.
    pub signal: i32,
}

/// See [`LeasePut`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeasePutRequest {
    /// The lease.
    pub lease: LeaseUuid,
    /// Which of its VMs.
    pub vm: u32,
    /// Names this upload within the lease, formed as `exec`.
    pub upload: String,
    /// Directory below the home; empty = the home.
    pub path: String,
    /// Where the piece begins.
    pub offset: u64,
    /// At most [`crate::noded::PIECE_BYTES_MAX`].
    #[serde(with = "crate::codec::raw")]
    pub bytes: Vec<u8>,
    /// Nothing follows.
    pub last: bool,
}

/// See [`LeaseGet`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseGetRequest {
    /// The lease.
    pub lease: LeaseUuid,
    /// Which of its VMs.
    pub vm: u32,
    /// A directory or a file below the home.
    pub path: String,
    /// Most bytes of files.
    pub bytes_max: u64,
}

/// See [`LeaseGet`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseGetReply {
    /// How many files the archive has.
    pub files: u64,
    /// Entries left out.
    pub refused: u64,
}

/// See [`Watch`]. Kinds: those of the configuration, `task`, `lease`, `request`, `job`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchRequest {
    /// Which kinds.
    pub kinds: Vec<String>,
}

/// See [`Watch`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamEvent {
    /// The watch stands: everything from here on is told.
    Begun,
    /// An object changed.
    Changed {
        /// Its kind.
        kind: String,
        /// Its key.
        key: String,
        /// Where it stands, in a word: a slot's or lease's state, a task's state; empty when it has none or is gone.
        state: String,
    },
    /// Changes were left out: look at everything anew.
    Lost,
}
