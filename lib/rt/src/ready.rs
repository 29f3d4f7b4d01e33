//! Whether a daemon serves, as its health says.

use std::sync::{Arc, Mutex, PoisonError};

/// Shared by the daemon, which sets it, and the admin socket, which tells it. Starts as "not ready: starting".
#[derive(Debug, Clone)]
pub struct Readiness(Arc<Mutex<(bool, String)>>);

impl Default for Readiness {
    fn default() -> Self {
        Self(Arc::new(Mutex::new((false, "starting".to_owned()))))
    }
}

impl Readiness {
    /// Sets whether it serves, and if not, what it waits for.
    pub fn set(&self, ready: bool, why: impl Into<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (ready, why.into());
    }

    /// Whether it serves, and what it waits for.
    #[must_use]
    pub fn get(&self) -> (bool, String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
