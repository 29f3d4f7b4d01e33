//! What counts as one source of connections.

use std::net::{IpAddr, Ipv6Addr};

/// A host: its address, or with IPv6 its network of 64 bits, of which it may have every address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source(IpAddr);

/// Bits of a host's own in an IPv6 address.
const HOST_BITS: u32 = 64;

/// The source of an address.
#[must_use]
pub fn source(from: IpAddr) -> Source {
    Source(match from.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> HOST_BITS << HOST_BITS).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_one_source_whatever_address_it_takes() {
        for (one, other, same) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8::1", "2001:db8::ffff:0:0:2", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            let [one_is, other_is] = [one, other].map(|text| source(text.parse().unwrap()));
            assert_eq!(one_is == other_is, same, "{one} {other}");
        }
    }
}
