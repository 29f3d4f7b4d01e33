//! Random histories of renewals: jobs die between any two steps, masters are followed by such that lack the new CA's key,
//! nodes fall silent, come back, join and go. The model's nodes keep what a node keeps on its disk and nothing else.

use super::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Looks after which a renewal that nothing disturbs has ended: one per line of the table, the keys' two, and the last.
const LOOKS_MAX: usize = 6;
const CASES: u32 = 512;

#[derive(Debug, Clone)]
enum Event {
    /// A job begins, or goes on, and dies after so many changes of nodes. From the n-th on, this node is silent.
    Job {
        changes: usize,
        silenced: Option<(usize, usize)>,
    },
    /// A node falls silent, or comes back.
    Silent(usize),
    Back(usize),
    /// A candidate that is not silent becomes master.
    Failover(usize),
    /// A node joins; who is asked signs with what it has.
    Join,
    Promote(usize),
    Demote(usize),
    /// A silent node is removed.
    Remove(usize),
}

#[derive(Debug, Clone)]
struct Disk {
    trusts: BTreeSet<Print>,
    issuer: Print,
    key: Option<Print>,
    /// A CA's key that lies on the master that made it.
    next: Option<Print>,
    candidate: bool,
    silent: bool,
}

struct World {
    rules: Rules,
    nodes: BTreeMap<u128, Disk>,
    master: u128,
    intent: Option<Print>,
    made: u8,
    joined: u128,
}

fn uuid(number: u128) -> NodeUuid {
    NodeUuid(Uuid::from_u128(number))
}

impl World {
    fn new(rules: Rules) -> Self {
        let disk = |candidate: bool| Disk {
            trusts: BTreeSet::from([[0; 32]]),
            issuer: [0; 32],
            key: candidate.then_some([0; 32]),
            next: None,
            candidate,
            silent: false,
        };
        let nodes = BTreeMap::from([(0, disk(true)), (1, disk(true)), (2, disk(true)), (3, disk(false))]);
        Self { rules, nodes, master: 0, intent: None, made: 0, joined: 3 }
    }

    /// Any two nodes of the configuration trust each other.
    fn check(&self) -> Result<(), String> {
        for (one, disk) in &self.nodes {
            for (other, its) in &self.nodes {
                if !disk.trusts.contains(&its.issuer) {
                    return Err(format!("node {one} does not trust node {other}"));
                }
            }
        }
        Ok(())
    }

    fn pick(&self, number: usize) -> u128 {
        *self.nodes.keys().nth(number % self.nodes.len()).unwrap_or(&self.master)
    }

    fn look(&self) -> Vec<Seen> {
        let seen = |(number, disk): (&u128, &Disk)| Seen {
            node: uuid(*number),
            candidate: disk.candidate,
            master: *number == self.master,
            said: (!disk.silent).then(|| Said {
                trusts: disk.trusts.clone(),
                issuer: disk.trusts.contains(&disk.issuer).then_some(disk.issuer),
                key: disk.key,
            }),
        };
        self.nodes.iter().map(seen).collect()
    }

    /// What `CaNext` answers.
    fn wanted(&mut self) -> Print {
        let disk = self.nodes.get_mut(&self.master).expect("there");
        if let Some(wanted) = self.intent.filter(|wanted| [disk.key, disk.next].contains(&Some(*wanted))) {
            return wanted;
        }
        self.made += 1;
        disk.next = Some([self.made; 32]);
        [self.made; 32]
    }

    /// One job, with at most `changes` changes of nodes. Whether it came to the end, and after how many looks.
    fn job(&mut self, mut changes: usize, silenced: Option<(usize, usize)>) -> Result<(bool, usize), String> {
        let wanted = self.wanted();
        self.intent = Some(wanted);
        let mut done = 0;
        for looks in 1.. {
            let step = next(self.rules, &self.look(), wanted);
            let (Step::Trust(to) | Step::Key(to) | Step::Certificate(to) | Step::Alone(to)) = &step else {
                let ended = step == Step::Done;
                self.intent = self.intent.filter(|_| !ended);
                return Ok((ended, looks));
            };
            if looks > 4 * LOOKS_MAX {
                return Err(format!("no end: {step:?}"));
            }
            for node in to {
                if let Some((_, node)) = silenced.filter(|(at, _)| *at == done) {
                    let node = self.pick(node);
                    self.silence(node);
                }
                if changes == 0 {
                    return Ok((false, looks));
                }
                (changes, done) = (changes - 1, done + 1);
                self.change(node.0.as_u128(), &step, wanted);
                self.check().map_err(|why| format!("{why} after {step:?}"))?;
            }
        }
        Ok((false, 0))
    }

