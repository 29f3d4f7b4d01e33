//! What a node does to become master, and what a master does with its members.

use crate::leader::Act;
use crate::watch::Broken;
use crate::world::{Body, Config, Elect, Looked, Proc, Q, Told, W, World};
use gantry_store::core::copy::Claim;
use gantry_store::core::elect::{Alone, AtRisk, Decision, Heard, LogName, Part, alone, decide, won};
use gantry_store::core::list::{Member, Standing};
use gantry_store::core::recover::{Answer, CopyState};
use gantry_store::core::row::{Index, Position, Row, RowKind, Term};
use gantry_store::core::settle::{Members, NextQ, NextW, SeenQ, SeenW, change, next_q, next_w};
use gantry_store::core::token::{Records, Shown, judge, state};
use std::collections::BTreeMap;
use uuid::Uuid;

impl World {
    /// The failover command begins on a node: it looks.
    pub fn command(&mut self, n: usize) {
        self.done.failovers += 1;
        self.look(n, Vec::new());
    }

    fn look(&mut self, n: usize, stepped: Vec<Member>) {
        self.draw(n);
        let look = (n as u64) << 32 | u64::from(self.nodes[n].drawn);
        self.nodes[n].elect = Some(Elect { look, looked: BTreeMap::new(), stepped, ballot: None });
        (0..self.nodes.len()).for_each(|to| self.post(n, to, Body::Look(look)));
    }

    fn heard(&self, n: usize) -> Looked {
        let node = &self.nodes[n];
        let part = |log: usize| {
            let vote = &node.copies[log].log.get().vote;
            Part { promised: vote.promised, ballot: vote.ballot, answer: node.copies[log].answer(node.me) }
        };
        let shows = |log: usize| (node.copies[log].shown(), node.copies[log].log.get().records());
        (Heard { master: node.role, w: part(W), q: part(Q) }, [shows(W), shows(Q)])
    }

    pub(crate) fn asked_to_look(&mut self, n: usize, by: usize, look: u64) {
        let heard = self.heard(n);
        self.post(n, by, Body::Looked(look, Box::new(heard)));
    }

    pub(crate) fn looked(&mut self, n: usize, by: usize, look: u64, answer: Box<Looked>) {
        if let Some(elect) = self.nodes[n].elect.as_mut().filter(|e| e.look == look && e.ballot.is_none()) {
            elect.looked.insert(by, answer);
        }
    }

    /// The command decides by what it has heard so far.
    pub fn decide(&mut self, n: usize) {
        let me = self.nodes[n].me;
        let Some(elect) = self.nodes[n].elect.clone().filter(|e| e.ballot.is_none()) else { return };
        if !elect.looked.contains_key(&n) {
            return;
        }
        let heard = judged(elect.looked.values().map(|l| &**l));
        match decide(&me, &heard, &elect.stepped, self.rules) {
            Decision::Refused(_) => {}
            Decision::AlreadyMaster { .. } => self.nodes[n].elect = None,
            Decision::StepDown { member, epoch } => {
                let mut stepped = elect.stepped;
                stepped.push(member);
                if let Some(to) = self.node_of(&member) {
                    self.post(n, to, Body::StepDown(epoch));
                }
                self.look(n, stepped);
            }
            Decision::Ballot { epoch, ask } => {
                let ballot = self.draw(n);
                let history = self.nodes[n].copies[W].log.get().vote.history;
                let term = Term { epoch, run: 0 };
                let claim = Claim { cluster: Uuid::nil(), history, term, ballot, nonce: ballot };
                self.nodes[n].elect.as_mut().expect("it runs").ballot = Some((claim, BTreeMap::new()));
                for to in ask.iter().filter_map(|m| self.node_of(m)).collect::<Vec<_>>() {
                    self.post(n, to, Body::Epoch(claim));
                }
            }
        }
    }

    fn node_of(&self, member: &Member) -> Option<usize> {
        self.nodes.iter().position(|n| n.me == *member)
    }

    pub(crate) fn step_down(&mut self, n: usize, epoch: u64) {
        let node = &mut self.nodes[n];
        if node.role.is_some_and(|(mine, _)| mine == epoch) {
            (node.role, node.stopping) = (None, true);
        }
    }

