//! Random histories of one slot: a small master, a node that runs the real rules, and a wire that delivers
//! any message ever sent, late and as often as it likes. The node may die after each step and its machine
//! may reboot, which may take back what was not flushed; the master may fail over, also to an old copy of its state, while jobs of the old one go on.
//! Each rule, taken away, must let some history break a promise; with all of them none may.

use super::fence::{self, Claimed};
use super::slot::{self, Action, Answer, Outlive, Record, State, Step, Verb};
use super::{Rule, Rules};
use gantry_model::ids::{Fence, Generation, InstanceUuid, LeaseUuid};
use gantry_proto::noded::{SlotFacts, VmState};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use uuid::Uuid;

/// Seeds that must hold with all rules.
const SEEDS_ALL: u64 = 8_000;
/// Seeds within which a missing rule must show.
const SEEDS_BROKEN: u64 = 40_000;
/// Events per history.
const EVENTS: usize = 160;

/// A small fast generator (splitmix64): a seed names its history for ever.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % sides as u64).expect("below sides")
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Message {
    Verb { fence: Fence, intent: u64, verb: Verb },
    Claim { fence: Fence },
    Answered { intent: u64, answer: Answer, made_by: u64 },
    Inventory { fence: Fence, facts: Option<SlotFacts> },
}

/// What the machine really has, which no rule may look at.
#[derive(Debug, Clone)]
struct Vm {
    made_by: u64,
    /// Leases in the order in which they worked in it.
    touched: Vec<LeaseUuid>,
}

/// A verb in work at the node.
#[derive(Debug)]
struct Work {
    intent: u64,
    lease: Option<LeaseUuid>,
    steps: VecDeque<Step>,
    answer: Answer,
    killing: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Absent,
    Creating,
    Clean,
    Leased,
    Dirty,
    Destroying,
}

/// The master's committed state.
#[derive(Debug, Clone)]
struct Slot {
    phase: Phase,
    generation: u64,
    intent: u64,
    lease: Option<LeaseUuid>,
    opened: bool,
    uses: u32,
}

struct World {
    rules: Rules,
    dice: Dice,
    reuse: bool,
    // the node
    fence: Option<Fence>,
    record: Record,
    /// What a power cut may take back to, oldest first: the last flushed record, and those that were only written since.
    written: Vec<Record>,
    boots: u64,
    vms: BTreeMap<u64, Vm>,
    /// Generations whose VM the node has reported made.
    made: BTreeSet<u64>,
    killed: bool,
    /// Leases whose end the master was told.
    ended: Vec<LeaseUuid>,
    work: Option<Work>,
    // the wire: whatever was sent stays deliverable
    wire: Vec<Message>,
    // the master
    master: Fence,
    claimed: bool,
    slot: Slot,
    history: Vec<Slot>,
    intents: u64,
    leases: u128,
}

type Broken = Result<(), String>;

impl World {
    fn new(rules: Rules, seed: u64) -> Self {
        let mut dice = Dice(seed);
        let reuse = dice.roll(2) == 0;
        let slot =
            Slot { phase: Phase::Absent, generation: 0, intent: 0, lease: None, opened: false, uses: 0 };
        Self {
            rules,
            dice,
            reuse,
            fence: None,
            record: Record::default(),
            written: vec![Record::default()],
            boots: 1,
            vms: BTreeMap::new(),
            made: BTreeSet::new(),
            killed: false,
            ended: Vec::new(),
            work: None,
            wire: Vec::new(),
            master: Fence { epoch: 1, ballot: [1; 16] },
            claimed: false,
            slot,
            history: Vec::new(),
            intents: 0,
            leases: 0,
        }
    }

    fn run(&mut self) -> Broken {
        for _ in 0..EVENTS {
            match self.dice.roll(20) {
                0..=7 => self.deliver()?,
                8..=13 => self.work_on()?,
                14..=16 => self.act(),
                17 => {
                    self.crash();
                    // what kills a node may kill the master's machine too
                    if self.dice.roll(3) == 0 {
                        self.fail_over();
                    }
                }
                18 if self.dice.roll(4) == 0 => self.fail_over(),
                18 => {}
                _ => self.disturb(),
            }
            self.check()?;
        }
        Ok(())
    }

    // The master.

    fn send(&mut self, message: Message) {
        self.wire.push(message);
    }

    fn order(&mut self, verb: Verb) {
        let (fence, intent) = (self.master, self.slot.intent);
        self.send(Message::Verb { fence, intent, verb });
    }

    fn commit(&mut self, next: Slot) {
        self.history.push(std::mem::replace(&mut self.slot, next));
    }

