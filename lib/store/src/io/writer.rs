//! The one thread that writes a log. It takes everything that queued while its last flush ran, writes it in
//! one transaction, and never waits for more. What the senders to other copies need is in [`super::feed`].
//!
//! Callers meet it in the queue (bounded by number and bytes) and in [`Progress`]. Indices are given out
//! under the queue's lock, so the order of indices, of the queue and of the log are one.

use super::feed::{Counted, Ring};
use super::files::{LOCKS_DATA, LogKind};
use super::turn::{Done, Files, Op, Work};
use crate::core::copy::Claim;
use crate::core::row::{Batch, Index, KEY_BYTES_MAX, Row, RowKind};
use crate::error::StoreError;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::watch;
use uuid::Uuid;

/// The most bytes of bodies the queue holds. A writer that is this far behind is not going to catch up in
/// the time a caller waits.
pub const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The longest body of a local row, in bytes.
pub const LOCAL_BYTES_MAX: usize = 1024 * 1024;

/// The number of a call of [`Writer::local`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct LocalSeq(pub u64);

/// A change of one local row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalChange {
    /// The row.
    pub key: String,
    /// Its new text (JSON by custom, UTF-8 by need). `None` deletes it.
    pub body: Option<Vec<u8>>,
}

/// A local row as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalRow {
    /// Its key.
    pub key: String,
    /// Its text.
    pub body: Vec<u8>,
}

/// How far the writer has come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// All batches up to here are committed (flushed by a majority of the copies, this one among them) and
    /// applied.
    pub committed: Index,
    /// All local changes up to here are written (not flushed: they outlive the process, not the machine).
    pub local: LocalSeq,
    /// Set once when the writer has stopped after a failure, with the reason. Nothing changes after that.
    pub failed: Option<String>,
}

/// What the writer has done since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Batches committed.
    pub batches: u64,
    /// Transactions of the log, one flush each. Fewer than the batches when they came faster than flushes.
    pub transactions: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Mode {
    Open,
    /// Finish what is queued, then end.
    Draining,
    /// Ended after a failure.
    Failed(String),
    /// Ended on purpose.
    Ended,
}

pub struct Queue {
    mode: Mode,
    ops: VecDeque<Op>,
    bytes: usize,
    /// Taken by the thread, waiting to be committed: number and bytes. They count towards the bounds.
    pending: (usize, usize),
    pub next: Index,
    local: LocalSeq,
    /// Who is silent, while no majority answers.
    pub silent: Option<String>,
    /// What other copies have flushed since the thread last looked.
    pub confirms: BTreeMap<Uuid, Index>,
    pub suspects: Vec<Uuid>,
    pub compact: Option<Index>,
    /// Recent rows for the senders.
    pub ring: Ring,
    /// As in `progress`. Here too, so that nobody holds the queue while it waits for `progress`, which a
    /// reader may hold while it waits for the queue.
    pub committed: Index,
}

pub struct Shared {
    pub log: LogKind,
    pub dir: PathBuf,
    pub claim: Claim,
    most: usize,
    queue: Mutex<Queue>,
    /// What is known of the copies.
    pub counted: Mutex<Counted>,
    /// The last index given out.
    pub appended: watch::Sender<Index>,
    /// Who is silent while no majority answers, for who waits.
    pub quorum: watch::Sender<Option<String>>,
    /// Something was queued, or the mode changed.
    pub wake: Condvar,
    /// `progress` changed.
    moved: Condvar,
    progress: watch::Sender<Progress>,
    stats: Mutex<Stats>,
}

impl Queue {
    fn works(&self) -> bool {
        let told = !self.confirms.is_empty() || !self.suspects.is_empty() || self.compact.is_some();
        told || !self.ops.is_empty()
    }
}

impl Shared {
    pub fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues what `make` makes under the queue's lock.
    pub fn push<T>(
        &self,
        make: impl FnOnce(&mut Queue) -> Result<(T, Op), StoreError>,
    ) -> Result<T, StoreError> {
        let mut queue = self.queue();
        match &queue.mode {
            Mode::Open => {}
            Mode::Failed(reason) => return Err(StoreError::Failed { reason: reason.clone() }),
            Mode::Draining | Mode::Ended => return Err(StoreError::Stopped),
        }
        let (number, bytes) = queue.pending;
        if queue.ops.len() + number >= self.most || queue.bytes + bytes >= QUEUE_BYTES_MAX {
            return Err(StoreError::Full);
        }
        let (answer, op) = make(&mut queue)?;
        if let Op::Append { row, .. } = &op {
            queue.ring.push(row);
            if self.appended.receiver_count() > 0 {
                self.appended.send_replace(row.idx);
            }
        }
        queue.bytes += op.bytes();
        queue.ops.push_back(op);
        self.wake.notify_one();
        Ok(answer)
    }

