//! The open files of one copy, and what both a copy that follows and a writer about to lead do with them.

use super::admit::{self, some_rows};
use super::files::LogKind;
use super::flushed::Flushed;
use super::log;
use super::look::{Bodies, Fetched, Look, SnapshotFile};
use super::objects::{self, Applied};
use super::snapshot;
use super::sql::{Db, damaged, failed};
use super::{aside, create, install, whole};
use crate::core::Rules;
use crate::core::compact::Base;
use crate::core::copy::{Claim, Refusal, Vote, promise};
use crate::core::list::List;
use crate::core::row::{Batch, Digest, Index, Position, Row, RowKind};
use crate::core::token::{Records, Token, accept};
use crate::error::StoreError;
use std::path::{Path, PathBuf};

/// Rows applied in one transaction.
const APPLY_ROWS: u64 = 1_000;
/// And their bytes: memory held meanwhile.
const APPLY_BYTES: usize = 16 * 1024 * 1024;
/// Rows handed out at once.
const FETCH_ROWS: u64 = 5_000;

/// The files of one copy.
#[derive(Debug)]
pub struct Disk {
    /// Where they are.
    pub dir: PathBuf,
    /// Which log.
    pub kind: LogKind,
    /// The rules in force.
    pub rules: Rules,
    /// The log.
    pub log: Db,
    /// The files of objects beside it.
    pub projections: Vec<Db>,
}

impl Disk {
    /// Opens the files; `None` when there is no log. Checkpoints all of them first, so that nothing is said that
    /// rests on a page cache only (P1.4), checks their pages, makes missing projections while the log has all rows, and carries on
    /// a snapshot that was being taken over.
    pub fn open(dir: &Path, kind: LogKind, rules: Rules) -> Result<Option<Disk>, StoreError> {
        let Some(log) = open_log(dir, kind)? else { return Ok(None) };
        let file = log.spec.name;
        whole::all(&log)?;
        has_what_was_flushed(&log)?;
        let (vote, base) = (log::vote(&log.conn, file)?, log::base(&log.conn, file)?);
        let projections = open_projections(dir, kind, &vote, &base)?;
        projections.iter().try_for_each(whole::all)?;
        let mut disk = Disk { dir: dir.to_owned(), kind, rules, log, projections };
        install::carry(&mut disk, &base)?;
        Ok(Some(disk))
    }

    /// The files that hold objects.
    pub fn object_files(&mut self) -> impl Iterator<Item = &mut Db> {
        std::iter::once(&mut self.log).chain(&mut self.projections).filter(|db| db.spec.objects)
    }

    /// Up to here rows are applied to all objects.
    pub fn applied(&self) -> Result<Index, StoreError> {
        install::least(std::iter::once(&self.log).chain(&self.projections))
    }

    /// Up to here rows are applied to some objects: they may never be replaced.
    fn touched(&self) -> Result<Index, StoreError> {
        let mut most = Index(0);
        for db in std::iter::once(&self.log).chain(&self.projections).filter(|db| db.spec.objects) {
            most = most.max(objects::applied(&db.conn, &db.spec)?.idx);
        }
        Ok(most)
    }

    /// That no file was removed or replaced since they were opened: what is confirmed is in them.
    pub fn in_place(&self) -> Result<(), StoreError> {
        std::iter::once(&self.log).chain(&self.projections).try_for_each(Db::in_place)
    }

    /// The base.
    pub fn base(&self) -> Result<Base, StoreError> {
        log::base(&self.log.conn, self.log.spec.name)
    }

    /// The last row.
    pub fn last(&self) -> Result<Position, StoreError> {
        log::last(&self.log.conn, self.log.spec.name, &self.base()?)
    }

