//! A copy that follows a writer elsewhere: noded's part of a log (P1.4). The rules are `core`'s; the files are
//! [`Disk`]'s.
//!
//! ```text
//!  promise, append, snapshot_in ─▶ one transaction that reads the vote ─▶ flush ─▶ answer
//!                         commit ─▶ objects (not flushed; checkpoint at open)
//! ```

use super::disk::{Disk, damaged_look, named, open_log};
use super::files::LogKind;
use super::look::{AppendRefusal, Bodies, Fetched, Look, SnapshotFile};
use super::{aside, compact, create, install, log};
use crate::core::Rules;
use crate::core::compact::{WORTH_ROWS, of_copy};
use crate::core::copy::{Append, Claim, Refusal, Vote};
use crate::core::row::{Digest, Index, Position};
use crate::core::token::Token;
use crate::error::StoreError;
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

/// How to open a copy.
#[derive(Clone)]
pub struct CopyOptions {
    /// Which log.
    pub log: LogKind,
    /// [`Rules::ALL`] but in tests.
    pub rules: Rules,
    /// The node's bodies.
    pub bodies: Arc<dyn Bodies>,
}

/// Whose copy an empty one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmptyCopy {
    /// The cluster.
    pub cluster: Uuid,
    /// The history.
    pub history: Uuid,
    /// The copy: a new id.
    pub copy_id: Uuid,
}

/// A copy that follows. Owned by one thread; all calls block. An error that [`StoreError::is_busy`] knows means
/// "cannot answer now"; any other means that the copy is of no use until it is opened again.
pub struct Copy {
    state: State,
    bodies: Arc<dyn Bodies>,
    /// Rows taken since compaction was last thought of.
    taken: u64,
}

enum State {
    Sound(Box<Disk>),
    /// Only the vote could be read, or not even that ([`Look::vote`] is nobody's then). It says so when it is asked, and
    /// takes nothing.
    Damaged {
        vote: Box<Vote>,
        why: String,
    },
    /// A file is of a format that this program does not read: it may be sound for another one.
    Format {
        file: &'static str,
        format: u64,
        min_reader: u64,
    },
}

impl std::fmt::Debug for Copy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copy").finish_non_exhaustive()
    }
}

/// What a copy answers when it can answer at all.
type Answer<T> = Result<Result<T, Refusal>, StoreError>;

impl Copy {
    /// Opens the copy. `None`: there is no such log here. Everything in it is checked first; what is damaged is
    /// told in [`Look::damaged`], also where not even the vote can be read.
    ///
    /// # Errors
    /// Another process holds a file for too long, or the disk's.
    pub fn open(dir: &Path, opts: CopyOptions) -> Result<Option<Copy>, StoreError> {
        let opened = Disk::open(dir, opts.log, opts.rules);
        let checked = opened.and_then(|disk| disk.map(|d| d.verify().map(|()| d)).transpose());
        let state = match checked {
            Ok(None) => return Ok(None),
            Ok(Some(disk)) => State::Sound(Box::new(disk)),
            Err(e) if e.is_damage() || matches!(e, StoreError::Missing { .. }) => {
                let Some(vote) = readable_vote(dir, opts.log)? else { return Ok(None) };
                tracing::error!(log = ?opts.log, why = e.chain(), "the copy is damaged");
                State::Damaged { vote: Box::new(vote), why: e.chain() }
            }
            Err(StoreError::Format { file, format, min_reader }) => {
                State::Format { file, format, min_reader }
            }
            Err(e) => return Err(e),
        };
        Ok(Some(Copy { state, bodies: opts.bodies, taken: 0 }))
    }

    /// Makes an empty copy: no rows, nothing promised, a list without members. An old copy at this place is
    /// moved to `aside/` first. Durable when this returns; may be repeated after a crash. The old copy must not
    /// be open.
    ///
    /// # Errors
    /// A file operation failed.
    pub fn make(dir: &Path, log: LogKind, empty: &EmptyCopy) -> Result<(), StoreError> {
        std::fs::create_dir_all(dir).map_err(aside::io("make", dir))?;
        aside::move_copy(dir, log)?;
        create::create_empty(dir, log, empty)
    }

