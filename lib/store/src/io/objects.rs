//! Objects, the mark of how far they are applied, and local rows.

use super::files::FileSpec;
use super::sql::{Crc, damaged, failed, int, text, uint};
use super::writer::{LocalChange, LocalRow};
use crate::core::row::{Batch, Change, Index, Object, Row, RowKind};
use crate::error::StoreError;
use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

/// How far the objects of a file are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// All rows up to here are in the objects, none beyond.
    pub idx: Index,
    /// The generation of the base they rest on (P3.2).
    pub gen_no: u64,
    /// The history they belong to.
    pub history: Uuid,
}

fn object_crc(kind: &str, key: &str, rev: u64, body: &[u8]) -> i64 {
    Crc::of("object").bytes(kind.as_bytes()).bytes(key.as_bytes()).num(rev).bytes(body).end()
}

fn applied_crc(a: &Applied) -> i64 {
    Crc::of("applied").num(a.idx.0).num(a.gen_no).bytes(a.history.as_bytes()).end()
}

fn local_crc(key: &str, body: &[u8]) -> i64 {
    Crc::of("local").bytes(key.as_bytes()).bytes(body).end()
}

/// Stores the mark, in the caller's transaction.
pub fn set_applied(conn: &Connection, spec: &FileSpec, to: &Applied) -> Result<(), StoreError> {
    let err = failed(spec.name, "note what is applied");
    let mut put =
        conn.prepare_cached("INSERT OR REPLACE INTO applied VALUES (1, ?, ?, ?, ?)").map_err(&err)?;
    put.execute(params![int(to.idx.0), int(to.gen_no), to.history.to_string(), applied_crc(to)])
        .map_err(err)?;
    Ok(())
}

/// Reads the mark.
pub fn applied(conn: &Connection, spec: &FileSpec) -> Result<Applied, StoreError> {
    let file = spec.name;
    let row = |r: &rusqlite::Row<'_>| Ok((r.get(0)?, r.get(1)?, r.get::<_, String>(2)?, r.get::<_, i64>(3)?));
    let (idx, gen_no, history, crc): (i64, i64, String, i64) = conn
        .prepare_cached("SELECT idx, gen, history, crc FROM applied")
        .and_then(|mut q| q.query_row([], row).optional())
        .map_err(failed(file, "read what is applied"))?
        .ok_or_else(|| damaged(file, "the row of table applied is missing"))?;
    let history = Uuid::try_parse(&history).map_err(|_| damaged(file, "applied.history is no uuid"))?;
    let found = Applied { idx: Index(uint(file, idx)?), gen_no: uint(file, gen_no)?, history };
    if applied_crc(&found) != crc {
        return Err(damaged(file, "the row of table applied has a wrong crc"));
    }
    Ok(found)
}

/// Makes the changes of `batch` that belong into this file, in the caller's transaction.
pub fn apply(conn: &Connection, spec: &FileSpec, batch: &Batch) -> Result<(), StoreError> {
    for change in batch.changes.iter().filter(|c| spec.holds(&c.kind)) {
        apply_one(conn, spec, change)?;
    }
    Ok(())
}

fn apply_one(conn: &Connection, spec: &FileSpec, change: &Change) -> Result<(), StoreError> {
    let err = failed(spec.name, "change an object");
    let Change { kind, key, rev, body } = change;
    match body {
        None => conn
            .prepare_cached("DELETE FROM object WHERE kind = ? AND key = ?")
            .and_then(|mut q| q.execute(params![kind, key])),
        Some(body) => {
            let crc = object_crc(kind, key, *rev, body);
            let body = text(spec.name, body)?;
            conn.prepare_cached(
                "INSERT INTO object(kind, key, rev, crc, body) VALUES (?, ?, ?, ?, ?)
                 ON CONFLICT (kind, key) DO UPDATE SET rev = excluded.rev, crc = excluded.crc, body = excluded.body",
            )
            .and_then(|mut q| q.execute(params![kind, key, int(*rev), crc, body]))
        }
    }
    .map_err(err)?;
    Ok(())
}

/// Applies rows read from the log and moves the mark, in the caller's transaction.
pub fn replay(conn: &Connection, spec: &FileSpec, rows: &[Row], mark: &Applied) -> Result<(), StoreError> {
    for row in rows.iter().filter(|r| r.kind == RowKind::Batch) {
        apply(conn, spec, &Batch::decode(&row.body)?)?;
    }
    set_applied(conn, spec, mark)
}

/// Reads all objects of a file, checking each.
pub fn load(conn: &Connection, spec: &FileSpec, into: &mut Vec<Object>) -> Result<(), StoreError> {
    each(conn, spec, |object| {
        into.push(object);
        Ok(())
    })
}

/// Reads all objects of a file one by one, checking each.
pub fn each(
    conn: &Connection,
    spec: &FileSpec,
    mut found: impl FnMut(Object) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let err = failed(spec.name, "read its objects");
    let mut query = conn.prepare("SELECT kind, key, rev, crc, body FROM object").map_err(&err)?;
    let mut rows = query.query([]).map_err(&err)?;
    while let Some(r) = rows.next().map_err(&err)? {
        let read = || Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?));
        let (kind, key, rev, crc, body): (String, String, i64, i64, String) = read().map_err(&err)?;
        let (rev, body) = (uint(spec.name, rev)?, body.into_bytes());
        if object_crc(&kind, &key, rev, &body) != crc {
            return Err(damaged(spec.name, format!("object {kind}/{key} has a wrong crc")));
        }
        found(Object { kind, key, rev, body })?;
    }
    Ok(())
}

