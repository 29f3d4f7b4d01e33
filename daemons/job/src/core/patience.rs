//! How long a node that is out of reach is waited for, and how often it is asked again. Pure.

use std::time::{Duration, Instant};

/// How long a node may be out of reach: a restart of noded takes a second, one of the machine loses the VM anyway.
pub const AWAY: Duration = Duration::from_secs(60);
/// A wait longer than this is told in the job's log.
const TELL_AWAY: Duration = Duration::from_secs(2);
/// First and longest pause between tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// One time out of reach. It begins with the first failure.
#[derive(Debug, Default)]
pub struct Patience {
    since: Option<Instant>,
    pause: Duration,
    told: bool,
}

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Ask again after this pause; `tell` the user that there is a wait, once.
    Again {
        /// How long.
        pause: Duration,
        /// Whether it is worth a line now.
        tell: bool,
    },
    /// It took too long.
    GiveUp,
}

impl Patience {
    /// A try failed.
    pub fn failed(&mut self, now: Instant) -> Next {
        let away = now.saturating_duration_since(*self.since.get_or_insert(now));
        if away >= AWAY {
            return Next::GiveUp;
        }
        let tell = away >= TELL_AWAY && !std::mem::replace(&mut self.told, true);
        self.pause = (self.pause * 2).clamp(PAUSE.0, PAUSE.1);
        Next::Again { pause: self.pause, tell }
    }

    /// The node was there in between: a stream brought something, or stood for `time` before it broke. One that breaks at
    /// once is no sign of life, and must not make the pauses short again.
    pub fn was_there(&mut self, brought: bool, time: Duration) {
        if brought || time > PAUSE.1 {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_away_is_asked_less_and_less_often_and_given_up_after_a_minute() {
        let (mut patience, begin) = (Patience::default(), Instant::now());
        let (mut now, mut asked, mut told) = (begin, 0, 0);
        while let Next::Again { pause, tell } = patience.failed(now) {
            now += pause;
            asked += 1;
            told += u32::from(tell);
        }
        assert!(now - begin >= AWAY && now - begin < AWAY + 2 * PAUSE.1);
        assert!((60..=65).contains(&asked) && told == 1, "{asked} times, told {told} times");
    }

    #[test]
    fn two_short_absences_far_apart_are_two() {
        let (mut patience, begin) = (Patience::default(), Instant::now());
        assert!(matches!(patience.failed(begin), Next::Again { .. }));
        // The command says nothing, but the stream stood.
        patience.was_there(false, Duration::from_secs(95));
        let again = patience.failed(begin + Duration::from_secs(96));
        assert_eq!(again, Next::Again { pause: PAUSE.0, tell: false });
    }

    #[test]
    fn streams_that_break_at_once_are_no_sign_of_life() {
        let (mut patience, begin) = (Patience::default(), Instant::now());
        for second in 0..60 {
            assert!(matches!(patience.failed(begin + Duration::from_secs(second)), Next::Again { .. }));
            patience.was_there(false, Duration::from_millis(20));
        }
        assert_eq!(patience.failed(begin + AWAY), Next::GiveUp);
    }
}
