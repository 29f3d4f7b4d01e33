//! Verbs of every daemon's admin socket, `admin/NAME.sock`.

use crate::verbs;
use serde::{Deserialize, Serialize};

/// Protocol name in the hello.
pub const PROTOCOL: &str = "admin";

verbs! {
    /// Is it ready?
    1 Health(()) as HealthReply;
    /// All metrics as OpenMetrics text.
    2 Metrics(()) as String;
    /// Sets the log filter (`info,gantry_luxid=debug`); root only.
    3 LogLevel(String) as ();
}

/// See [`Health`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReply {
    /// Daemon name.
    pub name: String,
    /// Whether it serves.
    pub ready: bool,
    /// What it waits for, if it does not.
    pub why: String,
    /// Release.
    pub release: String,
    /// Pid.
    pub pid: u32,
    /// Milliseconds since it began.
    pub uptime_ms: u64,
}
