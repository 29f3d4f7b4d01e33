//! A few bytes with an open file, over a Unix socket.

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Sends `bytes` and `file` in one message.
///
/// # Errors
/// The kernel's: `WouldBlock` when a non-blocking socket has no room, `BrokenPipe` when its other end is closed. Interrupted or
/// written in part is no success either.
pub fn send(socket: impl AsFd, bytes: &[u8], file: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [file];
    if !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Takes what has come into `room`: how many bytes, none when the other end is closed, and the file that was with them. It is
/// close-on-exec.
///
/// # Errors
/// The kernel's.
pub fn receive(socket: impl AsFd, room: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(socket, &mut [IoSliceMut::new(room)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut file = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut files) = message {
            file = files.next().or(file);
        }
    }
    Ok((got.bytes, file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_file_comes_with_its_bytes_and_without_one_none() {
        let (one, other) = UnixStream::pair().expect("a pair");
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        send(&one, b"take it", writer.as_fd()).expect("sent");
        drop(writer);
        let mut room = [0; 64];
        let (bytes, file) = receive(&other, &mut room).expect("received");
        assert_eq!(&room[..bytes], b"take it");
        std::fs::File::from(file.expect("a file")).write_all(b"through").expect("written");
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        assert_eq!(text, "through");
        (&one).write_all(b"bare").expect("written");
        let (bytes, file) = receive(&other, &mut room).expect("received");
        assert!(bytes == 4 && file.is_none());
        drop(one);
        assert!(matches!(receive(&other, &mut room), Ok((0, None))));
        assert_eq!(
            send(&other, b"x", other.as_fd()).map_err(|why| why.kind()),
            Err(io::ErrorKind::BrokenPipe)
        );
    }
}
