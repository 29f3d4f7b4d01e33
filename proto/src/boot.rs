//! Verbs of Boot, on `boot.sock`. Callers: the CLI (init, destroy, daemon control).

use crate::verbs;
use serde::{Deserialize, Serialize};

/// Protocol name in the hello.
pub const PROTOCOL: &str = "boot";

verbs! {
    /// What runs here.
    1 Status(()) as Vec<DaemonStatus>;
    /// Starts daemons that the role wants and that are held or stopped; empty = all. Answered when they are ready.
    2 Start(Vec<String>) as ();
    /// Stops daemons and keeps them stopped until [`Start`]; empty = all, in reverse order. Answered when they are gone.
    3 Stop(Vec<String>) as ();
    /// Stops everything, then boot itself.
    4 Shutdown(()) as ();
    /// Suspends restarts of daemons without stopping them; empty = all.
    5 Hold(Vec<String>) as ();
}

/// State of one daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DaemonState {
    /// Not wanted by the role.
    Off,
    /// Stopped by command.
    Stopped,
    /// Starting: health not answered yet.
    Starting,
    /// Ready.
    Ready,
    /// Died; waits before the next start.
    Waiting,
}

/// See [`Status`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// Name, such as `luxid`.
    pub name: String,
    /// State.
    pub state: DaemonState,
    /// Whether restarts are suspended.
    pub held: bool,
    /// Pid while it runs.
    pub pid: Option<u32>,
    /// Starts since boot began.
    pub starts: u64,
    /// Why it is not ready, for people.
    pub why: String,
}
