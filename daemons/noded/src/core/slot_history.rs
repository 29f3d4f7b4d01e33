//! Random histories of a slot for what leases ask of it: who may work, look and settle, and whose commands can only be
//! lost. The model keeps no record: it has the list of all that was ever stored and reads it anew for each question.

use super::*;
use proptest::prelude::*;
use uuid::Uuid;

/// Leases that come by.
const LEASES: u128 = 4;

/// What was stored, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    Begun(Generation),
    Live,
    Lost,
    Opened(LeaseUuid),
    Closed(LeaseUuid),
    Settled,
    Doomed(Generation),
    Gone,
    /// A destroy of nothing, up to this generation.
    Floor(Generation),
}

/// What happens. Generations count from the floor: -1 is one below it.
#[derive(Debug, Clone)]
enum Event {
    /// noded dies after so many steps of it.
    Verb(i64, Kind, usize),
    Settle(i64, u128),
    /// The VM dies, and noded looks.
    Died,
    Looked,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Create,
    Destroy,
    Open(u128),
    Close(u128),
}

fn lease(number: u128) -> LeaseUuid {
    LeaseUuid(Uuid::from_u128(number))
}

#[derive(Debug, Default)]
struct Model(Vec<Stored>);

impl Model {
    fn floor(&self) -> Generation {
        let raised = self.0.iter().filter_map(|stored| match stored {
            Stored::Begun(to) | Stored::Doomed(to) | Stored::Floor(to) => Some(*to),
            _ => None,
        });
        raised.max().unwrap_or_default()
    }

    fn generation(&self) -> Generation {
        let begun = self.0.iter().rev().find_map(|stored| match stored {
            Stored::Begun(generation) => Some(*generation),
            _ => None,
        });
        begun.unwrap_or_default()
    }

    /// All of the current generation.
    fn life(&self) -> &[Stored] {
        let at = self.0.iter().rposition(|stored| matches!(stored, Stored::Begun(_)));
        at.map_or(&[], |at| &self.0[at..])
    }

    fn state(&self) -> State {
        let last = self.life().iter().rev().find_map(|stored| match stored {
            Stored::Begun(_) => Some(State::Creating),
            Stored::Live => Some(State::Live),
            Stored::Lost => Some(State::Lost),
            Stored::Doomed(_) => Some(State::Destroying),
            Stored::Gone => Some(State::Absent),
            Stored::Opened(_) | Stored::Closed(_) | Stored::Settled | Stored::Floor(_) => None,
        });
        last.unwrap_or(State::Absent)
    }

    fn holder(&self) -> Option<LeaseUuid> {
        self.life().iter().rev().find_map(|stored| match stored {
            Stored::Opened(lease) => Some(Some(*lease)),
            Stored::Closed(_) | Stored::Gone => Some(None),
            _ => None,
        })?
    }

    fn has(&self, stored: Stored) -> bool {
        self.life().contains(&stored)
    }

    fn current(&self, asked: Generation) -> Result<(), Refusal> {
        if asked == Generation(0) {
            return Err(Refusal::Zero);
        }
        let (current, floor) = (self.generation(), self.floor());
        if asked == current { Ok(()) } else { Err(Refusal::NotCurrent { asked, current, floor }) }
    }

    /// Whose VM it is, if not this lease's.
    fn mine(&self, asked: Generation, lease: LeaseUuid) -> Result<(), Refusal> {
        match self.holder() {
            Some(holder) if holder == lease => Ok(()),
            Some(holder) => Err(Refusal::Held { generation: asked, holder }),
            None if self.has(Stored::Closed(lease)) => Err(Refusal::Over { generation: asked, lease }),
            None => Err(Refusal::NotOpened { generation: asked, lease }),
        }
    }

    fn admit(&self, asked: Generation, lease: LeaseUuid, need: Need) -> Result<(), Refusal> {
        self.current(asked)?;
        let had = self.has(Stored::Closed(lease)) || self.holder() == Some(lease);
        match (need, self.state()) {
            (Need::Look, _) if had => Ok(()),
            (_, State::Live) => {
                self.mine(asked, lease)?;
                if self.has(Stored::Settled) { Err(Refusal::Settled { generation: asked }) } else { Ok(()) }
            }
            (_, state) => Err(Refusal::NotLive { generation: asked, state }),
        }
    }

    fn settle(&self, asked: Generation, lease: LeaseUuid) -> Result<bool, Refusal> {
        self.current(asked)?;
        match self.state() {
            State::Live => self.mine(asked, lease).map(|()| !self.has(Stored::Settled)),
            State::Lost => self.mine(asked, lease).map(|()| false),
            state => Err(Refusal::NotLive { generation: asked, state }),
        }
    }

    fn is_gone(&self, asked: Generation) -> bool {
        let older = asked != self.generation() && asked <= self.floor();
        let dead = asked == self.generation() && matches!(self.state(), State::Absent | State::Destroying);
        asked != Generation(0) && (older || dead)
    }
}

/// One slot of a node and what the model says of it.
struct Slot {
    record: Record,
    model: Model,
    runs: bool,
    gone: Vec<Generation>,
    settled: Vec<Generation>,
}

