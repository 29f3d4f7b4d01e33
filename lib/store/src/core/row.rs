//! What a log is made of: positions, rows, and the batches of object changes they carry.

use serde::de::Deserializer;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::fmt;

/// The longest kind of an object, in bytes. Kinds are names in our code; 64 leaves ample room.
pub const KIND_BYTES_MAX: usize = 64;
/// The longest key of an object, in bytes: a DNS name (255) with a prefix fits.
pub const KEY_BYTES_MAX: usize = 512;
/// The longest encoded batch, in bytes. A row travels to the copies in one frame of at most 4 MiB.
pub const BATCH_BYTES_MAX: usize = 3 * 1024 * 1024;

/// One start of a writer: compared by epoch, then by run (P1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Term {
    /// Won once per master (P1.1).
    pub epoch: u64,
    /// Raised by each start of the writer within the epoch.
    pub run: u64,
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.run)
    }
}

/// The place of a row in its log, counted from 1. 0 is the place before the first row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Index(pub u64);

impl Index {
    /// The place after this one.
    #[must_use]
    pub const fn next(self) -> Index {
        Index(self.0 + 1)
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The end of a log, ordered as recovery compares logs: by the term of the last row, then by its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Term of the last row.
    pub term: Term,
    /// Index of the last row.
    pub idx: Index,
}

/// What a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowKind {
    /// A [`Batch`] of object changes.
    Batch,
    /// A list of members; it counts from the moment it is in the log (P2).
    List,
    /// Nothing: the first row of a term, whose commit commits all older rows (P1.7e).
    Empty,
    /// A [`super::token::TokenRow`]: which token a copy was given (P1.11).
    Token,
}

impl RowKind {
    /// The name in the `kind` column.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            RowKind::Batch => "batch",
            RowKind::List => "list",
            RowKind::Empty => "empty",
            RowKind::Token => "token",
        }
    }

    /// The kind with that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<RowKind> {
        [RowKind::Batch, RowKind::List, RowKind::Empty, RowKind::Token].into_iter().find(|k| k.name() == name)
    }
}

/// One row of a log. Two rows with the same term and index are the same row, for ever, on all copies.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Row {
    /// Its place.
    pub idx: Index,
    /// The term of the writer that made it.
    pub term: Term,
    /// What it is.
    pub kind: RowKind,
    /// The JSON of a [`Batch`], a [`super::list::List`] or a [`super::token::TokenRow`]; nothing for an
    /// empty row.
    pub body: Vec<u8>,
}

impl Row {
    /// Where the row stands.
    #[must_use]
    pub const fn position(&self) -> Position {
        Position { term: self.term, idx: self.idx }
    }
}

/// One change of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The kind of the object; it also decides the file (`io`'s `file_of`).
    pub kind: String,
    /// The object's key, unique within its kind.
    pub key: String,
    /// The object's revision after the change. Kept, not checked: the owner of the object counts.
    pub rev: u64,
    /// The object's new JSON, without white space around it. `None` deletes the object.
    pub body: Option<Vec<u8>>,
}

/// SHA-256 of a body that lies beside the logs.
pub type Digest = [u8; 32];

/// A digest from its 64 hex digits.
#[must_use]
pub fn digest(hex: &str) -> Option<Digest> {
    digests::parse(hex)
}

/// Changes that happen together or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// In the order in which they are made.
    pub changes: Vec<Change>,
    /// Bodies that must lie on a copy's disk before it confirms the row (P1.4).
    pub bodies: Vec<Digest>,
    /// Bodies that no object names any more once the row is applied. A copy removes them, unless a later row
    /// of its log names them.
    pub dropped: Vec<Digest>,
}

/// An object as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its kind.
    pub kind: String,
    /// Its key.
    pub key: String,
    /// Its revision.
    pub rev: u64,
    /// Its JSON.
    pub body: Vec<u8>,
}

/// Why a batch cannot be a row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// A kind or key is empty or too long.
    #[error("object {kind}/{key}: kind or key is empty or too long")]
    Name {
        /// The kind given.
        kind: String,
        /// The key given.
        key: String,
    },
    /// A body is not JSON, or has white space around it.
    #[error("object {kind}/{key}: body is not plain JSON")]
    Body {
        /// The kind given.
        kind: String,
        /// The key given.
        key: String,
    },
    /// A revision is above `i64::MAX`, the most the files can hold.
    #[error("object {kind}/{key}: its revision is too high")]
    Rev {
        /// The kind given.
        kind: String,
        /// The key given.
        key: String,
    },
    /// The encoded batch is longer than [`BATCH_BYTES_MAX`].
    #[error("a batch of {bytes} bytes is longer than a row may be")]
    TooLong {
        /// Its encoded length.
        bytes: usize,
    },
    /// A stored row does not hold a batch.
    #[error("a row's body is no batch")]
    Undecodable,
}

#[derive(Serialize, Deserialize)]
struct BatchJson<'a> {
    #[serde(borrow)]
    changes: Vec<ChangeJson<'a>>,
    #[serde(default, with = "digests", skip_serializing_if = "Vec::is_empty")]
    bodies: Vec<Digest>,
    #[serde(default, with = "digests", skip_serializing_if = "Vec::is_empty")]
    dropped: Vec<Digest>,
}