    /// Waits for work. `None` when the writer shall end.
    fn take(&self) -> Option<Work> {
        let mut queue = self.queue();
        loop {
            if let Mode::Failed(_) = queue.mode {
                return None;
            }
            if queue.works() {
                break;
            }
            if queue.mode != Mode::Open {
                return None;
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        // What the thread takes counts as pending until the turn says what of it still is.
        queue.pending = (queue.pending.0 + queue.ops.len(), queue.pending.1 + queue.bytes);
        queue.bytes = 0;
        Some(Work {
            ops: std::mem::take(&mut queue.ops),
            confirms: std::mem::take(&mut queue.confirms).into_iter().collect(),
            suspects: std::mem::take(&mut queue.suspects),
            compact: queue.compact.take(),
        })
    }

    fn set_mode(&self, from: &[Mode], to: Mode) {
        let mut queue = self.queue();
        if from.contains(&queue.mode) {
            queue.mode = to;
        }
        drop(queue);
        self.wake.notify_all();
        self.moved.notify_all();
    }

    /// Ends the writer for good.
    pub fn fail(&self, reason: String) {
        tracing::error!(log = ?self.log, reason, "the store has stopped");
        self.progress.send_modify(|p| {
            p.failed.get_or_insert_with(|| reason.clone());
        });
        self.set_mode(&[Mode::Open, Mode::Draining], Mode::Failed(reason));
    }
}

/// The handle of the thread. The last one dropped lets it drain and end.
pub struct Handle {
    pub shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.set_mode(&[Mode::Open], Mode::Draining);
    }
}

/// The way to change a log. Clones share one queue.
#[derive(Clone)]
pub struct Writer(pub(super) Arc<Handle>);

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("log", &self.0.shared.log).finish_non_exhaustive()
    }
}

impl Writer {
    /// Queues a batch and returns the index it will have. Never blocks on the disk. The batch is durable
    /// when [`Writer::progress`] has come to that index, and not before.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::NoMajority`]: nothing queued, ask later. [`StoreError::Batch`]: it
    /// can never be queued. [`StoreError::Failed`], [`StoreError::Stopped`]: no more writes.
    pub fn append(&self, batch: Batch) -> Result<Index, StoreError> {
        let body = batch.encode()?;
        let shared = &self.0.shared;
        shared.push(|queue| {
            if let Some(silent) = &queue.silent {
                return Err(StoreError::NoMajority { silent: silent.clone() });
            }
            let idx = queue.next;
            queue.next = idx.next();
            Ok((
                idx,
                Op::Append { row: Row { idx, term: shared.claim.term, kind: RowKind::Batch, body }, batch },
            ))
        })
    }

    /// Queues changes of local rows: never part of the log, written but not flushed. They are written after
    /// every batch queued before them is committed.
    ///
    /// # Errors
    /// As [`Writer::append`]; [`StoreError::NoLocal`] for Q, [`StoreError::LocalRow`] for a bad row.
    pub fn local(&self, changes: Vec<LocalChange>) -> Result<LocalSeq, StoreError> {
        let shared = &self.0.shared;
        if !shared.log.projections().contains(&LOCKS_DATA) {
            return Err(StoreError::NoLocal);
        }
        if let Some(bad) = changes.iter().find(|c| !acceptable(c)) {
            return Err(StoreError::LocalRow { key: bad.key.clone() });
        }
        shared.push(|queue| {
            queue.local = LocalSeq(queue.local.0 + 1);
            Ok((queue.local, Op::Local { seq: queue.local, changes }))
        })
    }