impl Slot {
    fn asked(&self, delta: i64) -> Generation {
        Generation(self.model.floor().0.saturating_add_signed(delta))
    }

    fn verb(&mut self, asked: Generation, kind: Kind, steps: usize) {
        let verb = match kind {
            Kind::Create => Verb::Create { generation: asked, driver: "fake".into() },
            Kind::Destroy => Verb::Destroy { generation: asked },
            Kind::Open(number) => Verb::Open { generation: asked, lease: lease(number) },
            Kind::Close(number) => Verb::Close { generation: asked, lease: lease(number) },
        };
        let Ok(plan) = decide(Rules::ALL, &self.record, &verb) else { return };
        let nothing = self.model.state() == State::Absent;
        let stores = plan.steps.iter().filter(|step| matches!(step, Step::Store(_))).count();
        let mut done = 0;
        for step in plan.steps.into_iter().take(steps) {
            match step {
                Step::Drive(Action::Make(_)) => self.runs = true,
                Step::Drive(Action::Kill(_)) => self.runs = false,
                Step::Drive(_) => {}
                Step::Store(next) => {
                    done += 1;
                    self.record = next;
                    self.model.0.push(match kind {
                        Kind::Create if done == stores => Stored::Live,
                        Kind::Create => Stored::Begun(asked),
                        Kind::Destroy if nothing => Stored::Floor(asked),
                        Kind::Destroy if done == stores => Stored::Gone,
                        Kind::Destroy => Stored::Doomed(asked),
                        Kind::Open(number) => Stored::Opened(lease(number)),
                        Kind::Close(number) => Stored::Closed(lease(number)),
                    });
                }
            }
        }
    }

    fn take(&mut self, event: &Event) {
        match *event {
            Event::Verb(delta, kind, steps) => self.verb(self.asked(delta), kind, steps),
            Event::Settle(delta, number) => {
                let asked = self.asked(delta);
                if let Ok(Some(next)) = settle(&self.record, asked, lease(number)) {
                    self.record = next;
                    self.model.0.push(Stored::Settled);
                    self.settled.push(asked);
                    self.runs = false;
                }
            }
            Event::Died => self.runs = false,
            Event::Looked => {
                if let Some(next) = observe(&self.record, self.runs) {
                    self.record = next;
                    self.model.0.push(Stored::Lost);
                }
            }
        }
    }

    /// The same answers as the model's, and what holds of any answers.
    fn check(&mut self) {
        for asked in (0..=self.model.floor().0 + 2).map(Generation) {
            let gone = is_gone(&self.record, asked);
            assert_eq!(gone, self.model.is_gone(asked), "{asked}: {:?} {:?}", self.record, self.model);
            assert!(gone || !self.gone.contains(&asked), "{asked} was gone and came back");
            if gone && !self.gone.contains(&asked) {
                self.gone.push(asked);
            }
            let mut workers = 0;
            for lease in (1..=LEASES).map(lease) {
                for need in [Need::Work, Need::Look] {
                    let told = admit(&self.record, asked, lease, need);
                    assert_eq!(told, self.model.admit(asked, lease, need), "{asked} {lease} {need:?}");
                    let works = told.is_ok() && need == Need::Work;
                    workers += u32::from(works);
                    assert!(!works || !self.settled.contains(&asked), "work in a settled VM");
                    assert!(!works || !gone, "work in a VM that is gone");
                }
                let settled = settle(&self.record, asked, lease);
                let wanted = self.model.settle(asked, lease);
                assert_eq!(settled.map(|next| next.is_some()), wanted, "{asked} {lease}");
            }
            assert!(workers <= 1, "{workers} leases work in generation {asked}");
        }
        let lost = self.model.state() == State::Lost && self.model.has(Stored::Settled);
        assert!(!lost || !self.lost_after_settle(), "what was stopped on purpose is lost");
    }

    fn lost_after_settle(&self) -> bool {
        let life = self.model.life();
        let at = |wanted| life.iter().position(|stored| *stored == wanted);
        at(Stored::Settled) < at(Stored::Lost)
    }
}

fn event() -> impl Strategy<Value = Event> {
    let delta = || prop_oneof![8 => Just(0_i64), 3 => Just(1), 1 => Just(-1), 1 => Just(2)];
    let by = || 1..=LEASES;
    let kind = prop_oneof![
        4 => Just(Kind::Create),
        2 => Just(Kind::Destroy),
        5 => by().prop_map(Kind::Open),
        3 => by().prop_map(Kind::Close),
    ];
    let steps = prop_oneof![6 => Just(9_usize), 1 => 0..3_usize];
    prop_oneof![
        12 => (delta(), kind, steps).prop_map(|(delta, kind, steps)| Event::Verb(delta, kind, steps)),
        2 => (delta(), by()).prop_map(|(delta, by)| Event::Settle(delta, by)),
        1 => Just(Event::Died),
        2 => Just(Event::Looked),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn leases_are_answered_as_the_whole_history_says(events in proptest::collection::vec(event(), 1..80)) {
        let mut slot = Slot {
            record: Record::default(),
            model: Model::default(),
            runs: false,
            gone: Vec::new(),
            settled: Vec::new(),
        };
        for event in &events {
            slot.take(event);
            slot.check();
        }
    }
}
