//! When a client has heard enough, whom it asks again, and which reply it takes (`spec/confd.md` §5). Pure.

use super::reply::Heard;

/// Most candidates that are asked.
pub const ASKED_MAX: usize = 6;
/// After so long the silent ones are asked once more, ms.
pub const AGAIN_MS: u64 = 1_000;
/// After so long an answer is taken though others are silent, ms: a second for those that were asked again.
pub const SETTLED_MS: u64 = 2_000;
/// After so long the client gives up, ms.
pub const GIVE_UP_MS: u64 = 10_000;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Listen until then.
    Wait(u64),
    /// Ask these again, each with a new rsalt.
    Again(Vec<usize>),
    /// Enough.
    Done,
}

/// The replies to one question.
#[derive(Debug)]
pub struct Collect {
    began: u64,
    again: bool,
    heard: Vec<Option<Heard>>,
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The best reply; None = nobody answered.
    pub best: Option<(usize, Heard)>,
    /// By peer, whether it answered.
    pub answered: Vec<bool>,
    /// Whether all that have the best's serial say the same.
    pub consistent: bool,
}

impl Collect {
    /// `peers` were asked at `now`.
    #[must_use]
    pub fn new(peers: usize, now: u64) -> Self {
        Self { began: now, again: false, heard: vec![None; peers] }
    }

    /// A peer's reply. The better of two is kept.
    pub fn heard(&mut self, peer: usize, reply: Heard) {
        let Some(place) = self.heard.get_mut(peer) else { return };
        if place.as_ref().is_none_or(|known| known.worth() < reply.worth()) {
            *place = Some(reply);
        }
    }

    /// What to do now.
    pub fn step(&mut self, now: u64) -> Step {
        let silent: Vec<usize> = (0..self.heard.len()).filter(|at| self.heard[*at].is_none()).collect();
        let since = now.saturating_sub(self.began);
        let answer = self.heard.iter().flatten().any(|reply| reply.ok);
        if silent.is_empty() || since >= GIVE_UP_MS || (answer && since >= SETTLED_MS) {
            return Step::Done;
        }
        if !self.again && since >= AGAIN_MS {
            self.again = true;
            return Step::Again(silent);
        }
        let next = match (self.again, answer) {
            (false, _) => AGAIN_MS,
            (true, true) => SETTLED_MS,
            (true, false) => GIVE_UP_MS,
        };
        Step::Wait(self.began + next)
    }

    /// The end.
    #[must_use]
    pub fn outcome(self) -> Outcome {
        let answered = self.heard.iter().map(Option::is_some).collect();
        let all: Vec<(usize, Heard)> =
            self.heard.into_iter().enumerate().filter_map(|(at, heard)| Some((at, heard?))).collect();
        // The first of equals.
        let best = all.iter().rev().max_by_key(|(_, heard)| heard.worth()).cloned();
        let consistent = best.as_ref().is_none_or(|(_, best)| {
            // Of one configuration: an object's serial stays when another object changes.
            let of = |heard: &Heard| (heard.ok, heard.serial, heard.config_serial);
            let same = all.iter().filter(|(_, heard)| of(heard) == of(best));
            same.into_iter().all(|(_, heard)| heard.answer == best.answer)
        });
        Outcome { best, answered, consistent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn reply(ok: bool, serial: u64, answer: u64) -> Heard {
        Heard { ok, answer: json!(answer), serial, config_serial: 0, time: 0, node: String::new() }
    }

    #[test]
    fn silent_ones_are_asked_once_more_and_then_an_answer_is_enough() {
        let mut all = Collect::new(3, 100);
        assert_eq!(all.step(100), Step::Wait(1_100));
        all.heard(1, reply(true, 5, 1));
        assert_eq!(all.step(1_100), Step::Again(vec![0, 2]));
        assert_eq!(all.step(1_100), Step::Wait(2_100));
        assert_eq!(all.step(2_100), Step::Done);
        let outcome = all.outcome();
        assert_eq!(outcome.answered, [false, true, false]);
        assert!(outcome.consistent && outcome.best.is_some_and(|(at, _)| at == 1));
    }

    #[test]
    fn errors_alone_are_waited_out_and_nobody_is_the_end_too() {
        let mut all = Collect::new(2, 0);
        all.heard(0, reply(false, 0, 0));
        assert_eq!(all.step(1_000), Step::Again(vec![1]));
        assert_eq!(all.step(5_000), Step::Wait(10_000));
        assert_eq!(all.step(10_000), Step::Done);
        assert!(all.outcome().best.is_some_and(|(_, best)| !best.ok));
        let mut none = Collect::new(1, 0);
        none.step(1_000);
        assert_eq!(none.step(10_000), Step::Done);
        assert_eq!(none.outcome().best, None);
    }

    #[test]
    fn one_that_lags_does_not_disagree() {
        let consistent = |config_serials: [u64; 2]| {
            let mut all = Collect::new(2, 0);
            for (peer, config_serial) in config_serials.into_iter().enumerate() {
                let answer = peer as u64;
                all.heard(peer, Heard { config_serial, ..reply(true, 5, answer) });
            }
            all.outcome().consistent
        };
        assert!(!consistent([7, 7]), "two answers of one configuration");
        assert!(consistent([7, 8]), "the cluster's serial is not that of what was asked about");
    }

    proptest! {
        #[test]
        fn the_newest_answer_wins_whatever_the_order(replies in prop::collection::vec((0..4usize, any::<bool>(), 0..4u64, 0..2u64), 0..12)) {
            let mut all = Collect::new(4, 0);
            for (peer, ok, serial, answer) in &replies {
                all.heard(*peer, reply(*ok, *serial, *answer));
            }
            let outcome = all.outcome();
            let worth = replies.iter().map(|(_, ok, serial, _)| (*ok, *serial)).max();
            prop_assert_eq!(outcome.best.as_ref().map(|(_, heard)| (heard.ok, heard.serial)), worth);
            for peer in 0..4 {
                prop_assert_eq!(outcome.answered[peer], replies.iter().any(|(at, ..)| *at == peer));
            }
        }
    }
}
