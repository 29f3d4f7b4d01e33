//! The floor of ConfD's times: a thread that sends each datagram back, asked as often and by the same kind of client.

use crate::confd::{pause, take};
use crate::figure::{Figure, percentile};
use anyhow::{Context, Result};
use nix::sys::prctl;
use nix::sys::socket::MsgFlags;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

/// How long it is measured.
const WINDOW: Duration = Duration::from_secs(4);
/// Datagrams of one call.
const BATCH: usize = 32;
/// Bytes of a datagram, as a signed question has.
const BYTES: usize = 200;

/// Times of an echo, so many a second.
pub fn floor(rate: f64) -> Result<Figure> {
    let (server, client) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    client.connect(server.local_addr()?)?;
    server.connect(client.local_addr()?)?;
    server.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut times = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0_u8; BYTES];
            // An end of half a second without any is the end.
            while let Ok(bytes) = server.recv(&mut buffer) {
                let _ = server.send(&buffer[..bytes]);
            }
        });
        ask(&client, rate)
    })?;
    let (p50, p99) = (percentile(&mut times, 0.5), percentile(&mut times, 0.99));
    Ok(Figure {
        name: "floor: a bare UDP echo, open loop",
        value: format!("p50 {:.3} ms p99 {:.3} ms", p50.as_secs_f64() * 1e3, p99.as_secs_f64() * 1e3),
        aim: format!("at {rate:.0}/s, n={}", times.len()),
    })
}

/// Each datagram holds when it was due, ns from the beginning.
fn ask(client: &UdpSocket, rate: f64) -> Result<Vec<Duration>> {
    prctl::set_timerslack(1)?;
    let (begin, mut times, mut sent) = (Instant::now(), Vec::new(), 0_u32);
    let mut buffers = vec![vec![0_u8; BYTES]; BATCH];
    while begin.elapsed() < WINDOW {
        let due = |sent: u32| Duration::from_secs_f64(f64::from(sent) / rate);
        let mut datagram = [0_u8; BYTES];
        while due(sent) <= begin.elapsed() {
            datagram[..8].copy_from_slice(&u64::try_from(due(sent).as_nanos())?.to_le_bytes());
            client.send(&datagram).context("send to the echo")?;
            sent += 1;
        }
        let count = take(client, &mut buffers, MsgFlags::MSG_DONTWAIT)?.len();
        let now = begin.elapsed();
        for buffer in &buffers[..count] {
            let due = u64::from_le_bytes(buffer[..8].try_into()?);
            times.push(now.saturating_sub(Duration::from_nanos(due)));
        }
        if count == 0 {
            pause(client, begin + due(sent))?;
        }
    }
    Ok(times)
}
