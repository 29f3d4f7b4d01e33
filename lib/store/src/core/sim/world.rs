//! The world: nodes, the network between them, chance, and the watch over what must hold.

use super::node::{Disk, Leader, Node, Proc, Step, at, member, vote};
use crate::core::copy::{Append, Claim, LogView, Refusal, admit, admit_own, fit, promise};
use crate::core::list::{List, Standing};
use crate::core::recover::{Answer, Choice, CopyState, choose, next_run};
use crate::core::row::{Index, Position, Row, RowKind, Term};
use crate::core::rules::{Rule, Rules};
use std::collections::{BTreeMap, VecDeque};
use uuid::Uuid;

/// Messages on their way at most; older ones are lost.
const NET_MAX: usize = 30;

/// How likely what is, as weights against 100 for the delivery of a message.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    pub nodes: usize,
    pub members: usize,
    pub steps: usize,
    pub send: u64,
    pub write: u64,
    pub failover: u64,
    pub restart: u64,
    pub crash: u64,
    pub change: u64,
    /// Of ten changes of the list so many try two members at once.
    pub two: u64,
    /// Writes at most.
    pub writes: u64,
    /// Disks lost at most.
    pub wipes: u64,
    /// It begins with a writer whom all have heard.
    pub settled: bool,
}

impl Profile {
    pub const fn new(nodes: usize, members: usize, steps: usize) -> Profile {
        let (send, write, failover, restart, crash, change) = (60, 12, 5, 3, 3, 0);
        let (two, writes, wipes) = (0, 12, 0);
        let settled = true;
        Profile {
            nodes,
            members,
            steps,
            send,
            write,
            failover,
            restart,
            crash,
            change,
            two,
            writes,
            wipes,
            settled,
        }
    }
}

#[derive(Debug, Clone)]
enum Body {
    Ask(Claim),
    Promised(Claim, Answer, Vec<Row>),
    Append(Append),
    Confirmed(Claim, Index, CopyState),
    Gap(Claim, Position, Index),
    Deposed(Claim),
}

#[derive(Debug, Clone)]
struct Msg {
    from: usize,
    to: usize,
    body: Body,
}

pub struct World {
    rules: Rules,
    profile: Profile,
    chance: u64,
    first: List,
    nodes: Vec<Node>,
    net: Vec<Msg>,
    drawn: u8,
    values: u64,
    wipes: u64,
    watch: Watch,
}

/// What has been promised so far.
#[derive(Default)]
struct Watch {
    committed: Vec<Row>,
    rows: BTreeMap<(Term, Index), (Term, Row)>,
    committers: BTreeMap<Term, (usize, [u8; 16])>,
}

impl Watch {
    /// Every log that a node shows is the beginning of some writer's log: a row is the same wherever it
    /// stands, and so is the row before it.
    fn log(&mut self, rows: &[Row]) -> Result<(), String> {
        let mut before = Term::default();
        for row in rows {
            let seen = (before, row.clone());
            let known = self.rows.entry((row.term, row.idx)).or_insert_with(|| seen.clone());
            if *known != seen {
                let (idx, term, prev) = (row.idx, row.term, known.0);
                return Err(format!("two rows {idx} of term {term}, one after {before}, one after {prev}"));
            }
            before = row.term;
        }
        Ok(())
    }

    /// Rows up to `to` are taken for committed by whoever holds `rows`.
    fn commit(&mut self, rows: &[Row], to: Index) -> Result<(), String> {
        for n in 1..=to.0 {
            let row = at(rows, Index(n)).ok_or_else(|| format!("committed row {n} is missing"))?;
            match at(&self.committed, Index(n)) {
                None => self.committed.push(row.clone()),
                Some(known) if known == row => {}
                Some(known) => {
                    return Err(format!(
                        "committed row {n} of term {} became one of {}",
                        known.term, row.term
                    ));
                }
            }
        }
        Ok(())
    }

    fn committer(&mut self, claim: &Claim, who: usize) -> Result<(), String> {
        let known = self.committers.entry(claim.term).or_insert((who, claim.nonce));
        if *known == (who, claim.nonce) {
            Ok(())
        } else {
            Err(format!("two writers commit in {}", claim.term))
        }
    }
}

