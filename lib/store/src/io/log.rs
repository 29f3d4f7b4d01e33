//! The log file: rows, the vote, the base. Promise and append each read the vote in the transaction that
//! writes, and return after the flush.

use super::objects::{self, Applied};
use super::sql::{Crc, Db, damaged, failed, int, text, uint};
use crate::core::Rules;
use crate::core::copy::{Append, Claim, LogView, Plan, Vote, admit_own, promise};
use crate::core::list::List;
use crate::core::row::{Batch, Index, Position, Row, RowKind, Term};
use crate::error::StoreError;
use rusqlite::{Connection, OptionalExtension, params};
use std::cmp::Ordering;
use uuid::Uuid;

/// Where the kept rows begin: everything up to here was compacted away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The last row compacted away; index 0 when none was.
    pub at: Position,
    /// The list in force there.
    pub list: List,
    /// Raised by each snapshot taken over (P3.2).
    pub gen_no: u64,
}

/// What decides over an append, read in its transaction.
struct View {
    base: Position,
    last: Position,
    applied: Index,
    from: Index,
    terms: Vec<Term>,
}

impl LogView for View {
    fn base(&self) -> Position {
        self.base
    }
    fn last(&self) -> Position {
        self.last
    }
    fn applied(&self) -> Index {
        self.applied
    }
    fn term_at(&self, idx: Index) -> Option<Term> {
        let nth = idx.0.checked_sub(self.from.0)?;
        self.terms.get(usize::try_from(nth).ok()?).copied()
    }
}

fn row_crc(idx: Index, term: Term, kind: RowKind, body: &[u8]) -> i64 {
    let head = Crc::of("log").num(idx.0).num(term.epoch).num(term.run);
    head.bytes(kind.name().as_bytes()).bytes(body).end()
}

fn vote_crc(v: &Vote) -> i64 {
    let head = Crc::of("vote").num(v.promised.epoch).num(v.promised.run).bytes(&v.ballot).bytes(&v.nonce);
    let ids = head.bytes(v.cluster.as_bytes()).bytes(v.history.as_bytes()).bytes(v.copy_id.as_bytes());
    ids.bytes(v.token.as_ref().map_or(&[], |t| t.as_slice())).end()
}

fn base_crc(base: &Base, list: &str) -> i64 {
    let at = base.at;
    let head = Crc::of("base").num(at.idx.0).num(at.term.epoch).num(at.term.run);
    head.bytes(list.as_bytes()).num(base.gen_no).end()
}

/// Stores the vote, in the caller's transaction.
pub fn put_vote(conn: &Connection, file: &'static str, v: &Vote) -> Result<(), StoreError> {
    let (epoch, run) = (int(v.promised.epoch), int(v.promised.run));
    let ids = [v.cluster, v.history, v.copy_id].map(|id| id.to_string());
    let token = v.token.as_ref().map(|t| t.as_slice());
    conn.prepare_cached("INSERT OR REPLACE INTO vote VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
        .and_then(|mut q| {
            q.execute(params![epoch, run, v.ballot, v.nonce, ids[0], ids[1], ids[2], token, vote_crc(v)])
        })
        .map_err(failed(file, "store the vote"))?;
    Ok(())
}

/// Reads the vote.
pub fn vote(conn: &Connection, file: &'static str) -> Result<Vote, StoreError> {
    let sql =
        "SELECT promised_epoch, promised_run, ballot, nonce, cluster, history, copy_id, token, crc FROM vote";
    let row = |r: &rusqlite::Row<'_>| {
        let numbers: (i64, i64, i64) = (r.get(0)?, r.get(1)?, r.get(8)?);
        let ids: [String; 3] = [r.get(4)?, r.get(5)?, r.get(6)?];
        Ok((
            numbers,
            r.get::<_, [u8; 16]>(2)?,
            r.get::<_, [u8; 16]>(3)?,
            ids,
            r.get::<_, Option<[u8; 16]>>(7)?,
        ))
    };
    let ((epoch, run, crc), ballot, nonce, ids, token) = conn
        .prepare_cached(sql)
        .and_then(|mut q| q.query_row([], row).optional())
        .map_err(failed(file, "read the vote"))?
        .ok_or_else(|| damaged(file, "the row of table vote is missing"))?;
    let id = |n: usize| Uuid::try_parse(&ids[n]).map_err(|_| damaged(file, "an id in table vote is no uuid"));
    let promised = Term { epoch: uint(file, epoch)?, run: uint(file, run)? };
    let found = Vote { promised, ballot, nonce, cluster: id(0)?, history: id(1)?, copy_id: id(2)?, token };
    if vote_crc(&found) != crc {
        return Err(damaged(file, "the row of table vote has a wrong crc"));
    }
    Ok(found)
}

