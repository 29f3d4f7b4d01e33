//! The side of the writers: recovery, feeding, commits.

use crate::disk::{Side, newest_list, records_of};
use crate::leader::{Act, Leader};
use crate::watch::Broken;
use crate::world::{Body, Op, Proc, Q, Told, W, World};
use gantry_store::core::copy::Claim;
use gantry_store::core::recover::{Answer, Choice, CopyState, choose, next_run};
use gantry_store::core::row::{Index, Position, Row, RowKind, Term};
use gantry_store::core::settle::may_send;
use gantry_store::core::snapshot::{Feed, Head, feed};
use gantry_store::core::token::{Connect, Records, Shown, TokenRecord, connect, may_give, state};
use std::collections::BTreeMap;
use uuid::Uuid;

impl World {
    /// The writer of a log starts under the epoch its node has won.
    ///
    /// # Errors
    /// A promise is broken.
    pub fn start(&mut self, n: usize, log: usize) -> Result<(), Broken> {
        let Some((epoch, ballot)) = self.nodes[n].role else { return Ok(()) };
        let heard = [
            self.nodes[n].copies[log].log.get().vote.promised,
            self.end(n, log).term,
            self.nodes[n].heard[log],
        ];
        let term = next_run(epoch, heard, self.rules);
        self.ask_all(n, log, term, ballot)
    }

    /// A writer takes an epoch without the failover command: one more than the highest promise among `heard`.
    ///
    /// # Errors
    /// A promise is broken.
    pub fn campaign(&mut self, n: usize, heard: &[usize]) -> Result<(), Broken> {
        let promised = |o: &usize| self.nodes[*o].copies[W].log.get().vote.promised.epoch;
        let epoch = heard.iter().map(promised).max().unwrap_or_default() + 1;
        let ballot = self.draw(n);
        self.nodes[n].role = Some((epoch, ballot));
        self.ask_all(n, W, Term { epoch, run: 1 }, ballot)
    }

    fn ask_all(&mut self, n: usize, log: usize, term: Term, ballot: [u8; 16]) -> Result<(), Broken> {
        self.stop(n, log);
        let nonce = self.draw(n);
        let history = self.nodes[n].copies[log].log.get().vote.history;
        let claim = Claim { cluster: Uuid::nil(), history, term, ballot, nonce };
        self.nodes[n].procs[log] = Proc::Recovering(claim, BTreeMap::new());
        (0..self.nodes.len()).filter(|to| *to != n).for_each(|to| self.post(n, to, Body::Ask(log, claim)));
        self.submit(n, log, Op::Promise(n, claim))
    }

