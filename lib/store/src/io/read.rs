//! Reading the log beside its writer.

use super::files::LogKind;
use super::sql::Db;
use super::{log, objects};
use crate::core::row::{Batch, Change, Digest, Index, Object, RowKind};
use crate::error::StoreError;
use std::collections::HashSet;
use std::path::Path;

/// A call stops after this many bytes of rows, so that a reader far behind gets its answer in pieces.
pub const READ_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The committed and applied batches after `from`, at most `limit`, through a connection of its own. Blocks.
///
/// Every index is there once, without gap: a row that changes no object shows as an empty batch. Nothing
/// after `from` yet: an empty list. `None`: rows after `from` were compacted away, load the objects instead.
///
/// # Errors
/// The files cannot be read, or a row is damaged.
pub fn read_batches(
    dir: &Path,
    log: LogKind,
    from: Index,
    limit: usize,
) -> Result<Option<Vec<(Index, Batch)>>, StoreError> {
    let to = read_applied(dir, log)?;
    let spec = log.log_file();
    let db = Db::open_read(spec, &spec.path(dir))?;
    let base = log::base(&db.conn, spec.name)?;
    if from < base.at.idx {
        return Ok(None);
    }
    let most = (to.0.saturating_sub(from.0)).min(limit as u64);
    let rows = log::rows(&db.conn, spec.name, from, most, READ_BYTES_MAX)?;
    let batch = |row: crate::core::row::Row| match row.kind {
        RowKind::Batch => Ok((row.idx, Batch::decode(&row.body)?)),
        RowKind::List | RowKind::Empty | RowKind::Token => Ok((row.idx, Batch::default())),
    };
    rows.into_iter().map(batch).collect::<Result<_, StoreError>>().map(Some)
}

/// How far all projections of the log are: nothing beyond is shown to anyone.
fn read_applied(dir: &Path, log: LogKind) -> Result<Index, StoreError> {
    let own = Some(log.log_file()).filter(|spec| spec.objects);
    let mut lowest: Option<Index> = None;
    for spec in own.into_iter().chain(log.projections()) {
        let db = Db::open_read(spec, &spec.path(dir))?;
        let idx = objects::applied(&db.conn, spec)?.idx;
        lowest = Some(lowest.map_or(idx, |l| l.min(idx)));
    }
    Ok(lowest.unwrap_or_default())
}

/// Rows read at once for [`named_bodies`].
const NAMED_ROWS: u64 = 1_000;
/// And bytes of objects or rows: a moment's reading, since an open reader holds up a writer that starts.
const NAMED_BYTES: usize = 4 << 20;

/// The bodies that objects of this `kind` in this copy name, as `of` says, and that rows of its log name, applied or not: both
/// by themselves and by the objects they change. Through connections of its own, in many short reads; empty when there is no
/// such log. What is named only while it reads may be left out. Blocks for as long as reading all of it takes.
///
/// # Errors
/// The files cannot be read or are damaged: then nobody knows what is named.
pub fn named_bodies(
    dir: &Path,
    log: LogKind,
    kind: &str,
    mut of: impl FnMut(&Object) -> Result<Vec<Digest>, StoreError>,
) -> Result<HashSet<Digest>, StoreError> {
    let (spec, mut named) = (log.log_file(), HashSet::new());
    if !spec.path(dir).try_exists().map_err(super::aside::io("look for", dir))? {
        return Ok(named);
    }
    // Objects first: a row that is applied in between is still in the log.
    for file in Some(spec).into_iter().chain(log.projections()).filter(|file| file.holds(kind)) {
        let db = Db::open_read(file, &file.path(dir))?;
        let mut after = String::new();
        loop {
            let some = objects::some_of(&db.conn, file, kind, &after, NAMED_BYTES)?;
            let Some(last) = some.last() else { break };
            after.clone_from(&last.key);
            for object in &some {
                named.extend(of(object)?);
            }
        }
    }
    let db = Db::open_read(spec, &spec.path(dir))?;
    let mut from = log::base(&db.conn, spec.name)?.at.idx;
    loop {
        let rows = log::rows(&db.conn, spec.name, from, NAMED_ROWS, NAMED_BYTES)?;
        let Some(last) = rows.last() else { return Ok(named) };
        from = last.idx;
        for row in rows.iter().filter(|row| row.kind == RowKind::Batch) {
            let Batch { changes, bodies, .. } = Batch::decode(&row.body)?;
            named.extend(bodies);
            for Change { kind, key, rev, body } in changes.into_iter().filter(|change| change.kind == kind) {
                if let Some(body) = body {
                    named.extend(of(&Object { kind, key, rev, body })?);
                }
            }
        }
    }
}