    /// One change of one node, as noded does it.
    fn change(&mut self, node: u128, step: &Step, wanted: Print) {
        let ours = self.nodes[&self.master].trusts.clone();
        let Some(disk) = self.nodes.get_mut(&node).filter(|disk| !disk.silent) else { return };
        match step {
            Step::Trust(_) => disk.trusts.extend(ours.into_iter().chain([wanted])),
            Step::Key(_) => (disk.key, disk.next) = (Some(wanted), None),
            Step::Certificate(_) => disk.issuer = wanted,
            // Refused, if it cut the node off.
            Step::Alone(_) if disk.issuer == wanted => disk.trusts = BTreeSet::from([wanted]),
            Step::Alone(_) | Step::Wait(_) | Step::Done => {}
        }
    }

    /// The job runs on the master: it is never silent while it is one.
    fn silence(&mut self, node: u128) {
        if node != self.master
            && let Some(disk) = self.nodes.get_mut(&node)
        {
            disk.silent = true;
        }
    }

    fn event(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::Job { changes, silenced } => drop(self.job(*changes, *silenced)?),
            Event::Silent(node) => self.silence(self.pick(*node)),
            Event::Back(node) => {
                let node = self.pick(*node);
                self.nodes.entry(node).and_modify(|disk| disk.silent = false);
            }
            Event::Failover(node) => {
                let node = self.pick(*node);
                if self.nodes[&node].candidate && !self.nodes[&node].silent {
                    self.master = node;
                }
            }
            Event::Join => self.join(),
            Event::Promote(node) => {
                let (node, ours) = (self.pick(*node), self.nodes[&self.master].clone());
                let Some(disk) = self.nodes.get_mut(&node).filter(|disk| !disk.silent && !disk.candidate)
                else {
                    return Ok(());
                };
                // Refused, if it cut the node off.
                if ours.trusts.contains(&disk.issuer) {
                    (disk.trusts, disk.key, disk.candidate) = (ours.trusts, ours.key, true);
                }
            }
            Event::Demote(node) => {
                let node = self.pick(*node);
                let disk = self.nodes.get_mut(&node).filter(|disk| !disk.silent && node != self.master);
                if let Some(disk) = disk {
                    (disk.key, disk.next, disk.candidate) = (None, None, false);
                }
            }
            Event::Remove(node) => {
                let node = self.pick(*node);
                if self.nodes[&node].silent {
                    self.nodes.remove(&node);
                }
            }
        }
        self.check().map_err(|why| format!("{why} after {event:?}"))
    }

    fn join(&mut self) {
        let ours = &self.nodes[&self.master];
        let Some(issuer) = ours.key else { return };
        let (trusts, candidate, silent) = (ours.trusts.clone(), false, false);
        self.joined += 1;
        let disk = Disk { trusts, issuer, key: None, next: None, candidate, silent };
        self.nodes.insert(self.joined, disk);
    }

    /// All answer again: the same command ends, and nothing of before counts any more.
    fn end(&mut self) -> Result<(), String> {
        self.nodes.values_mut().for_each(|disk| disk.silent = false);
        let (done, looks) = self.job(usize::MAX, None)?;
        if !done || looks > LOOKS_MAX {
            return Err(format!("not done after {looks} looks"));
        }
        let wanted = self.nodes[&self.master].issuer;
        for (number, disk) in &self.nodes {
            let alone = disk.trusts.len() == 1 && disk.trusts.contains(&wanted) && disk.issuer == wanted;
            if !alone {
                return Err(format!("a CA of before is left on node {number}"));
            }
        }
        // Whoever is master next, who joins is believed.
        let candidates: Vec<u128> =
            self.nodes.iter().filter(|(_, disk)| disk.candidate).map(|(number, _)| *number).collect();
        for candidate in candidates {
            self.master = candidate;
            self.join();
            self.check()?;
        }
        Ok(())
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let node = 0..8_usize;
    let event = prop_oneof![
        4 => (0..14_usize, proptest::option::of((0..8_usize, node.clone())))
            .prop_map(|(changes, silenced)| Event::Job { changes, silenced }),
        1 => node.clone().prop_map(Event::Silent),
        2 => node.clone().prop_map(Event::Back),
        2 => node.clone().prop_map(Event::Failover),
        1 => Just(Event::Join),
        1 => node.clone().prop_map(Event::Promote),
        1 => node.clone().prop_map(Event::Demote),
        1 => node.prop_map(Event::Remove),
    ];
    proptest::collection::vec(event, 0..24)
}

