//! The file of a snapshot: a head, the objects, an end that counts them. Every part carries its crc, so that a
//! file cut short or changed on its way is never taken over.
//!
//! ```text
//!  part = length (u32) | tag + payload | crc32 of tag and payload (u32)          numbers little-endian
//!  file = part 'h' {JSON} , part 'o' {object}… , part 'e' {count (u64)}
//! ```

use super::aside::io;
use super::files::LogKind;
use super::log;
use super::look::SnapshotFile;
use super::objects;
use super::sql::{Db, damaged};
use super::whole;
use crate::core::compact::Base;
use crate::core::list::List;
use crate::core::row::{Index, Object, Position};
use crate::core::token::{Records, Token, TokenRecord};
use crate::error::StoreError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

/// The longest part: an object's body comes from a batch of at most 3 MiB, a head is far below.
const PART_BYTES_MAX: u32 = 4 * 1024 * 1024;
/// How often a moment is looked for in which all object files stand at the same row, while a writer works.
const TRIES_MAX: u32 = 200;
/// And how long between.
const TRY_EVERY: Duration = Duration::from_millis(5);

/// What a snapshot says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    format: u64,
    log: String,
    /// The cluster.
    pub cluster: Uuid,
    /// The history.
    pub history: Uuid,
    /// The last row the objects hold.
    pub at: Position,
    /// The list in force there.
    pub list: List,
    tokens: Vec<TokenJson>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TokenJson {
    copy_id: Uuid,
    old: Option<Token>,
    new: Token,
    at: Position,
}

/// The format of snapshots; it goes with the log's.
const FORMAT: u64 = 2;

impl Head {
    /// The records of tokens at that row.
    pub fn records(&self) -> Records {
        let mut records = Records::default();
        for t in &self.tokens {
            records.note(t.copy_id, TokenRecord { old: t.old, new: t.new, at: t.at });
        }
        records
    }
}

/// Writes a snapshot of what is applied in `dir` as `dir/name`, through connections of its own; flushed when
/// this returns. Fails with [`StoreError::Unsteady`] when a writer is so busy that its files never agree.
pub fn write(dir: &Path, log: LogKind, name: &str) -> Result<SnapshotFile, StoreError> {
    for _ in 0..TRIES_MAX {
        if let Some(done) = try_write(dir, log, name)? {
            return Ok(done);
        }
        std::thread::sleep(TRY_EVERY);
    }
    Err(StoreError::Unsteady)
}

fn try_write(dir: &Path, kind: LogKind, name: &str) -> Result<Option<SnapshotFile>, StoreError> {
    let spec = kind.log_file();
    let Some(moment) = Moment::open(dir, kind)? else { return Ok(None) };
    let log = &moment.dbs[0].conn;
    let Some(at) = log::position(log, spec.name, &moment.base, moment.applied)? else { return Ok(None) };
    moment.write(&dir.join(name), at, &BTreeMap::new()).map(Some)
}

/// One moment of all files of a log, for as long as it is kept.
pub(super) struct Moment {
    kind: LogKind,
    /// The log's file is the first.
    pub(super) dbs: Vec<Db>,
    pub(super) base: Base,
    /// Up to here rows are applied to all its objects.
    pub(super) applied: Index,
}

/// What rows beyond the applied ones make of objects: (kind, key) to its revision and body; no body: it is gone.
pub(super) type Overlay = BTreeMap<(String, String), (u64, Option<Vec<u8>>)>;

impl Moment {
    /// None when the object files do not stand at one row just now.
    pub(super) fn open(dir: &Path, kind: LogKind) -> Result<Option<Self>, StoreError> {
        let spec = kind.log_file();
        let specs = std::iter::once(spec).chain(kind.projections());
        let dbs = specs.map(|s| Db::open_read(s, &s.path(dir))).collect::<Result<Vec<_>, _>>()?;
        let mut marks = Vec::new();
        for db in &dbs {
            // A read transaction sees one moment of its file from its first read on.
            db.conn.execute_batch("BEGIN").map_err(super::sql::failed(db.spec.name, "begin to read"))?;
            if db.spec.objects {
                marks.push(objects::applied(&db.conn, &db.spec)?);
            }
        }
        let base = log::base(&dbs[0].conn, spec.name)?;
        let mark = marks.first().copied().filter(|m| marks.iter().all(|o| o == m));
        Ok(mark.map(|mark| Self { kind, dbs, base, applied: mark.idx }))
    }

