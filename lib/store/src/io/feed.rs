//! The writer's side towards the senders that feed other copies: recent rows, what each copy has confirmed,
//! whether a majority answers. Decides nothing; the count is made on the writer's thread.

use super::admit::some_rows;
use super::log;
use super::look::SnapshotFile;
use super::snapshot;
use super::sql::Db;
use super::turn::Op;
use super::writer::Writer;
use crate::core::copy::Claim;
use crate::core::list::List;
use crate::core::row::{Batch, Index, Position, Row, RowKind, Term};
use crate::core::token::{Records, TokenRow};
use crate::error::StoreError;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{MutexGuard, PoisonError};
use tokio::sync::watch;
use uuid::Uuid;

/// Rows kept in memory for the senders; a copy further behind is fed from the file.
const RING_ROWS: usize = 20_000;
/// And bytes of their bodies.
const RING_BYTES: usize = 16 * 1024 * 1024;

/// Rows for one copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shipment {
    /// These, to stand directly after `prev`; none when the copy has all.
    Rows {
        /// The row before.
        prev: Position,
        /// The rows.
        rows: Vec<Row>,
        /// What is committed.
        commit: Index,
    },
    /// The copy lacks rows that are compacted away up to here: send a snapshot.
    Compacted(Position),
}

/// What a writer knows of one copy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CopyView {
    /// It has flushed rows up to here in this term.
    pub confirmed: Index,
    /// Why it counts no more.
    pub suspect: Option<String>,
}

/// What is known of all copies, for those who ask.
#[derive(Debug)]
pub struct Counted {
    me: Uuid,
    copies: BTreeMap<Uuid, CopyView>,
    list: (Index, List),
}

impl Counted {
    /// The own copy has flushed `last`.
    pub fn new(me: Uuid, last: Index, list: (Index, List)) -> Counted {
        let mut counted = Counted { me, copies: BTreeMap::new(), list };
        counted.flushed(last);
        counted
    }

    /// The own copy has flushed this far.
    pub fn flushed(&mut self, idx: Index) {
        self.copies.entry(self.me).or_default().confirmed = idx;
    }
}

/// The last rows appended, flushed or not.
#[derive(Debug)]
pub struct Ring {
    /// The row before the first of `rows`.
    before: Position,
    rows: VecDeque<Row>,
    bytes: usize,
    flushed: Index,
    /// Nobody asks for rows of a log with one copy, so none are kept until somebody does.
    asked: bool,
    last: Position,
}

impl Ring {
    /// Empty, after `last`, which is flushed.
    pub fn new(last: Position) -> Ring {
        Ring { before: last, rows: VecDeque::new(), bytes: 0, flushed: last.idx, asked: false, last }
    }

    /// A row was appended.
    pub fn push(&mut self, row: &Row) {
        self.last = row.position();
        if !self.asked {
            self.before = self.last;
            return;
        }
        self.bytes += row.body.len();
        self.rows.push_back(row.clone());
        self.shrink();
    }

    /// Rows up to here can be read from the file; only they may be forgotten.
    pub fn flushed(&mut self, idx: Index) {
        self.flushed = idx;
        self.shrink();
    }

    fn shrink(&mut self) {
        while (self.rows.len() > RING_ROWS || self.bytes > RING_BYTES)
            && let Some(first) = self.rows.front().filter(|r| r.idx <= self.flushed)
        {
            self.before = first.position();
            self.bytes -= first.body.len();
            self.rows.pop_front();
        }
    }

    /// Rows after `after` and the place they stand behind, when the ring goes back that far.
    fn after(&self, after: Index, bytes_max: usize, rows_max: usize) -> Option<(Position, Vec<Row>)> {
        let skip = usize::try_from(after.0.checked_sub(self.before.idx.0)?).ok()?;
        let prev = match skip.checked_sub(1) {
            None => self.before,
            Some(nth) => self.rows.get(nth)?.position(),
        };
        let (mut found, mut held) = (Vec::new(), 0);
        for row in self.rows.iter().skip(skip).take(rows_max) {
            held += row.body.len();
            if held > bytes_max && !found.is_empty() {
                break;
            }
            found.push(row.clone());
        }
        Some((prev, found))
    }
}

impl Writer {
    /// The claim that every message to a copy carries.
    #[must_use]
    pub fn claim(&self) -> Claim {
        self.0.shared.claim
    }

    /// Appends a list that [`List::follow`] made; it counts from now on. Not refused for want of a majority:
    /// taking a silent member out may be what brings one back (P2.6).
    ///
    /// # Errors
    /// As [`Writer::append`], but for [`StoreError::NoMajority`] and [`StoreError::Batch`].
    pub fn append_list(&self, list: List) -> Result<Index, StoreError> {
        let body = serde_json::to_vec(&list).expect("a list is plain data");
        let idx = self.append_row(RowKind::List, body)?;
        let mut counted = self.counted();
        if idx > counted.list.0 {
            counted.list = (idx, list);
        }
        Ok(idx)
    }

    /// Appends the record of a token (P1.11).
    ///
    /// # Errors
    /// As [`Writer::append_list`].
    pub fn append_token(&self, token: &TokenRow) -> Result<Index, StoreError> {
        self.append_row(RowKind::Token, token.encode())
    }

    fn append_row(&self, kind: RowKind, body: Vec<u8>) -> Result<Index, StoreError> {
        let shared = &self.0.shared;
        shared.push(|queue| {
            let idx = queue.next;
            queue.next = idx.next();
            let row = Row { idx, term: shared.claim.term, kind, body };
            Ok((idx, Op::Append { row, batch: Batch::default() }))
        })
    }

