//! Addresses of this machine's devices: looked at through `getifaddrs`, changed by `ip` (iproute2), told to the neighbours
//! by gratuitous ARP on a packet socket. It knows nothing of masters.

use crate::core::hooks::PATH;
use crate::core::master_ip::announcements;
use gantry_model::master_ip::MasterAddress;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// How long `ip` may take: it speaks to the kernel only.
const IP_COMMAND: Duration = Duration::from_secs(10);

/// Why an address is not where it should be.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The kernel's list of addresses.
    #[error("can't list this machine's addresses")]
    List(#[source] nix::Error),
    /// The program can't be run.
    #[error("can't run ip (of iproute2)")]
    Start(#[source] io::Error),
    /// It did not end in time.
    #[error("\"ip {0}\" does not end")]
    Late(String),
    /// It refused.
    #[error("\"ip {command}\": {said}")]
    Refused {
        /// Its arguments.
        command: String,
        /// What it said.
        said: String,
    },
    /// No such device.
    #[error("this machine has no network device {0}")]
    NoDevice(String),
    /// The packet socket.
    #[error("can't send ARP on {device}")]
    Announce {
        /// Where.
        device: String,
        /// Why.
        #[source]
        source: nix::Error,
    },
}

fn all() -> Result<impl Iterator<Item = InterfaceAddress>, AddressError> {
    getifaddrs().map_err(AddressError::List)
}

fn has(entry: &InterfaceAddress, ip: Ipv4Addr) -> bool {
    entry.address.as_ref().and_then(|address| address.as_sockaddr_in()).is_some_and(|sin| sin.ip() == ip)
}

/// The device that has this address, if one has.
///
/// # Errors
/// When the kernel can't be asked.
pub fn device_of(ip: Ipv4Addr) -> Result<Option<String>, AddressError> {
    // With a label, the device's name is what comes before the colon.
    let name = |entry: InterfaceAddress| entry.interface_name.split(':').next().map(str::to_owned);
    Ok(all()?.find(|entry| has(entry, ip)).and_then(name))
}

/// Whether the address is on its device.
///
/// # Errors
/// When the kernel can't be asked.
pub fn is_up(address: &MasterAddress) -> Result<bool, AddressError> {
    Ok(device_of(address.ip)?.is_some_and(|device| device == address.device))
}

/// The length of the address's prefix where it is.
fn prefix_of(ip: Ipv4Addr) -> Result<Option<u8>, AddressError> {
    let mask = all()?.find(|entry| has(entry, ip)).and_then(|entry| entry.netmask);
    let bits =
        mask.as_ref().and_then(|mask| mask.as_sockaddr_in()).map(|mask| mask.ip().to_bits().count_ones());
    Ok(bits.and_then(|bits| u8::try_from(bits).ok()))
}

/// Gives a device an address.
///
/// # Errors
/// When `ip` can't, which an address that is there already is not.
pub async fn add(address: &MasterAddress) -> Result<(), AddressError> {
    let with_prefix = format!("{}/{}", address.ip, address.prefix);
    ip(&["address", "replace", &with_prefix, "dev", &address.device]).await
}

/// Takes an address from its device; not there is success.
///
/// # Errors
/// When it is still there.
pub async fn remove(address: &MasterAddress) -> Result<(), AddressError> {
    if !is_up(address)? {
        return Ok(());
    }
    // As it is there: an operator may have put it up anew with another prefix.
    let with_prefix = format!("{}/{}", address.ip, prefix_of(address.ip)?.unwrap_or(address.prefix));
    let removed = ip(&["address", "del", &with_prefix, "dev", &address.device]).await;
    // Whoever else took it away was as good.
    if is_up(address)? { removed } else { Ok(()) }
}

async fn ip(args: &[&str]) -> Result<(), AddressError> {
    let text = || args.join(" ");
    let mut command = Command::new("ip");
    command.args(args).env_clear().env("PATH", PATH).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(IP_COMMAND, command.output()).await;
    let output = output.map_err(|_| AddressError::Late(text()))?.map_err(AddressError::Start)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(AddressError::Refused { command: text(), said })
}

/// Tells the neighbours on the address's device where it is now. A device without an Ethernet address has none to tell.
///
/// # Errors
/// When there is no such device, or nothing can be sent on it.
pub fn announce(address: &MasterAddress) -> Result<(), AddressError> {
    let link = |entry: InterfaceAddress| -> Option<LinkAddr> {
        (entry.interface_name == address.device).then(|| entry.address?.as_link_addr().copied())?
    };
    let link = all()?.find_map(link).ok_or_else(|| AddressError::NoDevice(address.device.clone()))?;
    let Some(mac) = link.addr().filter(|mac| link.halen() == mac.len() && *mac != [0; 6]) else {
        return Ok(());
    };
    let failed = |source| AddressError::Announce { device: address.device.clone(), source };
    // Protocol 0: it sends, and receives nothing.
    let packets =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).map_err(failed)?;
    for frame in announcements(mac, address.ip) {
        // Of the address only the device's number is used: the frame names its receivers itself.
        sendto(packets.as_raw_fd(), &frame, &link, MsgFlags::MSG_DONTWAIT).map_err(failed)?;
    }
    Ok(())
}
