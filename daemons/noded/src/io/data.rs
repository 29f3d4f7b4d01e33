//! `noded.data`: the durable records of this node (P5), an SQLite file with WAL.
//!
//! One thread owns the connection and writes whatever queued up in one transaction; a [`Data`] handle gives
//! it changes and waits. When [`Data::put`] returns, a change outlives what it must ([`Outlive`]): the death of this
//! process, for which it is written, or a power cut, for which it is flushed with all that was written before. Every row carries a
//! crc that is checked when the file is read, which is at start only; afterwards the rows live in memory with their owner. A failing
//! write leaves it unknown what the disk holds, so the daemon must end: [`Data::failed`].
//!
//! Transactions are counted, and `noded.data.flushed` tells how many were flushed: SQLite takes a damaged frame of its WAL for
//! the end of it, and a node that forgets a fence or a floor without a word would obey a master of before.

use crate::core::slot::{Outlive, Record};
use gantry_model::ids::{ClusterUuid, Fence, InstanceUuid, NodeUuid};
use gantry_store::{FlushMark, Flushed, Index, StoreError, Term, forget_flushed};
use rusqlite::{Connection, Transaction, params};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Format of the file; a program refuses files whose `min_reader` is above what it knows.
pub const FORMAT: i64 = 1;
/// Changes that may wait for the writer; more wait in their senders, which are bounded by the verbs in work.
const QUEUE_MAX: usize = 256;
/// Changes in one transaction: bounds how long the first of them waits for its flush.
const GROUP_MAX: usize = 256;

/// What went wrong with the file.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Opening or reading failed.
    #[error("can't read {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// SQLite's word.
        #[source]
        source: rusqlite::Error,
    },
    /// It is not what was written: what this node has seen and made is not known any more.
    #[error(
        "{} is damaged: {what}. Remove it (with its -wal) and role.json, then join this node again: gnt-node add --readd on the \
         master (docs/FAILOVER.md)",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What of it.
        what: String,
    },
    /// What tells how far it was flushed can't be read or removed.
    #[error(transparent)]
    Mark(#[from] StoreError),
    /// A newer program wrote it.
    #[error("{} needs a reader of format {wanted}, this program knows {FORMAT}", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its `min_reader`.
        wanted: i64,
    },
    /// It belongs to another node.
    #[error("{} belongs to node {found}, not to {wanted}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// In the file.
        found: String,
        /// In role.json.
        wanted: String,
    },
    /// The thread could not be started.
    #[error("can't start the writer of noded.data")]
    Thread(#[source] std::io::Error),
    /// A write failed, now or before: the daemon must end.
    #[error("writing noded.data failed: {0}")]
    Failed(String),
}

/// Position of the newest ssconf set written here; a higher epoch wins over any index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SsconfMark {
    /// The master's epoch.
    pub epoch: u64,
    /// W index of the values.
    pub index: u64,
}

/// Something to make durable.
#[derive(Debug, Clone)]
pub enum Change {
    /// A slot's record, and what it must outlive.
    Slot(InstanceUuid, Box<Record>, Outlive),
    /// The node's fence.
    Fence(Fence),
    /// The newest ssconf set.
    Ssconf(SsconfMark),
}

impl Change {
    fn outlives(&self) -> Outlive {
        match self {
            Self::Slot(_, _, outlive) => *outlive,
            Self::Fence(_) | Self::Ssconf(_) => Outlive::Machine,
        }
    }
}

/// All that the file holds.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The fence, once any master claimed this node.
    pub fence: Option<Fence>,
    /// The newest ssconf set.
    pub ssconf: SsconfMark,
    /// Every slot ever seen.
    pub slots: HashMap<InstanceUuid, Record>,
}

struct Write {
    change: Change,
    done: oneshot::Sender<Result<(), String>>,
}

/// Handle of the writer thread, which ends when the last handle is dropped.
#[derive(Debug, Clone)]
pub struct Data {
    queue: mpsc::Sender<Write>,
    failed: CancellationToken,
}

