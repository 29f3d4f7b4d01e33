//! Random choices that can be made again: the seed is printed, and `GANTRY_SEED` replays it.

use std::fs::File;
use std::io::Read;

/// Names a seed to use instead of a new one.
pub const SEED_ENV: &str = "GANTRY_SEED";

/// A small generator (splitmix64). Good enough to choose victims, for nothing else.
#[derive(Debug, Clone)]
pub struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    /// One with this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, state: seed }
    }

    /// One with the seed of `GANTRY_SEED`, else a new one; says on stderr how to replay.
    #[must_use]
    pub fn from_env(what: &str) -> Self {
        let named = std::env::var(SEED_ENV).ok().and_then(|text| text.parse().ok());
        let seed = named.unwrap_or_else(fresh);
        eprintln!("{what}: {SEED_ENV}={seed} makes the same choices again");
        Self::new(seed)
    }

    /// The seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.number() % end).unwrap_or(0)
    }

    /// One of `all`, which is not empty.
    pub fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

fn fresh() -> u64 {
    let mut bytes = [0; 8];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_or_else(|_| u64::from(std::process::id()), |()| u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn a_seed_makes_the_same_choices_again() {
        let choices = |seed| {
            let mut random = Random::new(seed);
            (0..100).map(|_| random.below(10)).collect::<Vec<_>>()
        };
        assert_eq!(choices(7), choices(7));
        assert_ne!(choices(7), choices(8));
        assert_eq!((0..10).filter(|n| !choices(7).contains(n)).count(), 0, "every choice comes up");
    }
}
