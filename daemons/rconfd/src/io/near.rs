//! The networks that this machine's own addresses are in: who is there is answered, unless the cluster says otherwise.

use gantry_model::network::Network;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bits of the networks of loopback addresses.
const LOOPBACK: [(IpAddr, u32); 2] =
    [(IpAddr::V4(Ipv4Addr::LOCALHOST), 8), (IpAddr::V6(Ipv6Addr::LOCALHOST), 128)];

fn ip(addr: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = addr.as_sockaddr_in().map(|addr| IpAddr::V4(addr.ip()));
    v4.or_else(|| addr.as_sockaddr_in6().map(|addr| IpAddr::V6(addr.ip())))
}

fn bits(mask: IpAddr) -> u32 {
    match mask {
        IpAddr::V4(mask) => u32::from(mask).count_ones(),
        IpAddr::V6(mask) => u128::from(mask).count_ones(),
    }
}

/// Loopback, and the networks in which these addresses are. An address of no interface is alone.
#[must_use]
pub fn networks(own: &[IpAddr]) -> Vec<Network> {
    let mut all: Vec<Network> = LOOPBACK.iter().filter_map(|(ip, bits)| Network::new(*ip, *bits)).collect();
    all.extend(own.iter().map(|ip| Network::host(*ip)));
    for interface in getifaddrs().into_iter().flatten() {
        let found = interface.address.as_ref().and_then(ip).filter(|found| own.contains(found));
        if let (Some(found), Some(mask)) = (found, interface.netmask.as_ref().and_then(ip)) {
            all.extend(Network::new(found, bits(mask)));
        }
    }
    all
}
