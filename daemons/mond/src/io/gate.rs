//! Who gets a connection: from where it may come, how many there may be in all and of one source. What is turned away costs a
//! fixed text and nothing is read of it.

use crate::core::answer::unread;
use crate::core::source::{Source, source};
use gantry_model::network::Network;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections at once; more wait in the kernel's queue. A site has a few scrapers and one htools run.
pub const CONNECTIONS_MAX: usize = 128;
/// And of one source, the loopback address too: a reader that leaks connections does not keep others out.
pub const CONNECTIONS_OF_ONE_MAX: usize = 32;

/// Why a connection is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is not from a network that may ask.
    Network,
    /// Its source has [`CONNECTIONS_OF_ONE_MAX`] already.
    Crowd,
}

impl Refusal {
    /// What a reader of plain HTTP is told.
    #[must_use]
    pub fn text(self) -> String {
        match self {
            Self::Network => {
                let text =
                    "This address may not ask: it is in no network of [mond] allow in this node's node.toml";
                unread(403, "Forbidden", text)
            }
            Self::Crowd => {
                let text =
                    format!("{CONNECTIONS_OF_ONE_MAX} connections from this address are open: close some");
                unread(429, "Too Many Requests", &text)
            }
        }
    }

    /// As metrics and the log call it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Crowd => "crowd",
        }
    }
}

/// The gate. Clones share it.
#[derive(Debug, Clone)]
pub struct Gate {
    /// Empty: all.
    allow: Arc<[Network]>,
    places: Arc<Semaphore>,
    held: Arc<Mutex<HashMap<Source, usize>>>,
}

/// A place of the whole, before anybody has come for it.
#[derive(Debug)]
pub struct Free(OwnedSemaphorePermit);

/// A connection's place; given back when dropped.
#[derive(Debug)]
pub struct Place {
    gate: Gate,
    source: Source,
    _permit: OwnedSemaphorePermit,
}

impl Gate {
    /// Lets in who is of these networks; everybody if there are none.
    #[must_use]
    pub fn new(allow: Vec<Network>) -> Self {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Self { allow: allow.into(), places, held: Arc::default() }
    }

    /// Waits until a place is free. Dropping it is fine.
    pub async fn free(&self) -> Free {
        Free(Arc::clone(&self.places).acquire_owned().await.expect("is never closed"))
    }

    /// Gives a place to who has come.
    ///
    /// # Errors
    /// Why not; the place is free again.
    pub fn admit(&self, free: Free, from: IpAddr) -> Result<Place, Refusal> {
        if !self.allow.is_empty() && !self.allow.iter().any(|network| network.has(from)) {
            return Err(Refusal::Network);
        }
        let source = source(from);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(source).or_default();
        if *count >= CONNECTIONS_OF_ONE_MAX {
            return Err(Refusal::Crowd);
        }
        *count += 1;
        Ok(Place { gate: self.clone(), source, _permit: free.0 })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.gate.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.source) {
            *count -= 1;
            // So there are no more entries than places.
            if *count == 0 {
                held.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn one_source_has_a_quarter_at_most_and_gives_it_back() {
        let gate = Gate::new(Vec::new());
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS_OF_ONE_MAX {
            held.push(gate.admit(gate.free().await, ip("127.0.0.1")).unwrap());
        }
        for same in ["127.0.0.1", "::ffff:127.0.0.1"] {
            assert_eq!(gate.admit(gate.free().await, ip(same)).unwrap_err(), Refusal::Crowd);
        }
        assert_eq!(gate.places.available_permits(), CONNECTIONS_MAX - CONNECTIONS_OF_ONE_MAX);
        let other = gate.admit(gate.free().await, ip("127.0.0.2")).unwrap();
        held.pop();
        held.push(gate.admit(gate.free().await, ip("127.0.0.1")).unwrap());
        drop((held, other));
        assert_eq!(gate.places.available_permits(), CONNECTIONS_MAX);
        assert!(gate.held.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn networks_that_are_not_named_get_no_place() {
        let gate = Gate::new(vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
        for (from, let_in) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("11.1.2.3", false),
            ("127.0.0.1", false),
            ("2001:db8::1", true),
            ("::1", false),
        ] {
            assert_eq!(gate.admit(gate.free().await, ip(from)).is_ok(), let_in, "{from}");
        }
        assert_eq!(gate.places.available_permits(), CONNECTIONS_MAX);
    }
}