/// Digests as the hex that `sha256sum` prints.
mod digests {
    use super::Digest;
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    pub fn serialize<S: Serializer>(digests: &[Digest], s: S) -> Result<S::Ok, S::Error> {
        let hex = |d: &Digest| d.iter().map(|b| format!("{b:02x}")).collect::<String>();
        s.collect_seq(digests.iter().map(hex))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Digest>, D::Error> {
        let texts = Vec::<String>::deserialize(d)?;
        texts.iter().map(|t| parse(t).ok_or_else(|| D::Error::custom("no digest"))).collect()
    }

    pub fn parse(text: &str) -> Option<Digest> {
        let mut digest = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (n, byte) in digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * n..2 * n + 2], 16).ok()?;
        }
        Some(digest)
    }
}

#[derive(Serialize, Deserialize)]
struct ChangeJson<'a> {
    kind: std::borrow::Cow<'a, str>,
    key: std::borrow::Cow<'a, str>,
    rev: u64,
    #[serde(borrow, default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    body: Option<&'a RawValue>,
}

/// A body that is there, even if it is the JSON `null`, which serde would take for an absent one.
fn present<'de, D: Deserializer<'de>>(d: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(d).map(Some)
}

impl Batch {
    /// A batch that names no bodies.
    #[must_use]
    pub const fn of(changes: Vec<Change>) -> Batch {
        Batch { changes, bodies: Vec::new(), dropped: Vec::new() }
    }

    /// The bytes of the batch as a row's body.
    ///
    /// # Errors
    /// A name, a body or the whole is not acceptable.
    pub fn encode(&self) -> Result<Vec<u8>, BatchError> {
        let changes = self.changes.iter().map(Change::to_json).collect::<Result<Vec<_>, _>>()?;
        let json = BatchJson { changes, bodies: self.bodies.clone(), dropped: self.dropped.clone() };
        let bytes = serde_json::to_vec(&json).map_err(|_| BatchError::Undecodable)?;
        if bytes.len() > BATCH_BYTES_MAX {
            return Err(BatchError::TooLong { bytes: bytes.len() });
        }
        Ok(bytes)
    }

    /// The batch in a row's body.
    ///
    /// # Errors
    /// The bytes are not what [`Batch::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Result<Batch, BatchError> {
        let json: BatchJson<'_> = serde_json::from_slice(bytes).map_err(|_| BatchError::Undecodable)?;
        let changes = json.changes.into_iter().map(|c| Change {
            kind: c.kind.into_owned(),
            key: c.key.into_owned(),
            rev: c.rev,
            body: c.body.map(|raw| raw.get().as_bytes().to_vec()),
        });
        Ok(Batch { changes: changes.collect(), bodies: json.bodies, dropped: json.dropped })
    }
}

impl Change {
    fn to_json(&self) -> Result<ChangeJson<'_>, BatchError> {
        let (kind, key) = (&self.kind, &self.key);
        let fits = |text: &str, max: usize| !text.is_empty() && text.len() <= max;
        if !fits(kind, KIND_BYTES_MAX) || !fits(key, KEY_BYTES_MAX) {
            return Err(BatchError::Name { kind: kind.clone(), key: key.clone() });
        }
        if i64::try_from(self.rev).is_err() {
            return Err(BatchError::Rev { kind: kind.clone(), key: key.clone() });
        }
        let plain = |body: &'_ [u8]| {
            serde_json::from_slice::<&RawValue>(body).ok().map(|raw| raw.get().len() == body.len())
        };
        let body = match &self.body {
            None => None,
            Some(body) if plain(body) == Some(true) => serde_json::from_slice(body).ok(),
            Some(_) => return Err(BatchError::Body { kind: kind.clone(), key: key.clone() }),
        };
        Ok(ChangeJson { kind: kind.into(), key: key.into(), rev: self.rev, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(body: Option<&str>) -> Change {
        Change { kind: "k".into(), key: "a\"b".into(), rev: 7, body: body.map(|b| b.as_bytes().to_vec()) }
    }

    #[test]
    fn a_batch_survives_its_encoding() {
        let bodies = [None, Some("null"), Some("{\"x\": 1.0}"), Some("\"\\u00e4\"")];
        let batch = Batch {
            bodies: vec![[0xa1; 32]],
            dropped: vec![[7; 32], [8; 32]],
            ..Batch::of(bodies.map(change).into())
        };
        assert_eq!(Batch::decode(&batch.encode().unwrap()).unwrap(), batch);
    }

    #[test]
    fn what_is_not_plain_json_is_refused() {
        for body in ["", " 1", "1 ", "{", "1 2", "\u{0}"] {
            let batch = Batch::of(vec![change(Some(body))]);
            assert!(matches!(batch.encode(), Err(BatchError::Body { .. })), "{body:?}");
        }
        let invalid = Change { body: Some(vec![b'"', 0xff, b'"']), ..change(None) };
        assert!(Batch::of(vec![invalid]).encode().is_err());
    }

    #[test]
    fn names_and_length_are_bounded() {
        let nameless = Change { key: String::new(), ..change(None) };
        assert!(matches!(Batch::of(vec![nameless]).encode(), Err(BatchError::Name { .. })));
        let high = Change { rev: u64::MAX, ..change(None) };
        assert!(matches!(Batch::of(vec![high]).encode(), Err(BatchError::Rev { .. })));
        let long = Change { kind: "k".repeat(KIND_BYTES_MAX + 1), ..change(None) };
        assert!(matches!(Batch::of(vec![long]).encode(), Err(BatchError::Name { .. })));
        let wide = change(Some(&format!("\"{}\"", "x".repeat(BATCH_BYTES_MAX))));
        assert!(matches!(Batch::of(vec![wide]).encode(), Err(BatchError::TooLong { .. })));
    }
}