impl std::fmt::Debug for Write {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.change.fmt(f)
    }
}

/// The file of the node whose state directory is `dir`.
#[must_use]
pub fn file(dir: &Path) -> PathBuf {
    dir.join("noded.data")
}

/// Opens (or makes) the file of `node`, reads and checks all of it, and starts the writer. Blocks on the disk.
///
/// # Errors
/// When the file can't be read, is damaged, too new, or another node's.
pub fn open(dir: &Path, cluster: ClusterUuid, node: NodeUuid) -> Result<(Data, Loaded), DataError> {
    let path = file(dir);
    if !path.exists() {
        // Of one that was removed, which is a cure of damage.
        forget_flushed(&path)?;
    }
    let db = Connection::open(&path).map_err(at(&path))?;
    tune(&db).map_err(at(&path))?;
    whole(&db, &path)?;
    make(&db, cluster, node).map_err(at(&path))?;
    check_meta(&db, &path, cluster, node)?;
    let loaded = load(&db, &path)?;
    let count = Count::open(&db, &path)?;
    let (queue, writes) = mpsc::channel(QUEUE_MAX);
    let failed = CancellationToken::new();
    let flag = failed.clone();
    std::thread::Builder::new()
        .name("noded-data".to_owned())
        .spawn(move || write_all(db, count, writes, &flag))
        .map_err(DataError::Thread)?;
    Ok((Data { queue, failed }, loaded))
}

impl Data {
    /// Makes `change` outlive what it must. When this is dropped before its end, the change may still be written.
    ///
    /// # Errors
    /// [`DataError::Failed`]: nothing more can be written and the daemon must end.
    pub async fn put(&self, change: Change) -> Result<(), DataError> {
        let gone = || DataError::Failed("the writer has ended".to_owned());
        let (done, answer) = oneshot::channel();
        self.queue.send(Write { change, done }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?.map_err(DataError::Failed)
    }

    /// Returns once a write has failed.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }
}

/// A failure to read, which may be damage in SQLite's words, or that it finds other tables than ours.
fn at(path: &Path) -> impl Fn(rusqlite::Error) -> DataError {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase, Unknown};
    let path = path.to_owned();
    move |source| match source.sqlite_error_code() {
        Some(DatabaseCorrupt | NotADatabase | Unknown) | None => {
            DataError::Damaged { path: path.clone(), what: source.to_string() }
        }
        Some(_) => DataError::Open { path: path.clone(), source },
    }
}

/// That each page and each row is in its place: a row that is found no more has no crc that could be wrong.
fn whole(db: &Connection, path: &Path) -> Result<(), DataError> {
    let found: String = db.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(at(path))?;
    if found == "ok" {
        return Ok(());
    }
    let first = found.lines().find(|line| !line.starts_with("***")).unwrap_or("").to_owned();
    Err(DataError::Damaged { path: path.to_owned(), what: first })
}