    /// What the copy says of itself; what is damaged is told, not failed on, as long as the vote is readable.
    pub fn look(&self) -> Result<Look, StoreError> {
        let vote = log::vote(&self.log.conn, self.log.spec.name)?;
        match self.in_place().and_then(|()| self.facts(vote.clone())) {
            Err(e) if e.is_damage() => Ok(damaged_look(vote, e.chain())),
            other => other,
        }
    }

    fn facts(&self, vote: Vote) -> Result<Look, StoreError> {
        let (conn, file) = (&self.log.conn, self.log.spec.name);
        let base = self.base()?;
        let (last, list) = (self.last()?, log::newest_list(conn, file, &base)?);
        let tokens = log::tokens(conn, file, last.idx)?;
        Ok(Look { vote, base: base.at, last, list, applied: self.applied()?, tokens, damaged: None })
    }

    /// Checks all rows, objects and local rows.
    pub fn verify(&self) -> Result<(), StoreError> {
        let base = self.base()?;
        log::verify(&self.log.conn, self.log.spec.name, &base)?;
        for db in std::iter::once(&self.log).chain(&self.projections).filter(|db| db.spec.objects) {
            objects::each(&db.conn, &db.spec, |_| Ok(()))?;
        }
        // Of no use to a copy that follows, but they would stop it from leading.
        for db in self.projections.iter().filter(|db| db.spec.local) {
            objects::load_local(&db.conn, &db.spec)?;
        }
        self.not_ahead()
    }

    /// Checks that no object file has applied rows that the log does not have.
    pub fn not_ahead(&self) -> Result<(), StoreError> {
        let last = self.last()?.idx;
        for db in std::iter::once(&self.log).chain(&self.projections).filter(|db| db.spec.objects) {
            let applied = objects::applied(&db.conn, &db.spec)?.idx;
            if applied > last {
                return Err(StoreError::Ahead { file: db.spec.name, applied, last });
            }
        }
        Ok(())
    }

    /// Promises, in one transaction; flushed when this returns.
    pub fn promise(&mut self, claim: &Claim) -> Result<Result<Look, Refusal>, StoreError> {
        match admit::give_promise(&mut self.log, claim, self.rules) {
            Err(StoreError::Refused { why, .. }) => Ok(Err(why)),
            Err(e) => Err(e),
            Ok(_) => self.look().map(Ok),
        }
    }

    /// Takes rows, in one transaction; flushed when this returns.
    pub fn append(
        &mut self,
        append: &crate::core::copy::Append,
    ) -> Result<Result<Index, Refusal>, StoreError> {
        let touched = self.touched()?;
        match admit::append(&mut self.log, &self.dir, append, touched, self.rules, |_, _| Ok(())) {
            Err(StoreError::Refused { why, .. }) => Ok(Err(why)),
            Err(e) => Err(e),
            Ok(matched) => Ok(Ok(matched)),
        }
    }

    /// Puts what was spooled after `after`.
    pub fn adopt(&mut self, claim: &Claim, after: Position) -> Result<Position, StoreError> {
        let touched = self.touched()?;
        admit::adopt(&mut self.log, &self.dir, claim, after, touched, self.rules)
    }

    /// Whether `claim` is what this copy has promised last: what it is asked for is its to have.
    fn stands(&self, claim: &Claim) -> Result<Result<Vote, Refusal>, StoreError> {
        let vote = log::vote(&self.log.conn, self.log.spec.name)?;
        Ok(match promise(&vote, claim, self.rules) {
            Ok(raised) if raised != vote => Err(Refusal::Promised(vote.promised)),
            other => other,
        })
    }

    /// Rows after `after`, for a recovering writer to whom this copy has promised (P1.7d).
    pub fn fetch(
        &mut self,
        claim: &Claim,
        after: Position,
        bytes_max: usize,
    ) -> Result<Result<Fetched, Refusal>, StoreError> {
        if let Err(why) = self.stands(claim)? {
            return Ok(Err(why));
        }
        let (conn, file) = (&self.log.conn, self.log.spec.name);
        let base = self.base()?;
        if after.idx < base.at.idx {
            return Ok(Ok(Fetched::Compacted(base.at)));
        }
        if log::position(conn, file, &base, after.idx)? != Some(after) {
            return Ok(Ok(Fetched::Diverged));
        }
        some_rows(conn, file, after.idx, FETCH_ROWS, bytes_max).map(|rows| Ok(Fetched::Rows(rows)))
    }