    pub(crate) fn epoch_promised(
        &mut self,
        n: usize,
        by: usize,
        claim: &Claim,
        told: Box<[Told; 2]>,
    ) -> Result<(), Broken> {
        let me = self.nodes[n].me;
        let ballot = self.nodes[n].elect.as_mut().and_then(|e| e.ballot.as_mut());
        let Some((_, all)) = ballot.filter(|(mine, _)| mine == claim) else { return Ok(()) };
        all.insert(by, told);
        let all = all.clone();
        let [w, q] = [W, Q].map(|log| self.judged(all.values().map(move |t| &t[log])));
        let own = |log: usize| {
            let vote = &self.nodes[n].copies[log].log.get().vote;
            (vote.promised.epoch, vote.ballot) == (claim.term.epoch, claim.ballot)
        };
        if !all.contains_key(&n) || won(&me, &w, &q, self.rules).is_err() || !own(W) || !own(Q) {
            return Ok(());
        }
        let node = &mut self.nodes[n];
        (node.role, node.elect, node.stopping) = (Some((claim.term.epoch, claim.ballot)), None, false);
        self.start(n, W)?;
        self.start(n, Q)
    }

    /// `--no-voting`: the node goes on alone with another history.
    ///
    /// # Errors
    /// Something acknowledged is lost that was not said to be at risk.
    pub fn go_alone(&mut self, n: usize) -> Result<(), Broken> {
        self.done.alone += 1;
        let own = self.heard(n);
        let looked = self.nodes[n].elect.take().map_or_else(BTreeMap::new, |e| e.looked);
        let others = looked.into_iter().filter(|(by, _)| *by != n).map(|(_, l)| l.0);
        let heard: Vec<Heard> = std::iter::once(own.0.clone()).chain(others).collect();
        let Alone { epoch, w, q, at_risk, .. } = alone(&self.nodes[n].me, &own.0, &heard);
        let (ballot, history) = (self.draw(n), Uuid::from_bytes(self.draw(n)));
        // Between the logs nothing holds them together but majorities: an effect may lose its cause here.
        self.excused.extend(self.orphans(n));
        for (log, name, row) in [(W, LogName::W, w), (Q, LogName::Q, q)] {
            self.stop(n, log);
            // What a snapshot left half done is carried on first: noded opens the copy before it goes on alone.
            self.nodes[n].pending[log].clear();
            self.boot(n, log)?;
            self.lost_unsaid(n, log, at_risk.iter().find(|r| r.log == name))?;
            let (old, content) = (self.line(n, log), self.nodes[n].copies[log].content());
            self.watch.alone(old, (history, log), &content);
            let file = self.nodes[n].copies[log].log.write();
            let promised = Term { epoch, run: 0 };
            file.vote.promised = promised;
            (file.vote.ballot, file.vote.nonce, file.vote.history) = (ballot, ballot, history);
            file.rows.push(row);
            self.nodes[n].copies[log].log.flush();
            self.nodes[n].copies[log].lost = false;
        }
        (self.nodes[n].role, self.nodes[n].stopping) = (Some((epoch, ballot)), false);
        self.start(n, W)?;
        self.start(n, Q)
    }

    /// Effects in a node's copy of Q whose cause its copy of W lacks.
    fn orphans(&self, n: usize) -> Vec<u64> {
        let [w, q] = [W, Q].map(|log| self.nodes[n].copies[log].content());
        let causes: Vec<Position> = w.all().map(Row::position).collect();
        let effect = |row: &Row| match serde_json::from_slice(&row.body) {
            Ok(Act::Effect(value, on)) if !causes.contains(&on) => Some(value),
            Ok(_) | Err(_) => None,
        };
        q.all().filter_map(effect).collect()
    }

    /// What was acknowledged and is not in this copy must be said to be at risk.
    fn lost_unsaid(&self, n: usize, log: usize, said: Option<&AtRisk>) -> Result<(), Broken> {
        let (line, content) = (self.line(n, log), self.nodes[n].copies[log].content());
        let all: Vec<&Row> = content.all().collect();
        for idx in (1..=self.watch.count(line)).map(Index) {
            let nth = usize::try_from(idx.0 - 1).expect("small");
            let kept = all.get(nth).copied() == self.watch.at(line, idx);
            if !kept && said.is_none_or(|risk| idx < risk.from) {
                return Err(format!("row {idx} is lost by going on alone, and nothing was said"));
            }
        }
        Ok(())
    }

