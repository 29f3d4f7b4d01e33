//! Taking a snapshot over (P3.2): the side file, the one transaction that makes it count, the objects after it.
//!
//! A side file is named for the generation its take-over sets. A crash before that transaction leaves a side
//! file nobody wants, which the next start removes; a crash after it leaves one that the next start carries on.

use super::admit::{View, cut};
use super::aside::{flush_dir, io};
use super::disk::Disk;
use super::files::LogKind;
use super::flushed::Flushed;
use super::log;
use super::objects::{self, Applied};
use super::snapshot;
use super::sql::{Db, damaged, failed, int};
use crate::core::compact::Base;
use crate::core::copy::{Claim, Refusal};
use crate::core::row::{Index, Position};
use crate::core::snapshot::{CarryOn, Head, Plan, TakeOver, carry_on, stale_side, take_over};
use crate::error::StoreError;
use std::path::{Path, PathBuf};

/// Takes over the snapshot in the file `path`, which goes.
pub fn install(disk: &mut Disk, claim: &Claim, path: &Path) -> Result<Result<Position, Refusal>, StoreError> {
    let head = snapshot::read(path, disk.kind, |_| Ok(()))?;
    if (head.cluster, head.history) != (claim.cluster, claim.history) {
        return Ok(Err(Refusal::Stranger));
    }
    let file = disk.log.spec.name;
    let gen_no = log::base(&disk.log.conn, file)?.gen_no + 1;
    let side = side(&disk.dir, file, gen_no);
    std::fs::rename(path, &side).map_err(io("rename", path))?;
    flush_dir(&disk.dir)?;
    crash_point(disk.kind, "renamed");
    let taken = take(disk, claim, &head, &side)?;
    match taken {
        Ok(TakeOver::Take(plan)) => {
            crash_point(disk.kind, "taken");
            carry(disk, &plan.base)?;
            Ok(Ok(disk.last()?))
        }
        Ok(TakeOver::Have(last)) => remove(&side).map(|()| Ok(last)),
        Err(why) => remove(&side).map(|()| Err(why)),
    }
}

/// Where a test may end a take-over.
fn crash_point(log: LogKind, step: &str) {
    gantry_crash::point(&format!("install-{log:?}-{step}"));
}

