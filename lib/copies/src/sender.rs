//! One copy's sender: connects, judges, gives tokens, sends rows, bodies, snapshots (docs/adr/0008, 4).
//!
//! ```text
//!  promise ─▶ judge ─▶ where to go on ─▶ append ─▶ confirm ─┐
//!     ▲         └ suspect: ends          ▲ gap: step back   │
//!     └── lost ◀── any failure ◀─────────┴──────────────────┘
//! ```
//!
//! One call is under way at a time and carries all that was appended meanwhile. Any failure of the connection leads back
//! to the promise, since the copy at its end may be another one then.

use crate::bodies::{PIECE_MS, piece, settle, turns_max};
use crate::handle::{Entry, SILENT_MS, Shared, blocking};
use crate::heard;
use crate::link::{Link, LinkError};
use crate::wire;
use gantry_model::ids::NodeUuid;
use gantry_proto::copies::{
    APPEND_BYTES_MAX, APPEND_ROWS_MAX, AppendReply, AppendRequest, Digest, Facts, PromiseRequest, SnapshotId,
    SnapshotPutReply, SnapshotPutRequest, TokenRequest,
};
use gantry_proto::noded;
use gantry_rt::clock;
use gantry_store::core::copy::Refusal;
use gantry_store::core::list::Member;
use gantry_store::core::row::{Index, Position, Row};
use gantry_store::core::snapshot::{Feed, feed};
use gantry_store::core::token::{Connect, Suspicion, Token, connect, may_give};
use gantry_store::{Shipment, StoreError};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a copy may take to flush rows; a disk that needs longer is as good as silent.
const APPEND_MS: u64 = 10_000;
/// How long a promise or a token may take.
const SMALL_MS: u64 = 5_000;
/// A commit that nothing follows is told after this while.
const COMMIT_TOLD: Duration = Duration::from_millis(20);
/// A sign of life at least this often: five fit the time after which a copy counts as silent.
const ALIVE: Duration = Duration::from_millis(1_000);
/// Pauses after failures: from the first to the last, doubled each time. Short, so that a node that returns has copies at once.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_millis(1_500);

/// Why a session with a copy ended.
pub(crate) enum End {
    /// Begin anew after a pause.
    Lost(String),
    /// It counts no more in this term, and is sent nothing more.
    Suspect(String),
    /// A newer master or a newer start of this writer.
    Deposed(Refusal),
    /// The own writer has ended.
    Over,
}

impl From<LinkError> for End {
    fn from(why: LinkError) -> Self {
        End::Lost(why.to_string())
    }
}

/// A token on its way: drawn and recorded at a row, to be given when the row can't be lost.
struct Gift {
    at: Index,
    old: Option<Token>,
    new: Token,
}

/// Looks for a row that writer and copy have in common: back from the last refused one, twice as far each time, without rows.
/// What it has after the row that is found it is sent again, at most as many as were stepped over.
struct Search {
    /// The row before which the rows were refused last.
    refused: Index,
    /// How far the next step goes.
    step: u64,
}

/// One session with one copy.
pub(crate) struct Session<'a, L> {
    pub shared: &'a Shared<L>,
    pub member: Member,
    /// Rows after this one are sent next.
    after: Index,
    /// The commit index it was told.
    told: Index,
    gift: Option<Gift>,
    /// What it showed when the token could not be recorded yet.
    unrecorded: Option<Facts>,
    /// When rows, or none, were sent last.
    sent: tokio::time::Instant,
    /// Up to here it has applied rows: they are committed, so they are the writer's too.
    sure: Index,
    /// It refused rows: what is looked for.
    search: Option<Search>,
    /// Bodies that rows name and that are not here any more.
    pub absent: Vec<Digest>,
}

