//! The side of the copies: what a node does with its log files, one transaction and one flush after the other.

use crate::disk::{Content, LogFile, Objects, Side, records_of};
use crate::watch::Broken;
use crate::world::{After, Body, Op, Proc, Q, Told, W, World};
use gantry_store::core::compact::base_after;
use gantry_store::core::copy::{Append, Claim, LogView, Plan, Refusal, admit, admit_own, fit, make, promise};
use gantry_store::core::list::List;
use gantry_store::core::row::{Index, Position, Row, Term};
use gantry_store::core::rules::Rule;
use gantry_store::core::snapshot::{CarryOn, Head, TakeOver, carry_on, stale_side, take_over};
use gantry_store::core::token::{Token, accept};
use uuid::Uuid;

impl World {
    /// One step of what is under way in a log file: a transaction, or a flush.
    ///
    /// # Errors
    /// A promise is broken.
    pub fn work(&mut self, n: usize, log: usize) -> Result<(), Broken> {
        let Some(op) = self.nodes[n].pending[log].pop_front() else { return Ok(()) };
        match op {
            Op::Promise(by, claim) => self.promise(n, log, by, &claim, After::Promised(by, claim)),
            Op::Epoch(by, claim, told) => self.promise(n, log, by, &claim, After::Epoch(by, claim, told)),
            Op::Append(by, session, append) => return self.append(n, log, by, session, append),
            Op::Keep(by, session, side) => self.keep(n, log, by, session, *side),
            Op::TakeOver(by, session, claim) => return self.take_over(n, log, by, session, claim),
            Op::Fill(file) => self.fill(n, log, file),
            Op::Filled(by, session, claim, idx) => {
                let copy = &mut self.nodes[n].copies[log];
                copy.objects.iter_mut().for_each(|f| f.flush());
                copy.side = None;
                self.next(n, log, [Op::Flush(After::Confirm(by, session, claim, idx, idx))]);
            }
            Op::Recover(claim, content) => return self.recover(n, log, claim, *content),
            Op::Token(claim, copy, old, new) => self.store_token(n, log, &claim, copy, (old, new)),
            Op::Compact(to) => self.compact(n, log, to),
            Op::Flush(after) => {
                self.nodes[n].copies[log].log.flush();
                return self.after(n, log, after);
            }
            Op::Late(by, session, plan, append) => {
                let gone = self.nodes[n].copies[log].log.write().carry_out(&plan, &append);
                let line = self.line(n, log);
                self.watch.cut(line, &gone)?;
                let after = After::Confirm(by, session, append.claim, plan.matched, plan.commit);
                self.next(n, log, [Op::Flush(after)]);
            }
            Op::Put(row) => self.step(n, log, |file| file.put(row)),
            Op::Cut(from) => self.step(n, log, |file| drop(file.cut(from))),
        }
        Ok(())
    }

    /// These come before all that waits.
    fn next(
        &mut self,
        n: usize,
        log: usize,
        ops: impl IntoIterator<Item = Op, IntoIter: DoubleEndedIterator>,
    ) {
        ops.into_iter().rev().for_each(|op| self.nodes[n].pending[log].push_front(op));
    }

    /// One row in a transaction of its own, flushed.
    fn step(&mut self, n: usize, log: usize, f: impl FnOnce(&mut LogFile)) {
        let file = &mut self.nodes[n].copies[log].log;
        f(file.write());
        file.flush();
    }

