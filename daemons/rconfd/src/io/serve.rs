//! The sockets. Each of a few threads takes as many datagrams as there are with one call, answers them, and sends all
//! answers with another (docs/adr/0012 says why threads).

use super::shared::{Serving, Shared};
use crate::core::admit::{Admitted, Dropped, Rules, admit};
use crate::core::answer::Answer;
use crate::core::cache::Cache;
use crate::core::gate::Now;
use crate::error::StartError;
use gantry_confd::core::reply::{Said, Server, seal};
use gantry_confd::{Form, Kind, REQUEST_BYTES_MAX};
use gantry_rt::clock;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};
use rustix::net::sockopt;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Datagrams taken at once: enough that the calls cost little beside the work, few enough that threads share a burst.
const BATCH: usize = 16;
/// One byte more than a request may have: a datagram that fills it is too long.
const BUFFER_BYTES: usize = REQUEST_BYTES_MAX + 1;
/// How often a thread that has nothing to do looks whether it shall stop, and how long an answer may wait for room.
const WAIT: Duration = Duration::from_millis(500);

/// Room for datagrams that no thread has taken yet, bytes as the kernel counts them: some 5,000 small requests, 50 ms of the
/// highest rate. Linux's default of 208 KiB holds 256, which a thread that waits for a core for 5 ms has missed.
const RECEIVE_BYTES: usize = 4 << 20;

/// Listens on an address.
///
/// # Errors
/// It is not ours, or taken.
pub fn bind(addr: SocketAddr) -> Result<UdpSocket, StartError> {
    let bind = || {
        let socket = UdpSocket::bind(addr)?;
        in_pieces(&socket, addr)?;
        widen(&socket)?;
        socket.set_read_timeout(Some(WAIT))?;
        socket.set_write_timeout(Some(WAIT))?;
        Ok(socket)
    };
    bind().map_err(|source: io::Error| StartError::Bind { addr, source })
}

/// Lets routers cut large answers (`spec/confd.md` §6): with "don't fragment", which is Linux's default, the first on a narrow
/// path is lost, and all are where ICMP is filtered.
fn in_pieces(socket: &UdpSocket, addr: SocketAddr) -> io::Result<()> {
    match addr {
        SocketAddr::V4(_) => sockopt::set_ip_mtu_discover(socket, sockopt::Ipv4PathMtuDiscovery::DONT)?,
        SocketAddr::V6(_) => sockopt::set_ipv6_mtu_discover(socket, sockopt::Ipv6PathMtuDiscovery::DONT)?,
    }
    Ok(())
}

/// Makes room for [`RECEIVE_BYTES`]; who may not go beyond `net.core.rmem_max` gets what that allows.
fn widen(socket: &UdpSocket) -> io::Result<()> {
    // The kernel doubles what it is told, for its own share.
    let bytes = RECEIVE_BYTES / 2;
    if sockopt::set_socket_recv_buffer_size_force(socket, bytes).is_err() {
        sockopt::set_socket_recv_buffer_size(socket, bytes)?;
    }
    Ok(())
}

/// One thread of a socket.
pub struct Worker {
    socket: Arc<UdpSocket>,
    own: SocketAddr,
    shared: Arc<Shared>,
    cache: Cache,
    /// Bytes sent and not yet counted by the gate.
    sent: u64,
}

/// An answer and whom it goes to.
type Reply = (SocketAddr, Vec<u8>);

impl Worker {
    /// A thread that shares a socket with others.
    ///
    /// # Errors
    /// The socket has no address.
    pub fn new(socket: Arc<UdpSocket>, shared: Arc<Shared>) -> io::Result<Self> {
        let own = socket.local_addr()?;
        Ok(Self { socket, own, shared, cache: Cache::default(), sent: 0 })
    }

