//! SQLite files: how they are opened, their tables, and the crc that every row carries.
//!
//! Never open a database file other than through SQLite while a connection in this process has it open:
//! closing that descriptor drops the POSIX locks the connection relies on.

use super::files::FileSpec;
use super::flushed::Mark;
use super::place::Place;
use super::whole;
use crate::error::StoreError;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, params};
use std::path::Path;
use std::time::Duration;

/// The format this program writes, and the newest it reads.
pub const FORMAT: u64 = 2;
/// The oldest program format that may read what this one writes.
pub const MIN_READER: u64 = 2;
/// The oldest format this program reads. Nothing was ever released with format 1.
pub const OLDEST: u64 = 2;
/// How long to wait for another process's transaction. All are short; whoever holds one longer hangs.
const BUSY_MS: u64 = 2_000;
/// A WAL file is cut back to this after a checkpoint, in bytes; one large batch is no reason to keep more.
const WAL_BYTES_KEPT: u64 = 16 * 1024 * 1024;

const META: &str = "
CREATE TABLE meta(file TEXT NOT NULL, format INTEGER NOT NULL, min_reader INTEGER NOT NULL);
";

/// `token` holds what compaction took from rows of kind `token` (P1.11); the lists of members are the rows of
/// kind `list`.
const LOG: &str = "
CREATE TABLE log(
  idx INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, run INTEGER NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('batch', 'list', 'empty', 'token')),
  crc INTEGER NOT NULL, body TEXT NOT NULL);
CREATE INDEX log_list ON log(idx) WHERE kind = 'list';
CREATE INDEX log_token ON log(idx) WHERE kind = 'token';
CREATE TABLE vote(
  one INTEGER PRIMARY KEY CHECK (one = 1),
  promised_epoch INTEGER NOT NULL, promised_run INTEGER NOT NULL, ballot BLOB NOT NULL, nonce BLOB NOT NULL,
  cluster TEXT NOT NULL, history TEXT NOT NULL, copy_id TEXT NOT NULL, token BLOB, crc INTEGER NOT NULL);