fn tune(db: &Connection) -> rusqlite::Result<()> {
    db.busy_timeout(std::time::Duration::from_secs(5))?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    flush_each(db, true)?;
    // Rows found only in a page cache after a failed flush must not be built upon.
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

/// Whether transactions are flushed when they commit, from the next one on.
fn flush_each(db: &Connection, yes: bool) -> rusqlite::Result<()> {
    db.pragma_update(None, "synchronous", if yes { "FULL" } else { "NORMAL" })
}

fn make(db: &Connection, cluster: ClusterUuid, node: NodeUuid) -> rusqlite::Result<()> {
    db.execute_batch(
        "BEGIN IMMEDIATE;
         CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS node(key TEXT PRIMARY KEY, crc INTEGER NOT NULL, body TEXT NOT NULL)
             WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS slot(key TEXT PRIMARY KEY, crc INTEGER NOT NULL, body TEXT NOT NULL)
             WITHOUT ROWID;
         COMMIT;",
    )?;
    let once = "INSERT OR IGNORE INTO meta(key, value) VALUES (?1, ?2)";
    db.execute(once, params!["format", FORMAT])?;
    db.execute(once, params!["min_reader", FORMAT])?;
    db.execute(once, params!["cluster", cluster.to_string()])?;
    db.execute(once, params!["node", node.to_string()])?;
    db.execute(once, params!["transactions", 0])?;
    Ok(())
}

fn check_meta(db: &Connection, path: &Path, cluster: ClusterUuid, node: NodeUuid) -> Result<(), DataError> {
    let one = "SELECT value FROM meta WHERE key = ?1";
    let wanted: i64 = db.query_row(one, ["min_reader"], |row| row.get(0)).map_err(at(path))?;
    if wanted > FORMAT {
        return Err(DataError::TooNew { path: path.to_owned(), wanted });
    }
    for (key, ours) in [("cluster", cluster.to_string()), ("node", node.to_string())] {
        let found: String = db.query_row(one, [key], |row| row.get(0)).map_err(at(path))?;
        if found != ours {
            return Err(DataError::Foreign { path: path.to_owned(), found, wanted: ours });
        }
    }
    Ok(())
}

fn load(db: &Connection, path: &Path) -> Result<Loaded, DataError> {
    let mut loaded = Loaded::default();
    for (key, body) in rows(db, path, "SELECT key, crc, body FROM node")? {
        let damaged = || no_crc(path, &format!("node/{key}"));
        match key.as_str() {
            "fence" => loaded.fence = Some(serde_json::from_str(&body).map_err(|_| damaged())?),
            "ssconf" => loaded.ssconf = serde_json::from_str(&body).map_err(|_| damaged())?,
            // A later release's row: kept, not read.
            _ => {}
        }
    }
    for (key, body) in rows(db, path, "SELECT key, crc, body FROM slot")? {
        let damaged = || no_crc(path, &format!("slot/{key}"));
        let slot = key.parse().map_err(|_| damaged())?;
        let record = serde_json::from_str(&body).map_err(|_| damaged())?;
        loaded.slots.insert(slot, record);
    }
    Ok(loaded)
}

fn rows(db: &Connection, path: &Path, query: &str) -> Result<Vec<(String, String)>, DataError> {
    let mut select = db.prepare(query).map_err(at(path))?;
    let found = select
        .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, u32>(1)?, row.get::<_, String>(2)?)))
        .map_err(at(path))?;
    let mut rows = Vec::new();
    for row in found {
        let (key, crc, body) = row.map_err(at(path))?;
        if crc != checksum(&key, &body) {
            return Err(no_crc(path, &key));
        }
        rows.push((key, body));
    }
    Ok(rows)
}

fn no_crc(path: &Path, row: &str) -> DataError {
    DataError::Damaged { path: path.to_owned(), what: format!("row {row} does not match its crc") }
}

fn checksum(key: &str, body: &str) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(key.as_bytes());
    crc.update(&[0]);
    crc.update(body.as_bytes());
    crc.finalize()
}

/// The transactions of this file: their number is in it, and beside it that of the last one that was flushed.
struct Count {
    done: u64,
    mark: FlushMark,
}

impl Count {
    /// That all of them are there.
    fn open(db: &Connection, path: &Path) -> Result<Self, DataError> {
        let count = db.query_row("SELECT value FROM meta WHERE key = 'transactions'", [], |row| row.get(0));
        let done: i64 = count.map_err(at(path))?;
        let count = Self { done: done.cast_unsigned(), mark: FlushMark::of(path) };
        match count.mark.read()?.and_then(|flushed| flushed.lost(count.flushed())) {
            Some(what) => Err(DataError::Damaged { path: path.to_owned(), what }),
            None => Ok(count),
        }
    }

    fn flushed(&self) -> Flushed {
        Flushed { promised: Term::default(), last: Index(self.done) }
    }