    /// Stores a token if it is the next one (P1.11).
    pub fn set_token(
        &mut self,
        claim: &Claim,
        old: Option<Token>,
        new: Token,
    ) -> Result<Result<(), Refusal>, StoreError> {
        let file = self.log.spec.name;
        let tx = self.log.begin()?;
        let vote = match promise(&log::vote(&tx, file)?, claim, self.rules) {
            Ok(vote) => vote,
            Err(why) => return Ok(Err(why)),
        };
        if let Some(token) = accept(vote.token, old, new) {
            log::put_vote(&tx, file, &Vote { token: Some(token), ..vote })?;
            tx.commit().map_err(failed(file, "commit"))?;
        }
        Ok(Ok(()))
    }

    /// Writes a snapshot for a recovering writer to whom this copy has promised.
    pub fn snapshot_out(&mut self, claim: &Claim) -> Result<Result<SnapshotFile, Refusal>, StoreError> {
        if let Err(why) = self.stands(claim)? {
            return Ok(Err(why));
        }
        snapshot::write(&self.dir, self.kind, snapshot::names(self.kind).0).map(Ok)
    }

    /// Applies committed rows to the objects, not flushed: they can be applied again. Bodies that the rows drop
    /// are removed first, so that a crash between does it again.
    pub fn apply_to(&mut self, commit: Index, bodies: Option<&dyn Bodies>) -> Result<(), StoreError> {
        let (vote, base) = (log::vote(&self.log.conn, self.log.spec.name)?, self.base()?);
        let from = self.applied()?;
        if let Some(bodies) = bodies.filter(|_| from < commit) {
            self.drop_bodies(from, commit, bodies)?;
        }
        let own = self.log.spec.objects;
        let places: Vec<Option<usize>> =
            if own { vec![None] } else { (0..self.projections.len()).map(Some).collect() };
        for place in places {
            while self.apply_some(place, commit, &vote, &base)? < commit {}
        }
        Ok(())
    }

    fn apply_some(
        &mut self,
        place: Option<usize>,
        commit: Index,
        vote: &Vote,
        base: &Base,
    ) -> Result<Index, StoreError> {
        let spec = place.map_or(self.log.spec, |n| self.projections[n].spec);
        let file = self.log.spec.name;
        let db = place.map_or(&self.log, |n| &self.projections[n]);
        let seen = objects::applied(&db.conn, &spec)?;
        if seen.history != vote.history || seen.gen_no != base.gen_no {
            return Err(damaged(spec.name, "it belongs to another history or generation"));
        }
        if seen.idx >= commit {
            return Ok(seen.idx);
        }
        let limit = APPLY_ROWS.min(commit.0 - seen.idx.0);
        let rows = log::rows(&self.log.conn, file, seen.idx, limit, APPLY_BYTES)?;
        let end =
            rows.last().map(|r| r.idx).ok_or_else(|| damaged(file, "rows to be applied are missing"))?;
        let mark = Applied { idx: end, ..seen };
        let db = place.map_or(&mut self.log, |n| &mut self.projections[n]);
        db.unflushed(|db| {
            let tx = db.begin()?;
            // Another process of this node may have applied meanwhile; what it did is not done twice.
            let now = objects::applied(&tx, &spec)?;
            if now != seen {
                return Ok(now.idx);
            }
            objects::replay(&tx, &spec, &rows, &mark)?;
            tx.commit().map_err(failed(spec.name, "commit"))?;
            Ok(end)
        })
    }

