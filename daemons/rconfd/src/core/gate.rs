//! Who is answered again, and how often (`spec/confd.md` §6): replies that went out once do not go out again, and no source
//! gets more than its share. Asked only about requests whose MAC is right, so that a forged source takes nothing from
//! anybody. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::net::IpAddr;

/// Requests are remembered for so long after the time in their salt, s: twice the widest window, so that a clock that is set
/// back by as much as the window opens nothing.
pub const REMEMBER_S: u64 = 600;
/// Requests older than the start minus this are not answered, s: an earlier process may have.
pub const START_S: u64 = 2;
/// Sources that are counted at once. The one that asked longest ago makes room.
const SOURCES_MAX: usize = 4_096;

/// Bits of a MAC are as good as their hash: who made them had the key.
#[derive(Debug, Default)]
pub struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }
    #[allow(clippy::cast_possible_truncation, reason = "the low half of random bits")]
    fn write_u128(&mut self, bits: u128) {
        self.0 = bits as u64;
    }
}

/// MACs of requests that were answered, by the second in their salt.
#[derive(Debug)]
pub struct Replays {
    seen: BTreeMap<u64, HashSet<u128, BuildHasherDefault<Same>>>,
    count: usize,
    most: usize,
    floor: u64,
}

impl Replays {
    /// None yet, at `now`; at most `most`.
    #[must_use]
    pub fn new(most: usize, now_s: u64) -> Self {
        Self { seen: BTreeMap::new(), count: 0, most: most.max(1), floor: now_s.saturating_sub(START_S) }
    }

    /// Whether a request may have been answered before.
    #[must_use]
    pub fn is_old(&self, salt: u64, mac: u128) -> bool {
        salt <= self.floor || self.seen.get(&salt).is_some_and(|macs| macs.contains(&mac))
    }

    /// Remembers one that is answered. When there is no room the oldest second is forgotten, and nothing of it or of
    /// what is older is answered any more.
    pub fn note(&mut self, salt: u64, mac: u128, now_s: u64) {
        while let Some((oldest, macs)) = self.seen.first_key_value().map(|(salt, macs)| (*salt, macs.len())) {
            let expired = oldest.saturating_add(REMEMBER_S) < now_s;
            if !expired && self.count < self.most {
                break;
            }
            self.seen.remove(&oldest);
            self.count -= macs;
            if !expired {
                self.floor = self.floor.max(oldest);
            }
        }
        if salt > self.floor && self.second(salt).insert(mac) {
            self.count += 1;
        }
    }

    /// The set of a second. A newest one has room for as many as the one before it: a large set that grows while it is filled
    /// is copied again and again, which held all answers up for some ms of each second. No more room is made than is in use.
    fn second(&mut self, salt: u64) -> &mut HashSet<u128, BuildHasherDefault<Same>> {
        let before = self.seen.last_key_value().filter(|(newest, _)| **newest < salt);
        let room = before.map_or(0, |(_, macs)| macs.len());
        self.seen
            .entry(salt)
            .or_insert_with(|| HashSet::with_capacity_and_hasher(room, BuildHasherDefault::default()))
    }

    /// For how many seconds from now on nobody with a right clock is answered: the floor lies ahead. A wall clock
    /// that was set back makes it so, or requests ahead of it that were forgotten for want of room.
    #[must_use]
    pub fn silent_s(&self, now_s: u64) -> u64 {
        self.floor.saturating_sub(now_s)
    }

    /// How many are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// What may flow: so much a second, and so much at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// A second.
    pub per_s: u64,
    /// At once.
    pub burst: u64,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Thousandths.
    left: u64,
    at: u64,
}

impl Bucket {
    fn new(rate: Rate, now: u64) -> Self {
        Self { left: rate.burst.saturating_mul(1_000), at: now }
    }

    /// Fills it up to now. Is there one?
    fn fill(&mut self, rate: Rate, now: u64) -> bool {
        let grown = now.saturating_sub(self.at).saturating_mul(rate.per_s);
        self.left = self.left.saturating_add(grown).min(rate.burst.saturating_mul(1_000));
        self.at = self.at.max(now);
        self.left >= 1_000
    }