    /// One transaction more is written; `flushed`: this one and all before it were.
    fn next(&mut self, flushed: bool) {
        self.done += 1;
        if flushed {
            self.mark.note(self.flushed());
        }
    }
}

fn write_all(
    mut db: Connection,
    mut count: Count,
    mut writes: mpsc::Receiver<Write>,
    failed: &CancellationToken,
) {
    let mut group = Vec::new();
    let mut broken: Option<String> = None;
    let mut flushes = true;
    while writes.blocking_recv_many(&mut group, GROUP_MAX) > 0 {
        if broken.is_none() {
            match write_group(&mut db, &group, &mut flushes) {
                Ok(()) => count.next(flushes),
                Err(why) => {
                    broken = Some(why.to_string());
                    failed.cancel();
                }
            }
        }
        for write in group.drain(..) {
            // A caller that went away does not care; the change is written all the same.
            let _ = write.done.send(broken.clone().map_or(Ok(()), Err));
        }
    }
}

/// In one transaction, which is flushed when one of the changes must be. `flushes`: how the connection stands.
fn write_group(db: &mut Connection, group: &[Write], flushes: &mut bool) -> Result<(), rusqlite::Error> {
    let must = group.iter().any(|write| write.change.outlives() == Outlive::Machine);
    if must != *flushes {
        flush_each(db, must)?;
        *flushes = must;
    }
    let transaction = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    for write in group {
        write_one(&transaction, &write.change)?;
    }
    transaction.prepare_cached("UPDATE meta SET value = value + 1 WHERE key = 'transactions'")?.execute([])?;
    transaction.commit()
}