    /// Whether its log was removed under it. It tells so when it is asked, with the vote that its open handles still hold, which
    /// no opening would find: it is for [`Copy::make`], or for whoever puts the file back.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        let State::Sound(disk) = &self.state else { return false };
        self.displaced().is_some() && disk.log.spec.path(&disk.dir).try_exists().is_ok_and(|there| !there)
    }

    /// Which file of it was removed or replaced under it, if any.
    #[must_use]
    pub fn displaced(&self) -> Option<String> {
        let State::Sound(disk) = &self.state else { return None };
        disk.in_place().err().filter(StoreError::is_damage).map(|why| why.chain())
    }

    /// Works on the files, if they are in their places before and after: an answer counts for what the next start finds.
    fn lasting<T>(&mut self, work: impl FnOnce(&mut Disk) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let disk = self.sound()?;
        disk.in_place()?;
        let done = work(disk)?;
        disk.in_place()?;
        Ok(done)
    }

    fn sound(&mut self) -> Result<&mut Disk, StoreError> {
        match &mut self.state {
            State::Sound(disk) => Ok(disk),
            State::Damaged { why, .. } => Err(StoreError::Damaged { file: "the copy", what: why.clone() }),
            &mut State::Format { file, format, min_reader } => {
                Err(StoreError::Format { file, format, min_reader })
            }
        }
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// The vote cannot be read.
    pub fn look(&self) -> Result<Look, StoreError> {
        match &self.state {
            State::Sound(disk) => disk.look(),
            State::Damaged { vote, why } => Ok(damaged_look((**vote).clone(), why.clone())),
            &State::Format { file, format, min_reader } => {
                let why = StoreError::Format { file, format, min_reader }.chain();
                Ok(damaged_look(Vote::nobodys(), why))
            }
        }
    }

    /// Promises `claim`, when it may; flushed before it is answered. A damaged copy promises nothing; what it
    /// says of itself tells why.
    ///
    /// # Errors
    /// It cannot be written, or not now; this program does not read its format.
    pub fn promise(&mut self, claim: &Claim) -> Answer<Look> {
        if self.displaced().is_some() || matches!(self.state, State::Damaged { .. }) {
            return self.look().map(Ok);
        }
        self.lasting(|disk| disk.promise(claim))
    }

    /// Takes rows; flushed before it is answered. Then rows that are committed are applied.
    ///
    /// # Errors
    /// As [`Copy::promise`].
    pub fn append(&mut self, append: &Append) -> Result<Result<Index, AppendRefusal>, StoreError> {
        self.append_without(append, &[])
    }

    /// As [`Copy::append`], with rows that name bodies which the writer itself has no more: later rows drop them.
    ///
    /// # Errors
    /// As [`Copy::promise`].
    pub fn append_without(
        &mut self,
        append: &Append,
        absent: &[Digest],
    ) -> Result<Result<Index, AppendRefusal>, StoreError> {
        let bodies = Arc::clone(&self.bodies);
        let wanted = match named(&append.rows) {
            Ok(wanted) => wanted,
            Err(_) => return Ok(Err(AppendRefusal::Refusal(Refusal::Malformed))),
        };
        let disk = self.sound()?;
        let mut missing = missing(&*bodies, &wanted, disk)?;
        missing.retain(|digest| !absent.contains(digest));
        if !missing.is_empty() {
            return Ok(Err(AppendRefusal::Bodies(missing)));
        }
        let taken = disk.append(append)?;
        // After the flush: what went into removed files is not taken.
        disk.in_place()?;
        let matched = match taken {
            Ok(matched) => matched,
            Err(why) => return Ok(Err(AppendRefusal::Refusal(why))),
        };
        disk.apply_to(append.commit.min(matched), Some(&*bodies))?;
        self.taken += append.rows.len() as u64;
        if self.taken >= WORTH_ROWS {
            self.taken = 0;
            self.compact()?;
        }
        Ok(Ok(matched))
    }

    /// Forgets rows that are long applied.
    fn compact(&mut self) -> Result<(), StoreError> {
        let disk = self.sound()?;
        let applied = disk.applied()?;
        let extent = compact::extent(&disk.log, &disk.projections, applied)?;
        match of_copy(&extent) {
            Some(to) => compact::forget(&mut disk.log, to, disk.rules),
            None => Ok(()),
        }
    }

    /// Gives rows after `after` to the recovering writer that holds this copy's promise: at most `bytes_max` of
    /// bodies, unless the first row alone is longer.
    ///
    /// # Errors
    /// The rows cannot be read.
    pub fn fetch(&mut self, claim: &Claim, after: Position, bytes_max: usize) -> Answer<Fetched> {
        self.lasting(|disk| disk.fetch(claim, after, bytes_max))
    }

    /// Stores a token, if it is the one after `old`; a gift that comes late changes nothing.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn set_token(&mut self, claim: &Claim, old: Option<Token>, new: Token) -> Answer<()> {
        self.lasting(|disk| disk.set_token(claim, old, new))
    }

    /// Writes a snapshot of what is applied, for the recovering writer that holds this copy's promise.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn snapshot_out(&mut self, claim: &Claim) -> Answer<SnapshotFile> {
        self.lasting(|disk| disk.snapshot_out(claim))
    }

    /// Takes a snapshot over; the file goes from its path, which must be in the log's own directory. Answers the
    /// last row.
    ///
    /// # Errors
    /// The file is damaged ([`StoreError::Damaged`] of "snapshot"; the copy is as before), or it cannot be written.
    pub fn snapshot_in(&mut self, claim: &Claim, path: &Path) -> Answer<Position> {
        self.lasting(|disk| install::install(disk, claim, path))
    }
}

/// The vote of a damaged copy; [`Vote::nobodys`] when that is damaged too. None: there is no copy.
fn readable_vote(dir: &Path, kind: LogKind) -> Result<Option<Vote>, StoreError> {
    let read = || {
        let Some(log) = open_log(dir, kind)? else { return Ok(None) };
        log::vote(&log.conn, log.spec.name).map(Some)
    };
    match read() {
        Err(e) if e.is_damage() => {
            tracing::error!(log = ?kind, why = e.chain(), "nothing of the copy can be read");
            Ok(Some(Vote::nobodys()))
        }
        other => other,
    }
}

fn missing(bodies: &dyn Bodies, wanted: &[Digest], disk: &Disk) -> Result<Vec<Digest>, StoreError> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    bodies.missing(wanted).map_err(aside::io("look for bodies beside", &disk.dir))
}