    /// Takes so many, as far as they are there.
    fn spend(&mut self, amount: u64) {
        self.left = self.left.saturating_sub(amount.saturating_mul(1_000));
    }
}

/// Bounds of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// MACs remembered, for each form.
    pub replays: usize,
    /// Requests of one source.
    pub requests: Rate,
    /// Bytes of all replies together.
    pub bytes: Rate,
}

/// Why a request is not answered though its MAC is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shut {
    /// It was, or may have been.
    Replay,
    /// Its source asks too much.
    Rate,
    /// All together get too much.
    Bytes,
}

/// The gate.
#[derive(Debug)]
pub struct Gate {
    limits: Limits,
    legacy: Replays,
    second: Replays,
    sources: HashMap<IpAddr, Bucket>,
    bytes: Bucket,
}

/// Milliseconds of a clock that never steps back, and seconds of the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Never steps back.
    pub ms: u64,
    /// Wall clock.
    pub s: u64,
}

impl Gate {
    /// A gate as of now.
    #[must_use]
    pub fn new(limits: Limits, now: Now) -> Self {
        let replays = || Replays::new(limits.replays, now.s);
        let bytes = Bucket::new(limits.bytes, now.ms);
        Self { limits, legacy: replays(), second: replays(), sources: HashMap::new(), bytes }
    }

    /// Lets a request in; it then counts as answered.
    ///
    /// # Errors
    /// Why it is not let in.
    pub fn pass(&mut self, legacy: bool, salt: u64, mac: u128, from: IpAddr, now: Now) -> Result<(), Shut> {
        let replays = if legacy { &self.legacy } else { &self.second };
        if replays.is_old(salt, mac) {
            return Err(Shut::Replay);
        }
        let rate = self.limits.requests;
        if !self.sources.contains_key(&from) && self.sources.len() >= SOURCES_MAX {
            let oldest = self.sources.iter().min_by_key(|(_, bucket)| bucket.at).map(|(ip, _)| *ip);
            oldest.map(|ip| self.sources.remove(&ip));
        }
        let bucket = self.sources.entry(from).or_insert_with(|| Bucket::new(rate, now.ms));
        if !bucket.fill(rate, now.ms) {
            return Err(Shut::Rate);
        }
        // How many bytes it will be is known only afterwards, see [`Self::sent`].
        if !self.bytes.fill(self.limits.bytes, now.ms) {
            return Err(Shut::Bytes);
        }
        bucket.spend(1);
        let replays = if legacy { &mut self.legacy } else { &mut self.second };
        replays.note(salt, mac, now.s);
        Ok(())
    }

    /// Replies of so many bytes went out.
    pub fn sent(&mut self, bytes: u64) {
        self.bytes.spend(bytes);
    }

    /// As [`Replays::silent_s`], of the form that is silent longer.
    #[must_use]
    pub fn silent_s(&self, now_s: u64) -> u64 {
        self.legacy.silent_s(now_s).max(self.second.silent_s(now_s))
    }

    /// MACs remembered in both forms.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.legacy.len() + self.second.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sets' rooms, from the oldest second on.
    fn rooms(replays: &Replays) -> Vec<usize> {
        replays.seen.values().map(HashSet::capacity).collect()
    }

    #[test]
    fn a_new_second_does_not_grow_again_to_where_the_last_one_was() {
        let mut replays = Replays::new(1 << 20, 1_000);
        (0..50_000).for_each(|mac| replays.note(1_000, mac, 1_000));
        replays.note(1_001, 0, 1_001);
        let room = rooms(&replays)[1];
        assert!(room >= 50_000, "{room}");
        (1..50_000).for_each(|mac| replays.note(1_001, mac, 1_001));
        assert_eq!(rooms(&replays)[1], room);
    }

    /// Else a few requests with many times in them would cost all memory.
    #[test]
    fn room_is_made_once_for_what_is_remembered() {
        let mut replays = Replays::new(1 << 20, 1_000);
        (0..50_000).for_each(|mac| replays.note(1_000, mac, 1_000));
        for ahead in 1..300 {
            replays.note(1_000 + ahead, 7, 1_000);
            replays.note(1_000 - ahead, 7, 1_000);
        }
        assert!(rooms(&replays).iter().sum::<usize>() < 4 * 50_000, "{:?}", rooms(&replays));
    }
}
