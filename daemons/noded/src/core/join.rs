//! Joining (DESIGN §4): the proof of the join secret, and how often a wrong one may be tried.

use gantry_model::ids::{ClusterUuid, NodeUuid};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Bytes of the join secret.
pub const SECRET_BYTES: usize = 32;
/// How long a secret is good for: long enough to type it, short enough not to lie about for ever.
pub const SECRET_MS_MAX: u64 = 60 * 60 * 1000;
/// Wrong proofs within [`TRIES_MS`] before all proofs are refused for as long.
pub const TRIES_MAX: usize = 5;
/// The window of [`TRIES_MAX`], and how long the refusal lasts.
pub const TRIES_MS: u64 = 60 * 1000;

/// Who proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The job of the master.
    Master,
    /// The unjoined node.
    Node,
}

/// What a proof is about: this connection, this cluster, this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bond {
    /// TLS exporter of the connection: a proof is worth nothing on any other.
    pub exporter: [u8; 32],
    /// The cluster.
    pub cluster: ClusterUuid,
    /// The node's uuid to be.
    pub node: NodeUuid,
}

fn mac(secret: &[u8], side: Side, bond: &Bond) -> Hmac<Sha256> {
    let role: &[u8] = match side {
        Side::Master => b"master",
        Side::Node => b"node",
    };
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(role);
    mac.update(&bond.exporter);
    mac.update(bond.cluster.0.as_bytes());
    mac.update(bond.node.0.as_bytes());
    mac
}

/// HMAC-SHA256 over role ‖ exporter ‖ cluster ‖ node, the uuids as their 16 bytes, keyed with the secret's
/// 32 bytes (not its hex).
#[must_use]
pub fn proof(secret: &[u8; SECRET_BYTES], side: Side, bond: &Bond) -> [u8; 32] {
    mac(secret, side, bond).finalize().into_bytes().into()
}

/// Whether `given` is that proof; takes the same time whatever is wrong with it.
#[must_use]
pub fn is_proof(secret: &[u8; SECRET_BYTES], side: Side, bond: &Bond, given: &[u8; 32]) -> bool {
    mac(secret, side, bond).verify_slice(given).is_ok()
}

/// Counts wrong proofs. Lives as long as the process: a restart takes longer than it gains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tries {
    wrong: Vec<u64>,
    shut_until: u64,
}

impl Tries {
    /// Whether a proof may be looked at now; if not, for how many milliseconds not.
    ///
    /// # Errors
    /// The milliseconds still to wait.
    pub fn may_try(&self, now_ms: u64) -> Result<(), u64> {
        if now_ms < self.shut_until { Err(self.shut_until - now_ms) } else { Ok(()) }
    }

    /// Notes a wrong proof.
    pub fn wrong(&mut self, now_ms: u64) {
        self.wrong.retain(|at| at.saturating_add(TRIES_MS) > now_ms);
        self.wrong.push(now_ms);
        if self.wrong.len() >= TRIES_MAX {
            self.wrong.clear();
            self.shut_until = now_ms.saturating_add(TRIES_MS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn bond() -> Bond {
        Bond {
            exporter: [7; 32],
            cluster: ClusterUuid(Uuid::from_u128(1)),
            node: NodeUuid(Uuid::from_u128(2)),
        }
    }

    #[test]
    fn a_proof_is_bound_to_everything_in_it() {
        let secret = [9; SECRET_BYTES];
        let good = proof(&secret, Side::Master, &bond());
        assert!(is_proof(&secret, Side::Master, &bond(), &good));
        assert!(!is_proof(&[8; SECRET_BYTES], Side::Master, &bond(), &good));
        assert!(!is_proof(&secret, Side::Node, &bond(), &good));
        for other in [
            Bond { exporter: [6; 32], ..bond() },
            Bond { cluster: ClusterUuid(Uuid::from_u128(3)), ..bond() },
            Bond { node: NodeUuid(Uuid::from_u128(3)), ..bond() },
        ] {
            assert!(!is_proof(&secret, Side::Master, &other, &good));
        }
    }

    #[test]
    fn five_wrong_tries_shut_the_door_for_a_minute() {
        let mut tries = Tries::default();
        for at in 0..4 {
            tries.wrong(at);
            assert_eq!(tries.may_try(at), Ok(()));
        }
        tries.wrong(10);
        assert_eq!(tries.may_try(11), Err(TRIES_MS - 1));
        assert_eq!(tries.may_try(10 + TRIES_MS), Ok(()));
    }

    #[test]
    fn slow_wrong_tries_are_forgotten() {
        let mut tries = Tries::default();
        for at in 0..20 {
            tries.wrong(at * TRIES_MS / 4);
            assert_eq!(tries.may_try(at * TRIES_MS / 4), Ok(()), "{at}");
        }
    }
}
