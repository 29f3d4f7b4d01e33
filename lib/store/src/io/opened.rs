//! A log that is opened to be led: the steps of a recovery with other members (P1.7). Who reaches them, and in
//! which order, is for the caller; each step that writes is one transaction that reads the vote.
//!
//! ```text
//!  open ─▶ look ─▶ claim ─▶ promise ─▶ (others promise; the best is chosen)
//!       ─▶ fetch its rows after `last`, or after `sure` when it says diverged ─▶ spool… ─▶ adopt
//!       ─▶ lead ─▶ (the senders feed, copies confirm) ─▶ loaded: serve
//! ```

use super::disk::Disk;
use super::files::LogKind;
use super::look::Look;
use super::objects;
use super::sql::Db;
use super::start::{StartOptions, Started, replay};
use super::turn::{Files, Waiting};
use super::writer::{LocalRow, Writer};
use super::{admit, aside, install, lock, log, writer};
use crate::core::commit::Tally;
use crate::core::copy::{Append, Claim, Refusal, Vote};
use crate::core::list::Member;
use crate::core::recover::next_run;
use crate::core::row::{Index, Object, Position, Row, RowKind, Term};
use crate::error::StoreError;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// A log whose writer lock is held, not led yet.
#[derive(Debug)]
pub struct Opened {
    disk: Disk,
    lock: lock::WriterLock,
    opts: StartOptions,
}

/// A log that is led, but not to be served from until its first row is committed.
#[derive(Debug)]
pub struct Lead {
    writer: Writer,
    dir: PathBuf,
    log: LogKind,
    vote: Vote,
    members: Vec<Member>,
    first: Index,
}

impl Opened {
    /// Takes the writer lock, checkpoints the files, makes missing projections, carries on a snapshot. All rows of the log
    /// are checked (objects are when they are loaded), as a copy that follows checks its own: a writer whose log is damaged would confirm what it has lost.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Busy`], [`StoreError::Cluster`], [`StoreError::Damaged`].
    pub fn open(dir: &Path, opts: StartOptions) -> Result<Opened, StoreError> {
        let path = opts.log.log_file().path(dir);
        let missing = || StoreError::Missing { path: path.clone() };
        if !path.try_exists().map_err(aside::io("look for", &path))? {
            return Err(missing());
        }
        let lock = lock::take(dir, opts.log)?;
        let disk = Disk::open(dir, opts.log, opts.rules)?.ok_or_else(missing)?;
        let found = log::vote(&disk.log.conn, disk.log.spec.name)?.cluster;
        if let Some(wanted) = opts.cluster.filter(|wanted| *wanted != found) {
            return Err(StoreError::Cluster { found, wanted });
        }
        admit::clear_spool(&disk.log)?;
        sound(&disk)?;
        Ok(Opened { disk, lock, opts })
    }

    /// What the own copy says.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn look(&self) -> Result<Look, StoreError> {
        self.disk.look()
    }

    /// This copy, as the newest list in its log names it.
    ///
    /// # Errors
    /// [`StoreError::NotMember`].
    pub fn me(&self) -> Result<Member, StoreError> {
        let file = self.disk.log.spec.name;
        let copy_id = log::vote(&self.disk.log.conn, file)?.copy_id;
        let (_, list) = log::newest_list(&self.disk.log.conn, file, &self.disk.base()?)?;
        list.members.into_iter().find(|m| m.copy_id == copy_id).ok_or(StoreError::NotMember)
    }

    /// The claim of this start: the own epoch and ballot, the run after the highest heard of, a fresh nonce.
    /// Not promised yet; asked again it is another one.
    ///
    /// # Errors
    /// The own copy cannot be read.
    pub fn claim(&self, heard: &[Term]) -> Result<Claim, StoreError> {
        let vote = log::vote(&self.disk.log.conn, self.disk.log.spec.name)?;
        let own = [vote.promised, self.disk.last()?.term];
        let heard = heard.iter().copied().chain(own);
        let term = next_run(vote.promised.epoch, heard, self.opts.rules);
        let nonce = Uuid::new_v4().into_bytes();
        Ok(Claim { cluster: vote.cluster, history: vote.history, term, ballot: vote.ballot, nonce })
    }

    /// Promises `claim` in the own copy; flushed when this returns.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn promise(&mut self, claim: &Claim) -> Result<Result<Look, Refusal>, StoreError> {
        self.disk.promise(claim)
    }

    /// The last own row that is surely in the best log too: what is applied is committed. Fetch from here when
    /// the best copy has another row where the own log ends.
    ///
    /// # Errors
    /// The own copy cannot be read.
    pub fn sure(&self) -> Result<Position, StoreError> {
        let (base, file) = (self.disk.base()?, self.disk.log.spec.name);
        let applied = self.disk.applied()?.max(base.at.idx);
        Ok(log::position(&self.disk.log.conn, file, &base, applied)?.unwrap_or(base.at))
    }

    /// Keeps fetched rows for [`Opened::adopt`], in the order of the log, in pieces as they come. Only a
    /// temporary table holds them: a crash forgets them.
    ///
    /// # Errors
    /// They cannot be kept.
    pub fn spool(&mut self, rows: &[Row]) -> Result<(), StoreError> {
        admit::spool(&mut self.disk.log, rows)
    }

    /// Forgets what was spooled: the copy fetched from has gone, another one is asked from the beginning.
    ///
    /// # Errors
    /// The table cannot be written.
    pub fn unspool(&mut self) -> Result<(), StoreError> {
        admit::clear_spool(&self.disk.log)
    }

    /// Puts the spooled rows after row `after`, terms unchanged, in one transaction. Own rows that the best log
    /// does not have go aside: all of the best log must be spooled before, up to its end. Answers the new end.
    ///
    /// # Errors
    /// [`StoreError::Refused`]: the own copy has promised more, or the rows do not fit.
    pub fn adopt(&mut self, claim: &Claim, after: Position) -> Result<Position, StoreError> {
        self.disk.adopt(claim, after)
    }

    /// Takes a snapshot of the best copy over; the rows after it are fetched, spooled and adopted next.
    ///
    /// # Errors
    /// As [`super::copy::Copy::snapshot_in`]; [`StoreError::Refused`].
    pub fn adopt_snapshot(&mut self, claim: &Claim, path: &Path) -> Result<Position, StoreError> {
        install::install(&mut self.disk, claim, path)?
            .map_err(|why| StoreError::Refused { term: claim.term, why })
    }

    /// Appends the empty row of the new term (flushed when this returns) and starts the writer's thread.
    ///
    /// # Errors
    /// The own copy refuses `claim`, or its newest list does not name it.
    pub fn lead(self, claim: &Claim) -> Result<Lead, StoreError> {
        let me = self.me()?;
        self.disk.not_ahead()?;
        let (disk, file) = (self.disk, self.opts.log.log_file().name);
        let (base, last, applied) = (disk.base()?, disk.last()?, disk.applied()?);
        let newest = log::newest_list(&disk.log.conn, file, &base)?;
        let vote = log::vote(&disk.log.conn, file)?;
        let members = newest.1.members.clone();
        let first = last.idx.next();
        let mut files = Files {
            dir: disk.dir.clone(),
            log: disk.log,
            projections: disk.projections,
            claim: *claim,
            rules: disk.rules,
            history: vote.history,
            gen_no: base.gen_no,
            copy_id: me.copy_id,
            last,
            tally: Tally::new(me, claim.term, first, newest, applied, disk.rules),
            applied: None,
            pending: Waiting::default(),
            lock: self.lock,
        };
        begin_term(&mut files)?;
        if files.tally.serving() {
            let committed = files.tally.committed();
            replay(&mut files, committed)?;
            files.applied = Some(committed);
        }
        let (dir, log) = (disk.dir, disk.kind);
        let writer =
            writer::spawn(log, files, self.opts.queue).map_err(aside::io("start the writer of", &dir))?;
        Ok(Lead { writer, dir, log, vote, members, first })
    }
}

