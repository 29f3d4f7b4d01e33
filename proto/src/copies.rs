//! What travels between a log's writer and its copies, and between a candidate and the others (P1 to P3;
//! docs/adr/0008). The verbs are noded's ([`crate::noded`]); the rules are the store's, which has types of its own.
//!
//! A refusal is part of a reply, not a failure: it carries what the writer must know. Messages are bounded so that
//! each fits a frame: see [`APPEND_BYTES_MAX`], [`FETCH_BYTES_MAX`], [`crate::noded::PIECE_BYTES_MAX`].

use gantry_model::ids::{ClusterUuid, NodeUuid};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Bodies of rows of one append that holds more than one row, bytes (docs/adr/0008). A single row may be longer, up to
/// the store's own bound of 3 MiB, and still fits the frame.
pub const APPEND_BYTES_MAX: usize = 2 << 20;
/// Rows of one append.
pub const APPEND_ROWS_MAX: usize = 5_000;
/// Bodies of rows of one answer to a fetch, bytes; a single row may be longer.
pub const FETCH_BYTES_MAX: u64 = 2 << 20;
/// Digests in one [`crate::noded::BodyHave`], and in one refusal for missing bodies.
pub const DIGESTS_MAX: usize = 4_096;

/// 128 random bits: a ballot, a start's nonce, or a token.
pub type Bits = [u8; 16];
/// SHA-256 of a body.
pub type Digest = [u8; 32];

/// One of the two logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Log {
    /// Written by wconfd.
    W,
    /// Written by luxid.
    Q,
}

/// One start of a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Term {
    /// Won once per master.
    pub epoch: u64,
    /// Raised by each start within the epoch.
    pub run: u64,
}

/// A row's place: its term and index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Place {
    /// Term of the row.
    pub term: Term,
    /// Its index; 0 = before the first row.
    pub idx: u64,
}

/// Who wants to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The cluster meant.
    pub cluster: ClusterUuid,
    /// The history meant.
    pub history: Uuid,
    /// The term wanted, or written under.
    pub term: Term,
    /// The ballot that won, or shall win, the epoch.
    pub ballot: Bits,
    /// The start of the writer.
    pub nonce: Bits,
}

/// A copy that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member {
    /// The node that holds it.
    pub node: NodeUuid,
    /// The copy.
    pub copy_id: Uuid,
}

/// The copies that count from one row on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// Its number.
    pub n: u64,
    /// The number of the list before.
    pub prev: u64,
    /// Who counts.
    pub members: Vec<Member>,
}

/// What a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowKind {
    /// Changes of objects.
    Batch,
    /// A list of members.
    List,
    /// The first row of a term.
    Empty,
    /// A token given to a copy.
    Token,
}

/// A row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Where it stands, and under which term it was made.
    pub at: Place,
    /// What it is.
    pub kind: RowKind,
    /// Its body, as it lies in the log.
    #[serde(with = "crate::codec::raw")]
    pub body: Vec<u8>,
}

/// The newest record of one copy's token in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// The copy.
    pub copy_id: Uuid,
    /// What it showed.
    pub old: Option<Bits>,
    /// What it was given.
    pub new: Bits,
    /// Where the row stands.
    pub at: Place,
}

/// What a copy says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// What it has promised.
    pub promised: Term,
    /// The ballot of the promised epoch.
    pub ballot: Bits,
    /// The nonce of the promised run.
    pub nonce: Bits,
    /// Its cluster.
    pub cluster: ClusterUuid,
    /// Its history.
    pub history: Uuid,
    /// Which copy it is; nil when it is so damaged that nobody can tell. Only `damaged` says something then.
    pub copy_id: Uuid,
    /// The token it holds.
    pub token: Option<Bits>,
    /// Where its rows begin.
    pub base: Place,
    /// Its last row.
    pub last: Place,
    /// The row of the newest list in its log.
    pub list_at: u64,
    /// That list.
    pub list: List,
    /// Up to here rows are applied.
    pub applied: u64,
    /// The newest records of tokens in its log.
    pub tokens: Vec<TokenRecord>,
    /// What of it is damaged, if anything is.
    pub damaged: Option<String>,
}

/// Why a copy refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// Another cluster or another history.
    Stranger,
    /// A higher term is promised.
    Promised(Term),
    /// The epoch is promised to another ballot.
    OtherBallot(u64),
    /// The term belongs to another start of the writer.
    OtherStart(Term),
    /// The row before is missing or of another term; the last position.
    Gap(Place),
    /// The writer contradicts what is applied at this row.
    Broken(u64),
    /// The rows do not follow each other.
    Malformed,
}

/// See [`crate::noded::CopyLook`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookReply {
    /// The node that answers.
    pub node: NodeUuid,
    /// The epoch its role file names, when that says master.
    pub master: Option<u64>,
    /// Its copies; a log that it has no copy of is not there.
    pub copies: Vec<(Log, Facts)>,
}

/// See [`crate::noded::CopyPromise`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromiseRequest {
    /// What is wanted of which copy; a ballot names both.
    pub claims: Vec<(Log, Claim)>,
}

/// See [`crate::noded::CopyPromise`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromiseReply {
    /// One answer for each claim up to the first refusal; what was promised before it stays promised.
    pub answers: Vec<(Log, Result<Facts, Refusal>)>,
}

/// See [`crate::noded::CopyAppend`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppendRequest {
    /// To which copy.
    pub log: Log,
    /// The writer.
    pub claim: Claim,
    /// The row before the first of `rows`.
    pub prev: Place,
    /// At most [`APPEND_ROWS_MAX`]; none is a sign of life that carries `commit`.
    pub rows: Vec<Row>,
    /// Up to here rows are committed.
    pub commit: u64,
    /// Bodies that the rows name and that the writer has no more, since later rows drop them; at most [`DIGESTS_MAX`].
    pub absent: Vec<Digest>,
}

