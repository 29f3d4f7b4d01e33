//! Datagrams: four bytes, then a JSON object of a message, a salt and their MAC (`spec/confd.md` §1, §7.2).

use super::ascii::escape_into;
use super::keys::{Keys, sha1_of, sha256_of};
use hmac::Mac as _;
use serde::Deserialize;
use std::borrow::Cow;

/// Most bytes of a request. Ganeti's server reads 4,096 and loses the rest; we take the same and drop what is longer.
pub const REQUEST_BYTES_MAX: usize = 4096;
/// Most bytes of a reply, its fourcc with it: the buffer of Ganeti's clients.
pub const REPLY_BYTES_MAX: usize = 61_440;
/// Bytes of the fourcc.
const FOURCC_BYTES: usize = 4;

/// The two forms of the protocol. They differ in fourcc, digest and in what the MAC covers; neither is ever answered by
/// the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// `plj0`: HMAC-SHA-1 with the key file, as Ganeti speaks it.
    Legacy,
    /// `plj2`: HMAC-SHA-256 with derived keys.
    Second,
}

impl Form {
    /// Its first four bytes.
    #[must_use]
    pub fn fourcc(self) -> &'static [u8; FOURCC_BYTES] {
        match self {
            Self::Legacy => b"plj0",
            Self::Second => b"plj2",
        }
    }

    /// As people read it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "plj0",
            Self::Second => "plj2",
        }
    }
}

/// A MAC: 20 or 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac {
    bytes: [u8; 32],
    len: usize,
}

impl Mac {
    fn new(found: &[u8]) -> Self {
        let mut bytes = [0; 32];
        let len = found.len().min(32);
        bytes[..len].copy_from_slice(&found[..len]);
        Self { bytes, len }
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The first 128 bits: enough to tell MACs apart that only a holder of the key can make.
    #[must_use]
    pub fn head(&self) -> u128 {
        u128::from_be_bytes(self.bytes[..16].try_into().expect("16 of 32 bytes"))
    }

    fn from_hex(text: &str) -> Option<Self> {
        if !text.is_ascii() || !matches!(text.len(), 40 | 64) {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = (nibble(pair[0])? << 4) | nibble(pair[1])?;
        }
        Some(Self { bytes, len: text.len() / 2 })
    }

    fn hex_into(&self, out: &mut Vec<u8>) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        for byte in self.as_bytes() {
            out.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
    }
}

fn nibble(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// What a datagram says, not yet believed.
#[derive(Debug)]
pub struct Outer {
    /// Which form.
    pub form: Form,
    /// The message, decoded.
    pub msg: String,
    /// The salt, decoded.
    pub salt: String,
    /// What is said to be their MAC.
    pub mac: Mac,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Json<'a> {
    msg: String,
    salt: String,
    #[serde(borrow)]
    hmac: Cow<'a, str>,
}

/// Why a datagram is no datagram of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OuterError {
    /// Not one of ours.
    #[error("the first four bytes are of no form of this protocol")]
    Fourcc,
    /// Not the three texts.
    #[error("no JSON object of exactly msg, salt and hmac")]
    Json,
}

impl Outer {
    /// Takes a datagram apart.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(datagram: &[u8]) -> Result<Self, OuterError> {
        let (fourcc, json) = datagram.split_at_checked(FOURCC_BYTES).ok_or(OuterError::Fourcc)?;
        let form = [Form::Legacy, Form::Second].into_iter().find(|form| form.fourcc() == fourcc);
        let form = form.ok_or(OuterError::Fourcc)?;
        let text = match std::str::from_utf8(json) {
            Ok(text) => Cow::Borrowed(text),
            // Old peers write Latin-1.
            Err(_) if form == Form::Legacy => json.iter().map(|byte| char::from(*byte)).collect(),
            Err(_) => return Err(OuterError::Json),
        };
        let Json { msg, salt, hmac } = serde_json::from_str(&text).map_err(|_| OuterError::Json)?;
        let mac = Mac::from_hex(&hmac).ok_or(OuterError::Json)?;
        if form == Form::Second && salt.contains('\0') {
            return Err(OuterError::Json);
        }
        Ok(Self { form, msg, salt, mac })
    }