CREATE TABLE base(
  one INTEGER PRIMARY KEY CHECK (one = 1),
  idx INTEGER NOT NULL, epoch INTEGER NOT NULL, run INTEGER NOT NULL, list TEXT NOT NULL,
  gen INTEGER NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE token(
  copy_id TEXT PRIMARY KEY, idx INTEGER NOT NULL, epoch INTEGER NOT NULL, run INTEGER NOT NULL,
  old BLOB, new BLOB NOT NULL, crc INTEGER NOT NULL);
";

const OBJECTS: &str = "
CREATE TABLE object(
  kind TEXT NOT NULL, key TEXT NOT NULL, rev INTEGER NOT NULL, crc INTEGER NOT NULL, body TEXT NOT NULL,
  PRIMARY KEY (kind, key));
CREATE TABLE applied(
  one INTEGER PRIMARY KEY CHECK (one = 1),
  idx INTEGER NOT NULL, gen INTEGER NOT NULL, history TEXT NOT NULL, crc INTEGER NOT NULL);
";

const LOCAL: &str = "
CREATE TABLE local(key TEXT PRIMARY KEY, crc INTEGER NOT NULL, body TEXT NOT NULL);
";

/// An open file of a store.
#[derive(Debug)]
pub struct Db {
    /// Which file.
    pub spec: FileSpec,
    /// Its connection.
    pub conn: Connection,
    /// Of a log: how far it was flushed, beside it.
    pub mark: Mark,
    /// Where it lies; of one that is open for writing.
    place: Place,
}

/// The statements that make the tables of a file.
pub fn tables(spec: &FileSpec) -> String {
    let parts = [(true, META), (spec.log, LOG), (spec.objects, OBJECTS), (spec.local, LOCAL)];
    parts.iter().filter(|(wanted, _)| *wanted).map(|(_, sql)| *sql).collect()
}

/// Maps an error of SQLite to what was tried on which file.
pub fn failed(file: &'static str, what: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |source| StoreError::Sql { file, what, source }
}

/// A row that is not what was written.
pub fn damaged(file: &'static str, what: impl Into<String>) -> StoreError {
    StoreError::Damaged { file, what: what.into() }
}

/// An error in reading what every file begins with, by the word that people look for: it is damage, if SQLite says so in
/// whatever terms.
fn told<T>(spec: &FileSpec, done: Result<T, StoreError>) -> Result<T, StoreError> {
    done.map_err(|error| match error {
        StoreError::Sql { .. } if error.is_damage() => damaged(spec.name, error.chain()),
        other => other,
    })
}

impl Db {
    /// Makes the tables of a file that holds nothing yet.
    pub fn make(spec: &FileSpec, path: &Path) -> Result<Db, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Db::connect(spec, path, flags)?;
        db.tune()?;
        let err = failed(spec.name, "make its tables");
        db.conn.execute_batch(&tables(spec)).map_err(&err)?;
        let (format, reader) = (int(FORMAT), int(MIN_READER));
        db.conn
            .execute("INSERT INTO meta VALUES (?, ?, ?)", params![spec.name, format, reader])
            .map_err(err)?;
        Ok(db)
    }

    /// Opens a file for writing. A log flushes at each commit, a projection at checkpoints only.
    pub fn open(spec: &FileSpec, path: &Path) -> Result<Db, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let place = Place::of(path)?;
        let mut db = Db::connect(spec, path, flags)?;
        let disk_is_read_only = db.is_read_only()?;
        told(spec, db.check_meta())?;
        if !disk_is_read_only && db.is_read_only()? {
            return Err(damaged(spec.name, "its header says that it must not be written"));
        }
        told(spec, db.tune())?;
        db.place = place.opened(path)?;
        Ok(db)
    }

    /// That its files are still where whoever opens them next looks for them.
    pub fn in_place(&self) -> Result<(), StoreError> {
        self.place.check(self.spec.name)
    }

    /// Before anything is read: by the disk. After: also by the header.
    fn is_read_only(&self) -> Result<bool, StoreError> {
        self.conn.is_readonly("main").map_err(failed(self.spec.name, "open"))
    }

    /// Opens a file for reading, beside its writer.
    pub fn open_read(spec: &FileSpec, path: &Path) -> Result<Db, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Db::connect(spec, path, flags)?;
        told(spec, db.check_meta())?;
        Ok(db)
    }

    fn connect(spec: &FileSpec, path: &Path, flags: OpenFlags) -> Result<Db, StoreError> {
        let err = failed(spec.name, "open");
        let conn = Connection::open_with_flags(path, flags).map_err(&err)?;
        conn.busy_timeout(Duration::from_millis(BUSY_MS)).map_err(err)?;
        Ok(Db { spec: *spec, conn, mark: Mark::of(path), place: Place::default() })
    }

    fn tune(&self) -> Result<(), StoreError> {
        let err = failed(self.spec.name, "set its mode");
        let set = |name, value: &str| self.conn.pragma_update(None, name, value).map_err(&err);
        set("journal_mode", "wal")?;
        set("synchronous", if self.spec.log { "full" } else { "normal" })?;
        set("journal_size_limit", &WAL_BYTES_KEPT.to_string())
    }

    fn check_meta(&self) -> Result<(), StoreError> {
        let file = self.spec.name;
        let row = |r: &rusqlite::Row<'_>| Ok((r.get::<_, String>(0)?, r.get(1)?, r.get(2)?));
        let (name, format, reader): (String, i64, i64) = self
            .conn
            .query_row("SELECT file, format, min_reader FROM meta", [], row)
            .map_err(failed(file, "read its format"))?;
        if name != file {
            return Err(damaged(file, format!("it is a copy of {name}")));
        }
        let (format, min_reader) = (uint(file, format)?, uint(file, reader)?);
        if min_reader > FORMAT || format < OLDEST {
            return Err(StoreError::Format { file, format, min_reader });
        }
        // A newer program that lets us read may have made more.
        if format == FORMAT { whole::schema(self) } else { Ok(()) }
    }

    /// A transaction that holds the write lock from its start.
    pub fn begin(&mut self) -> Result<Transaction<'_>, StoreError> {
        self.conn
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed(self.spec.name, "begin a transaction"))
    }

    /// As [`Db::begin`], with the mark, which is to follow what the transaction does.
    pub fn begin_marked(&mut self) -> Result<(Transaction<'_>, &mut Mark), StoreError> {
        let begun = self.conn.transaction_with_behavior(TransactionBehavior::Immediate);
        Ok((begun.map_err(failed(self.spec.name, "begin a transaction"))?, &mut self.mark))
    }

    /// Runs `work`, whose transactions are not flushed: what they write can be made again from the log.
    pub fn unflushed<T>(
        &mut self,
        work: impl FnOnce(&mut Db) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if !self.spec.log {
            return work(self);
        }
        let err = failed(self.spec.name, "set its mode");
        self.conn.pragma_update(None, "synchronous", "normal").map_err(&err)?;
        let done = work(self);
        self.conn.pragma_update(None, "synchronous", "full").map_err(&err)?;
        done
    }

    /// Moves what it can of the WAL into the file without waiting for anyone, and flushes it. `true` when
    /// that was all.
    pub fn checkpoint_passive(&self) -> Result<bool, StoreError> {
        let row = |r: &rusqlite::Row<'_>| Ok((r.get(0)?, r.get(1)?, r.get(2)?));
        let (busy, frames, moved): (i64, i64, i64) = self
            .conn
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], row)
            .map_err(failed(self.spec.name, "checkpoint"))?;
        Ok(busy == 0 && frames == moved)
    }

    /// Moves all of the WAL into the file and flushes it. After this nothing that was read from here rests
    /// on a page cache only: a flush that once failed is not taken for one that succeeded.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        let row = |r: &rusqlite::Row<'_>| Ok((r.get(0)?, r.get(1)?, r.get(2)?));
        let (busy, frames, moved): (i64, i64, i64) = self
            .conn
            .query_row("PRAGMA wal_checkpoint(FULL)", [], row)
            .map_err(failed(self.spec.name, "checkpoint"))?;
        if busy != 0 || frames != moved {
            tracing::debug!(file = self.spec.name, busy, frames, moved, "checkpoint is not complete");
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
            return Err(failed(self.spec.name, "checkpoint")(rusqlite::Error::SqliteFailure(code, None)));
        }
        Ok(())
    }
}

