//! The cluster's own address (Ganeti's master IP): the master has it on one of its devices, beside the node's own.

use crate::config::Cluster;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::net::Ipv4Addr;

/// Longest name of a network device, by the kernel's `IFNAMSIZ`.
pub const DEVICE_LEN_MAX: usize = 15;
/// The cluster's field with the device.
pub const NETDEV: &str = "master_netdev";
/// The cluster's field with the length of the prefix.
pub const NETMASK: &str = "master_netmask";

/// An address, its prefix and the device that has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterAddress {
    /// The address.
    pub ip: Ipv4Addr,
    /// Bits of the network, 1 to 32.
    pub prefix: u8,
    /// The device.
    pub device: String,
}

impl fmt::Display for MasterAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} on {}", self.ip, self.prefix, self.device)
    }
}

impl MasterAddress {
    /// What the cluster's fields say; None when it has no address.
    ///
    /// # Errors
    /// What is wrong with them, for people.
    pub fn of(cluster: &Cluster) -> Result<Option<Self>, String> {
        if cluster.master_ip.is_empty() {
            return Ok(None);
        }
        let ip = cluster
            .master_ip
            .parse()
            .map_err(|_| format!("master_ip '{}' is not an IPv4 address", cluster.master_ip))?;
        let device = cluster.extra.get(NETDEV).and_then(Value::as_str).unwrap_or_default();
        let netmask = cluster.extra.get(NETMASK).and_then(Value::as_u64).unwrap_or(32);
        let prefix = u8::try_from(netmask).unwrap_or(u8::MAX);
        let address = Self { ip, prefix, device: device.to_owned() };
        address.check().map(|()| Some(address))
    }

    /// Whether it can be given to a device.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=32).contains(&self.prefix) {
            return Err("master_netmask must be 1 to 32, the bits of the network".to_owned());
        }
        if !is_device(&self.device) {
            return Err(format!("master_netdev '{}' can't name a network device", self.device));
        }
        if self.ip.is_unspecified() || self.ip.is_multicast() || self.ip.is_broadcast() {
            return Err(format!("master_ip {} is no address of a single machine", self.ip));
        }
        Ok(())
    }
}

/// Whether the kernel could have a device of that name. It is an argument of a command, so it does not begin with `-`.
#[must_use]
pub fn is_device(name: &str) -> bool {
    (1..=DEVICE_LEN_MAX).contains(&name.len())
        && !name.starts_with(['-', '.'])
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_the_kernel_has_them() {
        for name in ["eth0", "br-lan", "bond0.100", "enp0s31f6"] {
            assert!(is_device(name), "{name}");
        }
        for name in ["", "-x", "..", "a/b", "a b", "sixteen-letters-", "ä"] {
            assert!(!is_device(name), "{name}");
        }
    }

    #[test]
    fn an_address_is_of_one_machine() {
        let address = |ip: &str, prefix| MasterAddress {
            ip: ip.parse().expect("an address"),
            prefix,
            device: "eth0".to_owned(),
        };
        assert_eq!(address("192.0.2.1", 24).check(), Ok(()));
        for wrong in [address("192.0.2.1", 0), address("192.0.2.1", 33), address("224.0.0.1", 32)] {
            assert!(wrong.check().is_err(), "{wrong}");
        }
        assert_eq!(address("192.0.2.1", 24).to_string(), "192.0.2.1/24 on eth0");
    }
}