    /// Writes the objects as `path`; flushed when this returns. `at` is the row they stand at with `overlay`.
    pub(super) fn write(
        &self,
        path: &Path,
        at: Position,
        overlay: &Overlay,
    ) -> Result<SnapshotFile, StoreError> {
        let head = head(&self.dbs[0].conn, self.kind, &self.base, at)?;
        let mut temp = path.as_os_str().to_owned();
        temp.push(".new");
        let temp = PathBuf::from(temp);
        let (bytes, crc) = fill(&temp, &head, &self.dbs, overlay)?;
        std::fs::rename(&temp, path).map_err(io("rename", path))?;
        Ok(SnapshotFile { path: path.to_owned(), bytes, at, crc })
    }
}

fn head(log: &rusqlite::Connection, kind: LogKind, base: &Base, at: Position) -> Result<Head, StoreError> {
    let file = kind.log_file().name;
    let vote = log::vote(log, file)?;
    let lists = log::rows_of(log, file, crate::core::row::RowKind::List, at.idx)?;
    let list = match lists.last() {
        Some(row) => serde_json::from_slice(&row.body).map_err(|_| damaged(file, "a row holds no list"))?,
        None => base.list.clone(),
    };
    let mut records = log::tokens(log, file, at.idx)?;
    records.prune(&list);
    let json = |(copy_id, r): (&Uuid, &TokenRecord)| TokenJson {
        copy_id: *copy_id,
        old: r.old,
        new: r.new,
        at: r.at,
    };
    Ok(Head {
        format: FORMAT,
        log: format!("{kind:?}"),
        cluster: vote.cluster,
        history: vote.history,
        at,
        list,
        tokens: records.iter().map(json).collect(),
    })
}

fn fill(path: &Path, head: &Head, dbs: &[Db], overlay: &Overlay) -> Result<(u64, u32), StoreError> {
    // It holds what the files it is made of hold.
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(path).map_err(io("make", path))?;
    let mut out = Out { file: BufWriter::new(file), bytes: 0, crc: crc32fast::Hasher::new() };
    let err = |e| io("write", path)(e);
    out.part(b'h', &serde_json::to_vec(head).expect("a head is plain data")).map_err(err)?;
    let mut count: u64 = 0;
    for db in dbs.iter().filter(|db| db.spec.objects) {
        // What is lost here must not be lost wherever this goes.
        whole::objects(db)?;
        objects::each(&db.conn, &db.spec, |object| {
            if !overlay.is_empty() && overlay.contains_key(&(object.kind.clone(), object.key.clone())) {
                return Ok(());
            }
            count += 1;
            out.part(b'o', &encode(&object)).map_err(|e| io("write", path)(e))
        })?;
    }
    for ((kind, key), (rev, body)) in overlay {
        let Some(body) = body else { continue };
        let object = Object { kind: kind.clone(), key: key.clone(), rev: *rev, body: body.clone() };
        count += 1;
        out.part(b'o', &encode(&object)).map_err(|e| io("write", path)(e))?;
    }
    out.part(b'e', &count.to_le_bytes()).map_err(|e| io("write", path)(e))?;
    let file = out.file.into_inner().map_err(|e| io("write", path)(e.into_error()))?;
    file.sync_all().map_err(io("flush", path))?;
    Ok((out.bytes, out.crc.finalize()))
}

struct Out {
    file: BufWriter<File>,
    bytes: u64,
    crc: crc32fast::Hasher,
}

