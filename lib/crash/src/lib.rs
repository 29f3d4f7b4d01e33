//! Points at which a test ends a process as a loss of power would, between two steps that a reader would like to be one.
//!
//! A test names a directory in the environment of a node's boot, or of a process of its own ([`DIR_ENV`]), and arms a point
//! by making a file of its name there; the process that comes by removes the file and dies by SIGKILL. So a point fires
//! once, in the process the test meant, at any time. Programs built with optimisation have none of this.

#[cfg(debug_assertions)]
use std::sync::OnceLock;

/// Names the directory of armed points.
pub const DIR_ENV: &str = "GANTRY_CRASH_DIR";

/// Ends this process here, when a test has armed `name`.
#[cfg(debug_assertions)]
pub fn point(name: &str) {
    static DIR: OnceLock<Option<std::path::PathBuf>> = OnceLock::new();
    let Some(dir) = DIR.get_or_init(|| std::env::var_os(DIR_ENV).map(Into::into)) else { return };
    if std::fs::remove_file(dir.join(name)).is_ok() {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
        // The signal has been sent; nothing is done between it and the end.
        loop {
            std::thread::park();
        }
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub const fn point(_name: &str) {}