    /// Whether copies are to be believed, judged with all records anybody told.
    pub(crate) fn judged<'a>(&self, told: impl Iterator<Item = &'a Told> + Clone) -> Vec<Answer> {
        let mut records = Records::default();
        told.clone().for_each(|t| records.merge(&t.records));
        let judge = |t: &Told| match (self.config.tokens, t.lost) {
            (true, _) => state(&t.shown, &records),
            (false, true) => CopyState::Suspect,
            (false, false) => CopyState::Sound,
        };
        told.map(|t| Answer { state: judge(t), ..t.answer.clone() }).collect()
    }

    pub(crate) fn promised(
        &mut self,
        n: usize,
        log: usize,
        by: usize,
        claim: &Claim,
        told: Box<Told>,
    ) -> Result<(), Broken> {
        let me = self.nodes[n].me;
        let Proc::Recovering(mine, all) = &mut self.nodes[n].procs[log] else { return Ok(()) };
        if mine != claim {
            return Ok(());
        }
        all.insert(by, told);
        if !all.contains_key(&n) {
            return Ok(());
        }
        let all = all.clone();
        let answers = self.judged(all.values().map(|t| &**t));
        let Choice::Ready { best } = choose(&me, &answers, self.rules) else { return Ok(()) };
        let content = all.into_values().nth(best).expect("it was chosen").content;
        self.nodes[n].procs[log] = Proc::Recovering(*claim, BTreeMap::new());
        self.submit(n, log, Op::Recover(*claim, Box::new(content)))
    }

    /// The recovered rows are durable: the writer leads.
    pub(crate) fn lead(&mut self, n: usize, log: usize, claim: Claim) -> Result<(), Broken> {
        let (nodes, rules, tokens) = (self.nodes.len(), self.rules, self.config.tokens);
        let node = &mut self.nodes[n];
        if !matches!(&node.procs[log], Proc::Recovering(mine, _) if *mine == claim) {
            return Ok(());
        }
        let copy = &node.copies[log];
        let mut leader = Leader::new(node.me, claim, copy.content(), copy.applied_to(), nodes, rules);
        if !tokens {
            leader.peers.iter_mut().for_each(|p| p.session = Some(0));
        }
        node.procs[log] = Proc::Leading(Box::new(leader));
        self.send(n, log, n, usize::MAX);
        Ok(())
    }

    /// The writer on a node sends what a copy lacks, or connects first.
    pub fn send(&mut self, n: usize, log: usize, to: usize, most: usize) {
        let (boot, tokens) = (self.nodes[to].boot, self.config.tokens);
        let Proc::Leading(leader) = &mut self.nodes[n].procs[log] else { return };
        let (claim, peer) = (leader.claim, &mut leader.peers[to]);
        if tokens && peer.session != Some(boot) {
            peer.session = None;
            return self.post(n, to, Body::Connect(log, claim));
        }
        let committed = leader.tally.committed();
        let gift = peer.give.filter(|g| may_give(g.at.idx, peer.confirmed, committed));
        if let Some(gift) = gift {
            peer.give = None;
            let copy = peer.copy;
            self.post(n, to, Body::Give(log, claim, copy, gift.old, gift.new));
        }
        let Proc::Leading(leader) = &self.nodes[n].procs[log] else { return };
        match leader.message(to, most) {
            Some(append) => self.post(n, to, Body::Append(log, boot, append)),
            None => self.send_snapshot(n, log, to, claim),
        }
    }

    /// All that is applied, as one snapshot.
    fn send_snapshot(&mut self, n: usize, log: usize, to: usize, claim: Claim) {
        let (copy, session) = (&self.nodes[n].copies[log], self.nodes[to].boot);
        let (file, applied) = (copy.log.get(), copy.applied_to());
        let at = if applied == file.base.at.idx {
            Some(file.base.at)
        } else {
            file.at(applied).map(Row::position)
        };
        let Some(at) = at else { return };
        let upto: Vec<Row> = file.rows.iter().filter(|r| r.idx <= applied).cloned().collect();
        let list = newest_list(&file.base, &upto).1;
        let table = records_of(&file.table, &upto);
        let mut rows = copy.content().before;
        rows.extend(upto);
        let side = Side { head: Head { claim, at, list }, gen_no: 0, rows, table };
        self.done.snapshots += 1;
        self.post(n, to, Body::Snapshot(log, session, Box::new(side)));
    }

    /// A copy was connected: it is judged, and gets a token.
    pub(crate) fn welcome(
        &mut self,
        n: usize,
        log: usize,
        by: usize,
        claim: &Claim,
        session: u64,
        shown: &Shown,
    ) {
        let drawn = self.draw(n);
        let Proc::Leading(leader) = &mut self.nodes[n].procs[log] else { return };
        if leader.claim != *claim || leader.peers[by].session == Some(session) {
            return;
        }
        let record = leader.records().of(&shown.copy_id).copied();
        let next = leader.last().idx.next();
        let peer = &mut leader.peers[by];
        if peer.copy != shown.copy_id {
            (peer.copy, peer.confirmed, peer.next) = (shown.copy_id, Index(0), next);
        }
        let give = match connect(shown, record.as_ref(), leader.peers[by].confirmed, drawn) {
            Err(_) => return leader.tally.suspect(shown.copy_id),
            Ok(Connect::Give(record)) => record,
            Ok(Connect::Record(row)) => {
                let idx = leader.push(RowKind::Token, row.encode());
                TokenRecord { old: row.old, new: row.new, at: Position { term: claim.term, idx } }
            }
        };
        let peer = &mut leader.peers[by];
        (peer.session, peer.give) = (Some(session), Some(give));
        self.send(n, log, n, usize::MAX);
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one message")]
    pub(crate) fn confirmed(
        &mut self,
        n: usize,
        log: usize,
        by: usize,
        claim: &Claim,
        session: u64,
        idx: Index,
        lost: bool,
    ) -> Result<(), Broken> {
        let (copy, tokens) = (self.nodes[by].me.copy_id, self.config.tokens);
        let Proc::Leading(leader) = &mut self.nodes[n].procs[log] else { return Ok(()) };
        let peer = &mut leader.peers[by];
        if leader.claim.term != claim.term || peer.session != Some(session) {
            return Ok(());
        }
        peer.next = peer.next.max(idx.next());
        peer.confirmed = peer.confirmed.max(idx);
        if lost && !tokens {
            leader.tally.suspect(copy);
        }
        let before = leader.tally.committed();
        let committed = leader.tally.confirm(copy, claim.term, idx);
        if committed > before {
            leader.look_for_members(before, committed);
            let line = (claim.history, log);
            self.watch.commit(line, leader.base.at.idx, &leader.rows, committed)?;
            self.watch.committer(line, &leader.claim, n)?;
            if leader.tally.serving() && !leader.served {
                leader.served = true;
                self.watch.serves(line, claim.term, &leader.content())?;
                self.causes(n)?;
            }
        }
        Ok(())
    }

    /// A master serves both logs: what Q holds of effects has its cause in W.
    fn causes(&self, n: usize) -> Result<(), Broken> {
        let [Proc::Leading(w), Proc::Leading(q)] = &self.nodes[n].procs[..] else { return Ok(()) };
        if !w.served || !q.served || w.claim.term.epoch != q.claim.term.epoch {
            return Ok(());
        }
        for row in q.content().all().filter(|r| r.kind == RowKind::Batch) {
            let Ok(Act::Effect(value, on)) = serde_json::from_slice(&row.body) else { continue };
            if w.at(on.idx).map(Row::position) != Some(on) && !self.excused.contains(&value) {
                return Err(format!(
                    "effect {value} is there without its cause, row {} of {}",
                    on.idx, on.term
                ));
            }
        }
        Ok(())
    }

    pub(crate) fn gap(
        &mut self,
        n: usize,
        log: usize,
        by: usize,
        claim: &Claim,
        session: u64,
        (last, tried): (Index, Index),
    ) {
        if let Proc::Leading(leader) = &mut self.nodes[n].procs[log]
            && leader.claim == *claim
            && leader.peers[by].session == Some(session)
        {
            leader.peers[by].next = match feed(last, tried, leader.base.at.idx) {
                Feed::After(before) => before.next(),
                Feed::Snapshot => Index(leader.base.at.idx.0.max(1)),
            };
        }
    }

    /// A copy has promised another term than the writer's.
    pub(crate) fn refused(&mut self, n: usize, log: usize, claim: &Claim, term: Term) {
        let mine = match &self.nodes[n].procs[log] {
            Proc::None => return,
            Proc::Recovering(claim, _) => *claim,
            Proc::Leading(leader) => leader.claim,
        };
        if mine != *claim {
            return;
        }
        let heard = &mut self.nodes[n].heard[log];
        *heard = term.max(*heard);
        self.stop(n, log);
        self.deposed_by(n, term);
    }

    /// The node hears of an epoch above its own: its role file says candidate, and its daemons are to stop.
    pub(crate) fn deposed_by(&mut self, n: usize, term: Term) {
        let node = &mut self.nodes[n];
        if self.config.elect && node.role.is_some_and(|(epoch, _)| epoch < term.epoch) {
            (node.role, node.stopping) = (None, true);
        }
    }

    /// The daemons stop at last.
    pub fn stop_daemons(&mut self, n: usize) {
        if std::mem::take(&mut self.nodes[n].stopping) {
            (0..self.config.logs).for_each(|log| self.stop(n, log));
        }
    }

    /// A client writes. In Q half of the writes rest on the last row of W.
    pub fn write(&mut self, n: usize, log: usize, rests: bool) {
        let on = match &self.nodes[n].procs[W] {
            Proc::Leading(w) if log == Q && rests => {
                Some((w.last(), w.tally.committed(), w.claim.term.epoch))
            }
            Proc::None | Proc::Recovering(..) | Proc::Leading(_) => None,
        };
        let (rules, value) = (self.rules, self.done.writes);
        let Proc::Leading(leader) = &mut self.nodes[n].procs[log] else { return };
        if !leader.tally.serving() {
            return;
        }
        let act = match on {
            Some((row, committed, epoch)) if epoch == leader.claim.term.epoch => {
                if !may_send(row.idx, committed, rules) {
                    return;
                }
                Act::Effect(value, row)
            }
            Some(_) => return,
            None => Act::Value(value),
        };
        leader.batch(&act);
        self.done.writes += 1;
        self.send(n, log, n, usize::MAX);
    }
}
