//! Tokens: how a copy that lost what it once confirmed is told from a sound one (P1.11).
//!
//! At each connect a writer draws a token for the copy, commits a [`TokenRow`], and then gives the copy the
//! new token to store in its vote. Whoever asks the copy later compares what it shows with the newest record
//! anybody knows:
//!
//! ```text
//!  connect ─ judge ─┬─ shows record.new (or nothing is recorded): append {copy, old: shown, new: drawn}
//!                   ├─ shows record.old: it was never given record.new; give that one, draw none
//!                   └─ anything else: suspect
//!  row committed, and confirmed by the copy ─▶ may_give ─▶ give ─▶ the copy: accept ─▶ stores it
//! ```
//!
//! At most one token is under way for a copy at any time, so a record needs two and a late gift harms nobody.
//! A copy that shows a token has stood by the row that records it; fewer rows than that make it suspect.
//! The writer's own copy is treated the same: it too may one day be somebody's old image.

use super::list::List;
use super::recover::CopyState;
use super::row::{Index, Position, Row, RowKind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

/// 128 random bits that a writer gives to a copy.
pub type Token = [u8; 16];

/// Records kept of copies that are no members: learners, and members that left. Enough for all changes that
/// can be on their way; a copy without a record is taken for sound, which for a copy that does not count is
/// no harm.
pub const STRANGERS_MAX: usize = 64;

/// What a row of kind `token` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    /// The copy.
    pub copy_id: Uuid,
    /// What it showed when it was connected.
    pub old: Option<Token>,
    /// What it is given once the row is committed.
    pub new: Token,
}

/// The record of one copy's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenRecord {
    /// What the copy showed.
    pub old: Option<Token>,
    /// What it was given, or is to be given.
    pub new: Token,
    /// Where the row stands. A copy that shows `new` has confirmed this far.
    pub at: Position,
}

/// What a copy shows when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shown {
    /// The copy.
    pub copy_id: Uuid,
    /// The token in its vote.
    pub token: Option<Token>,
    /// The last index of its log.
    pub last: Index,
    /// All that was read of it had the right crc.
    pub intact: bool,
}

/// What makes a copy suspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Suspicion {
    /// It shows neither token of the newest record: an old image, or a clone.
    #[error("it shows a token it was not given last")]
    Token,
    /// It has fewer rows than it once confirmed.
    #[error("it ends at row {last}, but has confirmed row {confirmed}")]
    Short {
        /// Its last row.
        last: Index,
        /// What it once confirmed.
        confirmed: Index,
    },
    /// Something read from it has a wrong crc.
    #[error("its files are damaged")]
    Damaged,
}

/// What a connect of a sound copy asks of the writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connect {
    /// Append this row; give its token when [`may_give`] says so.
    Record(TokenRow),
    /// No row: the token of the newest record was drawn before and not stored yet. Give it when [`may_give`]
    /// says so.
    Give(TokenRecord),
}

/// The newest record of each copy, as one log (or all logs heard) have it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Records(BTreeMap<Uuid, TokenRecord>);

impl TokenRow {
    /// The bytes of a row's body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a token row is plain data")
    }

    /// What a row of kind `token` holds, `None` when it holds no such thing.
    #[must_use]
    pub fn decode(body: &[u8]) -> Option<TokenRow> {
        serde_json::from_slice(body).ok()
    }
}

impl Records {
    /// Takes a record in. The one further on in the order of logs stays.
    pub fn note(&mut self, copy_id: Uuid, record: TokenRecord) {
        let known = self.0.entry(copy_id).or_insert(record);
        if record.at > known.at {
            *known = record;
        }
    }

    /// Takes in what a row of the log records; other rows say nothing. `false` when the row is of kind
    /// `token` and holds no such thing.
    pub fn note_row(&mut self, row: &Row) -> bool {
        if row.kind != RowKind::Token {
            return true;
        }
        let Some(TokenRow { copy_id, old, new }) = TokenRow::decode(&row.body) else { return false };
        self.note(copy_id, TokenRecord { old, new, at: row.position() });
        true
    }

