//! Backups of both logs, and logs born again from them.

use super::*;
use crate::core::copy::Refusal;
use crate::io::backup::{Rebirth, backup, end_of, rebirth, snapshot_objects, writer_runs};
use crate::io::look::SnapshotFile;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

/// A directory with both logs.
fn both() -> TempDir {
    let dir = born(LogKind::W);
    create(dir.path(), LogKind::Q, &birth()).unwrap();
    dir
}

fn again(epoch: u64) -> Rebirth {
    Rebirth {
        cluster: birth().cluster,
        history: Uuid::from_u128(77),
        epoch,
        ballot: [5; 16],
        member: member(3),
        list_n: 2,
    }
}

fn keys(file: &SnapshotFile, log: LogKind, kind: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    snapshot_objects(&file.path, log, |object| {
        if object.kind == kind {
            keys.insert(object.key);
        }
    })
    .unwrap();
    keys
}

/// As a power cut leaves it: what was flushed is the log, the objects are older.
#[test]
fn a_backup_of_a_master_that_died_has_what_its_log_has() {
    let dir = both();
    let started = begin(dir.path(), LogKind::W);
    append_and_wait(&started, one(put("node", "changed", 1, "1")));
    append_and_wait(&started, one(put("slot", "gone", 1, "1")));
    started.writer.stop();
    let old = TempDir::new().unwrap();
    for file in ["config.data", "locks.data"] {
        std::fs::copy(dir.path().join(file), old.path().join(file)).unwrap();
    }
    let started = begin(dir.path(), LogKind::W);
    append_and_wait(&started, one(put("node", "changed", 2, "2")));
    append_and_wait(&started, one(cut("slot", "gone")));
    let last = append_and_wait(&started, one(put("node", "new", 1, "1")));
    started.writer.stop();
    for file in ["config.data", "locks.data"] {
        std::fs::copy(old.path().join(file), dir.path().join(file)).unwrap();
    }
    let into = TempDir::new().unwrap();
    let [w, _] = backup(dir.path(), into.path()).unwrap();
    assert!(w.at.idx >= last);
    assert_eq!(keys(&w, LogKind::W, "slot").len(), 0);
    let mut nodes = Vec::new();
    snapshot_objects(&w.path, LogKind::W, |object| nodes.push((object.key, object.rev))).unwrap();
    assert!(
        nodes.contains(&("changed".to_owned(), 2)) && nodes.contains(&("new".to_owned(), 1)),
        "{nodes:?}"
    );
    assert_eq!(nodes.iter().filter(|(key, _)| key == "changed").count(), 1, "once, not in both versions");
}

#[test]
fn a_log_born_again_goes_on_alone_and_knows_the_old_history_no_more() {
    let dir = both();
    for log in BOTH {
        let started = begin(dir.path(), log);
        append_and_wait(&started, one(put("node", "n", 4, "{}")));
        started.writer.stop();
    }
    let into = TempDir::new().unwrap();
    let files = backup(dir.path(), into.path()).unwrap();
    for (log, file) in BOTH.into_iter().zip(&files) {
        let new = TempDir::new().unwrap();
        let foreign = Rebirth { cluster: Uuid::from_u128(9), ..again(50) };
        let wrong = rebirth(new.path(), log, &file.path, &foreign, |_| {});
        assert!(matches!(wrong, Err(StoreError::Cluster { .. })), "{wrong:?}");
        let low = rebirth(new.path(), log, &file.path, &again(1), |_| {});
        assert!(matches!(low, Err(StoreError::Refused { .. })), "an epoch that was there before: {low:?}");
        rebirth(new.path(), log, &file.path, &again(50), |object| {
            if object.kind == "node" {
                object.body = b"{\"changed\":true}".to_vec();
            }
        })
        .unwrap();
        let twice = rebirth(new.path(), log, &file.path, &again(51), |_| {});
        assert!(matches!(twice, Err(StoreError::Exists { .. })), "{twice:?}");
        let end = end_of(new.path(), log).unwrap().unwrap();
        assert_eq!((end.cluster, end.promised, end.last.idx), (birth().cluster, 50, file.at.idx.next()));
        let started = begin(new.path(), log);
        assert_eq!(started.members, [member(3)]);
        assert_eq!((started.term.epoch, started.history), (50, Uuid::from_u128(77)));
        let node = started.objects.iter().find(|object| object.kind == "node").unwrap();
        assert_eq!((node.rev, node.body.as_slice()), (4, &b"{\"changed\":true}"[..]));
        append_and_wait(&started, one(put("node", "after", 1, "{}")));
        // A copy of the old history refuses the new writer, and its rows cannot come back.
        let claim = started.writer.claim();
        started.writer.stop();
        let mut old = super::follow::open(dir.path(), log);
        assert_eq!(old.promise(&claim).unwrap(), Err(Refusal::Stranger));
        assert_eq!(names(&found(new.path(), log)), ["cluster/c@1", "node/after@1", "node/n@4"]);
    }
}

/// Each lease rests on a task, each run on a lease, each end on a run (P1.13): the backup has the cause of all it has.
#[test]
fn a_backup_under_load_has_the_cause_of_all_it_has() {
    let dir = both();
    let (w, q) = (begin(dir.path(), LogKind::W), begin(dir.path(), LogKind::Q));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for client in 0..2 {
            let (w, q, over) = (&w, &q, &over);
            scope.spawn(move || {
                for n in 0.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let key = format!("{client}-{n}");
                    append_and_wait(q, one(put("task", &key, 1, "1")));
                    append_and_wait(w, one(put("lease", &key, 1, "1")));
                    append_and_wait(q, one(put("run", &key, 1, "1")));
                    append_and_wait(w, one(put("ended_lease", &key, 1, "1")));
                }
            });
        }
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut most = 0;
            for _ in 0..30 {
                let into = TempDir::new().unwrap();
                let [w, q] = backup(dir.path(), into.path()).unwrap();
                let (tasks, runs) = (keys(&q, LogKind::Q, "task"), keys(&q, LogKind::Q, "run"));
                let (leases, ends) = (keys(&w, LogKind::W, "lease"), keys(&w, LogKind::W, "ended_lease"));
                for (effects, causes, what) in
                    [(&leases, &tasks, "lease"), (&runs, &leases, "run"), (&ends, &runs, "end")]
                {
                    let bare: Vec<_> = effects.difference(causes).collect();
                    assert!(bare.is_empty(), "{what} without its cause: {bare:?}");
                }
                most = most.max(ends.len());
            }
            assert!(most > 10, "nothing went on meanwhile");
        }));
        over.store(true, Ordering::Relaxed);
        checked.unwrap_or_else(|why| std::panic::resume_unwind(why));
    });
    w.writer.stop();
    q.writer.stop();
}

#[test]
fn a_running_writer_is_seen_and_a_damaged_log_has_no_end() {
    let dir = both();
    assert_eq!(writer_runs(dir.path(), LogKind::W).unwrap(), None);
    let started = begin(dir.path(), LogKind::W);
    assert_eq!(writer_runs(dir.path(), LogKind::W).unwrap(), Some(Some(std::process::id())));
    started.writer.stop();
    let conn = sqlite(dir.path(), "wconf.log");
    conn.execute("UPDATE log SET crc = crc + 1 WHERE idx = 2", []).unwrap();
    assert!(matches!(end_of(dir.path(), LogKind::W), Err(StoreError::Damaged { .. })));
    assert_eq!(end_of(TempDir::new().unwrap().path(), LogKind::W).unwrap(), None);
}