/// Sends to one copy until `stop`.
pub async fn run<L: Link>(shared: Arc<Shared<L>>, member: Member, stop: CancellationToken) {
    let mut pause = PAUSE_MIN;
    loop {
        let began = tokio::time::Instant::now();
        let end = tokio::select! {
            end = session(&shared, member) => end,
            () = stop.cancelled() => return,
        };
        match end {
            End::Lost(why) => {
                tracing::debug!(log = ?shared.log, node = shared.name(member.node), why, "a copy is not reached");
                shared.note(member, |entry| {
                    entry.why = why;
                    entry.lost(clock::millis());
                });
            }
            End::Suspect(why) => {
                tracing::error!(
                    log = ?shared.log, node = shared.name(member.node), copy = %member.copy_id, why,
                    "a copy is suspect: take it out and add it again as an empty one"
                );
                shared.writer.suspect(member.copy_id, &why);
                shared.note(member, |entry| {
                    // Why it did not answer before tells nothing any more.
                    entry.why.clear();
                    entry.suspect = Some(why);
                });
                return;
            }
            End::Deposed(why) => return shared.depose(member.node, why),
            End::Over => return,
        }
        // A session that lasted was no failure to connect.
        pause = if began.elapsed() > PAUSE_MAX { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn session<L: Link>(shared: &Shared<L>, member: Member) -> End {
    let (after, told, sent) = (Index(0), Index(0), tokio::time::Instant::now());
    let mut session = Session {
        shared,
        member,
        after,
        told,
        gift: None,
        unrecorded: None,
        sent,
        sure: Index(0),
        search: None,
        absent: Vec::new(),
    };
    match session.connect().await {
        Ok(()) => tokio::select! {
            end = session.feed() => end,
            end = settle(shared, member) => end,
        },
        Err(end) => end,
    }
}

/// What a refusal means to a writer that has its term.
fn refused(why: Refusal) -> End {
    match why {
        Refusal::Promised(_) | Refusal::OtherBallot(_) | Refusal::OtherStart(_) => End::Deposed(why),
        Refusal::Broken(_) => End::Suspect(why.to_string()),
        Refusal::Stranger | Refusal::Gap(_) | Refusal::Malformed => End::Lost(why.to_string()),
    }
}

impl<L: Link> Session<'_, L> {
    pub(crate) async fn call<V>(&self, request: V::Request, ms: u64) -> Result<V::Reply, End>
    where
        V: gantry_proto::verb::Verb<Request: Sync>,
    {
        let node = NodeUuid(self.member.node);
        Ok(self.shared.link.call::<V>(node, request, Duration::from_millis(ms)).await?)
    }

    /// Promises, judges, and finds where to go on.
    async fn connect(&mut self) -> Result<(), End> {
        let (log, claim) = (wire::log(self.shared.log), wire::claim(&self.shared.claim));
        let request = PromiseRequest { claims: vec![(log, claim)] };
        let reply = self.call::<noded::CopyPromise>(request, SMALL_MS).await?;
        let Some((_, answer)) = reply.answers.into_iter().next() else {
            return Err(End::Lost("it has no such log".to_owned()));
        };
        let facts = answer.map_err(|why| refused(wire::to_refusal(why)))?;
        if facts.damaged.is_some() && facts.copy_id.is_nil() {
            return Err(End::Suspect(Suspicion::Damaged.to_string()));
        }
        if facts.copy_id != self.member.copy_id {
            return Err(End::Lost(format!("the node holds another copy, {}", facts.copy_id)));
        }
        let last = Index(facts.last.idx);
        self.sure = Index(facts.applied);
        self.record(&facts).await?;
        self.shared.note(self.member, |entry| entry.why.clear());
        // Whether rows that far back are still there is told when they are asked for.
        match feed(last, self.shared.last().next(), Index(0)) {
            Feed::After(idx) => self.after = idx,
            Feed::Snapshot => self.snapshot().await?,
        }
        Ok(())
    }

    /// Draws a token for the copy and records it, unless one was drawn before and not given.
    async fn record(&mut self, facts: &Facts) -> Result<(), End> {
        let shown = heard::shown(facts);
        let confirmed = self.shared.entry(self.member, |entry| entry.matched);
        let mut drawn = [0; 16];
        getrandom::fill(&mut drawn).map_err(|why| End::Lost(why.to_string()))?;
        let record =
            self.shared.record_of(self.member.copy_id).await.map_err(|why| End::Lost(why.chain()))?;
        let asked = connect(&shown, record.as_ref(), confirmed, drawn);
        self.unrecorded = None;
        match asked.map_err(|why| End::Suspect(why.to_string()))? {
            Connect::Give(record) => {
                self.gift = Some(Gift { at: record.at.idx, old: record.old, new: record.new });
            }
            Connect::Record(row) => match self.shared.writer.append_token(&row) {
                Ok(at) => {
                    self.gift = Some(Gift { at, old: row.old, new: row.new });
                }
                // Tried again later.
                Err(StoreError::Full) => self.unrecorded = Some(facts.clone()),
                Err(_) => return Err(End::Over),
            },
        }
        Ok(())
    }

    async fn feed(&mut self) -> End {
        let mut appended = self.shared.writer.appended();
        let mut progress = self.shared.writer.progress();
        let mut rounds = self.shared.rounds();
        loop {
            appended.mark_unchanged();
            progress.mark_unchanged();
            rounds.mark_unchanged();
            match self.step().await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(end) => return end,
            }
            if progress.borrow().failed.is_some() {
                return End::Over;
            }
            let committed = progress.borrow().committed;
            let told = committed <= self.told;
            tokio::select! {
                changed = appended.changed() => if changed.is_err() { return End::Over },
                changed = progress.changed(), if told => if changed.is_err() { return End::Over },
                () = tokio::time::sleep(COMMIT_TOLD), if !told => {
                    if let Err(end) = self.send(true).await { return end }
                }
                changed = rounds.changed() => {
                    if changed.is_err() { return End::Over }
                    if let Err(end) = self.send(true).await { return end }
                }
                () = tokio::time::sleep_until(self.sent + ALIVE) => {
                    if let Err(end) = self.alive().await { return end }
                }
            }
        }
    }

    /// Does what there is to do; false when nothing is left.
    async fn step(&mut self) -> Result<bool, End> {
        if self.give().await? {
            return Ok(true);
        }
        self.send(false).await
    }

    /// A sign of life, and what had to wait.
    async fn alive(&mut self) -> Result<(), End> {
        if let Some(facts) = self.unrecorded.take() {
            self.record(&facts).await?;
        }
        self.send(true).await.map(|_| ())
    }

    /// Gives the token that is on its way, when that is allowed.
    async fn give(&mut self) -> Result<bool, End> {
        let confirmed = self.shared.entry(self.member, |entry| entry.matched);
        let committed = self.shared.writer.progress().borrow().committed;
        let Some(gift) = self.gift.take_if(|gift| may_give(gift.at, confirmed, committed)) else {
            return Ok(false);
        };
        let (log, claim) = (wire::log(self.shared.log), wire::claim(&self.shared.claim));
        let request = TokenRequest { log, claim, old: gift.old, new: gift.new };
        gantry_rt::crash::point(&format!("token-{:?}-to-give", self.shared.log));
        match self.call::<noded::CopyToken>(request, SMALL_MS).await? {
            None => Ok(true),
            Some(why) => Err(refused(wire::to_refusal(why))),
        }
    }

    /// Sends the next rows; none are sent only when `even_none`. Whether anything was sent.
    async fn send(&mut self, even_none: bool) -> Result<bool, End> {
        let (writer, after, searching) = (self.shared.writer.clone(), self.after, self.search.is_some());
        let (bytes, count) = if searching { (1, 1) } else { (APPEND_BYTES_MAX, APPEND_ROWS_MAX) };
        let ship = blocking(move || writer.batch_after(after, bytes, count)).await;
        let (prev, rows, commit) = match ship {
            Ok(Shipment::Rows { prev, commit, .. }) if searching => (prev, Vec::new(), commit),
            Ok(Shipment::Rows { prev, rows, commit }) => (prev, rows, commit),
            // Stepped too far: the first row that is still here may be common.
            Ok(Shipment::Compacted(base)) if self.search.as_ref().is_some_and(|s| base.idx < s.refused) => {
                self.after = base.idx;
                return Ok(true);
            }
            Ok(Shipment::Compacted(_)) => {
                self.snapshot().await?;
                return Ok(true);
            }
            Err(why) => {
                tracing::warn!(log = ?self.shared.log, error = why.chain(), "can't read rows to be sent");
                return Err(End::Lost(why.chain()));
            }
        };
        if rows.is_empty() && !even_none && !searching {
            return Ok(false);
        }
        self.append(prev, rows, commit).await?;
        Ok(true)
    }

    async fn append(&mut self, prev: Position, rows: Vec<Row>, commit: Index) -> Result<(), End> {
        let request = AppendRequest {
            log: wire::log(self.shared.log),
            claim: wire::claim(&self.shared.claim),
            prev: wire::place(prev),
            rows: rows.into_iter().map(wire::row).collect(),
            commit: commit.0,
            absent: self.absent.clone(),
        };
        self.sent = tokio::time::Instant::now();
        let round = self.shared.round();
        match self.call::<noded::CopyAppend>(request, APPEND_MS).await? {
            AppendReply::Matched(matched) => {
                self.shared.answered(self.member, round);
                self.search = None;
                self.after = Index(matched);
                self.told = commit.min(self.after);
                self.shared.matched(self.member, self.after);
                Ok(())
            }
            AppendReply::Bodies(missing) => self.bodies(missing).await,
            AppendReply::Refused(why) => match wire::to_refusal(why) {
                Refusal::Gap(last) => self.step_back(last.idx, prev.idx).await,
                why => Err(refused(why)),
            },
        }
    }

    /// The copy lacks the row before: goes on further back. One that once confirmed more has lost something.
    async fn step_back(&mut self, last: Index, tried: Index) -> Result<(), End> {
        let confirmed = self.shared.entry(self.member, |entry| entry.matched);
        if last < confirmed {
            let text = format!("it ends at row {last}, but has confirmed row {confirmed}");
            return Err(End::Suspect(text));
        }
        let step = self.search.as_ref().map_or(1, |search| search.step);
        self.search = Some(Search { refused: tried, step: step.saturating_mul(2) });
        let next = Index(tried.0.saturating_sub(step - 1));
        let idx = match feed(last, next, Index(0)) {
            Feed::After(idx) => idx,
            Feed::Snapshot if next < tried => Index(0),
            Feed::Snapshot => return self.snapshot().await,
        };
        self.after = if self.sure < tried { idx.max(self.sure) } else { idx };
        Ok(())
    }

    /// Sends a snapshot; the copy goes on after it.
    async fn snapshot(&mut self) -> Result<(), End> {
        let writer = self.shared.writer.clone();
        let _one = self.shared.snapshots.lock().await;
        let file = blocking(move || writer.snapshot()).await.map_err(|why| End::Lost(why.chain()))?;
        let of = SnapshotId { at: wire::place(file.at), bytes: file.bytes, crc: file.crc };
        tracing::info!(
            log = ?self.shared.log, node = self.shared.name(self.member.node), bytes = of.bytes, at = of.at.idx,
            "sends a snapshot"
        );
        let sent = self.send_snapshot(&file.path, of).await;
        let _ = std::fs::remove_file(&file.path);
        sent
    }

    async fn send_snapshot(&mut self, path: &Path, of: SnapshotId) -> Result<(), End> {
        let (mut offset, mut turns) = (0, 0_u64);
        loop {
            let bytes = piece(path.to_owned(), offset).await.map_err(|why| End::Lost(why.to_string()))?;
            // With the last piece it takes the whole over before it answers.
            let last = offset + bytes.len() as u64 >= of.bytes;
            let patience = if last { PIECE_MS } else { SILENT_MS };
            self.shared.takes_snapshot(self.member, Index(of.at.idx), patience);
            let request = SnapshotPutRequest {
                log: wire::log(self.shared.log),
                claim: wire::claim(&self.shared.claim),
                of,
                offset,
                bytes,
            };
            match self.call::<noded::CopySnapshotPut>(request, PIECE_MS).await? {
                SnapshotPutReply::More(next) => offset = next,
                SnapshotPutReply::Refused(why) => return Err(refused(wire::to_refusal(why))),
                SnapshotPutReply::Taken(last) => {
                    // What it has after S may be others' rows: they are found by their terms, from S on.
                    self.after = Index(of.at.idx.min(last.idx));
                    self.search = None;
                    return Ok(());
                }
            }
            turns += 1;
            if turns > turns_max(of.bytes) {
                return Err(End::Lost("it does not take a snapshot whole".to_owned()));
            }
        }
    }
}

impl Entry {
    /// After which row it will be sent rows, if it is alive: what it has, or the end of a snapshot on its way to it. That a copy
    /// takes pieces of one is an answer, though none by which rows can be committed.
    #[must_use]
    pub fn goes_on_after(&self, now: u64) -> Option<Index> {
        if self.suspect.is_some() {
            return None;
        }
        match self.snapshot {
            Some((at, until)) if now <= until => Some(at),
            Some(_) | None => (self.silent_ms(now) <= SILENT_MS).then_some(self.matched),
        }
    }

    /// Its session ended, maybe just after it took a snapshot whole: it has a while to come back.
    fn lost(&mut self, now: u64) {
        self.snapshot = self.snapshot.map(|(at, until)| (at, until.min(now + SILENT_MS)));
    }

    /// How long ago it last answered, ms.
    #[must_use]
    pub fn silent_ms(&self, now: u64) -> u64 {
        now.saturating_sub(self.answered_at)
    }
}