impl World {
    pub fn new(seed: u64, rules: Rules, profile: Profile) -> World {
        let first = List::first((0..profile.members).map(member).collect());
        let node = |n| {
            let disk = Disk { vote: vote(n), rows: Vec::new(), applied: Index(0), won: None, wiped: false };
            Node { me: member(n), disk, steps: VecDeque::new(), proc: Proc::None }
        };
        World {
            rules,
            profile,
            chance: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D,
            first,
            nodes: (0..profile.nodes).map(node).collect(),
            net: Vec::new(),
            drawn: 0,
            values: 0,
            wipes: 0,
            watch: Watch::default(),
        }
    }

    /// Rows committed in this history.
    pub fn committed(&self) -> u64 {
        self.watch.committed.len() as u64
    }

    /// Lets the history happen. An error says which promise was broken.
    pub fn run(&mut self) -> Result<(), String> {
        self.campaign(0, true);
        if self.profile.settled {
            self.settle()?;
        }
        for _ in 0..self.profile.steps {
            self.step()?;
        }
        Ok(())
    }

    /// Node 0 leads, and all have its first row, before chance begins.
    fn settle(&mut self) -> Result<(), String> {
        for _ in 0..3 {
            while !self.net.is_empty() {
                let msg = self.net.remove(0);
                self.handle(msg)?;
            }
            (0..self.nodes.len()).for_each(|to| self.send_to(0, to, usize::MAX));
        }
        Ok(())
    }

    /// A number below `n` (splitmix64).
    fn draw(&mut self, n: u64) -> u64 {
        self.chance = self.chance.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.chance;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }

    fn pick(&mut self, n: usize) -> usize {
        usize::try_from(self.draw(n as u64)).unwrap()
    }

    fn fresh(&mut self) -> [u8; 16] {
        self.drawn += 1;
        [self.drawn; 16]
    }

    fn step(&mut self) -> Result<(), String> {
        let p = self.profile;
        let wipe = u64::from(p.wipes > self.wipes);
        let work = if self.nodes.iter().any(|n| !n.steps.is_empty()) { 40 } else { 0 };
        let weights = [100, work, p.send, p.write, p.failover, p.restart, p.crash, p.change, wipe];
        let mut at = self.draw(weights.iter().sum());
        let which = weights.iter().position(|w| {
            let hit = at < *w;
            at = at.saturating_sub(*w);
            hit
        });
        let n = self.pick(p.nodes);
        match which.unwrap() {
            0 => self.deliver(),
            1 => self.work(n),
            2 => self.send(n),
            3 => self.write(n),
            4 => self.ok(|w| w.campaign(n, true)),
            5 => self.ok(|w| w.restart(n)),
            6 => self.ok(|w| w.crash(n)),
            7 => self.ok(|w| w.change(n)),
            _ => self.ok(|w| w.wipe(n)),
        }
    }

    fn ok(&mut self, f: impl FnOnce(&mut World)) -> Result<(), String> {
        f(self);
        Ok(())
    }

    fn post(&mut self, from: usize, to: usize, body: Body) {
        if self.net.len() >= NET_MAX {
            let lost = self.pick(NET_MAX);
            self.net.swap_remove(lost);
        }
        self.net.push(Msg { from, to, body });
    }

    fn deliver(&mut self) -> Result<(), String> {
        if self.net.is_empty() {
            return Ok(());
        }
        // Half of the time a recent one: a network mostly keeps the order.
        let recent = if self.draw(2) == 0 { self.net.len().min(4) } else { self.net.len() };
        let n = self.net.len() - 1 - self.pick(recent);
        let (fate, msg) = (self.draw(8), self.net[n].clone());
        let within = msg.from == msg.to;
        let busy = self.busy(&msg);
        if fate < 6 || within {
            // Not kept: delivered once, or (1 in 8) lost. Within a process nothing is lost or doubled.
            if busy && within {
                return Ok(());
            }
            self.net.remove(n);
        }
        if (fate == 0 && !within) || busy { Ok(()) } else { self.handle(msg) }
    }