/// Reads objects of one kind after a key, in order, until there are `bytes` of them: one short transaction, however many there
/// are. None at the end.
pub fn some_of(
    conn: &Connection,
    spec: &FileSpec,
    kind: &str,
    after: &str,
    bytes: usize,
) -> Result<Vec<Object>, StoreError> {
    let err = failed(spec.name, "read its objects");
    let sql = "SELECT key, rev, crc, body FROM object WHERE kind = ? AND key > ? ORDER BY key";
    let mut query = conn.prepare_cached(sql).map_err(&err)?;
    let mut rows = query.query(params![kind, after]).map_err(&err)?;
    let (mut found, mut held) = (Vec::new(), 0);
    while held < bytes
        && let Some(r) = rows.next().map_err(&err)?
    {
        let read = || Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?));
        let (key, rev, crc, body): (String, i64, i64, String) = read().map_err(&err)?;
        let (rev, body) = (uint(spec.name, rev)?, body.into_bytes());
        if object_crc(kind, &key, rev, &body) != crc {
            return Err(damaged(spec.name, format!("object {kind}/{key} has a wrong crc")));
        }
        held += body.len();
        found.push(Object { kind: kind.to_owned(), key, rev, body });
    }
    Ok(found)
}

/// Deletes all objects, in the caller's transaction.
pub fn clear(conn: &Connection, spec: &FileSpec) -> Result<(), StoreError> {
    conn.execute("DELETE FROM object", []).map_err(failed(spec.name, "clear its objects"))?;
    Ok(())
}

/// Stores one object of a snapshot, in the caller's transaction.
pub fn put(conn: &Connection, spec: &FileSpec, object: Object) -> Result<(), StoreError> {
    let Object { kind, key, rev, body } = object;
    apply_one(conn, spec, &Change { kind, key, rev, body: Some(body) })
}

/// Makes changes of local rows, in the caller's transaction.
pub fn change_local(conn: &Connection, spec: &FileSpec, changes: &[LocalChange]) -> Result<(), StoreError> {
    let err = failed(spec.name, "change a local row");
    for LocalChange { key, body } in changes {
        match body {
            None => conn
                .prepare_cached("DELETE FROM local WHERE key = ?")
                .and_then(|mut q| q.execute(params![key])),
            Some(body) => {
                let (crc, body) = (local_crc(key, body), text(spec.name, body)?);
                conn.prepare_cached("INSERT OR REPLACE INTO local VALUES (?, ?, ?)")
                    .and_then(|mut q| q.execute(params![key, crc, body]))
            }
        }
        .map_err(&err)?;
    }
    Ok(())
}

/// Reads all local rows, checking each.
pub fn load_local(conn: &Connection, spec: &FileSpec) -> Result<Vec<LocalRow>, StoreError> {
    let err = failed(spec.name, "read its local rows");
    let mut query = conn.prepare("SELECT key, crc, body FROM local ORDER BY key").map_err(&err)?;
    let read = |r: &rusqlite::Row<'_>| Ok((r.get(0)?, r.get(1)?, r.get(2)?));
    let rows = query.query_map([], read).map_err(&err)?;
    let mut found = Vec::new();
    for row in rows {
        let (key, crc, body): (String, i64, String) = row.map_err(&err)?;
        if local_crc(&key, body.as_bytes()) != crc {
            return Err(damaged(spec.name, format!("local row {key} has a wrong crc")));
        }
        found.push(LocalRow { key, body: body.into_bytes() });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::files::QUEUE_DATA;
    use super::super::sql::Db;
    use super::*;

    #[test]
    fn objects_of_a_kind_are_read_in_short_reads() {
        let dir = tempfile::tempdir().unwrap();
        let path = QUEUE_DATA.path(dir.path());
        std::fs::write(&path, "").unwrap();
        let db = Db::make(&QUEUE_DATA, &path).unwrap();
        for (kind, key) in [("task", "1"), ("task", "10"), ("job", "5"), ("task", "2"), ("later", "1")] {
            let object = Object { kind: kind.to_owned(), key: key.to_owned(), rev: 1, body: b"{}".to_vec() };
            put(&db.conn, &QUEUE_DATA, object).unwrap();
        }
        let mut after = String::new();
        let mut seen = Vec::new();
        loop {
            let some = some_of(&db.conn, &QUEUE_DATA, "task", &after, 1).unwrap();
            let [one] = &some[..] else { break };
            after.clone_from(&one.key);
            seen.push(one.key.clone());
        }
        assert_eq!(seen, ["1", "10", "2"]);
        assert_eq!(some_of(&db.conn, &QUEUE_DATA, "task", "", 3).unwrap().len(), 2, "it stops at the bound");
        db.conn.execute("UPDATE object SET body = '[]' WHERE key = '10'", []).unwrap();
        assert!(some_of(&db.conn, &QUEUE_DATA, "task", "", 99).unwrap_err().is_damage());
    }
}