    /// Answers until it shall stop. Blocks.
    ///
    /// # Errors
    /// The socket broke.
    pub fn run(mut self, stop: &CancellationToken) -> io::Result<()> {
        let mut buffers = vec![[0_u8; BUFFER_BYTES]; BATCH];
        let mut received: Vec<(SocketAddr, usize)> = Vec::with_capacity(BATCH);
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
        while !stop.is_cancelled() {
            received.clear();
            receive(&self.socket, &mut headers, &mut buffers, &mut received)?;
            if received.is_empty() {
                continue;
            }
            let datagrams: Vec<(SocketAddr, &[u8])> = received
                .iter()
                .zip(&buffers)
                .map(|((from, bytes), buffer)| (*from, &buffer[..*bytes]))
                .collect();
            let now = Now { ms: clock::millis(), s: clock::now().0 };
            let replies = self.answer(&datagrams, now);
            self.send(&replies);
        }
        Ok(())
    }

    /// The answers to a batch of datagrams, of those that get one.
    pub fn answer(&mut self, datagrams: &[(SocketAddr, &[u8])], now: Now) -> Vec<Reply> {
        let shared = Arc::clone(&self.shared);
        let serving = shared.serving();
        shared.counts.received.fetch_add(datagrams.len() as u64, Ordering::Relaxed);
        let mut admitted = self.admitted(&serving, datagrams, now);
        self.pass(&mut admitted, now);
        admitted.into_iter().map(|(from, one)| (from, self.reply(&serving, from, &one, now))).collect()
    }

    fn admitted(
        &self,
        serving: &Serving,
        datagrams: &[(SocketAddr, &[u8])],
        now: Now,
    ) -> Vec<(SocketAddr, Admitted)> {
        let rules = Rules {
            options: &serving.options,
            keys: &serving.keys,
            near: &self.shared.near,
            is_node: &|ip| serving.nodes.contains(&ip),
            own: self.own,
            clock_s: self.shared.clock_s,
        };
        let one = |(from, datagram): &(SocketAddr, &[u8])| match admit(&rules, datagram, *from, now.s) {
            Ok(admitted) => Some((*from, admitted)),
            Err((why, apart)) => {
                self.dropped(why, *from, apart);
                None
            }
        };
        datagrams.iter().filter_map(one).collect()
    }

    /// Leaves those that the gate lets in.
    fn pass(&mut self, admitted: &mut Vec<(SocketAddr, Admitted)>, now: Now) {
        if admitted.is_empty() {
            return;
        }
        let mut refused = Vec::new();
        let mut gate = self.shared.gate.lock().unwrap_or_else(PoisonError::into_inner);
        gate.sent(std::mem::take(&mut self.sent));
        admitted.retain(|(from, one)| {
            let legacy = one.form == Form::Legacy;
            match gate.pass(legacy, one.salt, one.mac.head(), from.ip().to_canonical(), now) {
                Ok(()) => true,
                Err(shut) => {
                    refused.push((*from, Dropped::from(shut)));
                    false
                }
            }
        });
        drop(gate);
        refused.into_iter().for_each(|(from, why)| self.dropped(why, from, None));
    }

    fn dropped(&self, why: Dropped, from: SocketAddr, clock_ahead_s: Option<i64>) {
        let Some(unsaid) = self.shared.counts.drop(why) else { return };
        match clock_ahead_s {
            // The usual cause is a missing NTP: a person must hear of it.
            Some(seconds) => {
                tracing::warn!(%from, seconds, unsaid, "a request's clock is off by too much: not answered")
            }
            None => tracing::info!(%from, reason = ?why, unsaid, "not answered"),
        }
    }

