//! The keys of one key file: the file itself for the legacy form, two derived ones for the second (`spec/confd.md` §7.2).

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac as _};
use sha1::Sha1;
use sha2::Sha256;

/// Fewest bytes of a key file: 128 bits.
pub const KEY_BYTES_MIN: usize = 16;
const INFO_REQUEST: &[u8] = b"gantry confd v2 request";
const INFO_REPLY: &[u8] = b"gantry confd v2 reply";

/// A key file that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the key has {0} bytes, at least {KEY_BYTES_MIN} are needed; gnt-cluster renew-crypto --new-confd-hmac-key makes another"
)]
pub struct KeyError(pub usize);

/// What a key file gives. Keyed hash states, so that no request pays for the key again.
#[derive(Clone)]
pub struct Keys {
    pub(super) sha1: Hmac<Sha1>,
    pub(super) request: Hmac<Sha256>,
    pub(super) reply: Hmac<Sha256>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(…)")
    }
}

impl Keys {
    /// Those of a key file with this content, its final newline with it.
    ///
    /// # Errors
    /// It is too short.
    pub fn new(file: &[u8]) -> Result<Self, KeyError> {
        if file.len() < KEY_BYTES_MIN {
            return Err(KeyError(file.len()));
        }
        Ok(Self {
            sha1: Hmac::new_from_slice(file).expect("HMAC takes keys of any length"),
            request: keyed(&derived(file, INFO_REQUEST)),
            reply: keyed(&derived(file, INFO_REPLY)),
        })
    }
}

fn derived(file: &[u8], info: &[u8]) -> [u8; 32] {
    let mut key = [0; 32];
    Hkdf::<Sha256>::new(Some(&[0; 32]), file)
        .expand(info, &mut key)
        .expect("32 bytes are one block of SHA-256");
    key
}

fn keyed(key: &[u8; 32]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

/// The MAC of these parts in order.
pub(super) fn sha1_of(keys: &Keys, parts: &[&[u8]]) -> Hmac<Sha1> {
    parts.iter().fold(keys.sha1.clone(), |mac, part| mac.chain_update(part))
}

/// The MAC of these parts in order.
pub(super) fn sha256_of(key: &Hmac<Sha256>, parts: &[&[u8]]) -> Hmac<Sha256> {
    parts.iter().fold(key.clone(), |mac, part| mac.chain_update(part))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The key file of `spec/confd.md` §1.
    pub const FILE: &[u8] = b"0123456789abcdef0123456789abcdef01234567\n";

    #[test]
    fn derived_keys_of_the_specification() {
        let hex = |bytes: [u8; 32]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let request = "789c55de0a47592eb81f7f9d477f45d33fa6b2db8796d561d8d9373cd419020a";
        let reply = "69bcd51f8d6979d0e3866f8ddb2f91f90a5cb289fa90ffbeb9b60767f32a5c47";
        assert_eq!(hex(derived(FILE, INFO_REQUEST)), request);
        assert_eq!(hex(derived(FILE, INFO_REPLY)), reply);
    }

    #[test]
    fn short_keys_are_refused_and_none_is_shown() {
        assert_eq!(Keys::new(&[7; 15]).unwrap_err(), KeyError(15));
        assert_eq!(format!("{:?}", Keys::new(&[7; 16]).unwrap()), "Keys(…)");
    }
}
