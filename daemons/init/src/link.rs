//! The socket between vmd and init: packets with file descriptors, and the kernel's word on who sent them.

use crate::wire::{FDS_MAX, PACKET_BYTES_MAX};
use rustix::cmsg_space;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair, sockopt,
};
use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A packet that came.
#[derive(Debug)]
pub struct Packet {
    /// Its bytes; none = the other end is closed.
    pub bytes: Vec<u8>,
    /// Descriptors that came with it.
    pub fds: Vec<OwnedFd>,
    /// Its sender as a process of ours, where the socket was told to ask ([`pair`]).
    pub pid: Option<i32>,
}

/// Two ends: vmd's, non-blocking and told the sender's pid, and init's.
///
/// # Errors
/// The kernel's.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, its) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_passcred(&ours, true)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, its))
}

/// Sends one packet.
///
/// # Errors
/// The kernel's; `WouldBlock` on a non-blocking socket whose other end does not read.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one packet; blocks when the socket does.
///
/// # Errors
/// The kernel's.
pub fn receive(socket: impl AsFd) -> io::Result<Packet> {
    // One room for all packets of a thread: most have some bytes only.
    thread_local!(static ROOM: RefCell<Vec<u8>> = RefCell::new(vec![0; PACKET_BYTES_MAX]));
    ROOM.with_borrow_mut(|room| receive_into(socket, room))
}

fn receive_into(socket: impl AsFd, room: &mut [u8]) -> io::Result<Packet> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FDS_MAX), ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(room)];
    let got = recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let (mut fds, mut pid) = (Vec::new(), None);
    for message in control.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(all) => fds.extend(all),
            RecvAncillaryMessage::ScmCredentials(who) => pid = Some(who.pid.as_raw_nonzero().get()),
            _ => {}
        }
    }
    let bytes = room.get(..got.bytes).unwrap_or_default().to_vec();
    Ok(Packet { bytes, fds, pid })
}