    /// A node in the middle of a disk operation takes nothing but, with the vote read too early, promises.
    fn busy(&self, msg: &Msg) -> bool {
        let late = matches!(self.nodes[msg.to].steps.front(), Some(Step::Late(..)));
        let ask = matches!(msg.body, Body::Ask(_));
        let store = ask || matches!(msg.body, Body::Append(_));
        store && !self.nodes[msg.to].steps.is_empty() && !(late && ask)
    }

    fn handle(&mut self, msg: Msg) -> Result<(), String> {
        let Msg { from, to, body } = msg;
        match body {
            Body::Ask(claim) => self.asked(to, from, &claim),
            Body::Promised(claim, answer, rows) => self.promised(to, from, &claim, answer, rows),
            Body::Append(append) => self.appended(to, from, append),
            Body::Confirmed(claim, idx, state) => self.confirmed(to, from, &claim, idx, state),
            Body::Gap(claim, last, prev) => self.ok(|w| w.gap(to, from, &claim, last, prev)),
            Body::Deposed(claim) => self.ok(|w| w.deposed(to, &claim)),
        }
    }

    /// The process on a node dies; what was on its way inside of it dies too.
    fn crash(&mut self, n: usize) {
        self.nodes[n].proc = Proc::None;
        self.nodes[n].steps.clear();
        self.net.retain(|m| m.from != n || m.to != n);
    }

    fn wipe(&mut self, n: usize) {
        self.crash(n);
        self.wipes += 1;
        self.nodes[n].disk =
            Disk { vote: vote(n), rows: Vec::new(), applied: Index(0), won: None, wiped: true };
    }

    /// The writer of the epoch this node has won starts again.
    fn restart(&mut self, n: usize) {
        if self.nodes[n].disk.won.is_some() {
            self.campaign(n, false);
        }
    }

    fn campaign(&mut self, n: usize, failover: bool) {
        self.crash(n);
        let nonce = self.fresh();
        let disk = &self.nodes[n].disk;
        let own = [disk.vote.promised, disk.last().term];
        let (term, ballot) = match disk.won {
            Some((epoch, ballot)) if !failover => (next_run(epoch, own, self.rules), ballot),
            Some(_) | None => {
                let epoch = self.highest_heard(n) + 1;
                (Term { epoch, run: 1 }, self.fresh())
            }
        };
        let claim = Claim { cluster: Uuid::nil(), history: Uuid::nil(), term, ballot, nonce };
        let Ok(vote) = promise(&self.nodes[n].disk.vote, &claim, self.rules) else { return };
        self.nodes[n].disk.vote = vote;
        self.nodes[n].proc = Proc::Campaign { claim, answers: BTreeMap::new() };
        (0..self.nodes.len()).for_each(|to| self.post(n, to, Body::Ask(claim)));
    }

    /// The look before a ballot: the own promise, and those of whoever answers.
    fn highest_heard(&mut self, n: usize) -> u64 {
        let heard: Vec<usize> = (0..self.nodes.len()).filter(|&o| o == n || self.draw(2) == 0).collect();
        heard.into_iter().map(|o| self.nodes[o].disk.vote.promised.epoch).max().unwrap()
    }

    fn asked(&mut self, n: usize, by: usize, claim: &Claim) -> Result<(), String> {
        let (first, rules) = (self.first.clone(), self.rules);
        let node = &mut self.nodes[n];
        if let Ok(vote) = promise(&node.disk.vote, claim, rules) {
            node.disk.vote = vote;
            let (answer, rows) = (node.disk.answer(node.me, &first), node.disk.rows.clone());
            if self.nodes[n].steps.is_empty() {
                self.watch.log(&rows)?;
            }
            self.post(n, by, Body::Promised(*claim, answer, rows));
        }
        Ok(())
    }

    fn promised(
        &mut self,
        n: usize,
        by: usize,
        claim: &Claim,
        answer: Answer,
        rows: Vec<Row>,
    ) -> Result<(), String> {
        let (rules, me, busy) = (self.rules, self.nodes[n].me, !self.nodes[n].steps.is_empty());
        let Proc::Campaign { claim: mine, answers } = &mut self.nodes[n].proc else { return Ok(()) };
        if mine != claim || busy {
            return Ok(());
        }
        answers.insert(by, (answer, rows));
        let heard: Vec<Answer> = answers.values().map(|(a, _)| a.clone()).collect();
        let Choice::Ready { best } = choose(&me, &heard, rules) else { return Ok(()) };
        let rows = answers.values().nth(best).unwrap().1.clone();
        self.take_over(n, *claim, rows)
    }