/// A number as SQLite keeps it. Ours count events one by one from zero.
pub fn int(n: u64) -> i64 {
    i64::try_from(n).expect("no counter of ours gets past 2^63")
}

/// A number as it was kept.
pub fn uint(file: &'static str, n: i64) -> Result<u64, StoreError> {
    u64::try_from(n).map_err(|_| damaged(file, format!("a counter is {n}")))
}

/// A JSON body as the text that SQLite shall keep, so that its own JSON functions and its shell read it.
pub fn text<'a>(file: &'static str, body: &'a [u8]) -> Result<&'a str, StoreError> {
    std::str::from_utf8(body).map_err(|_| damaged(file, "a body to be written is not UTF-8"))
}

/// The crc of a row: over its fields, each with its length before it, and the name of its table.
#[derive(Debug, Clone)]
pub struct Crc(crc32fast::Hasher);

impl Crc {
    /// For a row of `table`.
    pub fn of(table: &str) -> Crc {
        Crc(crc32fast::Hasher::new()).bytes(table.as_bytes())
    }

    /// And these bytes.
    pub fn bytes(mut self, bytes: &[u8]) -> Crc {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// And this number.
    pub fn num(mut self, n: u64) -> Crc {
        self.0.update(&n.to_le_bytes());
        self
    }

    /// The value as SQLite keeps it.
    pub fn end(self) -> i64 {
        i64::from(self.0.finalize())
    }
}
