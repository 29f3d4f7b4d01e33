//! What must go but may be wanted by a person: kept in `aside/`, where no program reads it again.

use super::files::{FileSpec, LogKind};
use super::log;
use crate::core::row::{Index, Row};
use crate::error::StoreError;
use rusqlite::Connection;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The directory beside the logs.
pub const ASIDE: &str = "aside";
/// Rows read at once to be saved.
const SAVE_ROWS: u64 = 1_000;
/// And their bytes.
const SAVE_BYTES: usize = 16 * 1024 * 1024;
/// Names tried for one thing to be kept. Each is a history in which this very place was lost before.
const NAMES_MAX: u32 = 1_000;

/// Saves all rows after `after` as `aside/LOG-EPOCH-IDX`, one JSON object a line; durable when this returns, so
/// the caller may delete them (P1.9). Nothing there: nothing done.
pub fn save_rows(conn: &Connection, spec: FileSpec, dir: &Path, after: Index) -> Result<(), StoreError> {
    let first = log::rows(conn, spec.name, after, 1, SAVE_BYTES)?;
    let Some(first) = first.first() else { return Ok(()) };
    let log = if spec.objects { "Q" } else { "W" };
    let path = fresh(dir, &format!("{log}-{}-{}", first.term.epoch, first.idx))?;
    let file = File::create_new(&path).map_err(io("make", &path))?;
    let mut out = std::io::BufWriter::new(file);
    let mut from = after;
    loop {
        let rows = log::rows(conn, spec.name, from, SAVE_ROWS, SAVE_BYTES)?;
        let Some(end) = rows.last() else { break };
        from = end.idx;
        for row in &rows {
            out.write_all(&line(row)).map_err(io("write", &path))?;
        }
    }
    let file = out.into_inner().map_err(|e| io("write", &path)(e.into_error()))?;
    file.sync_all().map_err(io("flush", &path))?;
    flush_dir(&dir.join(ASIDE))?;
    tracing::warn!(from = %first.idx, to = %from, file = %path.display(), "rows that were never committed are kept aside");
    Ok(())
}

fn line(row: &Row) -> Vec<u8> {
    let body = String::from_utf8_lossy(&row.body);
    let Row { idx, term, kind, .. } = row;
    let mut line = serde_json::to_vec(&(idx, term, kind, body)).expect("a row is plain data");
    line.push(b'\n');
    line
}

/// Moves all files of a copy to a directory in `aside/`. The log goes first: without it there is no copy.
pub fn move_copy(dir: &Path, log: LogKind) -> Result<(), StoreError> {
    let specs = || std::iter::once(log.log_file()).chain(log.projections());
    let names: Vec<String> = specs()
        .flat_map(|spec| ["", "-wal", "-shm"].map(|end| format!("{}{end}", spec.name)))
        .filter(|name| dir.join(name).exists())
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    let to = fresh(dir, &format!("{log:?}-copy"))?;
    std::fs::create_dir(&to).map_err(io("make", &to))?;
    for name in names {
        let path = dir.join(&name);
        std::fs::rename(&path, to.join(&name)).map_err(io("move", &path))?;
        flush_dir(dir)?;
    }
    flush_dir(&to)?;
    flush_dir(&dir.join(ASIDE))?;
    tracing::warn!(to = %to.display(), "an old copy is kept aside");
    Ok(())
}

/// A name in `aside/` that is not taken.
fn fresh(dir: &Path, name: &str) -> Result<PathBuf, StoreError> {
    let aside = dir.join(ASIDE);
    std::fs::create_dir_all(&aside).map_err(io("make", &aside))?;
    let first = aside.join(name);
    let more = (1..NAMES_MAX).map(|n| aside.join(format!("{name}.{n}")));
    let full = || io("find a free name like", &first)(std::io::ErrorKind::AlreadyExists.into());
    std::iter::once(first.clone()).chain(more).find(|path| !path.exists()).ok_or_else(full)
}

/// Flushes a directory.
pub fn flush_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(io("flush", dir))
}

/// Maps an error of a file operation.
pub fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { what, path, source }
}
