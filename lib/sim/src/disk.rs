//! What a node has on its disk of one log: the log file, the object files, a snapshot's side file. Each file
//! has what was written and what was flushed; a power cut may leave either.

use gantry_store::core::compact::Base;
use gantry_store::core::copy::{Append, LogView, Plan, Vote};
use gantry_store::core::list::{List, Member};
use gantry_store::core::recover::{Answer, CopyState};
use gantry_store::core::row::{Index, Position, Row, RowKind, Term};
use gantry_store::core::snapshot::Head;
use gantry_store::core::token::{Records, Shown};

/// A file: what was written to it, and what a power cut leaves when that is less.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct File<T> {
    now: T,
    flushed: Option<Box<T>>,
}

impl<T: Clone> File<T> {
    /// A file that is flushed.
    pub fn new(now: T) -> File<T> {
        File { now, flushed: None }
    }

    /// What a reader sees.
    pub fn get(&self) -> &T {
        &self.now
    }

    /// What outlives a power cut for certain.
    pub fn flushed(&self) -> &T {
        self.flushed.as_deref().unwrap_or(&self.now)
    }

    /// Writes in one transaction, not flushed yet.
    pub fn write(&mut self) -> &mut T {
        if self.flushed.is_none() {
            self.flushed = Some(Box::new(self.now.clone()));
        }
        &mut self.now
    }

    /// All written is durable.
    pub fn flush(&mut self) {
        self.flushed = None;
    }

    /// The power goes. A transaction that was not flushed is there whole or not at all.
    pub fn power_cut(&mut self, lucky: bool) {
        if let Some(old) = self.flushed.take()
            && !lucky
        {
            self.now = *old;
        }
    }
}

/// The log file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LogFile {
    /// Its vote.
    pub vote: Vote,
    /// Its base.
    pub base: Base,
    /// Rows after the base.
    pub rows: Vec<Row>,
    /// Records of tokens that compaction moved out of the rows.
    pub table: Records,
}

/// An object file: here simply all rows it has applied.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Objects {
    /// The generation of the base it belongs to.
    pub gen_no: u64,
    /// The rows applied, from the first on.
    pub rows: Vec<Row>,
}

/// A snapshot, on its way or beside the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Side {
    /// What it says of itself.
    pub head: Head,
    /// The generation its take-over sets.
    pub gen_no: u64,
    /// All rows up to S.
    pub rows: Vec<Row>,
    /// Records of tokens up to S.
    pub table: Records,
}

/// A copy of one log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Copy {
    /// The log file.
    pub log: File<LogFile>,
    /// The object files.
    pub objects: Vec<File<Objects>>,
    /// A side file, flushed.
    pub side: Option<Side>,
    /// It has lost what it once confirmed. Nobody in the cluster knows it; the watch does.
    pub lost: bool,
}

/// A log as it is told to others: where its rows begin, and what came before.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Content {
    /// Where `rows` begin.
    pub base: Base,
    /// All rows up to the base.
    pub before: Vec<Row>,
    /// The rows after it.
    pub rows: Vec<Row>,
    /// Records moved out of rows.
    pub table: Records,
}

impl Content {
    /// All rows, whether compacted or not.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &Row> + Clone {
        self.before.iter().chain(&self.rows)
    }

    /// The last row.
    pub fn last(&self) -> Position {
        self.rows.last().map_or(self.base.at, Row::position)
    }
}

/// The row at `idx` among rows that begin after `base`.
pub fn at(base: Index, rows: &[Row], idx: Index) -> Option<&Row> {
    rows.get(usize::try_from(idx.0.checked_sub(base.0 + 1)?).ok()?)
}

/// The newest list among rows, else that of the base, and where it stands.
pub fn newest_list(base: &Base, rows: &[Row]) -> (Index, List) {
    let found = rows.iter().rev().find(|r| r.kind == RowKind::List);
    found.map_or_else(|| (base.at.idx, base.list.clone()), |r| (r.idx, list_of(r)))
}

/// The list in a list row.
pub fn list_of(row: &Row) -> List {
    serde_json::from_slice(&row.body).expect("list rows hold lists")
}

/// The newest record of each copy, of those moved out of rows and those in rows.
pub fn records_of<'a>(table: &Records, rows: impl IntoIterator<Item = &'a Row>) -> Records {
    let mut records = table.clone();
    for row in rows {
        assert!(records.note_row(row), "token rows hold records");
    }
    records
}

impl LogFile {
    /// The last row.
    pub fn last(&self) -> Position {
        self.rows.last().map_or(self.base.at, Row::position)
    }