    /// The master is asked for another list: node `a` comes or goes, and `b` with it.
    pub fn change(&mut self, n: usize, a: usize, b: Option<usize>) {
        let (me, rules, settle) = (self.nodes[n].me, self.rules, self.config.logs == 2);
        let ids = [Some(a), b].into_iter().flatten().map(|o| (o, self.nodes[o].me));
        let ids: Vec<(usize, Member)> = ids.collect();
        let Proc::Leading(leader) = &mut self.nodes[n].procs[W] else { return };
        let list = leader.tally.newest().1.clone();
        let mut members = list.members.clone();
        for (o, other) in ids {
            match members.iter().position(|m| *m == other) {
                Some(nth) => drop(members.remove(nth)),
                None if settle && !leader.fed(o) => return,
                None => members.push(other),
            }
        }
        let (list_committed, serving) = (leader.tally.list_committed(), leader.tally.serving());
        let next = if settle {
            let (object, in_q) = (leader.object.as_ref(), leader.in_q);
            let seen = SeenW { newest: &list, list_committed, serving, object, in_q };
            change(&seen, members, me, rules)
        } else {
            let standing = Standing { me, own_term_committed: serving, settled: list_committed };
            list.follow(members, &standing, rules)
        };
        if let Ok(next) = next {
            let idx = leader.push(RowKind::List, serde_json::to_vec(&next).expect("plain data"));
            leader.tally.listed(idx, next);
            self.done.changes += 1;
            self.send(n, W, n, usize::MAX);
        }
    }

    /// The master makes an empty copy of a node that is in neither list.
    pub fn ask_make(&mut self, n: usize, other: usize) {
        let drawn = Uuid::from_bytes(self.draw(n));
        let there = self.nodes[other].me;
        let (Proc::Leading(w), Proc::Leading(q)) = (&self.nodes[n].procs[W], &self.nodes[n].procs[Q]) else {
            return;
        };
        let free = |leader: &crate::leader::Leader| {
            let list = &leader.tally.newest().1;
            leader.tally.serving() && !list.members.iter().any(|m| m.node == there.node)
        };
        let settled = w.object.as_ref().is_some_and(|o| o.settled && o.n == w.tally.newest().1.n);
        if other != n && free(w) && free(q) && settled && w.in_q.is_some() {
            let claim = w.claim;
            self.post(n, other, Body::Make(claim, Some(there.copy_id), drawn));
        }
    }

    /// Settling a change goes one step on, in W or in Q.
    pub fn settle(&mut self, n: usize, log: usize) -> Result<(), Broken> {
        if log == W {
            self.settle_w(n)
        } else {
            return self.settle_q(n);
        }
        Ok(())
    }

    fn settle_w(&mut self, n: usize) {
        let Proc::Leading(leader) = &mut self.nodes[n].procs[W] else { return };
        let newest = leader.tally.newest().1.clone();
        let (list_committed, serving) = (leader.tally.list_committed(), leader.tally.serving());
        if leader.written > leader.tally.committed() {
            return;
        }
        let (object, in_q) = (leader.object.as_ref(), leader.in_q);
        let seen = SeenW { newest: &newest, list_committed, serving, object, in_q };
        let write: Members = match next_w(&seen) {
            NextW::Publish(members) | NextW::Settle(members) => members,
            NextW::Settled | NextW::AwaitCommit | NextW::AwaitQ(_) => return,
        };
        leader.written = leader.batch(&Act::Members(write));
        self.send(n, W, n, usize::MAX);
    }

    fn settle_q(&mut self, n: usize) -> Result<(), Broken> {
        let Proc::Leading(leader) = &mut self.nodes[n].procs[Q] else { return Ok(()) };
        let Some(object) = leader.object.clone() else { return Ok(()) };
        let newest = leader.tally.newest().1.clone();
        let (list_committed, serving) = (leader.tally.list_committed(), leader.tally.serving());
        match next_q(&SeenQ { newest: &newest, list_committed, serving, object: &object }) {
            NextQ::AwaitCommit | NextQ::AwaitW => {}
            NextQ::Append(list) => {
                let idx = leader.push(RowKind::List, serde_json::to_vec(&list).expect("plain data"));
                leader.tally.listed(idx, list);
                self.send(n, Q, n, usize::MAX);
            }
            NextQ::Tell(told) => {
                let epoch = leader.claim.term.epoch;
                if let Proc::Leading(w) = &mut self.nodes[n].procs[W]
                    && w.claim.term.epoch == epoch
                {
                    w.in_q = Some(told);
                }
            }
            NextQ::Apart { q, w } => return Err(format!("Q's list is {q}, W's is {w}")),
        }
        Ok(())
    }

    /// luxid hears from wconfd what the members are.
    pub fn mirror(&mut self, n: usize) {
        let (Proc::Leading(w), Proc::Leading(q)) = (&self.nodes[n].procs[W], &self.nodes[n].procs[Q]) else {
            return;
        };
        if w.claim.term.epoch == q.claim.term.epoch && w.served {
            let object = w.object.clone();
            if let Proc::Leading(q) = &mut self.nodes[n].procs[Q] {
                q.object = object;
            }
        }
    }

