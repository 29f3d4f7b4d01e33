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
/// Files with rows that were cut off a log, which are kept: somebody may have to say what became of them, and a failover
/// leaves one at most on each candidate. A hundred failovers that each left some are a long time to look.
const CUTS_MAX: usize = 100;

/// Saves all rows after `after` as `aside/LOG-EPOCH-IDX`, one JSON object a line; durable when this returns, so
/// the caller may delete them (P1.9). Nothing there: nothing done. In a transaction that holds the log's write lock: nobody
/// else saves rows of this log meanwhile.
pub fn save_rows(conn: &Connection, spec: FileSpec, dir: &Path, after: Index) -> Result<(), StoreError> {
    let first = log::rows(conn, spec.name, after, 1, SAVE_BYTES)?;
    let Some(first) = first.first() else { return Ok(()) };
    let log = if spec.objects { "Q" } else { "W" };
    let aside = dir.join(ASIDE);
    std::fs::create_dir_all(&aside).map_err(io("make", &aside))?;
    // One name for what is not whole: neither a disk that is full for an hour nor crashes end with a thousand pieces.
    let path = aside.join(format!(".{log}-rows.tmp"));
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
    let path = settle(&aside, log, &path, (first.term.epoch, first.idx.0))?;
    tracing::warn!(from = %first.idx, to = %from, file = %path.display(), "rows that were never committed are kept aside");
    Ok(())
}

/// Gives what is whole its name, durably. The same rows may be there already: the transaction that was to delete them failed.
fn settle(aside: &Path, log: &str, whole: &Path, (epoch, idx): (u64, u64)) -> Result<PathBuf, StoreError> {
    let before = cuts(aside, log)?;
    let newest = before.iter().rfind(|(cut, _)| (cut.epoch, cut.idx) == (epoch, idx));
    let name = match newest {
        Some((_, path)) if is_same(whole, path).map_err(io("compare", path))? => {
            std::fs::remove_file(whole).map_err(io("remove", whole))?;
            flush_dir(aside)?;
            return Ok(path.clone());
        }
        Some((cut, _)) => format!("{log}-{epoch}-{idx}.{}", cut.nth.saturating_add(1)),
        None => format!("{log}-{epoch}-{idx}"),
    };
    let path = aside.join(name);
    std::fs::rename(whole, &path).map_err(io("rename", &path))?;
    flush_dir(aside)?;
    // Once the new one is there. That an old one can't go is no reason to stop a log.
    let surplus = (before.len() + 1).saturating_sub(CUTS_MAX);
    for (_, old) in before.iter().take(surplus) {
        match std::fs::remove_file(old) {
            Ok(()) => tracing::warn!(old = %old.display(), "the oldest rows that were kept aside are gone"),
            Err(why) => {
                tracing::warn!(old = %old.display(), %why, "rows that were kept aside can't be removed")
            }
        }
    }
    Ok(path)
}

/// Where rows were cut off: the first of them, and how often just this place was lost before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cut {
    epoch: u64,
    idx: u64,
    nth: u64,
}

impl Cut {
    /// By the name of a file: `LOG-EPOCH-IDX`, and `.N` from the second on.
    fn of(name: &str, log: &str) -> Option<Self> {
        let (epoch, place) = name.strip_prefix(log)?.strip_prefix('-')?.split_once('-')?;
        let (idx, nth) = place.split_once('.').unwrap_or((place, "0"));
        Some(Self { epoch: epoch.parse().ok()?, idx: idx.parse().ok()?, nth: nth.parse().ok()? })
    }
}

/// The files with rows that were cut off a log, of the oldest epoch first: epochs go up, clocks need not.
fn cuts(aside: &Path, log: &str) -> Result<Vec<(Cut, PathBuf)>, StoreError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(aside).map_err(io("read", aside))? {
        let path = entry.map_err(io("read", aside))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        found.extend(name.and_then(|name| Cut::of(name, log)).map(|cut| (cut, path.clone())));
    }
    found.sort();
    Ok(found)
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

    /// Rows that were cut off at a place. The name they got.
    fn cut(aside: &Path, log: &str, text: &str, place: (u64, u64)) -> String {
        let whole = aside.join("whole");
        std::fs::write(&whole, text).unwrap();
        let path = settle(aside, log, &whole, place).unwrap();
        assert!(!whole.exists());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        path.file_name().unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn the_newest_rows_that_were_cut_off_are_kept_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let aside = dir.path();
        for other in ["Q-1-1", "W-copy", "W-copy.1", "restore-1", "W-1-x"] {
            std::fs::write(aside.join(other), "").unwrap();
        }
        for nth in 1..=CUTS_MAX as u64 + 20 {
            // As numbers: in the order of letters 10 is before 9.
            assert_eq!(cut(aside, "W", "rows", (nth, 5)), format!("W-{nth}-5"));
        }
        let kept: Vec<u64> = cuts(aside, "W").unwrap().iter().map(|(cut, _)| cut.epoch).collect();
        assert_eq!(kept, (21..=CUTS_MAX as u64 + 20).collect::<Vec<_>>());
        // Late ones of an old epoch are still the newest that came.
        assert_eq!(cut(aside, "W", "late", (3, 9)), "W-3-9");
        assert!(aside.join("W-3-9").exists() && !aside.join("W-21-5").exists());
        for other in ["Q-1-1", "W-copy", "W-copy.1", "restore-1", "W-1-x"] {
            assert!(aside.join(other).exists(), "{other} is none of them");
        }
    }

    #[test]
    fn one_place_that_is_lost_again_and_again_is_kept_under_new_names() {
        let dir = tempfile::tempdir().unwrap();
        let aside = dir.path();
        assert_eq!(cut(aside, "Q", "0", (1, 5)), "Q-1-5");
        for nth in 1..CUTS_MAX + 20 {
            let name = format!("Q-1-5.{nth}");
            assert_eq!(cut(aside, "Q", &nth.to_string(), (1, 5)), name);
            assert_eq!(cut(aside, "Q", &nth.to_string(), (1, 5)), name, "the same rows are kept once");
        }
        let kept: Vec<u64> = cuts(aside, "Q").unwrap().iter().map(|(cut, _)| cut.nth).collect();
        assert_eq!(kept, (20..CUTS_MAX as u64 + 20).collect::<Vec<_>>(), "no name comes back");
    }

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