    /// Takes in all that another log records: "newest known" is the newest of all who answered, or a log that
    /// lags behind would call every copy suspect that was connected since.
    pub fn merge(&mut self, other: &Records) {
        other.0.iter().for_each(|(copy, record)| self.note(*copy, *record));
    }

    /// The newest record of a copy.
    #[must_use]
    pub fn of(&self, copy_id: &Uuid) -> Option<&TokenRecord> {
        self.0.get(copy_id)
    }

    /// All records.
    pub fn iter(&self) -> impl Iterator<Item = (&Uuid, &TokenRecord)> {
        self.0.iter()
    }

    /// Drops records of copies that do not count, all but the newest [`STRANGERS_MAX`]. For compaction and
    /// snapshots, which carry the rest on.
    pub fn prune(&mut self, list: &List) {
        let strange = |copy: &Uuid| !list.members.iter().any(|m| m.copy_id == *copy);
        let strangers = self.0.iter().filter(|(copy, _)| strange(copy));
        let mut at: Vec<(Position, Uuid)> = strangers.map(|(copy, r)| (r.at, *copy)).collect();
        at.sort_unstable();
        let surplus = at.len().saturating_sub(STRANGERS_MAX);
        for (_, copy) in &at[..surplus] {
            self.0.remove(copy);
        }
    }
}

/// Whether a copy may be believed. `record` is the newest known of it to anybody who answered; `confirmed` is
/// what it has confirmed to this asker (0 for an asker that has just started).
///
/// # Errors
/// It is suspect, and why.
pub fn judge(shown: &Shown, record: Option<&TokenRecord>, confirmed: Index) -> Result<(), Suspicion> {
    if !shown.intact {
        return Err(Suspicion::Damaged);
    }
    let mut confirmed = confirmed;
    if let Some(record) = record {
        if shown.token == Some(record.new) {
            confirmed = confirmed.max(record.at.idx);
        } else if shown.token != record.old {
            return Err(Suspicion::Token);
        }
    }
    if shown.last < confirmed { Err(Suspicion::Short { last: shown.last, confirmed }) } else { Ok(()) }
}

/// [`judge`] as the state an [`super::recover::Answer`] carries.
#[must_use]
pub fn state(shown: &Shown, records: &Records) -> CopyState {
    match judge(shown, records.of(&shown.copy_id), Index(0)) {
        Ok(()) => CopyState::Sound,
        Err(_) => CopyState::Suspect,
    }
}

/// A copy was connected: what the writer records, or gives. `drawn` is a fresh token.
///
/// # Errors
/// The copy is suspect; it counts no more in this writer's term ([`super::commit::Tally::suspect`]).
pub fn connect(
    shown: &Shown,
    record: Option<&TokenRecord>,
    confirmed: Index,
    drawn: Token,
) -> Result<Connect, Suspicion> {
    judge(shown, record, confirmed)?;
    match record {
        Some(record) if shown.token != Some(record.new) => Ok(Connect::Give(*record)),
        Some(_) | None => {
            Ok(Connect::Record(TokenRow { copy_id: shown.copy_id, old: shown.token, new: drawn }))
        }
    }
}

/// Whether a copy may be given the token recorded at `at` now: the row can no longer be lost, and the copy
/// itself has it. `confirmed` is what the copy has confirmed, `committed` what the writer knows committed.
#[must_use]
pub fn may_give(at: Index, confirmed: Index, committed: Index) -> bool {
    at <= confirmed && at <= committed
}

/// What a copy that shows `shown` stores when it is given (old, new): the new token, if it is the next one.
/// `None`: a gift that came late or twice; nothing changes.
#[must_use]
pub fn accept(shown: Option<Token>, old: Option<Token>, new: Token) -> Option<Token> {
    (shown == old).then_some(new)
}

#[cfg(test)]
mod tests;