/// Runs random histories; the first promise that broke.
fn broken(rules: Rules) -> Option<String> {
    let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    let ran = runner.run(&events(), |events| {
        let mut world = World::new(rules);
        for event in &events {
            world.event(event).map_err(TestCaseError::fail)?;
        }
        world.end().map_err(TestCaseError::fail)
    });
    ran.err().map(|why| why.to_string())
}

#[test]
fn any_two_nodes_trust_each_other_and_the_same_command_ends() {
    if let Some(why) = broken(Rules::ALL) {
        panic!("{why}");
    }
}

#[test]
fn each_rule_is_needed() {
    let all = Rules::ALL;
    for (name, without, breaks) in [
        ("trust_first", Rules { trust_first: false, ..all }, "does not trust"),
        ("silent_count", Rules { silent_count: false, ..all }, "does not trust"),
        ("keys", Rules { keys: false, ..all }, "does not trust"),
        // noded refuses what would cut it off: so it is the end that is not reached.
        ("certificates_first", Rules { certificates_first: false, ..all }, "no end"),
        ("alone_at_last", Rules { alone_at_last: false, ..all }, "is left"),
    ] {
        let why = broken(without).unwrap_or_else(|| panic!("nothing breaks without {name}"));
        assert!(why.contains(breaks), "without {name}: {why}");
    }
}

#[test]
fn the_steps_come_in_their_order() {
    let said = |trusts: &[u8], issuer: u8, key: Option<u8>| Said {
        trusts: trusts.iter().map(|ca| [*ca; 32]).collect(),
        issuer: Some([issuer; 32]),
        key: key.map(|ca| [ca; 32]),
    };
    let node = |number, candidate, said| Seen { node: uuid(number), candidate, master: number == 0, said };
    let step = |nodes: &[Seen]| next(Rules::ALL, nodes, [2; 32]);
    let old = node(0, true, Some(said(&[1], 1, Some(1))));
    let grown = node(0, true, Some(said(&[1, 2], 1, Some(1))));
    let can = node(0, true, Some(said(&[1, 2], 1, Some(2))));
    let signed = node(0, true, Some(said(&[1, 2], 2, Some(2))));
    let alone = node(0, true, Some(said(&[2], 2, Some(2))));
    let away = node(9, false, None);
    assert_eq!(step(&[old, away.clone()]), Step::Trust(vec![uuid(0)]), "who answers is told");
    for seen in [&grown, &can, &signed, &alone] {
        assert_eq!(step(&[seen.clone(), away.clone()]), Step::Wait(vec![uuid(9)]));
    }
    let second = node(1, true, Some(said(&[1, 2], 1, Some(1))));
    assert_eq!(step(&[grown.clone(), second]), Step::Key(vec![uuid(1)]), "the master last");
    assert_eq!(step(&[grown]), Step::Key(vec![uuid(0)]));
    assert_eq!(step(&[can]), Step::Certificate(vec![uuid(0)]));
    assert_eq!(step(&[signed]), Step::Alone(vec![uuid(0)]));
    assert_eq!(step(&[alone]), Step::Done);
}

#[test]
fn a_fingerprint_is_read_as_it_is_written() {
    let print = std::array::from_fn(|at| u8::try_from(at * 7).unwrap());
    assert_eq!(parse(&hex(&print)), Some(print));
    for bad in ["", "00", &"é".repeat(32), &"g".repeat(64)] {
        assert_eq!(parse(bad), None);
    }
}

#[test]
fn trust_only_grows_until_it_is_one() {
    let ca = |number: u8| TrustedCa { print: [number; 32], ends: 0, pem: format!("PEM {number}\n") };
    let text = grown(&[&[ca(1), ca(3)], &[ca(2), ca(1)]], "PEM 3\n", &[3; 32]);
    assert_eq!(text, "PEM 1\nPEM 2\nPEM 3\n");
    assert_eq!(grown(&[], "PEM 3\n", &[3; 32]), "PEM 3\n");
}