    fn reply(&mut self, serving: &Serving, from: SocketAddr, one: &Admitted, now: Now) -> Vec<u8> {
        let counts = &self.shared.counts;
        counts.answered(one.form, one.request.kind).fetch_add(1, Ordering::Relaxed);
        if one.form == Form::Legacy {
            counts.legacy(from.ip().to_canonical(), now.s);
        }
        let snapshot = self.shared.current(serving, now.ms);
        let answer = match snapshot {
            None => Arc::new(Answer::none()),
            Some(_) if one.request.kind == Kind::Config && !tells(serving, from.ip(), self.own.ip()) => {
                Arc::new(Answer::untold())
            }
            Some(snapshot) => self.cache.answer(snapshot, one.form, one.request.kind, &one.request.query),
        };
        let config_serial = snapshot.map_or(0, |snapshot| snapshot.config_serial());
        let said = Said { ok: answer.ok, answer: &answer.text, serial: answer.serial };
        let server = Server { time: now.s, config_serial, node: &self.shared.node };
        let keys = &serving.keys[one.key];
        let (datagram, long) = seal(one.form, keys, &one.mac, &one.request.rsalt, said, server);
        if long && counts.long.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(%from, kind = one.request.kind.name(), "an answer is too long for any datagram");
        }
        datagram
    }

    /// Sends what can be sent: who asked asks again.
    fn send(&mut self, replies: &[Reply]) {
        let bytes: u64 = replies.iter().map(|(_, reply)| reply.len() as u64).sum();
        self.sent += bytes;
        self.shared.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
        let mut rest = replies;
        while !rest.is_empty() {
            let slices: Vec<[IoSlice<'_>; 1]> = rest.iter().map(|(_, reply)| [IoSlice::new(reply)]).collect();
            let addrs: Vec<Option<SockaddrStorage>> =
                rest.iter().map(|(addr, _)| Some(SockaddrStorage::from(*addr))).collect();
            let sent =
                sendmmsg(self.socket.as_raw_fd(), &mut headers, &slices, &addrs, [], MsgFlags::empty());
            let sent = match sent {
                Ok(sent) => sent.count().max(1),
                Err(nix::Error::EINTR) => 0,
                Err(why) => {
                    tracing::debug!(%why, to = %rest[0].0, "an answer could not be sent");
                    1
                }
            };
            rest = &rest[sent.min(rest.len())..];
        }
    }
}

fn tells(serving: &Serving, from: IpAddr, own: IpAddr) -> bool {
    serving.options.tells_config(from.to_canonical(), own.to_canonical())
}

/// Waits for datagrams and takes all that are there.
fn receive(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<SockaddrStorage>,
    buffers: &mut [[u8; BUFFER_BYTES]],
    received: &mut Vec<(SocketAddr, usize)>,
) -> io::Result<()> {
    let mut slices: Vec<[IoSliceMut<'_>; 1]> =
        buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer.as_mut_slice())]).collect();
    match recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), MsgFlags::MSG_WAITFORONE, None) {
        Ok(all) => received.extend(all.map(|one| (source(one.address), one.bytes))),
        // Nothing came in time; or an earlier answer found nobody.
        Err(nix::Error::EAGAIN | nix::Error::EINTR | nix::Error::ECONNREFUSED) => {}
        Err(why) => return Err(why.into()),
    }
    Ok(())
}

/// Where a datagram came from. One from nowhere has port 0 and is not answered.
fn source(addr: Option<SockaddrStorage>) -> SocketAddr {
    let Some(addr) = addr else { return SocketAddr::from(([0, 0, 0, 0], 0)) };
    let v4 = addr.as_sockaddr_in().map(|addr| SocketAddr::from((addr.ip(), addr.port())));
    let v6 = || addr.as_sockaddr_in6().map(|addr| SocketAddr::V6((*addr).into()));
    v4.or_else(v6).unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_answers_may_be_cut_on_the_way() {
        let v4 = bind("127.0.0.1:0".parse().expect("an address")).expect("bound");
        assert_eq!(sockopt::ip_mtu_discover(&v4), Ok(sockopt::Ipv4PathMtuDiscovery::DONT));
        let v6 = bind("[::1]:0".parse().expect("an address")).expect("bound");
        assert_eq!(sockopt::ipv6_mtu_discover(&v6), Ok(sockopt::Ipv6PathMtuDiscovery::DONT));
    }
}
