//! Whether a file of SQLite is whole: its tables are ours to the letter, and each page is where it belongs.
//!
//! A row carries a crc, but one that is found no more has none: a byte of a page's head, of a pointer between pages or
//! of an index can hide rows, or show them twice, without a word of SQLite's. Its own check walks all pages. It is
//! done whenever a copy is opened, before anything of it is believed (50 ms for 40 MB), and before objects go to others.

use super::sql::{Db, damaged, failed, tables};
use crate::error::StoreError;

/// Each page is reached once, each row is in its place and in its indices.
pub fn all(db: &Db) -> Result<(), StoreError> {
    check(db, "PRAGMA integrity_check(1)")
}

/// As [`all`], of the objects alone: in a file whose log is damaged they may be all that is left.
pub fn objects(db: &Db) -> Result<(), StoreError> {
    check(db, "PRAGMA integrity_check(object)")
}

fn check(db: &Db, sql: &str) -> Result<(), StoreError> {
    let file = db.spec.name;
    let found: String =
        db.conn.query_row(sql, [], |row| row.get(0)).map_err(failed(file, "check its pages"))?;
    if found == "ok" {
        return Ok(());
    }
    // The first line, which names a page or a row, is enough.
    let first = found.lines().find(|line| !line.starts_with("***")).unwrap_or("");
    Err(damaged(file, format!("its pages are not what was written: {first}")))
}

/// The tables are those that were made: another type, condition or name would change what statements mean.
pub fn schema(db: &Db) -> Result<(), StoreError> {
    let (file, err) = (db.spec.name, failed(db.spec.name, "read its tables"));
    let mut query = db.conn.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL").map_err(&err)?;
    let rows = query.query_map([], |row| row.get::<_, String>(0)).map_err(&err)?;
    let mut found = rows.collect::<Result<Vec<_>, _>>().map_err(&err)?;
    let made = tables(&db.spec);
    let mut wanted: Vec<&str> = made.split(';').map(str::trim).filter(|sql| !sql.is_empty()).collect();
    found.sort();
    wanted.sort_unstable();
    if found == wanted { Ok(()) } else { Err(damaged(file, "its tables are not those that were made")) }
}