    /// Whether a holder of `keys` made this request. In constant time.
    #[must_use]
    pub fn is_request_of(&self, keys: &Keys) -> bool {
        let (salt, msg) = (self.salt.as_bytes(), self.msg.as_bytes());
        let mac = self.mac.as_bytes();
        match self.form {
            Form::Legacy => sha1_of(keys, &[salt, msg]).verify_slice(mac).is_ok(),
            Form::Second => {
                sha256_of(&keys.request, &[b"plj2\0", salt, b"\0", msg]).verify_slice(mac).is_ok()
            }
        }
    }

    /// Whether a holder of `keys` made this reply to the request with that MAC. In constant time.
    #[must_use]
    pub fn is_reply_of(&self, keys: &Keys, request: &Mac) -> bool {
        let (salt, msg) = (self.salt.as_bytes(), self.msg.as_bytes());
        let mac = self.mac.as_bytes();
        match self.form {
            Form::Legacy => sha1_of(keys, &[salt, msg]).verify_slice(mac).is_ok(),
            Form::Second => sha256_of(&keys.reply, &[b"plj2\0", salt, b"\0", request.as_bytes(), msg])
                .verify_slice(mac)
                .is_ok(),
        }
    }
}

/// Signs a request: the datagram, and the MAC that the reply will be bound to.
#[must_use]
pub fn seal_request(form: Form, keys: &Keys, salt: &str, msg: &str) -> (Vec<u8>, Mac) {
    let (s, m) = (salt.as_bytes(), msg.as_bytes());
    let mac = match form {
        Form::Legacy => Mac::new(&sha1_of(keys, &[s, m]).finalize().into_bytes()),
        Form::Second => {
            Mac::new(&sha256_of(&keys.request, &[b"plj2\0", s, b"\0", m]).finalize().into_bytes())
        }
    };
    (datagram(form, salt, msg, &mac), mac)
}

/// Signs a reply to the request with that MAC.
#[must_use]
pub fn seal_reply(form: Form, keys: &Keys, request: &Mac, salt: &str, msg: &str) -> Vec<u8> {
    let (s, m) = (salt.as_bytes(), msg.as_bytes());
    let mac = match form {
        Form::Legacy => Mac::new(&sha1_of(keys, &[s, m]).finalize().into_bytes()),
        Form::Second => {
            let parts: [&[u8]; 5] = [b"plj2\0", s, b"\0", request.as_bytes(), m];
            Mac::new(&sha256_of(&keys.reply, &parts).finalize().into_bytes())
        }
    };
    datagram(form, salt, msg, &mac)
}

fn datagram(form: Form, salt: &str, msg: &str, mac: &Mac) -> Vec<u8> {
    // Quotes of the message are doubled; one growth at most.
    let mut out = Vec::with_capacity(msg.len() + msg.len() / 4 + salt.len() + 128);
    out.extend(form.fourcc());
    out.extend(b"{\"hmac\":\"");
    mac.hex_into(&mut out);
    out.extend(b"\",\"msg\":\"");
    escape_into(&mut out, msg);
    out.extend(b"\",\"salt\":\"");
    escape_into(&mut out, salt);
    out.extend(b"\"}");
    out
}

#[cfg(test)]
mod tests {
    use super::super::keys::tests::FILE;
    use super::*;
    use proptest::prelude::*;

    fn keys() -> Keys {
        Keys::new(FILE).unwrap()
    }

    const RSALT: &str = "00000000-0000-4000-8000-000000000001";

