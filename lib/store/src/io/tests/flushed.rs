//! What was flushed and is gone is noticed, where SQLite takes the damage for the end of its WAL; what a crash leaves is not.

use super::*;
use crate::core::Rules;
use crate::core::copy::{Append, Claim};
use crate::core::row::{Row, RowKind, Term};
use crate::io::flushed::{Flushed, Mark};
use crate::io::sql::Db;
use crate::io::{admit, log};
use std::path::PathBuf;

/// Objects that are acknowledged in the writer's WAL.
const OBJECTS: u64 = 6;

/// The files as a SIGKILL of the writer leaves them.
fn killed(kind: LogKind) -> TempDir {
    let dir = born(kind);
    let started = begin(dir.path(), kind);
    for number in 0..OBJECTS {
        append_and_wait(&started, one(put("slot", &number.to_string(), 1, "{\"a\":1}")));
    }
    let image = TempDir::new().unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let name = entry.unwrap().file_name();
        // The index of the WAL is of the living process.
        if !name.to_string_lossy().ends_with("-shm") {
            std::fs::copy(dir.path().join(&name), image.path().join(&name)).unwrap();
        }
    }
    started.writer.stop();
    image
}

fn beside(dir: &Path, kind: LogKind, end: &str) -> PathBuf {
    dir.join(format!("{}{end}", kind.log_file().name))
}

fn copied(from: &TempDir) -> TempDir {
    let to = TempDir::new().unwrap();
    for entry in std::fs::read_dir(from.path()).unwrap() {
        let name = entry.unwrap().file_name();
        std::fs::copy(from.path().join(&name), to.path().join(&name)).unwrap();
    }
    to
}

/// Starts on the files: how many objects there are, or that they are refused as damaged.
fn there(dir: &TempDir, kind: LogKind) -> Option<u64> {
    match start(dir.path(), StartOptions::new(kind)) {
        Ok(started) => {
            started.writer.stop();
            Some(started.objects.iter().filter(|object| object.kind == "slot").count() as u64)
        }
        Err(why) => {
            assert!(why.is_damage(), "{}", why.chain());
            None
        }
    }
}

#[test]
fn a_flipped_byte_of_the_wal_loses_nothing_without_a_word() {
    for kind in BOTH {
        let whole = killed(kind);
        assert_eq!(there(&copied(&whole), kind), Some(OBJECTS), "a plain crash is no damage");
        let wal = std::fs::read(beside(whole.path(), kind, "-wal")).unwrap();
        let mut refused = 0;
        for place in (0..wal.len()).step_by(wal.len() / 60) {
            let dir = copied(&whole);
            let mut bytes = wal.clone();
            bytes[place] ^= 0x5a;
            std::fs::write(beside(dir.path(), kind, "-wal"), &bytes).unwrap();
            match there(&dir, kind) {
                Some(count) => assert_eq!(count, OBJECTS, "byte {place} of {} lost objects", wal.len()),
                None => refused += 1,
            }
        }
        assert!(refused > 40, "only {refused} changes were noticed");
    }
}

#[test]
fn a_wal_that_is_gone_or_cut_is_noticed() {
    for kind in BOTH {
        let whole = killed(kind);
        let dir = copied(&whole);
        std::fs::remove_file(beside(dir.path(), kind, "-wal")).unwrap();
        assert_eq!(there(&dir, kind), None);
        let dir = copied(&whole);
        let file = std::fs::File::options().write(true).open(beside(dir.path(), kind, "-wal")).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        assert_eq!(there(&dir, kind), None);
    }
}

/// The mark is not flushed: after a loss of power it may be an older one, half a one, or none.
#[test]
fn what_a_loss_of_power_leaves_of_the_mark_is_no_hindrance() {
    for kind in BOTH {
        let whole = killed(kind);
        let path = |dir: &TempDir| beside(dir.path(), kind, ".flushed");
        let mark = std::fs::read(path(&whole)).unwrap();
        let older = Flushed { promised: Term { epoch: 1, run: 1 }, last: Index(1) };
        let torn = [&mark[..9], &[0; 23]].concat();
        for bytes in [&[][..], &mark[..20], &torn] {
            let dir = copied(&whole);
            std::fs::write(path(&dir), bytes).unwrap();
            assert_eq!(there(&dir, kind), Some(OBJECTS), "{bytes:?}");
        }
        let dir = copied(&whole);
        Mark::of(&kind.log_file().path(dir.path())).note(older);
        assert_eq!(there(&dir, kind), Some(OBJECTS));
        let dir = copied(&whole);
        std::fs::remove_file(path(&dir)).unwrap();
        assert_eq!(there(&dir, kind), Some(OBJECTS));
    }
}

#[test]
fn a_promise_that_is_gone_is_noticed() {
    let dir = killed(LogKind::W);
    let log = LogKind::W.log_file().path(dir.path());
    let before = Mark::of(&log).read().unwrap().unwrap();
    let promised = Term { epoch: before.promised.epoch + 1, run: 0 };
    Mark::of(&log).note(Flushed { promised, ..before });
    assert_eq!(there(&dir, LogKind::W), None);
}

/// Rows that a newer writer has cut were never acknowledged. The mark is lowered before they go, so that a crash between
/// the two leaves no log that is refused.
#[test]
fn rows_that_are_cut_are_not_missed() {
    let dir = born(LogKind::W);
    begin(dir.path(), LogKind::W).writer.stop();
    let spec = LogKind::W.log_file();
    let path = spec.path(dir.path());
    let mut db = Db::open(spec, &path).unwrap();
    let (base, vote) = (log::base(&db.conn, spec.name).unwrap(), log::vote(&db.conn, spec.name).unwrap());
    let last = log::last(&db.conn, spec.name, &base).unwrap();
    let mut send = |term: Term, count: u64| {
        let body = one(put("slot", "s", 1, "{}")).encode().unwrap();
        let row = |n| Row { idx: Index(last.idx.0 + n), term, kind: RowKind::Batch, body: body.clone() };
        let (cluster, history, ballot) = (vote.cluster, vote.history, vote.ballot);
        let claim = Claim { cluster, history, term, ballot, nonce: vote.nonce };
        let append = Append { claim, prev: last, rows: (1..=count).map(row).collect(), commit: Index(0) };
        admit::append(&mut db, dir.path(), &append, last.idx, Rules::ALL, |_, _| Ok(())).unwrap();
        Mark::of(&path).read().unwrap().unwrap()
    };
    assert_eq!(send(vote.promised, 5), Flushed { promised: vote.promised, last: Index(last.idx.0 + 5) });
    let next = Term { run: vote.promised.run + 1, ..vote.promised };
    assert_eq!(send(next, 1), Flushed { promised: next, last: Index(last.idx.0 + 1) });
    // As a crash leaves it that comes before the rows go.
    Mark::of(&path).lower(Index(last.idx.0)).unwrap();
    drop(db);
    assert_eq!(found(dir.path(), LogKind::W).len(), 2);
}
