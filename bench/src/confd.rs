//! ConfD over loopback: how many questions a second are answered with 32 on their way, and how long one takes at half of
//! that. The load is one thread of this process, which signs each request and checks each reply; it has the same two cores.

use crate::echo;
use crate::figure::{Figure, percentile};
use crate::seed;
use anyhow::{Context, Result, ensure};
use gantry_confd::core::reply::open;
use gantry_confd::core::wire::{Mac, Outer, seal_request};
use gantry_confd::{Form, Keys, Kind, Query, Request};
use gantry_tests::{Options, VirtualCluster, wait};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::prctl;
use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt};
use nix::sys::time::TimeSpec;
use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

/// Requests on their way.
const FLIGHT: usize = 32;
/// How long each figure is measured.
const WINDOW: Duration = Duration::from_secs(4);
/// And how often that at half load.
const WINDOWS: usize = 5;
/// No bounds but those of the machine. The bench says so.
const SETTINGS: &str =
    "[confd]\nreplay_entries = 8000000\nrate = 100000000\nburst = 100000000\nbytes_per_s = 100000000000\n";
/// Datagrams a second of the floor: about half of what ConfD answers here.
const ECHO_RATE: f64 = 55_000.0;
/// Instances of the small and the large cluster.
const SIZES: [u32; 2] = [10, 10_000];
/// A reply that takes longer is lost.
const LOST: Duration = Duration::from_secs(2);
/// Room for replies that this process has not taken yet: it shares its cores with who sends them.
const RECEIVE_BYTES: usize = 2 << 20;

/// Rates and times, with few instances and with many, in both forms.
pub fn measure() -> Result<Vec<Figure>> {
    let mut all = Vec::new();
    let mut rates = Vec::new();
    all.push(echo::floor(ECHO_RATE)?);
    for count in SIZES {
        let options = Options { settings: SETTINGS.to_owned(), ..Options::new(1) };
        let cluster = seed::fill(VirtualCluster::start(&options)?, count)?;
        for form in [Form::Legacy, Form::Second] {
            let mut load = Load::new(&cluster, form, count)?;
            load.warm()?;
            let rate = load.closed()?;
            let windows = (0..WINDOWS).map(|_| load.paced(rate / 2.0)).collect::<Result<Vec<_>>>()?;
            rates.push(rate);
            let of = form.as_str();
            let (name, aim) = names(count, form);
            all.push(Figure { name, value: format!("{rate:.0}/s"), aim });
            all.push(half_load(windows, of));
        }
    }
    all.push(Figure {
        name: "confd: 10,000 instances against 10",
        value: format!("{:.2} and {:.2} of the rate", rates[2] / rates[0], rates[3] / rates[1]),
        aim: "aim ≥ 0.80 (plj0, plj2)".to_owned(),
    });
    Ok(all)
}

/// The medians of some windows: whatever else the machine does for a moment meets one of them.
fn half_load(mut windows: Vec<(Vec<Duration>, usize)>, form: &str) -> Figure {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let mut of = |part: f64| {
        let mut all: Vec<f64> = windows.iter_mut().map(|(times, _)| ms(percentile(times, part))).collect();
        all.sort_by(f64::total_cmp);
        all
    };
    let (p50, p99) = (of(0.5), of(0.99));
    let (count, lost) =
        windows.iter().fold((0, 0), |(n, lost), (times, more)| (n + times.len(), lost + more));
    Figure {
        name: "  at half of that, open loop",
        value: format!("p50 {:.3} ms p99 {:.3} ms", p50[WINDOWS / 2], p99[WINDOWS / 2]),
        aim: format!(
            "aim p99 ≤ 1 ms; medians of {WINDOWS} windows, p99 {p99:.2?} ({form}, n={count}, lost {lost})"
        ),
    }
}

fn names(count: u32, form: Form) -> (&'static str, String) {
    let aim =
        "aim ≥ 60,000/s; replay cache 8 M, rate limits lifted, load client on the same cores".to_owned();
    let name = match (count == SIZES[0], form) {
        (true, Form::Legacy) => "confd: plj0, 10 instances, 32 in flight",
        (true, Form::Second) => "confd: plj2, 10 instances, 32 in flight",
        (false, Form::Legacy) => "confd: plj0, 10,000 instances, 32 in flight",
        (false, Form::Second) => "confd: plj2, 10,000 instances, 32 in flight",
    };
    (name, aim)
}

/// A request on its way.
struct Sent {
    rsalt: String,
    mac: Mac,
    at: Instant,
}

struct Load {
    keys: Keys,
    form: Form,
    socket: UdpSocket,
    peer: SocketAddrV4,
    questions: Vec<(Kind, Query)>,
    number: u64,
    flight: Vec<Option<Sent>>,
}

