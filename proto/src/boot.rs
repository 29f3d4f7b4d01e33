//! Verbs of Boot, on `boot.sock`. Callers: the CLI (init, destroy, failover, daemon control).

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
    /// Makes this node the master (P1.8): runs the ballot as a child process and, when it is won, waits until the master's
    /// daemons are ready. Items are its lines. Closing the connection ends a look at the other nodes, never a ballot.
    6 Failover(FailoverRequest) => FailoverLine as FailoverReply;
}

/// See [`Failover`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverRequest {
    /// Only look; promise nothing, change nothing.
    pub look: bool,
    /// Without the others' word: a new history that goes on with what lies here (P1.12).
    pub no_voting: bool,
    /// Nodes marked offline are not asked.
    pub ignore_offline: bool,
    /// How long candidates that do not answer are waited for; None: the elector's own bound.
    pub patience_ms: Option<u32>,
}

/// See [`Failover`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverLine {
    /// For people.
    pub text: String,
}

/// See [`Failover`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverReply {
    /// The epoch won; None after a look.
    pub epoch: Option<u64>,
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