    /// The master, or one of its jobs, does the next thing, or gives up on the present one.
    fn act(&mut self) {
        if !self.claimed {
            let fence = self.master;
            return self.send(Message::Claim { fence });
        }
        let mut next = self.slot.clone();
        let generation = Generation(next.generation);
        match next.phase {
            Phase::Absent => {
                self.intents += 1;
                next = Slot {
                    phase: Phase::Creating,
                    generation: next.generation + 1,
                    intent: self.intents,
                    lease: None,
                    opened: false,
                    uses: 0,
                };
                let verb = Verb::Create { generation: Generation(next.generation), driver: "fake".into() };
                self.commit(next);
                self.order(verb);
            }
            Phase::Creating if self.dice.roll(12) == 0 => {
                next.phase = Phase::Dirty;
                self.commit(next);
            }
            Phase::Creating => self.order(Verb::Create { generation, driver: "fake".into() }),
            Phase::Clean => {
                self.leases += 1;
                next.phase = Phase::Leased;
                next.lease = Some(LeaseUuid(Uuid::from_u128(self.leases)));
                self.commit(next);
            }
            Phase::Leased => self.act_leased(next),
            Phase::Dirty => {
                next.phase = Phase::Destroying;
                self.intents += 1;
                next.intent = self.intents;
                self.commit(next);
                self.order(Verb::Destroy { generation });
            }
            Phase::Destroying => self.order(Verb::Destroy { generation }),
        }
    }

    fn act_leased(&mut self, mut next: Slot) {
        let generation = Generation(next.generation);
        let lease = next.lease.expect("leased");
        let first = next.uses == 0;
        match self.dice.roll(8) {
            // the touch is committed before it is asked for
            0..=3 => {
                next.opened = true;
                self.commit(next);
                self.order(Verb::Open { generation, lease });
            }
            4 | 5 if self.reuse && next.opened => self.order(Verb::Close { generation, lease }),
            4 if !next.opened && first => {
                (next.phase, next.lease) = (Phase::Clean, None);
                self.commit(next);
            }
            5 | 6 => {}
            _ => {
                (next.phase, next.lease) = (Phase::Dirty, None);
                self.commit(next);
            }
        }
    }

    /// Another master takes over, now and then from an old copy of the state, under a higher epoch.
    fn fail_over(&mut self) {
        if !self.history.is_empty() && self.dice.roll(2) == 0 {
            let back = self.dice.roll(self.history.len().min(4)) + 1;
            let at = self.history.len() - back;
            self.slot = self.history[at].clone();
            self.history.truncate(at);
        }
        let epoch = self.master.epoch + 1;
        self.master = Fence { epoch, ballot: [u8::try_from(epoch % 200).expect("small"); 16] };
        self.claimed = false;
    }

    /// Someone who may not gives orders: a job of an old epoch, a rival with the same epoch and another
    /// ballot, or a job of this master whose lease does not have the VM.
    fn disturb(&mut self) {
        let mut fence = self.master;
        let generation = Generation(self.slot.generation);
        let open = Verb::Open { generation, lease: LeaseUuid(Uuid::from_u128(u128::MAX)) };
        let verb = match self.dice.roll(3) {
            0 if self.slot.opened => open,
            0 => return,
            who => {
                match who {
                    1 => fence.ballot = [0; 16],
                    _ => fence.epoch = fence.epoch.saturating_sub(1),
                }
                if self.dice.roll(2) == 0 { Verb::Destroy { generation } } else { open }
            }
        };
        self.send(Message::Verb { fence, intent: 0, verb });
    }

    // The wire.

    fn deliver(&mut self) -> Broken {
        if self.wire.is_empty() {
            return Ok(());
        }
        // mostly new messages, sometimes any
        let window = if self.dice.roll(3) == 0 { self.wire.len() } else { self.wire.len().min(4) };
        let at = self.wire.len() - 1 - self.dice.roll(window);
        match self.wire[at].clone() {
            Message::Verb { fence, intent, verb } => self.receive(fence, intent, &verb),
            Message::Claim { fence } => self.receive_claim(fence)?,
            Message::Answered { intent, answer, made_by } => self.learn(intent, answer, made_by)?,
            Message::Inventory { fence, facts } => self.learn_inventory(fence, facts.as_ref()),
        }
        Ok(())
    }