impl Load {
    fn new(cluster: &VirtualCluster, form: Form, count: u32) -> Result<Self> {
        let node = cluster.master();
        let key = std::fs::read(node.root.join("var/lib/gantry/hmac.key")).context("hmac.key")?;
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(LOST))?;
        setsockopt(&socket, RcvBufForce, &RECEIVE_BYTES)?;
        let SocketAddr::V4(peer) = format!("{}:1814", node.address).parse()? else {
            anyhow::bail!("IPv4 is expected")
        };
        let text = |text: &str| Query::Text(text.to_owned());
        let questions = vec![
            (Kind::NodeRole, text(&node.name)),
            (Kind::Master, Query::Null),
            (Kind::Disks, text(&seed::name(count - 1))),
            (Kind::CandidateIps, Query::Null),
        ];
        let flight = (0..FLIGHT).map(|_| None).collect();
        Ok(Self { keys: Keys::new(&key)?, form, socket, peer, questions, number: 0, flight })
    }

    /// Waits until the server has the seeded configuration.
    fn warm(&mut self) -> Result<()> {
        let questions = self.questions.clone();
        for (kind, query) in questions {
            wait::until("the server answers", Duration::from_secs(60), || {
                let (datagram, sent) = self.request(0, kind, &query).ok()?;
                self.socket.send_to(&datagram, self.peer).ok()?;
                let mut buffer = vec![0; 65_536];
                let bytes = self.socket.recv(&mut buffer).ok()?;
                let outer = Outer::parse(&buffer[..bytes]).ok()?;
                let heard = open(self.form, &self.keys, &sent.mac, &sent.rsalt, &outer, seconds()).ok()?;
                heard.ok.then_some(())
            })?;
        }
        Ok(())
    }

    /// The next request; the slot is named in its rsalt.
    fn request(&mut self, slot: usize, kind: Kind, query: &Query) -> Result<(Vec<u8>, Sent)> {
        self.request_at(slot, kind, query, seconds())
    }

    /// The same, signed at a time.
    fn request_at(&mut self, slot: usize, kind: Kind, query: &Query, s: u64) -> Result<(Vec<u8>, Sent)> {
        self.number += 1;
        let rsalt = format!("{:08x}-0000-4000-{slot:04x}-{:012x}", std::process::id(), self.number);
        let dst = (self.form == Form::Second).then(|| self.peer.ip().to_string());
        let request = Request { kind, query: query.clone(), rsalt: rsalt.clone(), dst };
        let msg = request.message(self.form)?;
        let (datagram, mac) = seal_request(self.form, &self.keys, &s.to_string(), &msg);
        Ok((datagram, Sent { rsalt, mac, at: Instant::now() }))
    }

    /// Puts a request into a slot.
    fn next(&mut self, slot: usize) -> Result<Vec<u8>> {
        let at = usize::try_from(self.number).unwrap_or_default() % self.questions.len();
        let (kind, query) = self.questions[at].clone();
        let (datagram, sent) = self.request(slot, kind, &query)?;
        self.flight[slot] = Some(sent);
        Ok(datagram)
    }

    /// Sends datagrams with as few calls as it takes.
    fn send(&self, datagrams: &[impl AsRef<[u8]>]) -> Result<()> {
        let mut rest = datagrams;
        while !rest.is_empty() {
            let part = &rest[..rest.len().min(FLIGHT)];
            let slices: Vec<[IoSlice<'_>; 1]> = part.iter().map(|one| [IoSlice::new(one.as_ref())]).collect();
            let addrs = vec![Some(SockaddrIn::from(self.peer)); part.len()];
            let mut headers = MultiHeaders::preallocate(part.len(), None);
            let sent =
                sendmmsg(self.socket.as_raw_fd(), &mut headers, &slices, &addrs, [], MsgFlags::empty())?;
            rest = &rest[sent.count()..];
        }
        Ok(())
    }

    /// Takes what replies there are and checks them: the slots that are free again, with their times.
    fn receive(&mut self, buffers: &mut [Vec<u8>], flags: MsgFlags) -> Result<Vec<(usize, Duration)>> {
        let got = take(&self.socket, buffers, flags)?;
        let now = Instant::now();
        let mut free = Vec::with_capacity(got.len());
        for (bytes, buffer) in got.into_iter().zip(buffers) {
            let outer = Outer::parse(&buffer[..bytes])?;
            let slot = outer
                .salt
                .get(19..23)
                .and_then(|hex| usize::from_str_radix(hex, 16).ok())
                .context("a slot")?;
            let sent = self.flight.get_mut(slot).and_then(Option::take).context("a request of ours")?;
            let heard = open(self.form, &self.keys, &sent.mac, &sent.rsalt, &outer, seconds())?;
            ensure!(heard.ok, "an error: {}", heard.answer);
            free.push((slot, now - sent.at));
        }
        Ok(free)
    }

    /// Answers a second with [`FLIGHT`] requests always on their way.
    fn closed(&mut self) -> Result<f64> {
        let mut buffers = vec![vec![0_u8; 4096]; FLIGHT];
        let first = (0..FLIGHT).map(|slot| self.next(slot)).collect::<Result<Vec<_>>>()?;
        self.send(&first)?;
        let (begin, mut count) = (Instant::now(), 0_u32);
        while begin.elapsed() < WINDOW {
            let free = self.receive(&mut buffers, MsgFlags::MSG_WAITFORONE)?;
            count += u32::try_from(free.len())?;
            let more = free.into_iter().map(|(slot, _)| self.next(slot)).collect::<Result<Vec<_>>>()?;
            self.send(&more)?;
        }
        let rate = f64::from(count) / begin.elapsed().as_secs_f64();
        while self.flight.iter().any(Option::is_some) {
            self.receive(&mut buffers, MsgFlags::MSG_WAITFORONE)?;
        }
        Ok(rate)
    }

    /// Times of requests that are sent so many a second, whether the earlier are answered or not, and how many got no
    /// reply. A request's time runs from when it was due. All are signed before the first is sent, and all replies checked after
    /// the last has come: half of the machine's time went into that, and requests waited for their own client.
    fn paced(&mut self, rate: f64) -> Result<(Vec<Duration>, usize)> {
        let shots = self.shots(rate)?;
        let replies = self.shoot(&shots, rate)?;
        let first = self.number - shots.len() as u64;
        let mut times = Vec::with_capacity(replies.len());
        for (bytes, at) in &replies {
            let outer = Outer::parse(bytes)?;
            let number =
                outer.salt.get(24..).and_then(|hex| u64::from_str_radix(hex, 16).ok()).context("a number")?;
            let index = usize::try_from(number.checked_sub(first + 1).context("a request of ours")?)?;
            let (_, sent) = shots.get(index).context("a request of ours")?;
            let heard = open(self.form, &self.keys, &sent.mac, &sent.rsalt, &outer, seconds())?;
            ensure!(heard.ok, "an error: {}", heard.answer);
            times.push(at.saturating_sub(Duration::from_secs_f64(index as f64 / rate)));
        }
        Ok((times, shots.len() - replies.len()))
    }

    /// What is sent in a window, each signed for the second in which it is due.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "some 100,000 a second, for seconds"
    )]
    fn shots(&mut self, rate: f64) -> Result<Vec<(Vec<u8>, Sent)>> {
        // Signing and sending them all takes less than the age at which a request is too old.
        let begin = seconds();
        let count = (WINDOW.as_secs_f64() * rate) as u32;
        let one = |due: u32| {
            let at = usize::try_from(self.number).unwrap_or_default() % self.questions.len();
            let (kind, query) = self.questions[at].clone();
            self.request_at(0, kind, &query, begin + (f64::from(due) / rate) as u64)
        };
        (0..count).map(one).collect()
    }

    /// Sends them, each when it is due: the replies, with the time of each from the beginning.
    fn shoot(&self, shots: &[(Vec<u8>, Sent)], rate: f64) -> Result<Vec<(Vec<u8>, Duration)>> {
        let mut buffers = vec![vec![0_u8; 4096]; FLIGHT];
        let mut replies = Vec::with_capacity(shots.len());
        prctl::set_timerslack(1)?;
        let (begin, mut sent) = (Instant::now(), 0);
        let due = |number: usize| Duration::from_secs_f64(number as f64 / rate);
        while replies.len() < shots.len() && begin.elapsed() < WINDOW + LOST {
            let now = begin.elapsed();
            let ready =
                shots[sent..].iter().take(FLIGHT).enumerate().take_while(|(more, _)| due(sent + more) <= now);
            let batch: Vec<&[u8]> = ready.map(|(_, (datagram, _))| datagram.as_slice()).collect();
            self.send(&batch)?;
            sent += batch.len();
            let got = take(&self.socket, &mut buffers, MsgFlags::MSG_DONTWAIT)?;
            let now = begin.elapsed();
            replies.extend(got.iter().zip(&buffers).map(|(bytes, buffer)| (buffer[..*bytes].to_vec(), now)));
            if got.is_empty() && batch.is_empty() {
                let next = if sent < shots.len() { due(sent) } else { WINDOW + LOST };
                pause(&self.socket, begin + next)?;
            }
        }
        Ok(replies)
    }
}

/// Waits for a datagram or a time. Not by turning in circles: that would take a core from whom is measured.
pub fn pause(socket: &UdpSocket, until: Instant) -> Result<()> {
    let pause = until.saturating_duration_since(Instant::now());
    let mut sockets = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    ppoll(&mut sockets, Some(TimeSpec::from_duration(pause)), None)?;
    Ok(())
}

/// Takes the datagrams that are there: their lengths.
pub fn take(socket: &UdpSocket, buffers: &mut [Vec<u8>], flags: MsgFlags) -> Result<Vec<usize>> {
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(buffers.len(), None);
    let mut slices: Vec<[IoSliceMut<'_>; 1]> =
        buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer.as_mut_slice())]).collect();
    match recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), flags, None) {
        Ok(all) => Ok(all.map(|one| one.bytes).collect()),
        Err(nix::Error::EAGAIN) if flags.contains(MsgFlags::MSG_DONTWAIT) => Ok(Vec::new()),
        Err(why) => Err(why).context("a reply was lost"),
    }
}

fn seconds() -> u64 {
    gantry_model::time::now().0
}