    fn after(&mut self, n: usize, log: usize, after: After) -> Result<(), Broken> {
        match after {
            After::Nothing => Ok(()),
            After::Promised(by, claim) => {
                self.deposed_by(n, claim.term);
                let told = self.told(n, log)?;
                self.post(n, by, Body::Promised(log, claim, Box::new(told)));
                Ok(())
            }
            After::Epoch(by, claim, before) => {
                self.deposed_by(n, claim.term);
                let told = self.told(n, log)?;
                match before {
                    None => self.submit(n, Q, Op::Epoch(by, claim, Some(Box::new(told)))),
                    Some(w) => {
                        self.post(n, by, Body::EpochPromised(claim, Box::new([*w, told])));
                        Ok(())
                    }
                }
            }
            After::Confirm(by, session, claim, idx, commit) => {
                self.deposed_by(n, claim.term);
                self.nodes[n].copies[log].apply(commit);
                if self.config.coarse {
                    self.nodes[n].copies[log].objects.iter_mut().for_each(|f| f.flush());
                }
                let (line, copy) = (self.line(n, log), &self.nodes[n].copies[log]);
                let file = copy.log.get();
                self.watch.commit(line, file.base.at.idx, &file.rows, copy.applied_to())?;
                self.watch.log(log, &copy.content())?;
                let lost = copy.lost;
                self.post(n, by, Body::Confirmed(log, claim, session, idx, lost));
                Ok(())
            }
            After::Fill(by, session, claim, idx) => {
                let files = self.nodes[n].copies[log].objects.len();
                let fills = (0..files).map(Op::Fill).chain([Op::Filled(by, session, claim, idx)]);
                self.next(n, log, fills.collect::<Vec<_>>());
                Ok(())
            }
            After::Lead(claim) => self.lead(n, log, claim),
            After::Compacted => {
                let content = self.nodes[n].copies[log].content();
                let at = content.base.at;
                // A writer whose own copy follows another by now is left as it is.
                if let Proc::Leading(leader) = &mut self.nodes[n].procs[log]
                    && leader.at(at.idx).map(Row::position) == Some(at)
                {
                    let all: Vec<Row> = leader.content().all().cloned().collect();
                    let kept = usize::try_from(content.base.at.idx.0).expect("small");
                    (leader.base, leader.table) = (content.base, content.table);
                    (leader.before, leader.rows) = (all[..kept].to_vec(), all[kept..].to_vec());
                }
                Ok(())
            }
        }
    }

    /// What a copy tells whoever it promised.
    pub(crate) fn told(&mut self, n: usize, log: usize) -> Result<Told, Broken> {
        let (copy, me) = (&self.nodes[n].copies[log], self.nodes[n].me);
        let content = copy.content();
        self.watch.log(log, &content)?;
        let (answer, shown) = (copy.answer(me), copy.shown());
        Ok(Told { answer, shown, records: copy.log.get().records(), content, lost: copy.lost })
    }

    fn promise(&mut self, n: usize, log: usize, by: usize, claim: &Claim, after: After) {
        let file = &mut self.nodes[n].copies[log].log;
        match promise(&file.get().vote, claim, self.rules) {
            Ok(vote) => {
                file.write().vote = vote;
                self.next(n, log, [Op::Flush(after)]);
            }
            Err(why) => self.refuse(n, log, by, *claim, why),
        }
    }

    fn refuse(&mut self, n: usize, log: usize, by: usize, claim: Claim, why: Refusal) {
        let vote = &self.nodes[n].copies[log].log.get().vote;
        let term = vote.promised;
        let elector = claim.term.run == 0;
        if why != Refusal::Stranger && !elector && !self.config.stale {
            self.post(n, by, Body::Refused(log, claim, term));
        }
    }

    fn append(
        &mut self,
        n: usize,
        log: usize,
        by: usize,
        session: u64,
        append: Append,
    ) -> Result<(), Broken> {
        let (rules, node) = (self.rules, &mut self.nodes[n]);
        if session != node.boot {
            return Ok(());
        }
        let copy = &mut node.copies[log];
        let vote = &copy.log.get().vote;
        let verdict = match n == by {
            true => admit_own(vote, copy, &append, rules),
            false => admit(vote, copy, &append, rules),
        };
        let claim = append.claim;
        let plan = match verdict {
            Ok(plan) => plan,
            Err(Refusal::Gap(last)) => {
                let tried = append.prev.idx;
                self.post(n, by, Body::Gap(log, claim, session, last.idx, tried));
                return Ok(());
            }
            Err(Refusal::Broken(idx)) => return Err(format!("node {n} has applied another row {idx}")),
            Err(Refusal::Malformed) => return Err(format!("node {by} sent rows that do not follow")),
            Err(why) => {
                self.refuse(n, log, by, claim, why);
                return Ok(());
            }
        };
        if !rules.has(Rule::VoteInTransaction) {
            self.next(n, log, [Op::Late(by, session, plan, append)]);
            return Ok(());
        }
        let after = Op::Flush(After::Confirm(by, session, claim, plan.matched, plan.commit));
        if !rules.has(Rule::TailInOneTransaction) && plan.delete_from.is_some() {
            let puts = append.rows[plan.skip..].iter().cloned().map(Op::Put);
            let steps: Vec<Op> = puts.chain([Op::Cut(plan.matched.next()), after]).collect();
            self.next(n, log, steps);
            return Ok(());
        }
        self.carry_out(n, log, &plan, &append)?;
        self.next(n, log, [after]);
        Ok(())
    }