    /// The row at `idx`, if it is not compacted.
    pub fn at(&self, idx: Index) -> Option<&Row> {
        at(self.base.at.idx, &self.rows, idx)
    }

    /// The newest record of each copy.
    pub fn records(&self) -> Records {
        records_of(&self.table, &self.rows)
    }

    /// Deletes rows from `from` on; they are returned.
    pub fn cut(&mut self, from: Index) -> Vec<Row> {
        let keep = usize::try_from(from.0.saturating_sub(self.base.at.idx.0 + 1)).expect("small");
        self.rows.split_off(keep.min(self.rows.len()))
    }

    /// Writes a row over whatever stands there.
    pub fn put(&mut self, row: Row) {
        let nth = usize::try_from(row.idx.0 - self.base.at.idx.0 - 1).expect("small");
        if nth < self.rows.len() { self.rows[nth] = row } else { self.rows.push(row) }
    }

    /// Carries out a plan; rows it deletes are returned.
    pub fn carry_out(&mut self, plan: &Plan, append: &Append) -> Vec<Row> {
        if let Some(vote) = plan.vote.as_ref().filter(|v| v.promised >= self.vote.promised) {
            self.vote = vote.clone();
        }
        let gone = plan.delete_from.map_or_else(Vec::new, |from| self.cut(from));
        append.rows[plan.skip..].iter().for_each(|row| self.put(row.clone()));
        gone
    }
}

impl Copy {
    /// An empty copy with `files` object files.
    pub fn empty(vote: Vote, list: List, files: usize) -> Copy {
        let base = Base { at: Position::default(), list, gen_no: 0 };
        let log = LogFile { vote, base, rows: Vec::new(), table: Records::default() };
        Copy {
            log: File::new(log),
            objects: vec![File::new(Objects::default()); files],
            side: None,
            lost: false,
        }
    }

    /// What has been applied in all object files.
    pub fn applied_to(&self) -> Index {
        let base = &self.log.get().base;
        let of = |f: &File<Objects>| {
            let objects = f.get();
            if objects.gen_no == base.gen_no { Index(objects.rows.len() as u64) } else { base.at.idx }
        };
        self.objects.iter().map(of).min().unwrap_or_default().max(base.at.idx)
    }

    /// What every object file has flushed.
    pub fn objects_flushed(&self) -> Index {
        let of = |f: &File<Objects>| Index(f.flushed().rows.len() as u64);
        self.objects.iter().map(of).min().unwrap_or_default()
    }

    /// Applies committed rows to every object file.
    pub fn apply(&mut self, commit: Index) {
        let log = self.log.get();
        for file in &mut self.objects {
            if file.get().gen_no != log.base.gen_no {
                continue;
            }
            let mut next = Index(file.get().rows.len() as u64 + 1);
            while next <= commit
                && let Some(row) = log.at(next)
            {
                file.write().rows.push(row.clone());
                next = next.next();
            }
        }
    }

    /// The whole log as it stands.
    pub fn content(&self) -> Content {
        let log = self.log.get();
        let from = self.objects.iter().find(|f| f.get().gen_no == log.base.gen_no);
        let held = match (from, &self.side) {
            (Some(file), _) => &file.get().rows,
            (None, Some(side)) => &side.rows,
            (None, None) => unreachable!("a start has looked"),
        };
        let count = usize::try_from(log.base.at.idx.0).expect("small");
        let before = held[..count].to_vec();
        Content { base: log.base.clone(), before, rows: log.rows.clone(), table: log.table.clone() }
    }

    /// What it shows when it is connected.
    pub fn shown(&self) -> Shown {
        let log = self.log.get();
        Shown { copy_id: log.vote.copy_id, token: log.vote.token, last: log.last().idx, intact: true }
    }

    /// What it answers to a look or with a promise; whoever asked judges whether it is sound.
    pub fn answer(&self, member: Member) -> Answer {
        let log = self.log.get();
        let list = newest_list(&log.base, &log.rows).1;
        Answer { member, last: log.last(), list, commit: self.applied_to(), state: CopyState::Sound }
    }
}

impl LogView for Copy {
    fn base(&self) -> Position {
        self.log.get().base.at
    }
    fn last(&self) -> Position {
        self.log.get().last()
    }
    fn applied(&self) -> Index {
        self.applied_to()
    }
    fn term_at(&self, idx: Index) -> Option<Term> {
        self.log.get().at(idx).map(|r| r.term)
    }
}
