//! The proofs of joining (DESIGN §4): HMAC-SHA256 under the join secret over role ‖ TLS exporter ‖ cluster ‖ node.
//! The exporter ties a proof to one connection, the role to one direction.

use gantry_model::ids::{ClusterUuid, NodeUuid};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Bytes of a secret; on disk they are twice as many hex digits.
const SECRET_BYTES: usize = 32;

/// A join secret. Prints as dots.
pub struct Secret([u8; SECRET_BYTES]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Who proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The job of OP_NODE_ADD.
    Master,
    /// The unjoined node.
    Node,
}

/// What was given is no join secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a join secret has 64 hex digits; what was given has not (it is in var/lib/gantry/join-secret of the new node)"
)]
pub struct BadSecret;

impl Secret {
    /// Reads 64 hex digits; white space around them is ignored.
    pub fn parse(text: &str) -> Result<Self, BadSecret> {
        let text = text.trim().as_bytes();
        if text.len() != 2 * SECRET_BYTES {
            return Err(BadSecret);
        }
        let mut bytes = [0; SECRET_BYTES];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            let digits = std::str::from_utf8(pair).map_err(|_| BadSecret)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| BadSecret)?;
        }
        Ok(Self(bytes))
    }

    fn mac(&self, side: Side, exporter: &[u8; 32], cluster: ClusterUuid, node: NodeUuid) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(match side {
            Side::Master => b"master",
            Side::Node => b"node",
        });
        mac.update(exporter);
        mac.update(cluster.0.as_bytes());
        mac.update(node.0.as_bytes());
        mac
    }

    /// The proof of `side`.
    pub fn proof(&self, side: Side, exporter: &[u8; 32], cluster: ClusterUuid, node: NodeUuid) -> [u8; 32] {
        self.mac(side, exporter, cluster, node).finalize().into_bytes().into()
    }

    /// Whether `proof` is that of `side`; in constant time.
    pub fn verify(
        &self,
        side: Side,
        exporter: &[u8; 32],
        cluster: ClusterUuid,
        node: NodeUuid,
        proof: &[u8; 32],
    ) -> bool {
        self.mac(side, exporter, cluster, node).verify_slice(proof).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_proof_holds_for_one_side_and_one_connection() {
        let secret = Secret::parse(&format!(" {}\n", "0f".repeat(32))).unwrap();
        let (cluster, node) = (ClusterUuid(Uuid::from_u128(1)), NodeUuid(Uuid::from_u128(2)));
        let proof = secret.proof(Side::Master, &[7; 32], cluster, node);
        assert!(secret.verify(Side::Master, &[7; 32], cluster, node, &proof));
        assert!(!secret.verify(Side::Node, &[7; 32], cluster, node, &proof));
        assert!(!secret.verify(Side::Master, &[8; 32], cluster, node, &proof));
        assert!(!secret.verify(Side::Master, &[7; 32], cluster, NodeUuid(Uuid::from_u128(3)), &proof));
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        for bad in ["", "00", &"0g".repeat(32), &"é".repeat(32), &"0f".repeat(33)] {
            assert_eq!(Secret::parse(bad).unwrap_err(), BadSecret);
        }
    }
}
