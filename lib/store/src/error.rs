//! What can go wrong with a store, by what the caller can do about it.

use crate::core::copy::Refusal;
use crate::core::row::{BatchError, Index, Term};
use crate::io::sql::OLDEST;
use std::path::PathBuf;
use uuid::Uuid;

/// An operation on a store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// `create` found a file of the log already there. Nothing was changed.
    #[error("{} exists already", path.display())]
    Exists {
        /// The file found.
        path: PathBuf,
    },
    /// A file that cannot be rebuilt is not there.
    #[error("{} is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Another process writes this log.
    #[error("{} is held by process {}", path.display(), pid.map_or("unknown".to_owned(), |p| p.to_string()))]
    Busy {
        /// The lock file.
        path: PathBuf,
        /// The holder, as far as it has said.
        pid: Option<u32>,
    },
    /// The queue of the writer is full. Nothing was queued; ask again later.
    #[error("the queue of the store is full")]
    Full,
    /// The writer met an error before and writes no more. The daemon must exit.
    #[error("the store has stopped after a failure: {reason}")]
    Failed {
        /// The first failure.
        reason: String,
    },
    /// Fewer than a majority of the copies answer; nothing was queued (P1.6).
    #[error("no majority of the copies answers; silent: {silent}")]
    NoMajority {
        /// Who does not answer.
        silent: String,
    },
    /// The object files of the log did not stand at one row for long enough to be written out. Ask again.
    #[error("the objects change too fast for a snapshot")]
    Unsteady,
    /// A file of objects is not where this writer left it: another writer's rows were applied (P1.9).
    #[error("{file} has applied row {found}, this writer left it at {left}")]
    Moved {
        /// The file.
        file: &'static str,
        /// What it has applied.
        found: Index,
        /// What this writer had applied last.
        left: Index,
    },
    /// The writer was stopped on purpose.
    #[error("the store is stopped")]
    Stopped,
    /// SQLite failed.
    #[error("{file}: cannot {what}")]
    Sql {
        /// The file's name.
        file: &'static str,
        /// What was tried.
        what: &'static str,
        /// SQLite's own words.
        #[source]
        source: rusqlite::Error,
    },
    /// A file operation outside SQLite failed.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's own words.
        #[source]
        source: std::io::Error,
    },
    /// A row does not say what was once written: a crc is wrong, a row is missing or makes no sense.
    #[error("{file} is damaged: {what}")]
    Damaged {
        /// The file's name.
        file: &'static str,
        /// Which row, and how.
        what: String,
    },
    /// The file was written by a program with a newer format, or one whose format is not read any more.
    #[error("{file} has format {format}{}", wants(*format, *min_reader))]
    Format {
        /// The file's name.
        file: &'static str,
        /// Its format.
        format: u64,
        /// The oldest format number a program must know to read it.
        min_reader: u64,
    },
    /// The log belongs to another cluster than the caller's.
    #[error("the log belongs to cluster {found}, not {wanted}")]
    Cluster {
        /// In the file.
        found: Uuid,
        /// Asked for.
        wanted: Uuid,
    },
    /// The log's list names other copies too; without them it cannot be recovered.
    #[error("the log has {members} members; this program can only lead a log with itself alone")]
    NeedsOthers {
        /// How many the list names.
        members: usize,
    },
    /// The newest list does not name this copy.
    #[error("this copy is not in the newest list of members")]
    NotMember,
    /// The copy refused a promise or rows: a newer writer was heard of, or the log is not what it was.
    #[error("the copy under term {term} refuses")]
    Refused {
        /// The writer's term.
        term: Term,
        /// Why.
        #[source]
        why: Refusal,
    },
    /// A projection has applied rows that its log does not have.
    #[error("{file} has applied row {applied}, but the log ends at {last}")]
    Ahead {
        /// The projection.
        file: &'static str,
        /// What it has applied.
        applied: Index,
        /// The log's end.
        last: Index,
    },
    /// The batch cannot be a row. Nothing was queued.
    #[error("the batch is refused")]
    Batch(#[from] BatchError),
    /// Local rows exist in W's store only.
    #[error("this log keeps no local rows")]
    NoLocal,
    /// A local row's body is too long or not text, or its key is empty or too long.
    #[error("the local row '{key}' is empty, too long or not UTF-8")]
    LocalRow {
        /// The key given.
        key: String,
    },
}

/// SQLite does not find the tables that were made, or can't have made the file itself: our statements are sound.
fn strange(source: &rusqlite::Error) -> bool {
    const SQLITE_ERROR: i32 = 1;
    source.sqlite_error().is_some_and(|error| error.extended_code == SQLITE_ERROR)
}

/// What a file of a format that is not read needs.
fn wants(format: u64, min_reader: u64) -> String {
    if format < OLDEST {
        // Only programs before the first release wrote it.
        return format!(
            ", this program reads {OLDEST} and newer: make the cluster anew, or run the program that made it"
        );
    }
    format!(" and wants a program that reads format {min_reader}")
}

impl StoreError {
    /// Another process holds a file's write lock for too long. A copy that meets this cannot promise now, and
    /// counts as missing (P1.2).
    #[must_use]
    pub fn is_busy(&self) -> bool {
        let StoreError::Sql { source, .. } = self else { return false };
        source.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
    }

    /// The disk has no room left.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            StoreError::Sql { source, .. } => {
                source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
            }
            StoreError::Io { source, .. } => {
                matches!(source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }

    /// The files themselves are bad: SQLite or a crc says so.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        match self {
            StoreError::Damaged { .. } | StoreError::Ahead { .. } | StoreError::Batch(_) => true,
            StoreError::Sql { source, .. } => match source.sqlite_error_code() {
                Some(code) => matches!(code, DatabaseCorrupt | NotADatabase) || strange(source),
                // No failure of SQLite's, but a value of another type than ours.
                None => true,
            },
            _ => false,
        }
    }

    /// The whole chain of causes in one line, for `Progress::failed` and logs.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(e) = cause {
            text.push_str(": ");
            text.push_str(&e.to_string());
            cause = e.source();
        }
        text
    }
}