    /// The own copy takes over the best log's rows, if it has promised nobody else since.
    fn take_over(&mut self, n: usize, claim: Claim, rows: Vec<Row>) -> Result<(), String> {
        let disk = &mut self.nodes[n].disk;
        if promise(&disk.vote, &claim, self.rules).is_err() && self.rules.has(Rule::OwnCopyObeys) {
            return Ok(());
        }
        let end = rows.len() as u64;
        let append = Append { claim, prev: Position::default(), rows, commit: Index(0) };
        let mut plan = match fit(disk, &append) {
            Ok(plan) => plan,
            Err(Refusal::Broken(idx)) => return Err(format!("node {n} has applied another row {idx}")),
            Err(_) => return Ok(()),
        };
        if end < disk.last().idx.0 {
            plan.delete_from = plan.delete_from.or(Some(Index(end + 1)));
        }
        disk.won = Some((claim.term.epoch, claim.ballot));
        if self.rules.has(Rule::TailInOneTransaction) {
            disk.carry_out(&plan, &append);
            return self.lead(n, claim);
        }
        let puts = append.rows[plan.skip..].iter().cloned().map(Step::Put);
        let steps = puts.chain([Step::Cut(Index(end + 1)), Step::Lead(claim)]);
        self.nodes[n].steps = steps.collect();
        Ok(())
    }

    fn lead(&mut self, n: usize, claim: Claim) -> Result<(), String> {
        let node = &mut self.nodes[n];
        let leader = Leader::new(node.me, claim, &node.disk, &self.first, self.profile.nodes, self.rules);
        node.proc = Proc::Writer(Box::new(leader));
        self.send_to(n, n, usize::MAX);
        Ok(())
    }

    fn send(&mut self, n: usize) -> Result<(), String> {
        if matches!(self.nodes[n].proc, Proc::Writer(_)) {
            let (to, most) = (self.pick(self.nodes.len()), 1 + self.pick(4));
            self.send_to(n, to, most);
        }
        Ok(())
    }

    fn send_to(&mut self, n: usize, to: usize, most: usize) {
        if let Proc::Writer(leader) = &self.nodes[n].proc {
            let append = leader.message(to, most);
            self.post(n, to, Body::Append(append));
        }
    }

    fn write(&mut self, n: usize) -> Result<(), String> {
        if self.values >= self.profile.writes {
            return Ok(());
        }
        if let Proc::Writer(leader) = &mut self.nodes[n].proc
            && leader.tally.serving()
        {
            self.values += 1;
            leader.push(RowKind::Batch, self.values.to_string().into_bytes());
            self.send_to(n, n, usize::MAX);
        }
        Ok(())
    }

    /// A writer is asked for another list: one or two nodes come or go.
    fn change(&mut self, n: usize) {
        let (a, b) = (self.pick(self.nodes.len()), self.pick(self.nodes.len()));
        let two = self.draw(10) < self.profile.two;
        let rules = self.rules;
        let me = self.nodes[n].me;
        let Proc::Writer(leader) = &mut self.nodes[n].proc else { return };
        let list = leader.tally.newest().1.clone();
        let mut members = list.members.clone();
        for other in [Some(a), two.then_some(b)].into_iter().flatten().map(member) {
            match members.iter().position(|m| *m == other) {
                Some(nth) => drop(members.remove(nth)),
                None => members.push(other),
            }
        }
        let own_term_committed = leader.tally.serving();
        let standing = Standing { me, own_term_committed, settled: leader.tally.list_committed() };
        if let Ok(next) = list.follow(members, &standing, rules) {
            let idx = leader.push(RowKind::List, serde_json::to_vec(&next).unwrap());
            leader.tally.listed(idx, next);
            self.send_to(n, n, usize::MAX);
        }
    }

