//! Networks as options write them: an address, or an address with the bits of its network.

use std::net::IpAddr;
use std::str::FromStr;

/// A network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: u128,
    mask: u128,
    v4: bool,
}

/// A text that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no network such as 192.0.2.0/24 or 2001:db8::/32")]
pub struct NetworkError(pub String);

fn number(ip: IpAddr) -> (u128, bool) {
    match ip.to_canonical() {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)) << 96, true),
        IpAddr::V6(ip) => (ip.into(), false),
    }
}

impl Network {
    /// The network of an address, by its number of bits.
    #[must_use]
    pub fn new(ip: IpAddr, bits: u32) -> Option<Self> {
        let (base, v4) = number(ip);
        if bits > if v4 { 32 } else { 128 } {
            return None;
        }
        let mask = if bits == 0 { 0 } else { u128::MAX << (128 - bits) };
        Some(Self { base: base & mask, mask, v4 })
    }

    /// One address alone.
    #[must_use]
    pub fn host(ip: IpAddr) -> Self {
        let (base, v4) = number(ip);
        let mask = if v4 { u128::MAX << 96 } else { u128::MAX };
        Self { base: base & mask, mask, v4 }
    }

    /// Whether it has that address.
    #[must_use]
    pub fn has(&self, ip: IpAddr) -> bool {
        let (number, v4) = number(ip);
        v4 == self.v4 && number & self.mask == self.base
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let wrong = || NetworkError(text.to_owned());
        let (ip, bits) = text.split_once('/').map_or((text, None), |(ip, bits)| (ip, Some(bits)));
        let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
        match bits {
            None => Ok(Self::host(ip)),
            Some(bits) => bits.parse().ok().and_then(|bits| Self::new(ip, bits)).ok_or_else(wrong),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_which_network() {
        for (network, ip, inside) in [
            ("192.0.2.0/24", "192.0.2.255", true),
            ("192.0.2.0/24", "192.0.3.0", false),
            ("192.0.2.9/24", "192.0.2.1", true),
            ("192.0.2.9", "192.0.2.9", true),
            ("192.0.2.9", "192.0.2.8", false),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "::1", false),
            ("192.0.2.0/24", "::ffff:192.0.2.7", true),
            ("2001:db8::/32", "2001:db8:1::", true),
            ("2001:db8::/32", "2001:db9::", false),
            ("::/0", "::1", true),
            ("::/0", "127.0.0.1", false),
        ] {
            assert_eq!(
                network.parse::<Network>().unwrap().has(ip.parse().unwrap()),
                inside,
                "{network} {ip}"
            );
        }
        for bad in ["", "x", "192.0.2.0/33", "::/129", "192.0.2.0/", "192.0.2.0/-1", "192.0.2/24"] {
            assert_eq!(bad.parse::<Network>(), Err(NetworkError(bad.to_owned())));
        }
    }
}
