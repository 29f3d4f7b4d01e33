//! What a copy says of itself and what it answers: the words between a log's writer and its copies.

use crate::core::copy::{Refusal, Vote};
use crate::core::list::List;
use crate::core::row::{Digest, Index, Position, Row};
use crate::core::token::{Records, Shown};
use std::io;
use std::path::PathBuf;

/// What a copy says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Its cluster, history and copy id, what it has promised, and its token.
    pub vote: Vote,
    /// Where its rows begin.
    pub base: Position,
    /// Its last row.
    pub last: Position,
    /// The newest list of its log, and the row that holds it.
    pub list: (Index, List),
    /// Up to here rows are applied to all its objects.
    pub applied: Index,
    /// The newest token record of each copy that its log knows.
    pub tokens: Records,
    /// What of it is damaged. The other fields but `vote` say nothing then, and the copy counts for nothing. Where the
    /// vote can't be read either, it is [`Vote::nobodys`].
    pub damaged: Option<String>,
}

impl Look {
    /// Its vote, if it can be read.
    #[must_use]
    pub fn readable_vote(&self) -> Option<&Vote> {
        Some(&self.vote).filter(|vote| !vote.copy_id.is_nil())
    }

    /// What it shows to be judged by (P1.11).
    #[must_use]
    pub fn shown(&self) -> Shown {
        let Vote { copy_id, token, .. } = self.vote;
        Shown { copy_id, token, last: self.last.idx, intact: self.damaged.is_none() }
    }
}

/// Why a copy takes no rows now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppendRefusal {
    /// By the rules.
    Refusal(Refusal),
    /// These bodies, which rows name, are not on its disk. Send them first.
    Bodies(Vec<Digest>),
}

/// An answer to a recovering writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// The next rows; none: the end.
    Rows(Vec<Row>),
    /// They are compacted away up to here: take a snapshot.
    Compacted(Position),
    /// The row asked for is another one here, or not here.
    Diverged,
}

/// A snapshot, whole, as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFile {
    /// The file. The next snapshot of the same log takes its place.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// The last row its objects hold.
    pub at: Position,
    /// crc32 of the whole file.
    pub crc: u32,
}

/// The bodies of a node, kept beside the logs.
pub trait Bodies: Send + Sync {
    /// Which of these are not on the disk, flushed with their directory.
    ///
    /// # Errors
    /// The directory cannot be read.
    fn missing(&self, wanted: &[Digest]) -> io::Result<Vec<Digest>>;

    /// Removes these; one that is not there is no error.
    ///
    /// # Errors
    /// One cannot be removed.
    fn remove(&self, dropped: &[Digest]) -> io::Result<()>;
}

/// For a log whose rows name no bodies (W): none is there.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoBodies;

impl Bodies for NoBodies {
    fn missing(&self, wanted: &[Digest]) -> io::Result<Vec<Digest>> {
        Ok(wanted.to_vec())
    }
    fn remove(&self, _dropped: &[Digest]) -> io::Result<()> {
        Ok(())
    }
}