/// Stores the base, in the caller's transaction.
pub fn put_base(conn: &Connection, file: &'static str, base: &Base) -> Result<(), StoreError> {
    let list = serde_json::to_string(&base.list).expect("a list is plain data");
    let Position { term, idx } = base.at;
    let crc = base_crc(base, &list);
    conn.execute(
        "INSERT OR REPLACE INTO base VALUES (1, ?, ?, ?, ?, ?, ?)",
        params![int(idx.0), int(term.epoch), int(term.run), list, int(base.gen_no), crc],
    )
    .map_err(failed(file, "store the base"))?;
    Ok(())
}

/// Reads the base.
pub fn base(conn: &Connection, file: &'static str) -> Result<Base, StoreError> {
    let row = |r: &rusqlite::Row<'_>| {
        Ok(((r.get(0)?, r.get(1)?, r.get(2)?), r.get::<_, String>(3)?, r.get(4)?, r.get(5)?))
    };
    let ((idx, epoch, run), text, gen_no, crc): ((i64, i64, i64), String, i64, i64) = conn
        .prepare_cached("SELECT idx, epoch, run, list, gen, crc FROM base")
        .and_then(|mut q| q.query_row([], row).optional())
        .map_err(failed(file, "read the base"))?
        .ok_or_else(|| damaged(file, "the row of table base is missing"))?;
    let term = Term { epoch: uint(file, epoch)?, run: uint(file, run)? };
    let list = serde_json::from_str(&text).map_err(|_| damaged(file, "base.list is no list"))?;
    let found =
        Base { at: Position { term, idx: Index(uint(file, idx)?) }, list, gen_no: uint(file, gen_no)? };
    if base_crc(&found, &text) != crc {
        return Err(damaged(file, "the row of table base has a wrong crc"));
    }
    Ok(found)
}

/// Inserts a row, in the caller's transaction.
pub fn insert(conn: &Connection, file: &'static str, row: &Row) -> Result<(), StoreError> {
    let crc = row_crc(row.idx, row.term, row.kind, &row.body);
    let body = text(file, &row.body)?;
    let numbers = (int(row.idx.0), int(row.term.epoch), int(row.term.run));
    conn.prepare_cached("INSERT INTO log(idx, epoch, run, kind, crc, body) VALUES (?, ?, ?, ?, ?, ?)")
        .and_then(|mut q| q.execute(params![numbers.0, numbers.1, numbers.2, row.kind.name(), crc, body]))
        .map_err(failed(file, "append a row"))?;
    Ok(())
}

/// Reads rows after `from`, at most `limit` of them, stopping early once `bytes` are exceeded. Each is
/// checked, and that none is missing.
pub fn rows(
    conn: &Connection,
    file: &'static str,
    from: Index,
    limit: u64,
    bytes: usize,
) -> Result<Vec<Row>, StoreError> {
    let err = failed(file, "read rows");
    let sql = "SELECT idx, epoch, run, kind, crc, body FROM log WHERE idx > ? ORDER BY idx LIMIT ?";
    let mut query = conn.prepare_cached(sql).map_err(&err)?;
    let mut cursor = query.query(params![int(from.0), int(limit)]).map_err(&err)?;
    let (mut found, mut held, mut expected) = (Vec::new(), 0, from.next());
    while held < bytes
        && let Some(r) = cursor.next().map_err(&err)?
    {
        let row = decode(file, r)?;
        if row.idx != expected {
            return Err(damaged(file, format!("row {expected} is missing")));
        }
        (held, expected) = (held + row.body.len(), expected.next());
        found.push(row);
    }
    Ok(found)
}

fn decode(file: &'static str, r: &rusqlite::Row<'_>) -> Result<Row, StoreError> {
    let read = || Ok(((r.get(0)?, r.get(1)?, r.get(2)?), r.get(3)?, r.get(4)?, r.get(5)?));
    let ((idx, epoch, run), kind, crc, body): ((i64, i64, i64), String, i64, String) =
        read().map_err(failed(file, "read a row"))?;
    let (idx, term) = (Index(uint(file, idx)?), Term { epoch: uint(file, epoch)?, run: uint(file, run)? });
    let kind = RowKind::from_name(&kind).ok_or_else(|| damaged(file, format!("row {idx} is of no kind")))?;
    let row = Row { idx, term, kind, body: body.into_bytes() };
    if row_crc(idx, term, kind, &row.body) != crc {
        return Err(damaged(file, format!("row {idx} has a wrong crc")));
    }
    Ok(row)
}

