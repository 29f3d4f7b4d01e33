//! What must go but may be wanted by a person: kept in `aside/`, where no program reads it again.

use super::files::{FileSpec, LogKind};
use super::flushed;
use super::log;
use crate::core::row::{Index, Row};
use crate::error::StoreError;
use rusqlite::Connection;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// The directory beside the logs.
pub const ASIDE: &str = "aside";
/// Rows read at once to be saved.
const SAVE_ROWS: u64 = 1_000;
/// And their bytes.
const SAVE_BYTES: usize = 16 * 1024 * 1024;
/// Bytes compared at once.
const PIECE_BYTES: usize = 64 * 1024;
/// Whole copies of a log that are kept, the newest: each is as large as the log and all its objects.
const COPIES_MAX: usize = 4;
/// Names tried for one thing to be kept. Each is a history in which this very place was lost before.
const NAMES_MAX: u32 = 1_000;

/// Saves all rows after `after` as `aside/LOG-EPOCH-IDX`, one JSON object a line; durable when this returns, so
/// the caller may delete them (P1.9). Nothing there: nothing done.
pub fn save_rows(conn: &Connection, spec: FileSpec, dir: &Path, after: Index) -> Result<(), StoreError> {
    let first = log::rows(conn, spec.name, after, 1, SAVE_BYTES)?;
    let Some(first) = first.first() else { return Ok(()) };
    let log = if spec.objects { "Q" } else { "W" };
    let name = format!("{log}-{}-{}", first.term.epoch, first.idx);
    let aside = dir.join(ASIDE);
    std::fs::create_dir_all(&aside).map_err(io("make", &aside))?;
    // One name for what is not whole: a disk that is full for an hour must not end with a thousand pieces.
    let path = aside.join(format!(".{name}.tmp"));
    let file = File::create(&path).map_err(io("make", &path))?;
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
    let path = settle(dir, &path, &name)?;
    tracing::warn!(from = %first.idx, to = %from, file = %path.display(), "rows that were never committed are kept aside");
    Ok(())
}

/// Gives what is whole its name, durably. The same rows may be there already: the transaction that was to delete them failed.
fn settle(dir: &Path, whole: &Path, name: &str) -> Result<PathBuf, StoreError> {
    let free = fresh(dir, name)?;
    let taken = names(&dir.join(ASIDE), name).take_while(|path| *path != free).last();
    let path = match taken {
        Some(last) if is_same(whole, &last).map_err(io("compare", &last))? => {
            std::fs::remove_file(whole).map_err(io("remove", whole))?;
            last
        }
        _ => {
            std::fs::rename(whole, &free).map_err(io("rename", &free))?;
            free
        }
    };
    flush_dir(&dir.join(ASIDE))?;
    Ok(path)
}

/// Whether two files hold the same bytes.
fn is_same(a: &Path, b: &Path) -> std::io::Result<bool> {
    let (mut a, mut b) = (File::open(a)?, File::open(b)?);
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    loop {
        let count = a.read(&mut left)?;
        if count == 0 {
            return Ok(true);
        }
        b.read_exact(&mut right[..count])?;
        if left[..count] != right[..count] {
            return Ok(false);
        }
    }
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
        .flat_map(|spec| ["", "-wal", "-shm", flushed::END].map(|end| format!("{}{end}", spec.name)))
        .filter(|name| dir.join(name).exists())
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    let aside = dir.join(ASIDE);
    std::fs::create_dir_all(&aside).map_err(io("make", &aside))?;
    let before = copies(&aside, log)?;
    let to = match before.last() {
        Some((newest, _)) => aside.join(format!("{log:?}-copy.{}", newest.saturating_add(1))),
        None => aside.join(format!("{log:?}-copy")),
    };
    std::fs::create_dir(&to).map_err(io("make", &to))?;
    for name in names {
        let path = dir.join(&name);
        std::fs::rename(&path, to.join(&name)).map_err(io("move", &path))?;
        flush_dir(dir)?;
    }
    flush_dir(&to)?;
    flush_dir(&dir.join(ASIDE))?;
    tracing::warn!(to = %to.display(), "an old copy is kept aside");
    // Once the new one is there; what a crash leaves of an old one goes the next time.
    let surplus = (before.len() + 1).saturating_sub(COPIES_MAX);
    for (_, old) in before.into_iter().take(surplus) {
        std::fs::remove_dir_all(&old).map_err(io("remove", &old))?;
        tracing::warn!(old = %old.display(), "the oldest copy that was kept aside is gone");
    }
    Ok(())
}

/// The copies of a log that are kept, with their numbers, the oldest first. By number, not by any clock.
fn copies(aside: &Path, log: LogKind) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let base = format!("{log:?}-copy");
    let number = |name: &str| match name.strip_prefix(&*base)? {
        "" => Some(0),
        more => more.strip_prefix('.')?.parse().ok(),
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(aside).map_err(io("read", aside))? {
        let path = entry.map_err(io("read", aside))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        found.extend(name.and_then(number).map(|number| (number, path.clone())));
    }
    found.sort();
    Ok(found)
}

/// A name in `aside/` that is not taken.
fn fresh(dir: &Path, name: &str) -> Result<PathBuf, StoreError> {
    let aside = dir.join(ASIDE);
    std::fs::create_dir_all(&aside).map_err(io("make", &aside))?;
    let full = || io("find a free name like", &aside.join(name))(std::io::ErrorKind::AlreadyExists.into());
    names(&aside, name).find(|path| !path.exists()).ok_or_else(full)
}

/// The names one thing may have, in the order they are taken.
fn names(aside: &Path, name: &str) -> impl Iterator<Item = PathBuf> {
    let more = (1..NAMES_MAX).map(move |n| aside.join(format!("{name}.{n}")));
    std::iter::once(aside.join(name)).chain(more)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_copies_are_kept_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let aside = dir.path().join(ASIDE);
        let other = aside.join("W-copy.99");
        std::fs::create_dir_all(&other).unwrap();
        for nth in 0..12 {
            std::fs::write(dir.path().join("queue.data"), nth.to_string()).unwrap();
            move_copy(dir.path(), LogKind::Q).unwrap();
            assert!(!dir.path().join("queue.data").exists());
        }
        let kept: Vec<String> = copies(&aside, LogKind::Q)
            .unwrap()
            .into_iter()
            .map(|(_, path)| std::fs::read_to_string(path.join("queue.data")).unwrap())
            .collect();
        assert_eq!(kept, ["8", "9", "10", "11"]);
        assert!(other.exists(), "it is of the other log");
    }
}