    /// Rows after `after`, also those that are not flushed here yet (P1.3), at most `rows_max` of them and
    /// `bytes_max` of bodies unless the first alone is longer. Old ones are read from the file: blocks then.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn batch_after(
        &self,
        after: Index,
        bytes_max: usize,
        rows_max: usize,
    ) -> Result<Shipment, StoreError> {
        let shared = &self.0.shared;
        let commit = {
            let mut queue = shared.queue();
            queue.ring.asked = true;
            let after = after.min(queue.ring.last.idx);
            if let Some((prev, rows)) = queue.ring.after(after, bytes_max, rows_max) {
                return Ok(Shipment::Rows { prev, rows, commit: queue.committed });
            }
            queue.committed
        };
        let spec = shared.log.log_file();
        let db = Db::open_read(spec, &spec.path(&shared.dir))?;
        db.conn.execute_batch("BEGIN").map_err(super::sql::failed(spec.name, "begin to read"))?;
        let base = log::base(&db.conn, spec.name)?;
        let at = if after < base.at.idx { None } else { log::position(&db.conn, spec.name, &base, after)? };
        let Some(prev) = at else {
            let last = log::last(&db.conn, spec.name, &base)?;
            let waits = Shipment::Rows { prev: last, rows: Vec::new(), commit };
            return Ok(if after < base.at.idx { Shipment::Compacted(base.at) } else { waits });
        };
        let rows = some_rows(&db.conn, spec.name, after, rows_max as u64, bytes_max)?;
        Ok(Shipment::Rows { prev, rows, commit })
    }

    /// The last index given out, to be awaited.
    #[must_use]
    pub fn appended(&self) -> watch::Receiver<Index> {
        let shared = &self.0.shared;
        let queue = shared.queue();
        let receiver = shared.appended.subscribe();
        let last = Index(queue.next.0 - 1);
        // Who only looks must not wake the senders.
        shared.appended.send_if_modified(|known| std::mem::replace(known, last) != last);
        receiver
    }

    /// A copy says that it has flushed all rows of this writer up to `idx`, under `term`. Another term's answer
    /// says nothing.
    pub fn confirm(&self, copy_id: Uuid, term: Term, idx: Index) {
        let shared = &self.0.shared;
        if copy_id == self.counted().me {
            return;
        }
        let mut queue = shared.queue();
        if term != shared.claim.term || idx >= queue.next {
            return;
        }
        let known = queue.confirms.entry(copy_id).or_default();
        *known = idx.max(*known);
        drop(queue);
        shared.wake.notify_one();
        let mut counted = self.counted();
        let view = counted.copies.entry(copy_id).or_default();
        view.confirmed = idx.max(view.confirmed);
    }

    /// A copy is not to be believed (P1.11): it counts no more in this writer's term, whatever it says later.
    pub fn suspect(&self, copy_id: Uuid, why: &str) {
        let shared = &self.0.shared;
        let mut counted = self.counted();
        let view = counted.copies.entry(copy_id).or_default();
        if view.suspect.is_some() {
            return;
        }
        view.suspect = Some(why.to_owned());
        drop(counted);
        shared.queue().suspects.push(copy_id);
        shared.wake.notify_one();
    }

    /// Whether a majority of the newest list answers; else who is silent. Batches are refused meanwhile, before
    /// they are queued (P1.6); what was queued waits.
    pub fn set_quorum(&self, quorum: Result<(), String>) {
        let silent = quorum.err();
        self.0.shared.queue().silent.clone_from(&silent);
        self.0.shared.quorum.send_replace(silent);
    }

    /// Who is silent while no majority answers, to be awaited; None: a majority does.
    #[must_use]
    pub fn quorum(&self) -> watch::Receiver<Option<String>> {
        self.0.shared.quorum.subscribe()
    }

    /// What is known of each copy that has confirmed something or was found suspect, the own one among them.
    #[must_use]
    pub fn members(&self) -> BTreeMap<Uuid, CopyView> {
        self.counted().copies.clone()
    }

    /// The newest list and its row.
    #[must_use]
    pub fn list(&self) -> (Index, List) {
        self.counted().list.clone()
    }

    /// The newest token record of each copy, as the own log has it. Blocks on the disk.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn tokens(&self) -> Result<Records, StoreError> {
        let shared = &self.0.shared;
        let spec = shared.log.log_file();
        let db = Db::open_read(spec, &spec.path(&shared.dir))?;
        db.conn.execute_batch("BEGIN").map_err(super::sql::failed(spec.name, "begin to read"))?;
        log::tokens(&db.conn, spec.name, Index(i64::MAX as u64))
    }

    /// A newer writer was heard of (P1.9): ends this one, as a refusal by its own copy would.
    pub fn depose(&self, why: &str) {
        self.0.shared.fail(why.to_owned());
    }

    /// Lets the thread forget rows that neither the objects nor a copy which has confirmed `slowest` needs, if
    /// that is worth it.
    pub fn compact(&self, slowest: Index) {
        let shared = &self.0.shared;
        shared.queue().compact = Some(slowest);
        shared.wake.notify_one();
    }

    /// Writes a snapshot of what is applied, for a copy that is far behind. Blocks. The next one takes its
    /// file's place.
    ///
    /// # Errors
    /// The files cannot be read or written; [`StoreError::Unsteady`]: ask again.
    pub fn snapshot(&self) -> Result<SnapshotFile, StoreError> {
        let shared = &self.0.shared;
        snapshot::write(&shared.dir, shared.log, snapshot::names(shared.log).1)
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.0.shared.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
