//! One node: its disk, and the process on it.

use crate::core::Rules;
use crate::core::commit::Tally;
use crate::core::copy::{Append, Claim, LogView, Plan, Vote};
use crate::core::list::{List, Member};
use crate::core::recover::{Answer, CopyState};
use crate::core::row::{Index, Position, Row, RowKind, Term};
use std::collections::{BTreeMap, VecDeque};
use uuid::Uuid;

/// What survives a crash.
#[derive(Debug, Clone)]
pub struct Disk {
    pub vote: Vote,
    pub rows: Vec<Row>,
    pub applied: Index,
    /// The epoch and ballot this node has won last, as its role file says.
    pub won: Option<(u64, [u8; 16])>,
    /// It has lost what it once held.
    pub wiped: bool,
}

/// A disk operation that is not one transaction because a rule was taken away.
#[derive(Debug, Clone)]
pub enum Step {
    /// Carry out a plan made earlier.
    Late(Plan, Append),
    /// Write one row where it belongs.
    Put(Row),
    /// Delete all rows from here on.
    Cut(Index),
    /// Tell the writer how far it matches.
    Confirm(usize, Claim, Index),
    /// Lead: the recovered rows are in.
    Lead(Claim),
}

/// What runs on a node.
#[derive(Debug)]
pub enum Proc {
    None,
    Campaign { claim: Claim, answers: BTreeMap<usize, (Answer, Vec<Row>)> },
    Writer(Box<Leader>),
}

/// A writer: its log in memory, and what it knows of its copies.
#[derive(Debug)]
pub struct Leader {
    pub claim: Claim,
    pub rows: Vec<Row>,
    pub tally: Tally,
    pub next: Vec<Index>,
}

#[derive(Debug)]
pub struct Node {
    pub me: Member,
    pub disk: Disk,
    pub steps: VecDeque<Step>,
    pub proc: Proc,
}

pub fn member(n: usize) -> Member {
    let id = Uuid::from_u128(n as u128 + 1);
    Member { node: id, copy_id: id }
}

pub fn vote(n: usize) -> Vote {
    Vote {
        promised: Term::default(),
        ballot: [0; 16],
        nonce: [0; 16],
        cluster: Uuid::nil(),
        history: Uuid::nil(),
        copy_id: member(n).copy_id,
        token: None,
    }
}

/// The row at `idx`.
pub fn at(rows: &[Row], idx: Index) -> Option<&Row> {
    rows.get(usize::try_from(idx.0.checked_sub(1)?).ok()?)
}

/// The position of `idx`, which may be 0.
pub fn position(rows: &[Row], idx: Index) -> Option<Position> {
    if idx == Index(0) { Some(Position::default()) } else { at(rows, idx).map(Row::position) }
}

/// The newest list among rows, and where it stands.
pub fn newest_list(rows: &[Row], first: &List) -> (Index, List) {
    let found = rows.iter().rev().find(|r| r.kind == RowKind::List);
    found.map_or((Index(0), first.clone()), |r| (r.idx, serde_json::from_slice(&r.body).unwrap()))
}

impl LogView for Disk {
    fn base(&self) -> Position {
        Position::default()
    }
    fn last(&self) -> Position {
        self.rows.last().map_or(Position::default(), Row::position)
    }
    fn applied(&self) -> Index {
        self.applied
    }
    fn term_at(&self, idx: Index) -> Option<Term> {
        at(&self.rows, idx).map(|r| r.term)
    }
}

impl Disk {
    pub fn cut(&mut self, from: Index) {
        self.rows.retain(|r| r.idx < from);
    }

    /// Writes a row over whatever stands there. A hole cannot be: rows come in order.
    pub fn put(&mut self, row: Row) {
        let nth = usize::try_from(row.idx.0 - 1).unwrap();
        if nth < self.rows.len() { self.rows[nth] = row } else { self.rows.push(row) }
    }

    /// Carries out a plan as one transaction.
    pub fn carry_out(&mut self, plan: &Plan, append: &Append) {
        if let Some(vote) = plan.vote.as_ref().filter(|v| v.promised >= self.vote.promised) {
            self.vote = vote.clone();
        }
        if let Some(from) = plan.delete_from {
            self.cut(from);
        }
        append.rows[plan.skip..].iter().for_each(|row| self.put(row.clone()));
    }

    pub fn state(&self) -> CopyState {
        if self.wiped { CopyState::Suspect } else { CopyState::Sound }
    }

    pub fn answer(&self, me: Member, first: &List) -> Answer {
        let list = newest_list(&self.rows, first).1;
        Answer { member: me, last: self.last(), list, commit: self.applied, state: self.state() }
    }
}

impl Leader {
    pub fn new(me: Member, claim: Claim, disk: &Disk, first: &List, nodes: usize, rules: Rules) -> Leader {
        let rows = disk.rows.clone();
        let own_first = disk.last().idx.next();
        let newest = newest_list(&rows, first);
        let tally = Tally::new(me, claim.term, own_first, newest, disk.applied, rules);
        let mut leader = Leader { claim, rows, tally, next: vec![disk.applied.next(); nodes] };
        leader.push(RowKind::Empty, Vec::new());
        leader
    }

    pub fn push(&mut self, kind: RowKind, body: Vec<u8>) -> Index {
        let idx = Index(self.rows.len() as u64 + 1);
        self.rows.push(Row { idx, term: self.claim.term, kind, body });
        idx
    }

    /// What to send to `to` next, at most `most` rows.
    pub fn message(&self, to: usize, most: usize) -> Append {
        let from = usize::try_from(self.next[to].0 - 1).unwrap().min(self.rows.len());
        let rows: Vec<Row> = self.rows[from..].iter().take(most).cloned().collect();
        let prev = position(&self.rows, Index(from as u64)).unwrap();
        Append { claim: self.claim, prev, rows, commit: self.tally.committed() }
    }
}
