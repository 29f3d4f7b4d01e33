//! What every daemon does the same way: logs, signals, named tasks, the admin socket, clocks, small files.
//!
//! ```no_run
//! use gantry_model::root::Root;
//! fn main() -> std::process::ExitCode {
//!     gantry_rt::run("exampled", Root::new("/"), |daemon| async move {
//!         daemon.tasks.spawn("tick", async { anyhow::Ok(()) });
//!         daemon.ready.set(true, "");
//!         daemon.stop.cancelled().await;
//!         Ok(())
//!     })
//! }
//! ```
//!
//! Daemons are crash-only: a task that fails stops the process, and boot starts it anew.

mod admin;
pub mod clock;
pub use gantry_crash as crash;
mod daemon;
pub mod files;
mod logs;
pub mod node_toml;
mod ready;
mod role_file;
pub mod secret;
pub mod services;
mod tasks;

pub use daemon::{Daemon, Options, run, run_alone, run_patiently, run_with};
pub use ready::Readiness;
pub use tasks::{Ended, Tasks};

/// How long tasks may take to end after stop, before the process ends without them.
pub const JOIN_MS: u64 = 5_000;

/// The environment variable with the log filter, such as `info,gantry_luxid=debug`.
pub const LOG_ENV: &str = "GANTRY_LOG";

/// Set to `json`, it makes logs JSON lines.
pub const LOG_FORMAT_ENV: &str = "GANTRY_LOG_FORMAT";