    fn carry_out(&mut self, n: usize, log: usize, plan: &Plan, append: &Append) -> Result<(), Broken> {
        let line = self.line(n, log);
        let gone = self.nodes[n].copies[log].log.write().carry_out(plan, append);
        self.watch.cut(line, &gone)
    }

    fn keep(&mut self, n: usize, log: usize, by: usize, session: u64, mut side: Side) {
        let node = &mut self.nodes[n];
        if session != node.boot {
            return;
        }
        let (copy, claim) = (&mut node.copies[log], side.head.claim);
        side.gen_no = copy.log.get().base.gen_no + 1;
        copy.side = Some(side);
        self.next(n, log, [Op::TakeOver(by, session, claim)]);
    }

    fn take_over(
        &mut self,
        n: usize,
        log: usize,
        by: usize,
        session: u64,
        claim: Claim,
    ) -> Result<(), Broken> {
        let (rules, copy) = (self.rules, &mut self.nodes[n].copies[log]);
        let Some(side) = copy.side.clone() else { return Ok(()) };
        let file = copy.log.get();
        match take_over(&file.vote, copy, file.base.gen_no, &side.head, rules) {
            Err(why) => {
                copy.side = None;
                self.refuse(n, log, by, claim, why);
            }
            Ok(TakeOver::Have(_)) => {
                copy.side = None;
                self.next(
                    n,
                    log,
                    [Op::Flush(After::Confirm(by, session, claim, side.head.at.idx, Index(0)))],
                );
            }
            Ok(TakeOver::Take(plan)) => {
                let at = side.head.at.idx;
                let file = copy.log.write();
                if let Some(vote) = plan.vote {
                    file.vote = vote;
                }
                let after = file.rows.iter().filter(|r| r.idx > at && plan.keep_after);
                file.rows = after.cloned().collect();
                file.table = side.table;
                file.base = plan.base;
                self.next(n, log, [Op::Flush(After::Fill(by, session, claim, at))]);
            }
        }
        Ok(())
    }

    fn fill(&mut self, n: usize, log: usize, file: usize) {
        let copy = &mut self.nodes[n].copies[log];
        let gen_no = copy.log.get().base.gen_no;
        if let Some(side) = &copy.side {
            *copy.objects[file].write() = Objects { gen_no, rows: side.rows.clone() };
        }
    }

    /// The own copy takes over the best log's rows, if it has promised nobody else since.
    fn recover(&mut self, n: usize, log: usize, claim: Claim, content: Content) -> Result<(), Broken> {
        let (rules, copy) = (self.rules, &mut self.nodes[n].copies[log]);
        let file = copy.log.get();
        if promise(&file.vote, &claim, rules).is_err() && rules.has(Rule::OwnCopyObeys) {
            return Ok(());
        }
        let at = content.base.at;
        if at.idx > file.base.at.idx && copy.term_at(at.idx) != Some(at.term) {
            let head = Head { claim, at, list: content.base.list.clone() };
            let (gen_no, rows) = (file.base.gen_no + 1, content.before.clone());
            copy.side = Some(Side { head, gen_no, rows, table: content.table.clone() });
            if copy.applied_to() >= at.idx {
                return Err(format!("node {n} has applied another row {}", at.idx));
            }
            let again = Op::Recover(claim, Box::new(content));
            // Taken over as any snapshot is, crashes between its steps included; then here again.
            let session = self.nodes[n].boot;
            self.next(n, log, [Op::TakeOver(n, session, claim), again]);
            return Ok(());
        }
        let end = content.last().idx;
        let append = Append { claim, prev: at, rows: content.rows, commit: Index(0) };
        let mut plan = match fit(copy, &append) {
            Ok(plan) => plan,
            Err(Refusal::Broken(idx)) => return Err(format!("node {n} has applied another row {idx}")),
            Err(_) => return Ok(()),
        };
        if end < copy.last().idx {
            plan.delete_from = plan.delete_from.or(Some(end.next()));
        }
        let lead = Op::Flush(After::Lead(claim));
        if rules.has(Rule::TailInOneTransaction) {
            self.carry_out(n, log, &plan, &append)?;
            self.next(n, log, [lead]);
            return Ok(());
        }
        let puts = append.rows[plan.skip..].iter().cloned().map(Op::Put);
        let steps: Vec<Op> = puts.chain([Op::Cut(end.next()), lead]).collect();
        self.next(n, log, steps);
        Ok(())
    }