    fn learn(&mut self, intent: u64, answer: Answer, made_by: u64) -> Broken {
        if intent != self.slot.intent || !self.claimed {
            return Ok(());
        }
        let mut next = self.slot.clone();
        match answer {
            Answer::Created { .. } if next.phase == Phase::Creating => {
                if made_by != intent {
                    return Err(format!("generation {} was made for another intent", next.generation));
                }
                next.phase = Phase::Clean;
            }
            Answer::Destroyed { floor } if next.phase == Phase::Destroying => {
                if floor < Generation(next.generation) {
                    return Ok(());
                }
                next.phase = Phase::Absent;
            }
            Answer::Created { .. } | Answer::Destroyed { .. } | Answer::Done => return Ok(()),
        }
        self.commit(next);
        Ok(())
    }

    fn learn_inventory(&mut self, fence: Fence, facts: Option<&SlotFacts>) {
        if fence != self.master || self.claimed {
            return;
        }
        self.claimed = true;
        let mut next = self.slot.clone();
        if let Some(facts) = facts {
            let floor = facts.floor.0.max(facts.generation.0);
            let strange = facts.opened && !next.opened || facts.holder.is_some_and(|h| next.lease != Some(h));
            if floor > next.generation {
                next.generation = floor;
                next.phase = if facts.state == VmState::Absent { Phase::Absent } else { Phase::Dirty };
            } else {
                let kept = matches!(next.phase, Phase::Absent | Phase::Destroying);
                let stray = next.phase == Phase::Absent && facts.state != VmState::Absent;
                if stray || strange && !kept {
                    next.phase = Phase::Dirty;
                }
            }
        }
        // creators and destroyers of the old master are dead
        if matches!(next.phase, Phase::Creating | Phase::Destroying) {
            next.phase = Phase::Dirty;
        }
        // and what does not live can't be given out, whatever an old copy of the state says
        let lives = facts.is_some_and(|facts| facts.state == VmState::Live);
        if matches!(next.phase, Phase::Clean | Phase::Leased) && !lives {
            next.phase = Phase::Dirty;
        }
        self.commit(next);
    }

    // The node.

    fn receive(&mut self, fence: Fence, intent: u64, verb: &Verb) {
        if self.work.is_some() || fence::admit(self.rules, self.fence, fence).is_err() {
            return;
        }
        self.look();
        let Ok(plan) = slot::decide(self.rules, &self.record, verb) else {
            return;
        };
        let lease = match verb {
            Verb::Open { lease, .. } | Verb::Close { lease, .. } => Some(*lease),
            Verb::Create { .. } | Verb::Destroy { .. } => None,
        };
        let killing = matches!(verb, Verb::Destroy { .. });
        self.work = Some(Work { intent, lease, steps: plan.steps.into(), answer: plan.answer, killing });
    }

    fn receive_claim(&mut self, fence: Fence) -> Broken {
        match fence::claim(self.rules, self.fence, fence) {
            Ok(Claimed::Raised(fence)) => {
                // what runs is finished before the inventory is answered
                while self.work.is_some() {
                    self.work_on()?;
                }
                self.fence = Some(fence);
            }
            Ok(Claimed::Same) => {}
            Err(_) => return Ok(()),
        }
        if self.work.is_none() {
            self.look();
            let facts = slot::facts(self.rules, InstanceUuid(Uuid::nil()), &self.record);
            self.send(Message::Inventory { fence, facts });
        }
        Ok(())
    }

    fn look(&mut self) {
        let runs = self.vms.contains_key(&self.record.generation.0);
        if let Some(next) = slot::observe(&self.record, runs) {
            self.store(next);
        }
    }

    fn store(&mut self, next: Record) {
        let next = Record { boot: self.boots.to_string(), ..next };
        if slot::outlive(self.rules, &self.record, &next, true) == Outlive::Machine {
            self.written.clear();
        }
        self.written.push(next.clone());
        self.record = next;
    }

    fn work_on(&mut self) -> Broken {
        let Some(mut work) = self.work.take() else {
            return Ok(());
        };
        let Some(step) = work.steps.pop_front() else {
            let made_by = self.vms.get(&self.record.generation.0).map_or(work.intent, |vm| vm.made_by);
            if matches!(work.answer, Answer::Created { .. }) {
                self.made.insert(self.record.generation.0);
            }
            self.send(Message::Answered { intent: work.intent, answer: work.answer, made_by });
            if self.reuse && matches!(work.answer, Answer::Done) {
                self.closed(work.lease);
            }
            return Ok(());
        };
        match step {
            Step::Store(next) => self.store(next),
            Step::Drive(Action::Make(generation)) => {
                if self.made.contains(&generation.0) && !self.vms.contains_key(&generation.0) {
                    return Err(format!("generation {generation} is made anew under its holder"));
                }
                let made = Vm { made_by: work.intent, touched: Vec::new() };
                self.vms.entry(generation.0).or_insert(made);
                self.killed = false;
            }
            Step::Drive(Action::Kill(generation)) => {
                self.vms.remove(&generation.0);
                self.killed = work.killing;
            }
            Step::Drive(Action::Touch(generation)) => self.touch(generation, work.lease)?,
            Step::Drive(Action::EndWork(..)) => {}
        }
        self.work = Some(work);
        Ok(())
    }