    /// Somebody keeps an image of a node's disk.
    pub fn take_image(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        let mut copies = node.copies.clone();
        // What an image shows is what is flushed.
        copies.iter_mut().for_each(|c| c.log.power_cut(false));
        copies.iter_mut().for_each(|c| c.objects.iter_mut().for_each(|f| f.power_cut(false)));
        node.image = Some((node.me, copies));
    }

    /// The image is put back, if it is one that all others can tell from what the node has had since.
    ///
    /// # Errors
    /// A start finds what must not be.
    pub fn restore(&mut self, n: usize) -> Result<(), Broken> {
        let Some((me, copies)) = self.nodes[n].image.clone() else { return Ok(()) };
        let known = (0..self.config.logs).all(|log| self.known_old(n, log, &copies[log]));
        // An image from when the node counted alone asks nobody, so nobody can tell it.
        let asks = copies.iter().all(|c| c.answer(me).list.members.len() > 1);
        if me != self.nodes[n].me || !known || !asks {
            return Ok(());
        }
        self.nodes[n].copies = copies;
        self.nodes[n].copies.iter_mut().for_each(|c| c.lost = true);
        (self.nodes[n].image, self.nodes[n].role) = (None, None);
        self.done.losses += 1;
        self.crash(n, false, |_| true)
    }

    /// Whether every other node has, committed, a record that tells what `image` is: one that came after all that the image has of
    /// its own. An older record says of a copy that is ahead of its holder the same as of one that is behind, and is
    /// outdone by the newer ones in the image itself as soon as that is asked.
    fn known_old(&self, n: usize, log: usize, image: &crate::disk::Copy) -> bool {
        let (line, list) = (self.line(n, log), &self.nodes[n].copies[log].answer(self.nodes[n].me).list);
        let shown = image.shown();
        let own = image.log.flushed().records().of(&shown.copy_id).map_or(Index(0), |record| record.at.idx);
        let mut others = (0..self.nodes.len()).filter(|o| *o != n);
        // Who counts alone has nobody who could know.
        list.members.len() > 1
            && others.all(|o| {
                if self.line(o, log) != line {
                    return false;
                }
                let copy = &self.nodes[o].copies[log];
                let records = copy.log.flushed().records();
                let record = records.of(&shown.copy_id);
                let at = record.and_then(|r| self.watch.at(line, r.at.idx)).map(Row::position);
                let committed = record.is_some_and(|r| Some(r.at) == at && r.at.idx > own);
                committed && judge(&shown, record, Index(0)).is_err()
            })
    }

    /// A copy is emptied without anybody's asking. For searches without tokens: it is known to be lost.
    ///
    /// # Errors
    /// A start finds what must not be.
    pub fn wipe(&mut self, n: usize) -> Result<(), Broken> {
        let Config { logs, .. } = self.config;
        for log in 0..logs {
            let (id, files) = (self.nodes[n].me.copy_id, self.nodes[n].copies[log].objects.len());
            let first = World::new(self.config, self.rules).nodes[n].copies[log].log.get().base.list.clone();
            let mut copy = crate::disk::Copy::empty(crate::world::blank(id), first, files);
            copy.lost = true;
            self.nodes[n].copies[log] = copy;
        }
        self.nodes[n].role = None;
        self.done.losses += 1;
        self.crash(n, false, |_| true)
    }

    /// Where rows of a log end on a node that leads it.
    pub fn position(&self, n: usize, log: usize) -> Position {
        self.end(n, log)
    }
}

/// What nodes said to a look, with their copies judged by all records heard.
fn judged<'a>(looked: impl Iterator<Item = &'a Looked> + Clone) -> Vec<Heard> {
    let mut records = [Records::default(), Records::default()];
    for (_, shows) in looked.clone() {
        records.iter_mut().zip(shows).for_each(|(all, (_, known))| all.merge(known));
    }
    let judge = |part: &Part, log: usize, shown: &Shown| {
        let state: CopyState = state(shown, &records[log]);
        Part { answer: Answer { state, ..part.answer.clone() }, ..part.clone() }
    };
    let of = |(heard, shows): &Looked| Heard {
        master: heard.master,
        w: judge(&heard.w, W, &shows[W].0),
        q: judge(&heard.q, Q, &shows[Q].0),
    };
    looked.map(of).collect()
}
