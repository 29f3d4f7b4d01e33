//! A writer that leads: its log in memory, and what it knows of its copies.

use crate::disk::{Content, at, newest_list, records_of};
use gantry_store::core::commit::Tally;
use gantry_store::core::compact::Base;
use gantry_store::core::copy::{Append, Claim};
use gantry_store::core::list::Member;
use gantry_store::core::row::{Index, Position, Row, RowKind};
use gantry_store::core::rules::Rules;
use gantry_store::core::settle::{Members, fed};
use gantry_store::core::token::{Records, TokenRecord};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What a batch says here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// Something a client wants kept.
    Value(u64),
    /// An effect in Q, and the row of W it rests on.
    Effect(u64, Position),
    /// The members.
    Members(Members),
}

/// What a writer knows of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Peer {
    /// The copy it was when it was connected.
    pub copy: Uuid,
    /// The start of the copy's process it is connected to, once the copy was judged.
    pub session: Option<u64>,
    /// The next row to send.
    pub next: Index,
    /// What the copy has confirmed in this writer's term.
    pub confirmed: Index,
    /// A token to be given.
    pub give: Option<TokenRecord>,
}

/// A writer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Leader {
    /// Its term, and what else it says of itself.
    pub claim: Claim,
    /// Its own copy.
    pub me: Member,
    /// Where `rows` begin.
    pub base: Base,
    /// All rows up to the base; the objects have them.
    pub before: Vec<Row>,
    /// Rows after the base.
    pub rows: Vec<Row>,
    /// What was moved out of rows.
    pub table: Records,
    /// What counts.
    pub tally: Tally,
    /// The nodes.
    pub peers: Vec<Peer>,
    /// W: what luxid said is in Q. Q: nothing.
    pub in_q: Option<u64>,
    /// The members object as committed (W), or as heard (Q).
    pub object: Option<Members>,
    /// W: the row of the members object written last.
    pub written: Index,
    /// It has served.
    pub served: bool,
    /// The first index of its own term.
    pub own_first: Index,
}

impl Leader {
    /// A writer with the content of its own copy, of which `applied` rows are known to be committed.
    pub fn new(
        me: Member,
        claim: Claim,
        content: Content,
        applied: Index,
        nodes: usize,
        rules: Rules,
    ) -> Leader {
        let own_first = content.last().idx.next();
        let newest = newest_list(&content.base, &content.rows);
        let tally = Tally::new(me, claim.term, own_first, newest, applied, rules);
        let peer = Peer { next: applied.next(), ..Peer::default() };
        let Content { base, before, rows, table } = content;
        let mut leader = Leader {
            claim,
            me,
            base,
            before,
            rows,
            table,
            tally,
            peers: vec![peer; nodes],
            in_q: None,
            object: None,
            written: Index(0),
            served: false,
            own_first,
        };
        leader.push(RowKind::Empty, Vec::new());
        leader.look_for_members(Index(0), applied);
        leader
    }

    /// The last row.
    pub fn last(&self) -> Position {
        self.rows.last().map_or(self.base.at, Row::position)
    }

    /// The row at `idx`.
    pub fn at(&self, idx: Index) -> Option<&Row> {
        if idx <= self.base.at.idx {
            at(Index(0), &self.before, idx)
        } else {
            at(self.base.at.idx, &self.rows, idx)
        }
    }

    /// The whole log.
    pub fn content(&self) -> Content {
        let (base, before) = (self.base.clone(), self.before.clone());
        Content { base, before, rows: self.rows.clone(), table: self.table.clone() }
    }

    /// Appends a row.
    pub fn push(&mut self, kind: RowKind, body: Vec<u8>) -> Index {
        let idx = self.last().idx.next();
        self.rows.push(Row { idx, term: self.claim.term, kind, body });
        idx
    }

    /// Appends a batch.
    pub fn batch(&mut self, act: &Act) -> Index {
        self.push(RowKind::Batch, serde_json::to_vec(act).expect("plain data"))
    }

    /// The newest record of each copy.
    pub fn records(&self) -> Records {
        records_of(&self.table, &self.rows)
    }

    /// Rows up to `to` are committed now: the newest members among them is what the object says.
    pub fn look_for_members(&mut self, from: Index, to: Index) {
        for n in from.0 + 1..=to.0 {
            let Some(row) = self.at(Index(n)).filter(|r| r.kind == RowKind::Batch) else { continue };
            if let Ok(Act::Members(members)) = serde_json::from_slice(&row.body) {
                self.object = Some(members);
            }
        }
    }

    /// Whether a learner has come so far that it may count.
    pub fn fed(&self, node: usize) -> bool {
        let peer = &self.peers[node];
        peer.session.is_some() && peer.confirmed > Index(0) && fed(peer.confirmed, self.last().idx)
    }

    /// Rows for `to`, at most `most`. `None`: it needs a snapshot.
    pub fn message(&self, to: usize, most: usize) -> Option<Append> {
        let before = Index(self.peers[to].next.0 - 1).min(self.last().idx);
        let prev = if before == self.base.at.idx { Some(self.base.at) } else { None };
        let prev = prev.or_else(|| at(self.base.at.idx, &self.rows, before).map(Row::position))?;
        let from = usize::try_from(before.0 - self.base.at.idx.0).expect("small");
        let rows: Vec<Row> = self.rows[from..].iter().take(most).cloned().collect();
        Some(Append { claim: self.claim, prev, rows, commit: self.tally.committed() })
    }
}