impl Out {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.bytes += bytes.len() as u64;
        self.crc.update(bytes);
        self.file.write_all(bytes)
    }

    fn part(&mut self, tag: u8, payload: &[u8]) -> std::io::Result<()> {
        let length = u32::try_from(payload.len() + 1).ok().filter(|n| *n <= PART_BYTES_MAX);
        let length = length.ok_or(std::io::ErrorKind::InvalidData)?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&[tag]);
        crc.update(payload);
        self.put(&length.to_le_bytes())?;
        self.put(&[tag])?;
        self.put(payload)?;
        self.put(&crc.finalize().to_le_bytes())
    }
}

fn encode(object: &Object) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(object.body.len() + object.key.len() + object.kind.len() + 16);
    for name in [&object.kind, &object.key] {
        // Names are at most 512 bytes (`KEY_BYTES_MAX`).
        bytes.extend_from_slice(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
        bytes.extend_from_slice(name.as_bytes());
    }
    bytes.extend_from_slice(&object.rev.to_le_bytes());
    bytes.extend_from_slice(&object.body);
    bytes
}

fn decode(bytes: &[u8]) -> Option<Object> {
    let (kind, rest) = name(bytes)?;
    let (key, rest) = name(rest)?;
    let (rev, body) = rest.split_at_checked(8)?;
    Some(Object { kind, key, rev: u64::from_le_bytes(rev.try_into().ok()?), body: body.to_vec() })
}

fn name(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (length, rest) = bytes.split_at_checked(2)?;
    let (name, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(length.try_into().ok()?)))?;
    Some((String::from_utf8(name.to_vec()).ok()?, rest))
}

/// Reads a snapshot's head and hands each object to `each`; an error unless the whole is intact.
pub fn read(
    path: &Path,
    log: LogKind,
    mut each: impl FnMut(Object) -> Result<(), StoreError>,
) -> Result<Head, StoreError> {
    let bad = |what: &str| damaged("snapshot", what);
    let mut file = BufReader::new(File::open(path).map_err(io("open", path))?);
    let (tag, payload) = part(&mut file, path)?;
    let head: Head = serde_json::from_slice(&payload).map_err(|_| bad("its head is unreadable"))?;
    if tag != b'h' || head.format != FORMAT || head.log != format!("{log:?}") {
        return Err(bad("it is of another log or format"));
    }
    let mut count: u64 = 0;
    loop {
        let (tag, payload) = part(&mut file, path)?;
        match tag {
            b'o' => each(decode(&payload).ok_or_else(|| bad("an object is unreadable"))?)?,
            b'e' if payload == count.to_le_bytes() => break,
            _ => return Err(bad("its count of objects is wrong")),
        }
        count += 1;
    }
    match file.read(&mut [0]).map_err(io("read", path))? {
        0 => Ok(head),
        _ => Err(bad("there is more after its end")),
    }
}

fn part(file: &mut impl Read, path: &Path) -> Result<(u8, Vec<u8>), StoreError> {
    let mut four = [0; 4];
    let mut fill = |bytes: &mut [u8]| {
        file.read_exact(bytes).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => damaged("snapshot", "it is cut short"),
            _ => io("read", path)(e),
        })
    };
    fill(&mut four)?;
    let length = u32::from_le_bytes(four);
    if length == 0 || length > PART_BYTES_MAX {
        return Err(damaged("snapshot", "a part has no possible length"));
    }
    let mut bytes = vec![0; length as usize];
    fill(&mut bytes)?;
    fill(&mut four)?;
    if crc32fast::hash(&bytes) != u32::from_le_bytes(four) {
        return Err(damaged("snapshot", "a part has a wrong crc"));
    }
    let tag = bytes.remove(0);
    Ok((tag, bytes))
}

/// The name of the file a copy writes its snapshots to, and that of a writer.
pub fn names(log: LogKind) -> (&'static str, &'static str) {
    match log {
        LogKind::W => ("wconf.snapshot", "wconf.feed"),
        LogKind::Q => ("queue.snapshot", "queue.feed"),
    }
}