    #[test]
    fn vectors_of_the_legacy_form() {
        let msg = format!("{{\"protocol\": 1, \"type\": 0, \"query\": null, \"rsalt\": \"{RSALT}\"}}\n");
        let (datagram, mac) = seal_request(Form::Legacy, &keys(), "1700000000", &msg);
        let outer = Outer::parse(&datagram).unwrap();
        assert!(outer.is_request_of(&keys()));
        assert_eq!((outer.msg.as_str(), outer.salt.as_str(), outer.mac), (msg.as_str(), "1700000000", mac));
        assert!(datagram.starts_with(br#"plj0{"hmac":"e24f84bb06126f956318929fc11c15327d22028e","#));
        let msg = r#"{"protocol":1,"status":0,"answer":3000000,"serial":0}"#;
        let want = concat!(
            r#"plj0{"hmac":"556b3fe5d48522ba50f2c2e9c7484aa96335818f","msg":"{\"protocol\":1,\"status\":0,"#,
            r#"\"answer\":3000000,\"serial\":0}","salt":"00000000-0000-4000-8000-000000000001"}"#
        );
        assert_eq!(String::from_utf8(seal_reply(Form::Legacy, &keys(), &mac, RSALT, msg)).unwrap(), want);
    }

    #[test]
    fn vectors_of_the_second_form() {
        let msg = format!(r#"{{"protocol":2,"query":null,"rsalt":"{RSALT}","type":0}}"#);
        let (datagram, mac) = seal_request(Form::Second, &keys(), "1700000000", &msg);
        let hex = "1aa0c099ae1acea78adbea6cf7ba96d13959619e4d9cdd72fb7532c3260c8fd8";
        assert!(String::from_utf8(datagram).unwrap().starts_with(&format!(r#"plj2{{"hmac":"{hex}","#)));
        let msg = r#"{"protocol":2,"status":0,"answer":3000000,"serial":0}"#;
        let reply = seal_reply(Form::Second, &keys(), &mac, RSALT, msg);
        let hex = "781bfb112af21edde5f35e724ae177fda19fb1cf82af447e9d30dde4ab4a87ae";
        assert!(String::from_utf8(reply.clone()).unwrap().contains(hex));
        let outer = Outer::parse(&reply).unwrap();
        assert!(outer.is_reply_of(&keys(), &mac));
        // Neither for another request, nor as a request: the two directions have keys of their own.
        assert!(!outer.is_reply_of(&keys(), &Mac::new(&[1; 32])) && !outer.is_request_of(&keys()));
    }

    #[test]
    fn what_is_no_datagram() {
        let hex = "e24f84bb06126f956318929fc11c15327d22028e";
        let with = |json: &str| Outer::parse(format!("plj0{json}").as_bytes()).map(drop);
        for good in [
            format!(r#"{{"msg":"m","salt":"s","hmac":"{hex}"}}"#),
            format!(" {{ \"hmac\" : \"{}\", \"salt\":\"\", \"msg\":\"\" }} \n", hex.to_uppercase()),
        ] {
            assert_eq!(with(&good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "{",
            "[]",
            "{}",
            &format!(r#"{{"msg":"m","salt":"s","hmac":"{hex}","key_selector":"x"}}"#),
            &format!(r#"{{"msg":"m","salt":7,"hmac":"{hex}"}}"#),
            &format!(r#"{{"msg":"m","salt":"s","hmac":"{}"}}"#, &hex[1..]),
            &format!(r#"{{"msg":"m","salt":"s","hmac":"{}g"}}"#, &hex[1..]),
            &format!(r#"{{"msg":"\ud800","salt":"s","hmac":"{hex}"}}"#),
            &format!(r#"{{"msg":"m","salt":"s","hmac":"{hex}"}}x"#),
        ] {
            assert_eq!(with(bad), Err(OuterError::Json), "{bad}");
        }
        for bad in [&b""[..], b"plj", b"plj1{}", b"PLJ0{}"] {
            assert_eq!(Outer::parse(bad).map(drop), Err(OuterError::Fourcc));
        }
    }

    #[test]
    fn old_peers_may_write_latin_1() {
        let msg = "\u{e4}";
        let (_, mac) = seal_request(Form::Legacy, &keys(), "1", msg);
        let mut datagram = b"plj0{\"hmac\":\"".to_vec();
        mac.hex_into(&mut datagram);
        datagram.extend(b"\",\"salt\":\"1\",\"msg\":\"\xe4\"}");
        assert!(Outer::parse(&datagram).unwrap().is_request_of(&keys()));
        datagram[3] = b'2';
        assert_eq!(Outer::parse(&datagram).map(drop), Err(OuterError::Json));
    }

    proptest! {
        #[test]
        fn what_is_sealed_is_opened_and_nothing_else(msg in any::<String>(), salt in "[^\0]*", flip in any::<prop::sample::Index>(), bit in 0..8u8) {
            for form in [Form::Legacy, Form::Second] {
                let (mut datagram, mac) = seal_request(form, &keys(), &salt, &msg);
                prop_assert!(datagram.is_ascii());
                let outer = Outer::parse(&datagram).unwrap();
                prop_assert!(outer.is_request_of(&keys()));
                prop_assert_eq!((&outer.msg, &outer.salt, outer.mac), (&msg, &salt, mac));
                let at = flip.index(datagram.len());
                datagram[at] ^= 1 << bit;
                if let Ok(outer) = Outer::parse(&datagram) {
                    // A changed letter may mean the same (the case of a hex digit), never something else.
                    let same = outer.msg == msg && outer.salt == salt && outer.mac == mac && outer.form == form;
                    prop_assert_eq!(outer.is_request_of(&keys()), same);
                }
            }
        }
    }
}
