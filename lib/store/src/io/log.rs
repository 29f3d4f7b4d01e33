//! The tables of a log file: rows, the vote, the base, the records of tokens. What may be written when is
//! decided in [`super::admit`].

use super::sql::{Crc, damaged, failed, int, text, uint};
use crate::core::compact::Base;
use crate::core::copy::Vote;
use crate::core::list::List;
use crate::core::row::{Index, Position, Row, RowKind, Term};
use crate::core::token::{Records, TokenRecord};
use crate::error::StoreError;
use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

/// Rows read at once to be checked.
const VERIFY_ROWS: u64 = 1_000;
/// And their bytes.
const VERIFY_BYTES: usize = 16 * 1024 * 1024;

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
    insert_in(conn, file, "log", row)
}

/// As [`insert`], into a table like the log's.
pub fn insert_in(conn: &Connection, file: &'static str, table: &str, row: &Row) -> Result<(), StoreError> {
    let crc = row_crc(row.idx, row.term, row.kind, &row.body);
    let body = text(file, &row.body)?;
    let numbers = (int(row.idx.0), int(row.term.epoch), int(row.term.run));
    conn.prepare_cached(&format!(
        "INSERT INTO {table}(idx, epoch, run, kind, crc, body) VALUES (?, ?, ?, ?, ?, ?)"
    ))
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
    rows_in(conn, file, "log", from, limit, bytes)
}

/// As [`rows`], from a table like the log's.
pub fn rows_in(
    conn: &Connection,
    file: &'static str,
    table: &str,
    from: Index,
    limit: u64,
    bytes: usize,
) -> Result<Vec<Row>, StoreError> {
    let err = failed(file, "read rows");
    let sql =
        format!("SELECT idx, epoch, run, kind, crc, body FROM {table} WHERE idx > ? ORDER BY idx LIMIT ?");
    let mut query = conn.prepare_cached(&sql).map_err(&err)?;
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

/// The rows of one kind above the base and up to `to`, in order.
pub fn rows_of(
    conn: &Connection,
    file: &'static str,
    kind: RowKind,
    to: Index,
) -> Result<Vec<Row>, StoreError> {
    let err = failed(file, "read rows");
    let kind = kind.name();
    // The literal kind lets SQLite use the partial index.
    let sql = format!(
        "SELECT idx, epoch, run, kind, crc, body FROM log WHERE kind = '{kind}' AND idx <= ? ORDER BY idx"
    );
    let mut query = conn.prepare_cached(&sql).map_err(&err)?;
    let mut cursor = query.query([int(to.0)]).map_err(&err)?;
    let mut found = Vec::new();
    while let Some(r) = cursor.next().map_err(&err)? {
        found.push(decode(file, r)?);
    }
    Ok(found)
}

/// The position of row `idx`, if it is there or is the base.
pub fn position(
    conn: &Connection,
    file: &'static str,
    base: &Base,
    idx: Index,
) -> Result<Option<Position>, StoreError> {
    if idx == base.at.idx {
        return Ok(Some(base.at));
    }
    let found = terms(conn, file, idx, 1)?;
    let at: Option<i64> = conn
        .prepare_cached("SELECT idx FROM log WHERE idx = ?")
        .and_then(|mut q| q.query_row([int(idx.0)], |r| r.get(0)).optional())
        .map_err(failed(file, "read a row's place"))?;
    Ok(at.and(found.first()).map(|term| Position { term: *term, idx }))
}

/// Reads every row and checks it, and that none is missing: what a copy does before its first answer.
pub fn verify(conn: &Connection, file: &'static str, base: &Base) -> Result<(), StoreError> {
    let mut from = base.at.idx;
    loop {
        let rows = rows(conn, file, from, VERIFY_ROWS, VERIFY_BYTES)?;
        let Some(end) = rows.last() else { break };
        from = end.idx;
    }
    let below: i64 = conn
        .query_row("SELECT count(*) FROM log WHERE idx <= ?", [int(base.at.idx.0)], |r| r.get(0))
        .map_err(failed(file, "read rows"))?;
    if below == 0 { Ok(()) } else { Err(damaged(file, "rows below the base are there")) }
}

fn token_crc(copy_id: &Uuid, r: &TokenRecord) -> i64 {
    let head =
        Crc::of("token").bytes(copy_id.as_bytes()).num(r.at.idx.0).num(r.at.term.epoch).num(r.at.term.run);
    head.bytes(r.old.as_ref().map_or(&[], |t| t.as_slice())).bytes(&r.new).end()
}

/// Stores records of tokens whose rows are compacted away, in the caller's transaction, in place of all others.
pub fn put_tokens(conn: &Connection, file: &'static str, records: &Records) -> Result<(), StoreError> {
    let err = failed(file, "store records of tokens");
    conn.execute("DELETE FROM token", []).map_err(&err)?;
    let mut put = conn.prepare_cached("INSERT INTO token VALUES (?, ?, ?, ?, ?, ?, ?)").map_err(&err)?;
    for (copy_id, r) in records.iter() {
        let (idx, epoch, run) = (int(r.at.idx.0), int(r.at.term.epoch), int(r.at.term.run));
        let crc = token_crc(copy_id, r);
        put.execute(params![copy_id.to_string(), idx, epoch, run, r.old, r.new, crc]).map_err(&err)?;
    }
    Ok(())
}

/// The newest record of each copy as the log has it up to row `to`.
pub fn tokens(conn: &Connection, file: &'static str, to: Index) -> Result<Records, StoreError> {
    let err = failed(file, "read records of tokens");
    let mut records = Records::default();
    let mut query =
        conn.prepare_cached("SELECT copy_id, idx, epoch, run, old, new, crc FROM token").map_err(&err)?;
    let mut cursor = query.query([]).map_err(&err)?;
    while let Some(r) = cursor.next().map_err(&err)? {
        let read = || Ok((r.get(0)?, (r.get(1)?, r.get(2)?, r.get(3)?), r.get(4)?, r.get(5)?, r.get(6)?));
        let (id, (idx, epoch, run), old, new, crc): (String, (i64, i64, i64), _, _, i64) =
            read().map_err(&err)?;
        let copy_id = Uuid::try_parse(&id).map_err(|_| damaged(file, "token.copy_id is no uuid"))?;
        let term = Term { epoch: uint(file, epoch)?, run: uint(file, run)? };
        let record = TokenRecord { old, new, at: Position { term, idx: Index(uint(file, idx)?) } };
        if token_crc(&copy_id, &record) != crc {
            return Err(damaged(file, format!("the token record of copy {copy_id} has a wrong crc")));
        }
        records.note(copy_id, record);
    }
    for row in rows_of(conn, file, RowKind::Token, to)? {
        if !records.note_row(&row) {
            return Err(damaged(file, format!("row {} holds no token", row.idx)));
        }
    }
    Ok(records)
}

/// The terms of rows from `from` on, `count` of them or as many as there are.
pub fn terms(
    conn: &Connection,
    file: &'static str,
    from: Index,
    count: u64,
) -> Result<Vec<Term>, StoreError> {
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