    fn store_token(&mut self, n: usize, log: usize, claim: &Claim, copy: Uuid, gift: (Option<Token>, Token)) {
        let file = &mut self.nodes[n].copies[log].log;
        let vote = &file.get().vote;
        if vote.copy_id == copy
            && promise(vote, claim, self.rules).is_ok()
            && let Some(token) = accept(vote.token, gift.0, gift.1)
        {
            file.write().vote.token = Some(token);
            self.next(n, log, [Op::Flush(After::Nothing)]);
        }
    }

    fn compact(&mut self, n: usize, log: usize, to: Index) {
        let (rules, copy) = (self.rules, &mut self.nodes[n].copies[log]);
        let to = to.min(copy.applied_to()).min(copy.objects_flushed());
        let Some(row) = copy.log.get().at(to) else { return };
        let at = row.position();
        let file = copy.log.write();
        file.base = base_after(&file.base, at, &file.rows, rules).expect("list rows hold lists");
        let kept = file.rows.iter().position(|r| r.idx > to).unwrap_or(file.rows.len());
        let gone: Vec<Row> = file.rows.drain(..kept).collect();
        file.table = records_of(&file.table, &gone);
        file.table.prune(&file.base.list);
        self.next(n, log, [Op::Flush(After::Compacted)]);
    }

    /// A node daemon starts: what was read back is flushed before anything is answered, and what a snapshot
    /// left half done is carried on.
    pub(crate) fn boot(&mut self, n: usize, log: usize) -> Result<(), Broken> {
        let copy = &mut self.nodes[n].copies[log];
        copy.log.flush();
        copy.objects.iter_mut().for_each(|f| f.flush());
        let base = copy.log.get().base.clone();
        let side = copy.side.as_ref().map(|s| s.gen_no);
        for file in &mut copy.objects {
            match carry_on(base.gen_no, file.get().gen_no, side) {
                CarryOn::Done => {}
                CarryOn::Fill => {
                    let rows = copy.side.as_ref().map_or_else(Vec::new, |s| s.rows.clone());
                    *file.write() = Objects { gen_no: base.gen_no, rows };
                    file.flush();
                }
                CarryOn::Lost => return Err(format!("node {n} lost the objects of log {log}")),
            }
            if Index(file.get().rows.len() as u64) < base.at.idx {
                return Err(format!("node {n} lacks the rows between its objects and its log {log}"));
            }
        }
        if side.is_some_and(|side| stale_side(base.gen_no, side)) || copy.side.is_some() {
            copy.side = None;
        }
        Ok(())
    }

    /// Both copies of a node become empty ones.
    pub(crate) fn make(&mut self, n: usize, claim: &Claim, instead_of: Option<Uuid>, id: Uuid) {
        let here = self.nodes[n].copies[W].log.get().vote.clone();
        let epoch = Claim { term: Term { run: 0, ..claim.term }, nonce: claim.ballot, ..*claim };
        // The term asked under is checked; what is promised is the epoch, since Q's run is another.
        let Ok(vote) = make(Some(&here), claim, instead_of, id, self.rules) else { return };
        if vote.copy_id == here.copy_id {
            return;
        }
        let vote = gantry_store::core::copy::Vote { promised: epoch.term, nonce: epoch.nonce, ..vote };
        self.nodes[n].procs.iter_mut().for_each(|p| *p = Proc::None);
        let list = List { n: 0, prev: 0, members: Vec::new() };
        let node = &mut self.nodes[n];
        node.me.copy_id = id;
        for log in 0..node.copies.len() {
            node.pending[log].clear();
            let files = node.copies[log].objects.len();
            node.copies[log] = crate::disk::Copy::empty(vote.clone(), list.clone(), files);
        }
        (node.role, node.stopping, node.image) = (None, false, None);
        node.boot += u64::from(self.config.tokens);
    }

    /// The end of what a copy has, for choosing what to send.
    pub(crate) fn end(&self, n: usize, log: usize) -> Position {
        self.nodes[n].copies[log].log.get().last()
    }
}