/// See [`crate::noded::CopyAppend`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppendReply {
    /// Flushed: the copy matches the writer's log up to here, under the claim's term.
    Matched(u64),
    /// Refused.
    Refused(Refusal),
    /// These bodies, named in rows, are not on its disk; at most [`DIGESTS_MAX`] of them are told.
    Bodies(Vec<Digest>),
}

/// See [`crate::noded::CopyFetch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchRequest {
    /// From which copy.
    pub log: Log,
    /// The writer that recovers.
    pub claim: Claim,
    /// Rows after this one.
    pub after: Place,
    /// At most so many bytes of bodies, and [`FETCH_BYTES_MAX`].
    pub bytes_max: u64,
}

/// See [`crate::noded::CopyFetch`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FetchReply {
    /// The next rows; none: the end.
    Rows(Vec<Row>),
    /// They are compacted away up to here: take a snapshot.
    Compacted(Place),
    /// The row asked for is another one here.
    Diverged,
    /// Refused.
    Refused(Refusal),
}

/// See [`crate::noded::CopyMake`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MakeRequest {
    /// The logs, and the writers that will feed them.
    pub claims: Vec<(Log, Claim)>,
    /// The new copies' id.
    pub copy_id: Uuid,
    /// The copies they replace, as the node told of them; none for a log that it has no copy of, or one of which nothing can
    /// be read. A request that comes late finds others, and touches nothing.
    pub instead_of: Vec<(Log, Uuid)>,
}

/// See [`crate::noded::CopyMake`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MakeReply {
    /// Both copies are there.
    Made,
    /// An old copy here has promised more.
    Refused(Log, Refusal),
    /// Another copy is here than the one to be replaced, or none.
    OtherCopy(Log, Option<Uuid>),
}

/// A snapshot's place and whole file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotId {
    /// The last row its objects hold.
    pub at: Place,
    /// Bytes of the file.
    pub bytes: u64,
    /// Its crc32.
    pub crc: u32,
}

/// See [`crate::noded::CopySnapshotPut`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPutRequest {
    /// For which copy.
    pub log: Log,
    /// The writer.
    pub claim: Claim,
    /// The whole.
    pub of: SnapshotId,
    /// Where the piece begins.
    pub offset: u64,
    /// At most [`crate::noded::PIECE_BYTES_MAX`].
    #[serde(with = "crate::codec::raw")]
    pub bytes: Vec<u8>,
}

/// See [`crate::noded::CopySnapshotPut`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotPutReply {
    /// The offset wanted next.
    More(u64),
    /// Taken over: the copy's position.
    Taken(Place),
    /// Refused.
    Refused(Refusal),
}

/// See [`crate::noded::CopySnapshotGet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotGetRequest {
    /// Of which copy.
    pub log: Log,
    /// The writer that recovers.
    pub claim: Claim,
    /// Where to go on: None = a fresh one, from its beginning.
    pub from: Option<(SnapshotId, u64)>,
}

/// See [`crate::noded::CopySnapshotGet`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotGetReply {
    /// A piece.
    Piece {
        /// The whole.
        of: SnapshotId,
        /// At most [`crate::noded::PIECE_BYTES_MAX`]; none at the end.
        #[serde(with = "crate::codec::raw")]
        bytes: Vec<u8>,
    },
    /// That one is not here any more: begin anew.
    Gone,
    /// Refused.
    Refused(Refusal),
}

/// See [`crate::noded::CopyToken`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRequest {
    /// To which copy.
    pub log: Log,
    /// The writer.
    pub claim: Claim,
    /// What it must show.
    pub old: Option<Bits>,
    /// What it stores.
    pub new: Bits,
}

/// See [`crate::noded::BodyPut`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyPutRequest {
    /// Which.
    pub digest: Digest,
    /// Its whole length.
    pub total: u64,
    /// Where the piece begins.
    pub offset: u64,
    /// At most [`crate::noded::PIECE_BYTES_MAX`].
    #[serde(with = "crate::codec::raw")]
    pub bytes: Vec<u8>,
}

/// See [`crate::noded::BodyGet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyGetRequest {
    /// Which.
    pub digest: Digest,
    /// Where the piece begins.
    pub offset: u64,
}

/// See [`crate::noded::BodyGet`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyGetReply {
    /// The body's whole length.
    pub total: u64,
    /// At most [`crate::noded::PIECE_BYTES_MAX`]; none at its end.
    #[serde(with = "crate::codec::raw")]
    pub bytes: Vec<u8>,
}

/// Names in one [`AsideReply`].
pub const ASIDE_MAX: usize = 8;

/// See [`crate::noded::CopyAside`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsideReply {
    /// How many files there are.
    pub count: u64,
    /// The newest [`ASIDE_MAX`], the newest first.
    pub newest: Vec<String>,
}

/// Digests in one [`DamagedReply`].
pub const DAMAGED_MAX: usize = 8;

/// See [`crate::noded::BodyDamaged`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedReply {
    /// How many there are.
    pub count: u64,
    /// The first [`DAMAGED_MAX`], in lower-case hex.
    pub first: Vec<String>,
}

/// See [`crate::noded::CopyAlone`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AloneRequest {
    /// The history both logs go on in.
    pub history: Uuid,
    /// The epoch.
    pub epoch: u64,
    /// Its ballot.
    pub ballot: Bits,
    /// The last row of W as it was looked at.
    pub w: Place,
    /// And of Q.
    pub q: Place,
    /// The number of the list in both.
    pub list_n: u64,
}

/// See [`crate::noded::StepDown`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepDownReply {
    /// It was the master of that epoch and is not any more; else it was not to begin with.
    pub stepped: bool,
}
