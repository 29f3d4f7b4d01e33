//! A waiting line against a slow and obvious one.

use super::super::line::{Line, Place, Who};
use super::*;
use crate::core::mirror::PoolCounts;
use gantry_model::ids::{LeaseUuid, TaskId};
use proptest::prelude::*;
use uuid::Uuid;

#[derive(Debug, Clone)]
enum Step {
    Join {
        priority: i32,
        received: u64,
        count: u32,
    },
    Tell {
        clean: u64,
        leased: u64,
        active: bool,
    },
    Ask,
    /// Which of those asked; granted and seen, granted and not seen, told to wait, refused.
    Answer(usize, u8),
    Show(usize),
    GoOn,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (-1_i32..2, 0_u64..9, 1_u32..4)
            .prop_map(|(priority, received, count)| Step::Join { priority, received, count }),
        2 => (0_u64..6, 0_u64..3, prop::bool::weighted(0.9))
            .prop_map(|(clean, leased, active)| Step::Tell { clean, leased, active }),
        4 => Just(Step::Ask),
        3 => (any::<usize>(), 0_u8..4).prop_map(|(at, how)| Step::Answer(at, how)),
        1 => any::<usize>().prop_map(Step::Show),
        1 => Just(Step::GoOn),
    ]
}

#[derive(Default)]
struct Slow {
    clean: u64,
    leased: u64,
    active: bool,
    waiting: Vec<(Place, u32)>,
    asked: Vec<(LeaseUuid, Place, u32)>,
    unseen: Vec<(LeaseUuid, u32)>,
    stopped: bool,
}

impl Slow {
    fn next(&mut self) -> Option<(Place, u32)> {
        self.waiting.sort();
        let can_be_had = |count: u32| u64::from(count) <= self.clean + self.leased;
        let at = self.waiting.iter().position(|(_, count)| can_be_had(*count))?;
        let first = self.waiting[at];
        let taken: u32 = self.asked.iter().map(|a| a.2).chain(self.unseen.iter().map(|u| u.1)).sum();
        let many = self.asked.iter().any(|asked| asked.2 > 1);
        let fits = u64::from(first.1 + taken) <= self.clean;
        (self.active && fits && !many && !self.stopped).then(|| self.waiting.remove(at))
    }
}

proptest! {
    #[test]
    fn a_line_does_as_a_slow_one(steps in prop::collection::vec(step(), 0..80)) {
        let (mut line, mut slow) = (Line::default(), Slow::default());
        let (mut index, mut drawn) = (0, 0);
        for step in steps {
            match step {
                Step::Join { priority, received, count } => {
                    drawn += 1;
                    let place = Place { priority, received: Ts(received, 0), who: Who::Task(TaskId(drawn)) };
                    line.join(place, count);
                    slow.waiting.push((place, count));
                }
                Step::Tell { clean, leased, active } => {
                    index += 1;
                    let counts = PoolCounts { slots: 9, able: clean + leased, clean, leased, ..PoolCounts::default() };
                    line.tell(index, Some(Stock { active, counts }));
                    slow = Slow { clean, leased, active, stopped: false, ..slow };
                }
                Step::Ask => {
                    let (next, wanted) = (line.next(), slow.next());
                    prop_assert_eq!(next, wanted.map(|(place, count)| (place.who, count)));
                    let Some((place, count)) = wanted else { continue };
                    drawn += 1;
                    let lease = LeaseUuid(Uuid::from_u64_pair(1, drawn));
                    line.ask(lease, count);
                    slow.asked.push((lease, place, count));
                }
                Step::Answer(at, how) if !slow.asked.is_empty() => {
                    let (lease, place, count) = slow.asked.remove(at % slow.asked.len());
                    match how {
                        0 => line.grant(lease, true),
                        1 => {
                            line.grant(lease, false);
                            slow.unseen.push((lease, count));
                        }
                        2 => {
                            line.wait(lease, index);
                            line.join(place, count);
                            slow.waiting.push((place, count));
                            slow.stopped = true;
                        }
                        _ => line.refuse(lease),
                    }
                }
                Step::Show(at) if !slow.unseen.is_empty() => {
                    let (lease, _) = slow.unseen.remove(at % slow.unseen.len());
                    line.show(lease);
                }
                Step::Answer(..) | Step::Show(_) => {}
                Step::GoOn => {
                    line.stopped = None;
                    slow.stopped = false;
                }
            }
        }
    }
}

#[test]
fn a_wait_that_is_older_than_the_news_stops_nobody() {
    let mut line = Line::default();
    let lease = LeaseUuid(Uuid::from_u64_pair(1, 1));
    line.ask(lease, 1);
    line.tell(5, Some(Stock::default()));
    line.wait(lease, 4);
    assert_eq!(line.stopped, None);
}