    /// The master hears that its lease is closed: the VM may serve the next one.
    fn closed(&mut self, lease: Option<LeaseUuid>) {
        let ended = self.record.holder.is_none() && self.record.opened;
        if self.claimed && ended && self.slot.phase == Phase::Leased && self.slot.lease == lease {
            let mut next = self.slot.clone();
            (next.phase, next.lease) = (Phase::Clean, None);
            next.uses += 1;
            self.commit(next);
            self.ended.extend(lease);
        }
    }

    fn touch(&mut self, generation: Generation, lease: Option<LeaseUuid>) -> Broken {
        let (Some(vm), Some(lease)) = (self.vms.get_mut(&generation.0), lease) else {
            return Ok(());
        };
        if self.ended.contains(&lease) {
            return Err(format!("lease {lease} worked on after its end"));
        }
        match vm.touched.iter().position(|l| *l == lease) {
            Some(at) if at + 1 == vm.touched.len() => Ok(()),
            Some(_) => Err(format!("lease {lease} came back to generation {generation}")),
            None if !vm.touched.is_empty() && !self.reuse => {
                Err(format!("generation {generation} was used by two leases"))
            }
            None => {
                vm.touched.push(lease);
                Ok(())
            }
        }
    }

    /// noded dies, now and then with its machine. What was not stored is gone.
    fn crash(&mut self) {
        self.work = None;
        if self.dice.roll(3) == 0 {
            self.vms.clear();
            self.killed = false;
            self.boots += 1;
            let kept = self.dice.roll(self.written.len()) + 1;
            self.written.truncate(kept);
            self.record = self.written.last().cloned().unwrap_or_default();
        } else if self.dice.roll(4) == 0 {
            // An older program ran meanwhile, which flushes each record and names no boot.
            self.record.boot.clear();
            self.written = vec![self.record.clone()];
        }
        let boot = self.boots.to_string();
        self.record = slot::after_start(self.rules, std::mem::take(&mut self.record), &boot, true);
    }

    // The promises.

    fn check(&self) -> Broken {
        for generation in self.vms.keys() {
            if *generation != self.record.generation.0 || self.record.state == State::Absent {
                return Err(format!("generation {generation} lives without a record"));
            }
        }
        let lives = self.vms.contains_key(&self.record.generation.0);
        if self.record.state == State::Live && !lives && self.killed {
            return Err("a destroyed VM would be reported as lost".to_owned());
        }
        if !self.claimed || self.fence != Some(self.master) {
            return Ok(());
        }
        match self.slot.phase {
            Phase::Absent if self.vms.keys().any(|g| *g <= self.slot.generation) => {
                Err("the slot is absent and its VM lives".to_owned())
            }
            Phase::Clean | Phase::Leased if self.killed => {
                Err("a VM that the master gives out was destroyed".to_owned())
            }
            Phase::Clean if !self.reuse && self.touched(self.slot.generation) => {
                Err("a used VM is given out as clean".to_owned())
            }
            Phase::Absent
            | Phase::Creating
            | Phase::Clean
            | Phase::Leased
            | Phase::Dirty
            | Phase::Destroying => Ok(()),
        }
    }

    fn touched(&self, generation: u64) -> bool {
        self.vms.get(&generation).is_some_and(|vm| !vm.touched.is_empty())
    }
}

fn first_breach(rules: Rules, seeds: u64) -> Option<(u64, String)> {
    (0..seeds).find_map(|seed| World::new(rules, seed).run().err().map(|why| (seed, why)))
}

#[test]
fn all_rules_keep_every_promise() {
    assert_eq!(first_breach(Rules::ALL, SEEDS_ALL), None);
}

#[test]
fn every_rule_is_needed() {
    let all = [
        Rule::Floor,
        Rule::ConfirmedFloor,
        Rule::LastingFloor,
        Rule::FlushedFloor,
        Rule::FlushedBoot,
        Rule::LostByReboot,
        Rule::OpenedFirst,
        Rule::Fence,
        Rule::Ballot,
        Rule::FullInventory,
        Rule::IntentFirst,
        Rule::DoomFirst,
        Rule::FirstLease,
        Rule::ClosedLeases,
    ];
    for rule in all {
        let breach = first_breach(Rules::without(rule), SEEDS_BROKEN);
        assert!(breach.is_some(), "without {rule:?} no history of {SEEDS_BROKEN} broke a promise");
    }
}