/// That the log is what was written. Alone, a log goes on without rows that were applied long ago: nobody else has them,
/// and none that is still needed passes [`replay`] damaged.
fn sound(disk: &Disk) -> Result<(), StoreError> {
    let (conn, file, base) = (&disk.log.conn, disk.log.spec.name, disk.base()?);
    let Err(error) = log::verify(conn, file, &base) else { return Ok(()) };
    let (_, list) = log::newest_list(conn, file, &base)?;
    if !error.is_damage() || list.members.len() > 1 {
        return Err(error);
    }
    tracing::error!(log = ?disk.kind, why = error.chain(), "rows of this log are damaged; no other copy has them");
    Ok(())
}

/// Appends the empty row of the new term; when it is committed all older rows are.
///
/// In Q the mark must not pass rows that are not applied yet, so the row goes in without it.
fn begin_term(files: &mut Files) -> Result<(), StoreError> {
    let row =
        Row { idx: files.last.idx.next(), term: files.claim.term, kind: RowKind::Empty, body: Vec::new() };
    let position = row.position();
    let append = Append { claim: files.claim, prev: files.last, rows: vec![row], commit: Index(0) };
    let matched = admit::append(&mut files.log, &files.dir, &append, Index(0), files.rules, |_, _| Ok(()))?;
    files.last = position;
    files.tally.confirm(files.copy_id, files.claim.term, matched);
    Ok(())
}

impl Lead {
    /// The writer, for the senders. Nobody else appends before [`Lead::loaded`].
    #[must_use]
    pub fn writer(&self) -> Writer {
        self.writer.clone()
    }

    /// Blocks until the first row of the term is committed and all before it is applied; then loads.
    ///
    /// # Errors
    /// The writer ended before, or an object is damaged.
    pub fn loaded(self) -> Result<Started, StoreError> {
        self.writer.wait(self.first)?;
        let committed = self.writer.progress().borrow().committed;
        let (objects, local) = load(&self.dir, self.log)?;
        let Vote { promised: term, ballot, cluster, history, .. } = self.vote;
        tracing::info!(log = ?self.log, %term, %committed, objects = objects.len(), "log recovered");
        let members = self.members;
        Ok(Started {
            writer: self.writer,
            objects,
            local,
            term,
            ballot,
            cluster,
            history,
            members,
            committed,
        })
    }
}

fn load(dir: &Path, log: LogKind) -> Result<(Vec<Object>, Vec<LocalRow>), StoreError> {
    let (mut found, mut local) = (Vec::new(), Vec::new());
    for spec in std::iter::once(log.log_file()).chain(log.projections()) {
        let db = Db::open_read(spec, &spec.path(dir))?;
        if spec.objects {
            objects::load(&db.conn, spec, &mut found)?;
        }
        if spec.local {
            local = objects::load_local(&db.conn, spec)?;
        }
    }
    Ok((found, local))
}
