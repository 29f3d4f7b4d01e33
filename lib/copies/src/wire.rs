//! The store's types as they travel, and back. Nothing is decided here.

use gantry_model::ids::{ClusterUuid, NodeUuid};
use gantry_proto::copies as wire;
use gantry_store::LogKind;
use gantry_store::core::copy::{Append, Claim, Refusal};
use gantry_store::core::list::{List, Member};
use gantry_store::core::row::{Index, Position, Row, RowKind, Term};

/// A log's name.
#[must_use]
pub fn log(log: LogKind) -> wire::Log {
    match log {
        LogKind::W => wire::Log::W,
        LogKind::Q => wire::Log::Q,
    }
}

/// A log by its name.
#[must_use]
pub fn log_kind(log: wire::Log) -> LogKind {
    match log {
        wire::Log::W => LogKind::W,
        wire::Log::Q => LogKind::Q,
    }
}

/// A term, to be sent.
#[must_use]
pub fn term(term: Term) -> wire::Term {
    wire::Term { epoch: term.epoch, run: term.run }
}

/// A term that came.
#[must_use]
pub fn to_term(term: wire::Term) -> Term {
    Term { epoch: term.epoch, run: term.run }
}

/// A place, to be sent.
#[must_use]
pub fn place(at: Position) -> wire::Place {
    wire::Place { term: term(at.term), idx: at.idx.0 }
}

/// A place that came.
#[must_use]
pub fn to_place(at: wire::Place) -> Position {
    Position { term: to_term(at.term), idx: Index(at.idx) }
}

/// A claim, to be sent.
#[must_use]
pub fn claim(claim: &Claim) -> wire::Claim {
    wire::Claim {
        cluster: ClusterUuid(claim.cluster),
        history: claim.history,
        term: term(claim.term),
        ballot: claim.ballot,
        nonce: claim.nonce,
    }
}

/// A claim that came.
#[must_use]
pub fn to_claim(claim: &wire::Claim) -> Claim {
    Claim {
        cluster: claim.cluster.0,
        history: claim.history,
        term: to_term(claim.term),
        ballot: claim.ballot,
        nonce: claim.nonce,
    }
}

/// A row, to be sent.
#[must_use]
pub fn row(row: Row) -> wire::Row {
    let kind = match row.kind {
        RowKind::Batch => wire::RowKind::Batch,
        RowKind::List => wire::RowKind::List,
        RowKind::Empty => wire::RowKind::Empty,
        RowKind::Token => wire::RowKind::Token,
    };
    wire::Row { at: place(row.position()), kind, body: row.body }
}

/// A row that came.
#[must_use]
pub fn to_row(row: wire::Row) -> Row {
    let kind = match row.kind {
        wire::RowKind::Batch => RowKind::Batch,
        wire::RowKind::List => RowKind::List,
        wire::RowKind::Empty => RowKind::Empty,
        wire::RowKind::Token => RowKind::Token,
    };
    let Position { term, idx } = to_place(row.at);
    Row { idx, term, kind, body: row.body }
}

/// Rows for a copy that came.
#[must_use]
pub fn to_append(request: wire::AppendRequest) -> Append {
    Append {
        claim: to_claim(&request.claim),
        prev: to_place(request.prev),
        rows: request.rows.into_iter().map(to_row).collect(),
        commit: Index(request.commit),
    }
}

/// A list, to be sent.
#[must_use]
pub fn list(list: &List) -> wire::List {
    let member = |m: &Member| wire::Member { node: NodeUuid(m.node), copy_id: m.copy_id };
    wire::List { n: list.n, prev: list.prev, members: list.members.iter().map(member).collect() }
}

/// A list that came.
#[must_use]
pub fn to_list(list: &wire::List) -> List {
    let member = |m: &wire::Member| Member { node: m.node.0, copy_id: m.copy_id };
    List { n: list.n, prev: list.prev, members: list.members.iter().map(member).collect() }
}

/// A refusal, to be sent.
#[must_use]
pub fn refusal(why: Refusal) -> wire::Refusal {
    match why {
        Refusal::Stranger => wire::Refusal::Stranger,
        Refusal::Promised(at) => wire::Refusal::Promised(term(at)),
        Refusal::OtherBallot(epoch) => wire::Refusal::OtherBallot(epoch),
        Refusal::OtherStart(at) => wire::Refusal::OtherStart(term(at)),
        Refusal::Gap(at) => wire::Refusal::Gap(place(at)),
        Refusal::Broken(idx) => wire::Refusal::Broken(idx.0),
        Refusal::Malformed => wire::Refusal::Malformed,
    }
}

/// A refusal that came.
#[must_use]
pub fn to_refusal(why: wire::Refusal) -> Refusal {
    match why {
        wire::Refusal::Stranger => Refusal::Stranger,
        wire::Refusal::Promised(at) => Refusal::Promised(to_term(at)),
        wire::Refusal::OtherBallot(epoch) => Refusal::OtherBallot(epoch),
        wire::Refusal::OtherStart(at) => Refusal::OtherStart(to_term(at)),
        wire::Refusal::Gap(at) => Refusal::Gap(to_place(at)),
        wire::Refusal::Broken(idx) => Refusal::Broken(Index(idx)),
        wire::Refusal::Malformed => Refusal::Malformed,
    }
}