fn side(dir: &Path, file: &str, gen_no: u64) -> PathBuf {
    dir.join(format!("{file}.side-{gen_no}"))
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io("remove", path)(e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The transaction that makes the snapshot count. It reads the vote again: a promise given while the snapshot
/// travelled counts.
fn take(
    disk: &mut Disk,
    claim: &Claim,
    head: &snapshot::Head,
    side: &Path,
) -> Result<Result<TakeOver, Refusal>, StoreError> {
    let (applied, rules, dir, kind) = (disk.applied()?, disk.rules, disk.dir.clone(), disk.kind);
    let spec = disk.log.spec;
    let (tx, mark) = disk.log.begin_marked()?;
    let base = log::base(&tx, spec.name)?;
    let gone = !side.try_exists().map_err(io("look for", side))?;
    if gone || side != super::install::side(&dir, spec.name, base.gen_no + 1) {
        return Err(StoreError::Unsteady);
    }
    let vote = log::vote(&tx, spec.name)?;
    let view = View::read(&tx, spec.name, &base, applied, head.at.idx, 1)?;
    let of = Head { claim: *claim, at: head.at, list: head.list.clone() };
    let plan = match take_over(&vote, &view, base.gen_no, &of, rules) {
        Ok(TakeOver::Take(plan)) => plan,
        other => return Ok(other),
    };
    let promised = plan.vote.as_ref().unwrap_or(&vote).promised;
    let Plan { vote, keep_after, base } = &plan;
    if let Some(vote) = vote {
        log::put_vote(&tx, spec.name, vote)?;
    }
    if !keep_after {
        // What is applied is in the snapshot; only rows beyond may be somebody's loss.
        cut(&tx, mark, spec, &dir, applied.next())?;
        mark.lower(Index(0))?;
        tx.execute("DELETE FROM log", []).map_err(failed(spec.name, "forget rows"))?;
    }
    tx.execute("DELETE FROM log WHERE idx <= ?", [int(base.at.idx.0)])
        .map_err(failed(spec.name, "forget rows"))?;
    log::put_tokens(&tx, spec.name, &head.records())?;
    log::put_base(&tx, spec.name, base)?;
    let last = log::last(&tx, spec.name, base)?.idx;
    crash_point(kind, "to-take");
    tx.commit().map_err(failed(spec.name, "commit"))?;
    mark.note(Flushed { promised, last });
    Ok(Ok(TakeOver::Take(plan)))
}

/// Brings the object files to the base's generation, from the side file where one is behind; removes side files
/// that are not wanted. At every start, and after each take-over.
pub fn carry(disk: &mut Disk, base: &Base) -> Result<(), StoreError> {
    let (kind, file) = (disk.kind, disk.log.spec.name);
    let side = side(&disk.dir, file, base.gen_no);
    let there = side.try_exists().map_err(io("look for", &side))?.then_some(base.gen_no);
    let history = log::vote(&disk.log.conn, file)?.history;
    for db in disk.object_files() {
        let mark = objects::applied(&db.conn, &db.spec)?;
        match carry_on(base.gen_no, mark.gen_no, there) {
            CarryOn::Done => {}
            CarryOn::Lost => {
                return Err(damaged(db.spec.name, "it is behind a snapshot that is not here any more"));
            }
            CarryOn::Fill => {
                fill(db, &side, kind, &Applied { idx: base.at.idx, gen_no: base.gen_no, history })?;
                crash_point(kind, db.spec.name);
            }
        }
        if there.is_some() {
            // Before the side file goes, what came of it must be on the disk.
            db.checkpoint()?;
        }
    }
    if there.is_some() {
        crash_point(kind, "to-sweep");
    }
    sweep(disk)
}

fn fill(db: &mut Db, side: &Path, kind: LogKind, mark: &Applied) -> Result<(), StoreError> {
    let spec = db.spec;
    let tx = db.begin()?;
    if objects::applied(&tx, &spec)?.gen_no >= mark.gen_no {
        return Ok(());
    }
    objects::clear(&tx, &spec)?;
    let head = snapshot::read(side, kind, |object| {
        if spec.holds(&object.kind) { objects::put(&tx, &spec, object) } else { Ok(()) }
    })?;
    if head.at.idx != mark.idx {
        return Err(damaged(spec.name, "the side file is not the one taken over"));
    }
    objects::set_applied(&tx, &spec, mark)?;
    tx.commit().map_err(failed(spec.name, "commit"))
}

/// Removes side files: all objects are of the base's generation. Under the file's write lock, since another
/// process may be about to take one over.
fn sweep(disk: &mut Disk) -> Result<(), StoreError> {
    let (dir, file) = (disk.dir.clone(), disk.log.spec.name);
    let prefix = format!("{file}.side-");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&dir).map_err(io("read", &dir))? {
        let name = entry.map_err(io("read", &dir))?.file_name();
        let of = name.to_str().and_then(|n| n.strip_prefix(&prefix)).and_then(|n| n.parse::<u64>().ok());
        found.extend(of);
    }
    if found.is_empty() {
        return Ok(());
    }
    let tx = disk.log.begin()?;
    let now = log::base(&tx, file)?.gen_no;
    for gen_no in found.into_iter().filter(|g| stale_side(now, *g) || *g == now) {
        remove(&side(&dir, file, gen_no))?;
    }
    Ok(())
}

/// The least that all object files have applied.
pub fn least<'a>(dbs: impl Iterator<Item = &'a Db>) -> Result<Index, StoreError> {
    let mut least: Option<Index> = None;
    for db in dbs.filter(|db| db.spec.objects) {
        let idx = objects::applied(&db.conn, &db.spec)?.idx;
        least = Some(least.map_or(idx, |l| l.min(idx)));
    }
    Ok(least.unwrap_or_default())
}