fn write_one(transaction: &Transaction<'_>, change: &Change) -> Result<(), rusqlite::Error> {
    let json = |body: serde_json::Result<String>| body.expect("plain structs have a JSON form");
    let (table, key, body) = match change {
        Change::Slot(slot, record, _) => ("slot", slot.to_string(), json(serde_json::to_string(record))),
        Change::Fence(fence) => ("node", "fence".to_owned(), json(serde_json::to_string(fence))),
        Change::Ssconf(mark) => ("node", "ssconf".to_owned(), json(serde_json::to_string(mark))),
    };
    let crc = checksum(&key, &body);
    let sql = format!("INSERT OR REPLACE INTO {table}(key, crc, body) VALUES (?1, ?2, ?3)");
    transaction.prepare_cached(&sql)?.execute(params![key, crc, body])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::slot::State;
    use gantry_model::ids::Generation;
    use uuid::Uuid;

    const CLUSTER: ClusterUuid = ClusterUuid(Uuid::from_u128(1));
    const NODE: NodeUuid = NodeUuid(Uuid::from_u128(2));

    fn record(generation: u64) -> Record {
        Record {
            floor: Generation(generation),
            generation: Generation(generation),
            state: State::Live,
            driver: "fake".into(),
            ..Record::default()
        }
    }

    #[tokio::test]
    async fn what_was_put_is_read_back() {
        let dir = tempfile::tempdir().expect("dir");
        let fence = Fence { epoch: 4, ballot: [9; 16] };
        let mark = SsconfMark { epoch: 4, index: 77 };
        let slot = |n| InstanceUuid(Uuid::from_u128(n));
        {
            let (data, loaded) = open(dir.path(), CLUSTER, NODE).expect("opens");
            assert!(loaded.fence.is_none() && loaded.slots.is_empty());
            data.put(Change::Fence(fence)).await.expect("put");
            data.put(Change::Ssconf(mark)).await.expect("put");
            data.put(Change::Slot(slot(1), Box::new(record(1)), Outlive::Machine)).await.expect("put");
            data.put(Change::Slot(slot(1), Box::new(record(2)), Outlive::Process)).await.expect("put");
        }
        let (_, loaded) = open(dir.path(), CLUSTER, NODE).expect("opens");
        assert_eq!((loaded.fence, loaded.ssconf), (Some(fence), mark));
        assert_eq!(loaded.slots, HashMap::from([(slot(1), record(2))]));
    }

    #[tokio::test]
    async fn damage_is_noticed() {
        let dir = tempfile::tempdir().expect("dir");
        let (data, _) = open(dir.path(), CLUSTER, NODE).expect("opens");
        let slot = InstanceUuid(Uuid::from_u128(1));
        data.put(Change::Slot(slot, Box::new(record(7)), Outlive::Machine)).await.expect("put");
        drop(data);
        let db = Connection::open(file(dir.path())).expect("opens");
        db.busy_timeout(std::time::Duration::from_secs(5)).expect("set");
        db.execute("UPDATE slot SET body = replace(body, '7', '6')", []).expect("updated");
        let refused = open(dir.path(), CLUSTER, NODE).expect_err("damaged");
        assert!(matches!(refused, DataError::Damaged { .. }), "{refused}");
    }

    /// Whatever bit of the file changes: what was written is read, or the file is refused by its name.
    #[tokio::test]
    async fn a_flipped_bit_hides_no_row() {
        let dir = tempfile::tempdir().expect("dir");
        let slot = |n| InstanceUuid(Uuid::from_u128(n));
        let (data, _) = open(dir.path(), CLUSTER, NODE).expect("opens");
        data.put(Change::Fence(Fence { epoch: 4, ballot: [9; 16] })).await.expect("put");
        for n in 0..40 {
            data.put(Change::Slot(slot(n), Box::new(record(7)), Outlive::Machine)).await.expect("put");
        }
        drop(data);
        let db = Connection::open(file(dir.path())).expect("opens");
        db.busy_timeout(std::time::Duration::from_secs(5)).expect("set");
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("all in the file");
        drop(db);
        let whole = std::fs::read(file(dir.path())).expect("read");
        let fresh = |bytes: &[u8]| {
            let dir = tempfile::tempdir().expect("dir");
            std::fs::write(file(dir.path()), bytes).expect("written");
            (open(dir.path(), CLUSTER, NODE).map(|(_, loaded)| loaded), dir)
        };
        let (there, _dir) = fresh(&whole);
        let there = there.expect("whole");
        let (mut refused, mut tried) = (0, 0);
        // Heads and pointers of pages, and some of what is in them.
        for place in (0..whole.len()).filter(|at| at % 4096 < 150 && at % 2 == 0 || at % 211 == 0) {
            let mut bytes = whole.clone();
            bytes[place] ^= 1 << (place % 7);
            let (found, _dir) = fresh(&bytes);
            tried += 1;
            match found {
                Ok(found) => {
                    assert_eq!((found.fence, &found.slots), (there.fence, &there.slots), "byte {place}");
                }
                Err(why) => {
                    refused += 1;
                    assert!(why.to_string().contains("noded.data"), "byte {place}: {why}");
                }
            }
        }
        assert!(refused * 5 > tried, "{refused} of {tried}");
    }

    /// Copies of a file whose writer was killed: with all of its WAL, and with a bit of that changed.
    #[tokio::test]
    async fn a_flipped_bit_of_the_wal_loses_no_transaction() {
        let dir = tempfile::tempdir().expect("dir");
        let slot = InstanceUuid(Uuid::from_u128(1));
        let (data, _) = open(dir.path(), CLUSTER, NODE).expect("opens");
        data.put(Change::Fence(Fence { epoch: 4, ballot: [9; 16] })).await.expect("put");
        for n in 1..=6 {
            data.put(Change::Slot(slot, Box::new(record(n)), Outlive::Machine)).await.expect("put");
        }
        let names = ["noded.data", "noded.data-wal", "noded.data.flushed"];
        let files = names.map(|name| std::fs::read(dir.path().join(name)).expect("read"));
        let copy = |wal: Option<&[u8]>| {
            let dir = tempfile::tempdir().expect("dir");
            for (name, bytes) in names.iter().zip([Some(&files[0][..]), wal, Some(&files[2][..])]) {
                bytes
                    .into_iter()
                    .for_each(|bytes| std::fs::write(dir.path().join(name), bytes).expect("put"));
            }
            (open(dir.path(), CLUSTER, NODE).map(|(_, loaded)| loaded), dir)
        };
        let (whole, _dir) = copy(Some(&files[1]));
        assert_eq!(whole.expect("whole").slots, HashMap::from([(slot, record(6))]));
        let damaged = |found: Result<Loaded, DataError>, what: &str| {
            let why = found.expect_err(what).to_string();
            assert!(why.contains("noded.data is damaged") && why.contains("--readd"), "{what}: {why}");
        };
        damaged(copy(None).0, "no WAL");
        damaged(copy(Some(&files[1][..files[1].len() / 2])).0, "half a WAL");
        for place in (0..files[1].len()).step_by(977) {
            let mut bytes = files[1].clone();
            bytes[place] ^= 1 << (place % 7);
            damaged(copy(Some(&bytes)).0, &format!("byte {place}"));
        }
    }

    /// What need not outlive the machine is written and not flushed; with the next that must, it is.
    #[tokio::test]
    async fn only_what_must_outlive_the_machine_is_flushed() {
        let dir = tempfile::tempdir().expect("dir");
        let slot = InstanceUuid(Uuid::from_u128(1));
        let (data, _) = open(dir.path(), CLUSTER, NODE).expect("opens");
        let put = async |n, outlive| {
            data.put(Change::Slot(slot, Box::new(record(n)), outlive)).await.expect("put");
            let mark = FlushMark::of(&file(dir.path())).read().expect("read");
            mark.map_or(0, |flushed| flushed.last.0)
        };
        assert_eq!(put(1, Outlive::Machine).await, 1);
        assert_eq!(put(2, Outlive::Process).await, 1);
        assert_eq!(put(3, Outlive::Process).await, 1);
        assert_eq!(put(4, Outlive::Machine).await, 4);
        assert_eq!(put(5, Outlive::Process).await, 4);
        // As after a SIGKILL: what was written is there, with no end of the writer.
        let killed = tempfile::tempdir().expect("dir");
        for name in ["noded.data", "noded.data-wal", "noded.data.flushed"] {
            std::fs::copy(dir.path().join(name), killed.path().join(name)).expect("copied");
        }
        let (_, loaded) = open(killed.path(), CLUSTER, NODE).expect("opens");
        assert_eq!(loaded.slots, HashMap::from([(slot, record(5))]));
    }

    /// What the documents advise against damage.
    #[tokio::test]
    async fn a_removed_file_is_made_anew() {
        let dir = tempfile::tempdir().expect("dir");
        let (data, _) = open(dir.path(), CLUSTER, NODE).expect("opens");
        data.put(Change::Fence(Fence { epoch: 4, ballot: [9; 16] })).await.expect("put");
        drop(data);
        for name in ["noded.data", "noded.data-wal"] {
            let _ = std::fs::remove_file(dir.path().join(name));
        }
        let (data, loaded) = open(dir.path(), CLUSTER, NODE).expect("opens");
        assert_eq!(loaded.fence, None);
        drop(data);
    }

    #[tokio::test]
    async fn files_of_others_and_of_the_future_are_refused() {
        let dir = tempfile::tempdir().expect("dir");
        drop(open(dir.path(), CLUSTER, NODE).expect("opens"));
        let other = NodeUuid(Uuid::from_u128(3));
        assert!(matches!(open(dir.path(), CLUSTER, other), Err(DataError::Foreign { .. })));
        let db = Connection::open(file(dir.path())).expect("opens");
        db.execute("UPDATE meta SET value = 9 WHERE key = 'min_reader'", []).expect("updated");
        assert!(matches!(open(dir.path(), CLUSTER, NODE), Err(DataError::TooNew { wanted: 9, .. })));
    }
}