    /// Removes the bodies that rows in (from, to] drop, but for those that a later row names.
    fn drop_bodies(&self, from: Index, to: Index, bodies: &dyn Bodies) -> Result<(), StoreError> {
        let (conn, file) = (&self.log.conn, self.log.spec.name);
        let mut dropped: Vec<(Index, Digest)> = Vec::new();
        let mut at = from;
        loop {
            let rows = log::rows(conn, file, at, APPLY_ROWS, APPLY_BYTES)?;
            let Some(end) = rows.last() else { break };
            at = end.idx;
            for row in rows.iter().filter(|r| r.kind == RowKind::Batch) {
                let batch = Batch::decode(&row.body)?;
                // The digests a row names take back what an earlier one dropped, committed or not.
                dropped.retain(|(_, d)| !batch.bodies.contains(d));
                if row.idx <= to {
                    dropped.extend(batch.dropped.iter().map(|d| (row.idx, *d)));
                }
            }
            if at >= to && dropped.is_empty() {
                break;
            }
        }
        let gone: Vec<Digest> = dropped.into_iter().map(|(_, d)| d).collect();
        if gone.is_empty() {
            return Ok(());
        }
        bodies.remove(&gone).map_err(aside::io("remove bodies beside", &self.dir))
    }
}

/// The look of a copy of which only the vote can be read.
pub fn damaged_look(vote: Vote, why: String) -> Look {
    let list = (Index(0), List { n: 0, prev: 0, members: Vec::new() });
    let (base, last) = (Position::default(), Position::default());
    Look { vote, base, last, list, applied: Index(0), tokens: Records::default(), damaged: Some(why) }
}

/// Opens and checkpoints the log file.
pub fn open_log(dir: &Path, kind: LogKind) -> Result<Option<Db>, StoreError> {
    let spec = kind.log_file();
    let path = spec.path(dir);
    if !path.try_exists().map_err(aside::io("look for", &path))? {
        return Ok(None);
    }
    let log = Db::open(spec, &path)?;
    log.checkpoint()?;
    Ok(Some(log))
}

/// Compares a log with what was said of it when it was flushed. The mark is read first: what is flushed meanwhile is in the log. A
/// writer that lets rows go meanwhile has said so before, so the mark is read once more.
fn has_what_was_flushed(log: &Db) -> Result<(), StoreError> {
    let (conn, file) = (&log.conn, log.spec.name);
    let mut before = log.mark.read()?;
    loop {
        let (vote, base) = (log::vote(conn, file)?, log::base(conn, file)?);
        let now = Flushed { promised: vote.promised, last: log::last(conn, file, &base)?.idx };
        let Some(what) = before.and_then(|before| before.lost(now)) else { return Ok(()) };
        let again = log.mark.read()?;
        if again == before {
            return Err(damaged(file, what));
        }
        before = again;
    }
}

fn open_projections(dir: &Path, kind: LogKind, vote: &Vote, base: &Base) -> Result<Vec<Db>, StoreError> {
    let open = |spec| {
        let spec: &super::files::FileSpec = spec;
        let path = spec.path(dir);
        if !path.try_exists().map_err(aside::io("look for", &path))? {
            if base.at.idx > Index(0) {
                return Err(StoreError::Missing { path });
            }
            tracing::warn!(file = spec.name, local = spec.local, "missing; made again from the log");
            create::create_projection(dir, spec, vote.history)?;
        }
        let db = Db::open(spec, &path)?;
        db.checkpoint()?;
        Ok(db)
    };
    kind.projections().iter().map(open).collect()
}

/// The bodies that rows name.
pub fn named(rows: &[Row]) -> Result<Vec<Digest>, StoreError> {
    let mut all = Vec::new();
    for row in rows.iter().filter(|r| r.kind == RowKind::Batch) {
        all.extend(Batch::decode(&row.body)?.bodies);
    }
    Ok(all)
}