    fn appended(&mut self, n: usize, by: usize, append: Append) -> Result<(), String> {
        let (rules, disk) = (self.rules, &mut self.nodes[n].disk);
        let verdict = match n == by {
            true => admit_own(&disk.vote, disk, &append, rules),
            false => admit(&disk.vote, disk, &append, rules),
        };
        let claim = append.claim;
        let plan = match verdict {
            Ok(plan) => plan,
            Err(Refusal::Gap(last)) => {
                return self.ok(|w| w.post(n, by, Body::Gap(claim, last, append.prev.idx)));
            }
            Err(Refusal::Broken(idx)) => return Err(format!("node {n} has applied another row {idx}")),
            Err(Refusal::Malformed) => return Err(format!("node {by} sent rows that do not follow")),
            Err(
                Refusal::Stranger | Refusal::Promised(_) | Refusal::OtherBallot(_) | Refusal::OtherStart(_),
            ) => {
                return self.ok(|w| w.post(n, by, Body::Deposed(claim)));
            }
        };
        let confirm = Step::Confirm(by, claim, plan.matched);
        if !rules.has(Rule::VoteInTransaction) {
            self.nodes[n].steps = [Step::Late(plan, append), confirm].into();
        } else if !rules.has(Rule::TailInOneTransaction) && plan.delete_from.is_some() {
            let cut = Step::Cut(plan.matched.next());
            let puts = append.rows[plan.skip..].iter().cloned().map(Step::Put);
            self.nodes[n].steps = puts.chain([cut, confirm]).collect();
        } else {
            disk.carry_out(&plan, &append);
            self.apply(n, plan.commit)?;
            self.confirm(n, by, claim, plan.matched)?;
        }
        Ok(())
    }

    /// One step of a disk operation that is not one transaction.
    fn work(&mut self, n: usize) -> Result<(), String> {
        let Some(step) = self.nodes[n].steps.pop_front() else { return Ok(()) };
        let disk = &mut self.nodes[n].disk;
        match step {
            Step::Late(plan, append) => {
                disk.carry_out(&plan, &append);
                self.apply(n, plan.commit)
            }
            Step::Put(row) => self.ok(|w| w.nodes[n].disk.put(row)),
            Step::Cut(from) => self.ok(|w| w.nodes[n].disk.cut(from)),
            Step::Confirm(to, claim, idx) => self.confirm(n, to, claim, idx),
            Step::Lead(claim) => self.lead(n, claim),
        }
    }

    fn confirm(&mut self, n: usize, to: usize, claim: Claim, idx: Index) -> Result<(), String> {
        self.watch.log(&self.nodes[n].disk.rows)?;
        let state = self.nodes[n].disk.state();
        self.post(n, to, Body::Confirmed(claim, idx, state));
        Ok(())
    }

    fn apply(&mut self, n: usize, commit: Index) -> Result<(), String> {
        let disk = &mut self.nodes[n].disk;
        disk.applied = disk.applied.max(commit);
        self.watch.commit(&disk.rows, disk.applied)
    }

    fn confirmed(
        &mut self,
        n: usize,
        by: usize,
        claim: &Claim,
        idx: Index,
        state: CopyState,
    ) -> Result<(), String> {
        let copy = self.nodes[by].me.copy_id;
        let Proc::Writer(leader) = &mut self.nodes[n].proc else { return Ok(()) };
        if leader.claim.term != claim.term {
            return Ok(());
        }
        let before = leader.tally.committed();
        leader.next[by] = leader.next[by].max(idx.next());
        if state == CopyState::Suspect {
            leader.tally.suspect(copy);
        }
        let committed = leader.tally.confirm(copy, claim.term, idx);
        if committed > before {
            self.watch.commit(&leader.rows, committed)?;
            self.watch.committer(&leader.claim, n)?;
        }
        Ok(())
    }

    fn gap(&mut self, n: usize, by: usize, claim: &Claim, last: Position, prev: Index) {
        if let Proc::Writer(leader) = &mut self.nodes[n].proc
            && leader.claim == *claim
        {
            leader.next[by] = last.idx.next().min(prev.max(Index(1)));
        }
    }

    /// A writer whose own copy refuses stops; what others say is left to it, as if it never heard it.
    fn deposed(&mut self, n: usize, claim: &Claim) {
        if matches!(&self.nodes[n].proc, Proc::Writer(leader) if leader.claim == *claim) && self.draw(4) == 0
        {
            self.nodes[n].proc = Proc::None;
        }
    }
}