/// The end of the log.
pub fn last(conn: &Connection, file: &'static str, base: &Base) -> Result<Position, StoreError> {
    let row = |r: &rusqlite::Row<'_>| Ok((r.get(0)?, r.get(1)?, r.get(2)?));
    let found: Option<(i64, i64, i64)> = conn
        .prepare_cached("SELECT idx, epoch, run FROM log ORDER BY idx DESC LIMIT 1")
        .and_then(|mut q| q.query_row([], row).optional())
        .map_err(failed(file, "read the end of the log"))?;
    let Some((idx, epoch, run)) = found else { return Ok(base.at) };
    Ok(Position {
        term: Term { epoch: uint(file, epoch)?, run: uint(file, run)? },
        idx: Index(uint(file, idx)?),
    })
}

/// The newest list and the place of its row.
pub fn newest_list(conn: &Connection, file: &'static str, base: &Base) -> Result<(Index, List), StoreError> {
    let sql =
        "SELECT idx, epoch, run, kind, crc, body FROM log WHERE kind = 'list' ORDER BY idx DESC LIMIT 1";
    let err = failed(file, "read the list of members");
    let mut query = conn.prepare_cached(sql).map_err(&err)?;
    let mut cursor = query.query([]).map_err(&err)?;
    let Some(r) = cursor.next().map_err(&err)? else { return Ok((base.at.idx, base.list.clone())) };
    let row = decode(file, r)?;
    let list = serde_json::from_slice(&row.body)
        .map_err(|_| damaged(file, format!("row {} holds no list", row.idx)))?;
    Ok((row.idx, list))
}

/// The terms of rows from `from` on, `count` of them or as many as there are.
fn terms(conn: &Connection, file: &'static str, from: Index, count: u64) -> Result<Vec<Term>, StoreError> {
    let err = failed(file, "read terms");
    let mut query = conn
        .prepare_cached("SELECT epoch, run FROM log WHERE idx >= ? ORDER BY idx LIMIT ?")
        .map_err(&err)?;
    let read = |r: &rusqlite::Row<'_>| Ok((r.get(0)?, r.get(1)?));
    let found = query.query_map(params![int(from.0), int(count)], read).map_err(&err)?;
    let mut terms = Vec::new();
    for pair in found {
        let (epoch, run): (i64, i64) = pair.map_err(&err)?;
        terms.push(Term { epoch: uint(file, epoch)?, run: uint(file, run)? });
    }
    Ok(terms)
}

/// Promises `claim` in a transaction of its own; durable when this returns.
pub fn give_promise(db: &mut Db, claim: &Claim, rules: Rules) -> Result<Vote, StoreError> {
    let file = db.spec.name;
    let tx = db.begin()?;
    let refuse = |why| StoreError::Refused { term: claim.term, why };
    let raised = promise(&vote(&tx, file)?, claim, rules).map_err(refuse)?;
    put_vote(&tx, file, &raised)?;
    tx.commit().map_err(failed(file, "commit"))?;
    Ok(raised)
}

/// Takes rows into the own copy in one transaction, with what `also` adds to it; durable when this returns.
/// Answers how far the copy matches the writer's log.
///
/// `applied` is what the copy's projections have applied: rows up to there are never replaced.
pub fn append(
    db: &mut Db,
    append: &Append,
    applied: Index,
    rules: Rules,
    also: impl FnOnce(&Connection, &Plan) -> Result<(), StoreError>,
) -> Result<Index, StoreError> {
    let file = db.spec.name;
    let tx = db.begin()?;
    let base = base(&tx, file)?;
    let count = append.rows.len() as u64 + 1;
    let (last, from) = (last(&tx, file, &base)?, append.prev.idx);
    let from = from.max(base.at.idx.next());
    // Rows that follow the own end, which is the rule, meet at most the last one.
    let terms = match from.cmp(&last.idx) {
        Ordering::Greater => Vec::new(),
        Ordering::Equal => vec![last.term],
        Ordering::Less => terms(&tx, file, from, count)?,
    };
    let view = View { base: base.at, last, applied, from, terms };
    let refuse = |why| StoreError::Refused { term: append.claim.term, why };
    let plan = admit_own(&vote(&tx, file)?, &view, append, rules).map_err(refuse)?;
    if let Some(vote) = &plan.vote {
        put_vote(&tx, file, vote)?;
    }
    if let Some(from) = plan.delete_from {
        tx.execute("DELETE FROM log WHERE idx >= ?", [int(from.0)]).map_err(failed(file, "cut the log"))?;
    }
    for row in &append.rows[plan.skip..] {
        insert(&tx, file, row)?;
    }
    also(&tx, &plan)?;
    tx.commit().map_err(failed(file, "commit"))?;
    Ok(plan.matched)
}

/// Applies batches and moves the mark inside the log's own file (Q), in the caller's transaction.
pub fn apply_here<'a>(
    conn: &Connection,
    db_spec: &super::files::FileSpec,
    batches: impl Iterator<Item = &'a Batch>,
    mark: &Applied,
) -> Result<(), StoreError> {
    for batch in batches {
        objects::apply(conn, db_spec, batch)?;
    }
    objects::set_applied(conn, db_spec, mark)
}
