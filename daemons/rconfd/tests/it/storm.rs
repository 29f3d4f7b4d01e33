//! A million datagrams that were requests once: none crashes it, none that is not signed is answered, nothing grows.

use crate::world::{World, exchange, keys, ping, seconds};
use gantry_confd::Form;
use gantry_confd::core::wire::{Outer, seal_request};
use std::collections::HashSet;
use std::net::UdpSocket;

const DATAGRAMS: usize = 1_000_000;
/// After so many a ping must be answered, which also keeps the socket's buffer from overflowing.
const BETWEEN: usize = 100;
/// What memory may grow by, once it has warmed up.
const GROWTH_KIB: u64 = 8 * 1024;
/// Datagrams before memory is looked at first.
const WARM: usize = 100_000;

/// Small and good enough: xorshift.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap()
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() % end.max(1)
    }
}

/// Letters that mean something in JSON or in the outer form.
const MEANINGFUL: &[u8] = b"{}[]\":,\\u0dplj2-.eE+\0\xff \n";

fn mutated(good: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut all = good.to_vec();
    for _ in 0..=chance.below(3) {
        let at = chance.below(all.len());
        match chance.below(6) {
            0 => all[at] ^= 1 << chance.below(8),
            1 => all[at] = MEANINGFUL[chance.below(MEANINGFUL.len())],
            2 => all.truncate(at),
            3 => all.insert(at, MEANINGFUL[chance.below(MEANINGFUL.len())]),
            4 => {
                let end = (at + chance.below(40)).min(all.len());
                let piece = all[at..end].to_vec();
                all.splice(at..at, piece);
            }
            _ => {
                all.remove(at);
            }
        }
        if all.is_empty() {
            all.push(0);
        }
    }
    all
}

/// Signed well, but what is signed is broken.
fn signed(form: Form, chance: &mut Chance, dst: std::net::IpAddr) -> Vec<u8> {
    let outer = Outer::parse(&ping(form, dst, seconds()).0).unwrap();
    let msg = mutated(outer.msg.as_bytes(), chance);
    seal_request(form, &keys(), &outer.salt, &String::from_utf8_lossy(&msg)).0
}

#[test]
fn a_million_broken_datagrams() {
    let mut world = World::running("rate = 10000000\nreplay_entries = 20000");
    let (socket, broken) = (world.socket(), world.socket());
    broken.set_nonblocking(true).unwrap();
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let mut forms = [Form::Legacy, Form::Second].into_iter().cycle();
    let ip = world.addr.ip();
    let mut good: Vec<Vec<u8>> =
        [Form::Legacy, Form::Second].map(|form| ping(form, ip, seconds()).0).to_vec();
    // Salts of broken datagrams whose signature is right all the same: these may be answered.
    let mut right = HashSet::new();
    let mut before = 0;
    for number in 0..DATAGRAMS {
        let datagram = if number % 50 == 0 {
            signed(forms.next().unwrap(), &mut chance, ip)
        } else {
            mutated(&good[number % 2], &mut chance)
        };
        if let Ok(outer) = Outer::parse(&datagram)
            && outer.is_request_of(&keys())
        {
            right.insert(rsalt(&outer.msg));
        }
        broken.send(&datagram).unwrap();
        if number % BETWEEN == 0 {
            let form = forms.next().unwrap();
            let (sent, salt) = ping(form, ip, seconds());
            let reply = answered(&socket, &sent);
            assert!(String::from_utf8_lossy(&reply).contains(&salt));
            only_right(&broken, &right);
            good = [Form::Legacy, Form::Second].map(|form| ping(form, ip, seconds()).0).to_vec();
        }
        if number == WARM {
            before = world.rss_kib();
        }
    }
    only_right(&broken, &right);
    assert!(world.is_alive(), "{}", world.said());
    assert!(!world.said().contains("panicked"), "{}", world.said());
    let after = world.rss_kib();
    eprintln!("resident: {before} KiB, then {after} KiB");
    assert!(after < before + GROWTH_KIB, "grew from {before} KiB to {after} KiB");
}

/// The answer to a ping that was never sent before. One whose second was pushed out of the memory is not answered.
fn answered(socket: &UdpSocket, first: &[u8]) -> Vec<u8> {
    if let Some(reply) = exchange(socket, first) {
        return reply;
    }
    panic!("it does not answer any more");
}

fn rsalt(msg: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(msg).unwrap_or_default();
    value["rsalt"].as_str().unwrap_or_default().to_owned()
}

/// Nothing but answers to requests that were signed.
fn only_right(socket: &UdpSocket, right: &HashSet<String>) {
    let mut buffer = [0; 65_536];
    while let Ok(bytes) = socket.recv(&mut buffer) {
        let outer = Outer::parse(&buffer[..bytes]).expect("it sends nothing but datagrams");
        assert!(right.contains(&outer.salt), "answered what was not signed");
    }
}