    /// How far the writer has come, to be awaited.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.0.shared.progress.subscribe()
    }

    /// Blocks the calling thread until `idx` is committed. For programs without a runtime; a daemon awaits
    /// [`Writer::progress`].
    ///
    /// # Errors
    /// The writer ended before.
    pub fn wait(&self, idx: Index) -> Result<(), StoreError> {
        let shared = &self.0.shared;
        let mut queue = shared.queue();
        while queue.committed < idx {
            match &queue.mode {
                Mode::Failed(reason) => return Err(StoreError::Failed { reason: reason.clone() }),
                Mode::Ended => return Err(StoreError::Stopped),
                Mode::Open | Mode::Draining => {}
            }
            queue = shared.moved.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// What was done since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        *self.0.shared.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what is queued, checkpoints the files and ends the thread; blocks until then. Other clones
    /// are refused from now on.
    pub fn stop(self) {
        self.0.shared.set_mode(&[Mode::Open], Mode::Draining);
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|t| t.join().is_err()) {
            tracing::error!(log = ?self.0.shared.log, "the thread of the store panicked");
        }
    }
}

fn acceptable(change: &LocalChange) -> bool {
    let text = |body: &Vec<u8>| body.len() <= LOCAL_BYTES_MAX && std::str::from_utf8(body).is_ok();
    let key = &change.key;
    !key.is_empty() && key.len() <= KEY_BYTES_MAX && change.body.as_ref().is_none_or(text)
}

/// Starts the thread. `most` is the most batches and local changes the queue holds.
pub fn spawn(log: LogKind, files: Files, most: usize) -> Result<Writer, std::io::Error> {
    let committed = files.applied.unwrap_or_default();
    let queue = Queue {
        mode: Mode::Open,
        ops: VecDeque::new(),
        bytes: 0,
        pending: (0, 0),
        next: files.last.idx.next(),
        local: LocalSeq(0),
        silent: None,
        confirms: BTreeMap::new(),
        suspects: Vec::new(),
        compact: None,
        ring: Ring::new(files.last),
        committed,
    };
    let shared = Arc::new(Shared {
        log,
        dir: files.dir.clone(),
        claim: files.claim,
        most,
        queue: Mutex::new(queue),
        counted: Mutex::new(Counted::new(files.copy_id, files.last.idx, files.tally.newest().clone())),
        appended: watch::Sender::new(files.last.idx),
        quorum: watch::Sender::new(None),
        wake: Condvar::new(),
        moved: Condvar::new(),
        progress: watch::Sender::new(Progress { committed, ..Progress::default() }),
        stats: Mutex::new(Stats::default()),
    });
    let theirs = Arc::clone(&shared);
    let thread =
        std::thread::Builder::new().name(format!("store-{log:?}")).spawn(move || run(&theirs, files))?;
    Ok(Writer(Arc::new(Handle { shared, thread: Mutex::new(Some(thread)) })))
}

/// Whatever ends the thread, its users learn that it has ended.
struct Ending<'a>(&'a Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("the thread of the store panicked".to_owned());
        }
        self.0.set_mode(&[Mode::Open, Mode::Draining], Mode::Ended);
    }
}

fn run(shared: &Shared, mut files: Files) {
    let _ending = Ending(shared);
    if files.applied.is_none() {
        // A log led by more than one: its first row may be committed by this copy alone already.
        match files.turn(Work::default()) {
            Ok(done) => show(shared, &done, 0),
            Err(e) => return shared.fail(e.chain()),
        }
    }
    while let Some(work) = shared.take() {
        let batches = work.ops.iter().filter(|op| matches!(op, Op::Append { .. })).count() as u64;
        match files.turn(work) {
            Ok(done) => show(shared, &done, batches),
            Err(e) => return shared.fail(e.chain()),
        }
    }
    if let Err(e) = files.close() {
        shared.fail(e.chain());
    }
}

fn show(shared: &Shared, done: &Done, batches: u64) {
    {
        let mut stats = shared.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.batches += batches;
        stats.transactions += u64::from(batches > 0);
    }
    shared.counted.lock().unwrap_or_else(PoisonError::into_inner).flushed(done.flushed);
    if done.committed.is_some() || done.local.is_some() {
        shared.progress.send_modify(|p| {
            p.committed = done.committed.unwrap_or(p.committed);
            p.local = done.local.unwrap_or(p.local);
        });
    }
    let mut queue = shared.queue();
    queue.pending = done.pending;
    queue.ring.flushed(done.flushed);
    if let Some(committed) = done.committed {
        queue.committed = committed;
        drop(queue);
        shared.moved.notify_all();
    }
}
