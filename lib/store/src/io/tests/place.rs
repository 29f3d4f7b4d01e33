//! Files that are removed or replaced under a copy, or a writer, that has them open.

use super::follow::{claim, made, node, open, row, send};
use super::*;
use crate::core::copy::Append;
use crate::core::row::Position;
use crate::io::copy::{Copy, EmptyCopy};
use std::fs;

/// All files of a log.
const OF_W: [&str; 3] = ["wconf.log", "config.data", "locks.data"];

/// Removes a file of a log with all that lies beside it.
fn remove(dir: &Path, name: &str) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_name().to_str().unwrap().starts_with(name) {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

fn second(copy: &mut Copy) -> Result<Index, StoreError> {
    let prev = Position { term: claim(1, 1).term, idx: Index(1) };
    let append = Append { claim: claim(1, 1), prev, rows: vec![row(2, 1, &node(2))], commit: Index(1) };
    copy.append(&append).map(|taken| taken.unwrap())
}

fn fed(log: LogKind) -> (TempDir, Copy) {
    let (dir, mut copy) = made(log, 7);
    send(&mut copy, 1, Position::default(), vec![row(1, 1, &node(1))], 1).unwrap();
    (dir, copy)
}

#[test]
fn a_copy_confirms_nothing_once_a_file_of_it_is_gone() {
    for name in OF_W.into_iter().chain(["wconf.log-wal", "config.data-shm"]) {
        let (dir, mut copy) = fed(LogKind::W);
        assert!(copy.displaced().is_none() && copy.look().unwrap().damaged.is_none());
        remove(dir.path(), name);
        let why = second(&mut copy).unwrap_err();
        assert!(why.is_damage() && why.chain().contains(&format!("{name} was removed")), "{}", why.chain());
        let look = copy.look().unwrap();
        assert!(look.damaged.unwrap().contains("removed under the daemon"), "{name}");
        assert_eq!(look.vote.copy_id, member(7).copy_id, "it still knows whose it was");
        let look = copy.promise(&claim(2, 1)).unwrap().unwrap();
        assert!(look.damaged.is_some() && look.vote.promised == claim(1, 1).term, "{name}");
        assert!(copy.set_token(&claim(1, 1), None, [1; 16]).is_err(), "{name}");
        assert_eq!(copy.is_removed(), name == "wconf.log", "{name}");
    }
}

#[test]
fn a_copy_whose_file_was_replaced_confirms_nothing() {
    let (dir, mut copy) = fed(LogKind::Q);
    let path = dir.path().join("queue.data");
    fs::copy(&path, dir.path().join("other")).unwrap();
    fs::rename(dir.path().join("other"), &path).unwrap();
    let why = second(&mut copy).unwrap_err().chain();
    assert!(why.contains("queue.data was replaced"), "{why}");
    assert!(copy.displaced().is_some() && !copy.is_removed());
}

#[test]
fn a_copy_that_was_removed_is_made_anew() {
    let (dir, mut copy) = fed(LogKind::W);
    OF_W.iter().for_each(|name| remove(dir.path(), name));
    assert!(second(&mut copy).is_err());
    drop(copy);
    let empty = EmptyCopy { copy_id: member(8).copy_id, ..super::follow::empty(7) };
    Copy::make(dir.path(), LogKind::W, &empty).unwrap();
    let mut copy = open(dir.path(), LogKind::W);
    assert_eq!(copy.look().unwrap().last.idx, Index(0));
    assert_eq!(send(&mut copy, 1, Position::default(), vec![row(1, 1, &node(1))], 1), Ok(Index(1)));
}

/// SQLite replays whatever lies there under the name of the -wal.
#[test]
fn what_a_removed_file_leaves_beside_it_is_not_taken_for_the_new_ones() {
    let (dir, mut copy) = fed(LogKind::W);
    second(&mut copy).unwrap();
    let (path, wal) = (dir.path().join("config.data"), dir.path().join("config.data-wal"));
    assert!(fs::metadata(&wal).unwrap().len() > 0);
    let left = fs::read(&wal).unwrap();
    drop(copy);
    fs::remove_file(path).unwrap();
    fs::write(&wal, left).unwrap();
    let copy = open(dir.path(), LogKind::W);
    let look = copy.look().unwrap();
    assert_eq!((look.damaged, look.applied), (None, Index(0)), "it is made again from the log");
}

#[test]
fn a_writer_whose_file_is_gone_acknowledges_nothing_more() {
    for (log, names) in [(LogKind::W, OF_W.as_slice()), (LogKind::Q, &["queue.data"])] {
        for name in names {
            let dir = born(log);
            let started = begin(dir.path(), log);
            append_and_wait(&started, one(put("node", "n", 1, "1")));
            remove(dir.path(), name);
            let idx = started.writer.append(one(put("node", "n", 2, "2"))).unwrap();
            let why = started.writer.wait(idx).unwrap_err().chain();
            assert!(why.contains(&format!("{name} was removed under the daemon")), "{why}");
            assert!(started.writer.progress().borrow().committed < idx);
            started.writer.stop();
        }
    }
}
