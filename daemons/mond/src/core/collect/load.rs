//! `cpu-avg-load`: how busy the CPUs were in the last ten minutes, by Ganeti's formula (`spec/mond.md` §3).

use crate::core::board::Millis;
use crate::core::exposition::Family;
use crate::core::report::Gathered;
use serde_json::json;
use std::collections::VecDeque;

/// Most samples kept.
const SAMPLES_MAX: usize = 150;
/// How far back they go, ms.
const SPAN_MS: Millis = 600_000;
/// Place of the idle ticks in a line: the one kind that is no work.
const IDLE: usize = 3;
/// Kinds of ticks in a line: from user to guest_nice.
const KINDS: usize = 10;

/// What was counted at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sample {
    at: Millis,
    /// Busy ticks: of all CPUs together, then of each.
    ticks: Vec<u64>,
}

/// How far a sum may go back and go on, ticks: the kernel's count of waiting for I/O may decrease (proc(5)).
const SLIP: u64 = 100;

/// The samples so far.
#[derive(Debug, Clone, Default)]
pub struct Load(VecDeque<Sample>);

/// Busy ticks of each line of `/proc/stat` that is about CPUs: all together, then each. None when there are none.
#[must_use]
pub fn busy(stat: &str) -> Option<Vec<u64>> {
    let lines = stat.lines().take_while(|line| line.starts_with("cpu"));
    let ticks = |line: &str| -> Option<u64> {
        let numbers = line.split_whitespace().skip(1).take(KINDS).enumerate();
        let work = numbers.filter(|(place, _)| *place != IDLE);
        work.map(|(_, word)| word.parse::<u64>().ok()).try_fold(0_u64, |sum, number| sum.checked_add(number?))
    };
    let all = lines.map(ticks).collect::<Option<Vec<u64>>>()?;
    (all.len() > 1).then_some(all)
}

impl Load {
    /// Takes a sample. One of another number of CPUs, or one that goes back by more than [`SLIP`], begins anew.
    pub fn push(&mut self, at: Millis, ticks: Vec<u64>) {
        let goes_on = |last: &Sample| {
            last.ticks.len() == ticks.len()
                && last.at <= at
                && last.ticks.iter().zip(&ticks).all(|(old, new)| old.saturating_sub(*new) <= SLIP)
        };
        if !self.0.back().is_none_or(goes_on) {
            self.0.clear();
        }
        self.0.push_back(Sample { at, ticks });
        while self.0.len() > SAMPLES_MAX || self.0.front().is_some_and(|first| at - first.at > SPAN_MS) {
            self.0.pop_front();
        }
    }

    /// CPUs that were busy on average, all together and each. None: not enough samples.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "ticks of ten minutes")]
    pub fn average(&self, ticks_per_s: u64) -> Option<Vec<f64>> {
        let (first, last) = (self.0.front()?, self.0.back()?);
        let ticks = (last.at - first.at) as f64 / 1000.0 * ticks_per_s as f64;
        let average = |(old, new): (&u64, &u64)| new.saturating_sub(*old) as f64 / ticks;
        (ticks > 0.0).then(|| first.ticks.iter().zip(&last.ticks).map(average).collect())
    }

    /// The report.
    #[must_use]
    pub fn gathered(&self, ticks_per_s: u64) -> Gathered {
        let Some(all) = self.average(ticks_per_s) else {
            return Gathered::figures(json!({"error": "not enough samples yet"}), Vec::new());
        };
        let (total, cpus) = (all[0], &all[1..]);
        let data = json!({"cpu_number": cpus.len(), "cpus": cpus, "cpu_total": total});
        let mut each =
            Family::gauge("gantry_node_cpu_load", "How busy a CPU was in the last ten minutes, 1 = always");
        for (number, load) in cpus.iter().enumerate().take(super::LABELS_MAX) {
            each.add(&[("cpu", &number.to_string())], load);
        }
        let sum =
            Family::gauge("gantry_node_cpu_load_all", "How many CPUs were busy in the last ten minutes")
                .with(&[], total);
        let count = Family::gauge("gantry_node_cpus", "CPUs of the node").with(&[], cpus.len());
        Gathered::figures(data, vec![each, sum, count])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STAT: &str =
        "cpu  10 1 20 1000 3 4 5 6 7 8\ncpu0 10 1 20 900 3 4 5 6 7 8\ncpu1 0 0 0 100 0 0 0 0 0 0\nintr 1 2\n";

    #[test]
    fn idle_ticks_are_no_work() {
        assert_eq!(busy(STAT), Some(vec![64, 64, 0]));
        assert_eq!(busy("cpu 1 2 3 4\ncpu0 1 2 3 4 5\n"), Some(vec![6, 11]));
        for wrong in
            ["", "intr 1", "cpu 1 2 3 4\n", "cpu 1 x\ncpu0 1 1\n", "cpu 18446744073709551615 1\ncpu0 1\n"]
        {
            assert_eq!(busy(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn hbal_gets_exactly_its_three_keys() {
        let mut load = Load::default();
        assert!(load.gathered(100).data["error"].is_string());
        load.push(0, vec![0, 0, 0]);
        assert!(load.gathered(100).data["error"].is_string());
        load.push(10_000, vec![1500, 1000, 500]);
        let found = load.gathered(100);
        assert_eq!(found.data, json!({"cpu_number": 2, "cpus": [1.0, 0.5], "cpu_total": 1.5}));
        assert_eq!(found.families[1].samples[0].value, "1.5");
    }

    #[test]
    fn a_cpu_that_comes_or_goes_begins_anew() {
        let mut load = Load::default();
        load.push(0, vec![5, 5]);
        load.push(1000, vec![10, 10]);
        load.push(2000, vec![11, 10, 1]);
        assert_eq!(load.average(100), None);
        load.push(3000, vec![1000, 1000, 1000]);
        load.push(4000, vec![1099, 999, 1050]);
        assert_eq!(load.average(100), Some(vec![5.44, 4.945, 5.245]), "one tick back is the kernel's");
        load.push(5000, vec![9, 9, 0]);
        assert_eq!(load.0.len(), 1, "as after a start");
    }

    proptest! {
        /// Against a model that keeps everything.
        #[test]
        fn the_average_is_over_the_last_ten_minutes(steps in prop::collection::vec((1..20_000_u64, 0..3000_u64), 1..400)) {
            let (mut load, mut all) = (Load::default(), Vec::new());
            let (mut at, mut ticks) = (0, 0);
            for (time, busy) in steps {
                at += time;
                ticks += busy;
                load.push(at, vec![ticks, ticks]);
                all.push((at, ticks));
                let kept: Vec<_> = all.iter().rev().take(SAMPLES_MAX).filter(|(old, _)| at - old <= SPAN_MS).collect();
                let (first_at, first) = **kept.last().unwrap();
                let want = (at > first_at).then(|| (ticks - first) as f64 / ((at - first_at) as f64 / 1000.0 * 100.0));
                prop_assert_eq!(load.average(100).map(|all| all[0]), want);
            }
        }
    }
}
